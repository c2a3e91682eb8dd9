"""What is said at start-up: which services are on, which are off and why, by the logger of the module that calls."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .logs import say

if TYPE_CHECKING:
    from .settings import Settings, Vendor

DOCUMENTED_NAMES = {"sentry": "sentry", "rudderstack": "analytics", "langfuse": "langfuse"}
"""The document calls RudderStack by what it does."""


class State(str):
    """How a service is: `on`, `local: URL` or `off: reason`. What is off is false, as in `any(states.values())`."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return not self.startswith("off")


def state_of(vendor: Vendor, settings: Settings) -> State:
    """How a vendor is by these settings."""
    return State({"on": "on", "local": f"local: {settings.receiver_url}"}.get(vendor.state, f"off: {vendor.reason}"))


def announce(settings: Settings, vendors: Mapping[str, Vendor], logger: logging.Logger) -> None:
    """The start-up line, and a line for whatever is off or at fault."""
    from .settings import unknown_variables

    for told in filter(None, [settings.level_fault, *unknown_variables()]):
        say(logger, logging.WARNING, "[STARTUP] %s", told)
    if not settings.enabled:
        say(logger, logging.WARNING, "[STARTUP] Observability: none: switched off by METRICX_ENABLED")
        return
    if settings.environment is None and settings.mode == "production":
        text = "[STARTUP] ENVIRONMENT is not set but a vendor's key is: taken as production. Set it."
        say(logger, logging.WARNING, text)
    states = {DOCUMENTED_NAMES[name]: state_of(vendor, settings) for name, vendor in vendors.items()}
    on = [name if state == "on" else f"{name} ({state})" for name, state in states.items() if state]
    nothing_leaves = " (ENVIRONMENT=test: nothing is sent)" if settings.mode == "test" and on else ""
    say(logger, logging.WARNING, "[STARTUP] Observability: %s%s", ", ".join(on) or "none", nothing_leaves)
    for name, vendor in vendors.items():
        level = {"fault": logging.ERROR, "off": logging.WARNING}.get(vendor.state)
        if level is not None:
            say(logger, level, "[STARTUP] %s is off: %s", DOCUMENTED_NAMES[name], vendor.reason)
    if states["analytics"] == "on" and not settings.chose_personal_data and not nothing_leaves:
        say(
            logger,
            logging.WARNING,
            "[STARTUP] analytics get e-mail addresses, which GA4's terms forbid: set METRICX_PERSONAL_DATA to hash "
            "or drop, or to keep",
        )


def calling_module() -> str:
    """The `__name__` of the module outside this package that is calling."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(f"{__package__}."):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", __package__))
