"""The demo's routers. They take the telemetry as dependencies and import no vendor."""
