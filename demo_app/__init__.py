"""Metricx in small: the FastAPI backend that shows how `metricx_observe` is used. Run it: `python -m demo_app`."""
