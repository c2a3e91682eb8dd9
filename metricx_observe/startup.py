"""What is said at start-up: which services are on, which are off and why, by the logger of the module that calls."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
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


def state_of(target: Target, settings: Settings) -> State:
    """How a vendor is by these settings."""
    return State({"on": "on", "local": f"local: {settings.receiver_url}"}.get(target.state, f"off: {target.reason}"))


def announce(settings: Settings, targets: Mapping[str, Target], logger: logging.Logger) -> None:
    """The start-up line, and a line for whatever is off or at fault."""
    for level, text, *values in _lines(settings, targets):
        say(logger, level, f"[STARTUP] {text}", *values)


def _lines(settings: Settings, targets: Mapping[str, Target]) -> Iterator[tuple[int, str, *tuple[str, ...]]]:
    """Level, template and what fills it in: an error vendor groups by the template."""
    from .settings import unknown_variables
    from .vendors import REGISTRY

    for fault in filter(None, [settings.level_fault, settings.delivery_fault, *unknown_variables()]):
        yield logging.WARNING, "%s", fault
    if not settings.enabled:
        yield logging.WARNING, "Observability: none: switched off by METRICX_ENABLED"
        return
    if settings.environment is None and settings.mode == "production":
        yield logging.WARNING, "ENVIRONMENT is not set but a vendor's key is: taken as production. Set it."
    states = {REGISTRY[name].label: state_of(target, settings) for name, target in targets.items()}
    on = [label if state == "on" else f"{label} ({state})" for label, state in states.items() if state]
    nothing_leaves = " (ENVIRONMENT=test: nothing is sent)" if on and settings.mode == "test" else ""
    yield logging.WARNING, "Observability: %s%s", ", ".join(on) or "none", nothing_leaves
    for name, target in targets.items():
        if not target.is_open:
            level = logging.ERROR if target.state == "fault" else logging.WARNING
            yield level, "%s is off: %s", REGISTRY[name].label, target.reason
    for name, target in targets.items():
        if target.state == "on" and settings.mode != "test" and (advice := REGISTRY[name].advice(settings)):
            yield logging.WARNING, advice


def calling_module() -> str:
    """The `__name__` of the module outside this package that is calling."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(f"{__package__}."):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", __package__))
