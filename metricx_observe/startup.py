"""What is said at start-up: which services are on, which are off and why, by the logger of the module that calls."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .settings import Settings, Vendor

DOCUMENTED_NAMES = {"sentry": "sentry", "rudderstack": "analytics", "langfuse": "langfuse"}
"""The document calls RudderStack by what it does."""


def state_of(vendor: Vendor, settings: Settings) -> str:
    """`on`, `local: URL` or `off: reason`."""
    return {"on": "on", "local": f"local: {settings.receiver_url}"}.get(vendor.state, f"off: {vendor.reason}")


def announce(settings: Settings, vendors: Mapping[str, Vendor], logger: logging.Logger) -> None:
    """The start-up line, and a line for whatever is off or at fault."""
    if settings.level_fault:
        logger.error("[STARTUP] %s", settings.level_fault)
    if settings.environment is None and settings.mode == "production":
        logger.warning("[STARTUP] ENVIRONMENT is not set but a vendor's key is: taken as production. Set it.")
    states = {DOCUMENTED_NAMES[name]: state_of(vendor, settings) for name, vendor in vendors.items()}
    on = [name if state == "on" else f"{name} ({state})" for name, state in states.items() if state[:3] != "off"]
    logger.warning("[STARTUP] Observability: %s", ", ".join(on) or "none")
    for name, vendor in vendors.items():
        level = {"fault": logging.ERROR, "off": logging.WARNING}.get(vendor.state)
        if level is not None:
            logger.log(level, "[STARTUP] %s is off: %s", DOCUMENTED_NAMES[name], vendor.reason)
    if states["analytics"] == "on" and not settings.chose_personal_data:
        logger.warning(
            "[STARTUP] analytics get e-mail addresses, which GA4's terms forbid: set METRICX_PERSONAL_DATA to hash "
            "or drop, or to keep"
        )


def calling_module() -> str:
    """The `__name__` of the module outside this package that is calling."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(f"{__package__}."):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", __package__))
