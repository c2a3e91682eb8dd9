"""What each documented function is: a call of the running `Observability` that never raises into its caller."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar, cast

from metricx_observe import observability
from metricx_observe.normalise import shown_name
from metricx_observe.observability import NotStarted, Observability

logger = logging.getLogger("metricx_observe.telemetry")

P = ParamSpec("P")
R = TypeVar("R")


def running() -> Observability | NotStarted:
    """The `Observability` that is open. If none is open, the first call logs what to call."""
    found = observability.running()
    if isinstance(found, NotStarted):
        warn_not_started()
    return found


@cache  # so that it is logged once
def warn_not_started() -> None:
    logger.warning("telemetry is not started: call init_observability() first. Nothing is sent until then.")


def flushed() -> bool:
    """Wait, at most 5 s and only for vendors that answer, until what was put so far is delivered.

    On an event loop it waits for nothing: what was put goes out by itself within a second.
    """
    found = running()
    return isinstance(found, Observability) and not _on_event_loop() and found.flush(5.0, patient=False)


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        trio = sys.modules.get("trio")
        return trio is not None and bool(trio.lowlevel.in_trio_run())
    return True


def documented(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose callers were written for another module: an argument that does not fit costs that argument.

    Raises:
        InputError: From what it makes, with METRICX_STRICT only.
    """
    signature, name = inspect.signature(function), function.__name__
    again: Callable[..., R] = function

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with (Observability.default or NotStarted).boundary(name) as notes:
            try:
                return function(*args, **kwargs)
            except TypeError:
                fitting, faults = _fitted(signature, args, kwargs)
                if not faults:
                    raise
                notes += faults
            return again(**fitting)
        return cast("R", None)

    return call


def sends_its_event(function: Callable[P, None]) -> Callable[P, None]:
    """`track_<event>(user_id, …)`: its other arguments are the event's properties."""
    signature, event = inspect.signature(function), function.__name__.removeprefix("track_")

    @documented
    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        user_id = given.arguments.pop("user_id")
        running().tracker.track(event, given.arguments, user_id=user_id)

    return call


def _fitted(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The arguments by name as far as they fit, None for what is missing, and what did not fit."""
    parameters = signature.parameters.values()
    by_position = [each for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    found = dict(zip((each.name for each in by_position), args, strict=False))
    faults = ["too many arguments"] if len(args) > len(by_position) else []
    for key, value in kwargs.items():
        if key in found:
            faults.append(f"{key} is given twice")
        elif takes_any or key in signature.parameters:
            found[key] = value
        else:
            faults.append(f"no argument {shown_name(key)}")
    missing = [each.name for each in by_position if each.default is each.empty and each.name not in found]
    faults += [f"{name} is missing" for name in missing]
    return found | dict.fromkeys(missing), faults
