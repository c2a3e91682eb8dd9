"""What is said at start-up: which services are on, which are off and why, by the logger of the module that calls."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .logs import say

if TYPE_CHECKING:
    from .settings import Settings
    from .vendors.vendor import Target


class State(str):
    """How a service is: `on`, `local: URL` or `off: reason`. What is off is false, as in `any(states.values())`."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return not self.startswith("off")


def states_of(targets: Mapping[str, Target], settings: Settings) -> dict[str, State]:
    """How each vendor is by these settings, by the name in the start-up line."""
    from .vendors import REGISTRY

    return {REGISTRY[name].label: state_of(target, settings) for name, target in targets.items()}


def state_of(target: Target, settings: Settings) -> State:
    """How a vendor is by these settings."""
    return State({"on": "on", "local": f"local: {settings.receiver_url}"}.get(target.state, f"off: {target.reason}"))


def announce(settings: Settings, targets: Mapping[str, Target], logger: logging.Logger) -> None:
    """The start-up line, and a line for whatever is off or at fault."""
    from .settings import unknown_variables
    from .vendors import REGISTRY

    for fault in filter(None, [settings.level_fault, *unknown_variables()]):
        say(logger, logging.WARNING, "[STARTUP] %s", fault)
    if not settings.enabled:
        say(logger, logging.WARNING, "[STARTUP] Observability: none: switched off by METRICX_ENABLED")
        return
    if settings.environment is None and settings.mode == "production":
        text = "[STARTUP] ENVIRONMENT is not set but a vendor's key is: taken as production. Set it."
        say(logger, logging.WARNING, text)
    states = states_of(targets, settings)
    on = [name if state == "on" else f"{name} ({state})" for name, state in states.items() if state]
    testing = settings.mode == "test"
    nothing_leaves = " (ENVIRONMENT=test: nothing is sent)" if testing and on else ""
    say(logger, logging.WARNING, "[STARTUP] Observability: %s%s", ", ".join(on) or "none", nothing_leaves)
    for name, target in targets.items():
        level = {"fault": logging.ERROR, "off": logging.WARNING}.get(target.state)
        if level is not None:
            say(logger, level, "[STARTUP] %s is off: %s", REGISTRY[name].label, target.reason)
    for name, target in targets.items():
        if target.state == "on" and not testing and (advice := REGISTRY[name].advice(settings)):
            say(logger, logging.WARNING, "[STARTUP] %s", advice)


def calling_module() -> str:
    """The `__name__` of the module outside this package that is calling."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(f"{__package__}."):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", __package__))
