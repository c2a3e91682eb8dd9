"""METRICX_DELIVERY=process: encoding, storing and posting take nothing from the application's interpreter."""
