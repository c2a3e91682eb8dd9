"""What each documented function is: a call of the running `Observability` that never raises into its caller."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from metricx_observe.boundary import Boundary
from metricx_observe.exceptions import InputError
from metricx_observe.interrupts import is_interrupt
from metricx_observe.normalise import shown_name
from metricx_observe.observability import Observability

logger = logging.getLogger("metricx_observe.telemetry")

P = ParamSpec("P")
R = TypeVar("R")
_off = Boundary()
_said = False


def running() -> Observability | None:
    """The `Observability` that is open, or None: the first time a line says what to call."""
    global _said
    found = Observability.default
    if found is not None and found.is_open:
        return found
    if not _said:
        _said = True
        logger.warning("telemetry is not started: call init_observability() first. Nothing is sent until then.")
    return None


def flushed() -> bool:
    """Wait, at most 5 s and only for vendors that answer, until what was put so far is delivered.

    On an event loop it waits for nothing: what was put goes out by itself within a second.
    """
    found = running()
    return found is not None and not _on_event_loop() and found.flush(5.0, patient=False)


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        trio = sys.modules.get("trio")
        return trio is not None and bool(trio.lowlevel.in_trio_run())
    return True


def boundary() -> Boundary:
    """Where faults of a call are counted."""
    found = Observability.default
    return found.boundary if found is not None else _off


def documented(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose callers were written for another module: an argument that does not fit costs that argument.

    Raises:
        InputError: From what it makes, with METRICX_STRICT only.
    """
    signature, name = inspect.signature(function), function.__name__
    again: Callable[..., R] = function

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except InputError:
            raise
        except Exception as error:
            if is_interrupt(error):
                raise
            fitting, faults = _fitted(signature, args, kwargs)
            if not faults:
                boundary().note(name, [type(error).__name__], error)
                return cast("R", None)
        boundary().note(name, faults)
        return again(**fitting)

    return call


def _fitted(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The arguments by name as far as they fit, None for what is missing, and what did not fit."""
    parameters = signature.parameters.values()
    by_position = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    others = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    found = dict(zip(by_position, args, strict=False))
    faults = ["too many arguments"] if len(args) > len(by_position) else []
    for key, value in kwargs.items():
        if key in found:
            faults.append(f"{key} is given twice")
        elif key in by_position or key in others or takes_any:
            found[key] = value
        else:
            faults.append(f"no argument {shown_name(key)}")
    for each in parameters:
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD and each.name not in found:
            faults.append(f"{each.name} is missing")
            found[each.name] = None
    return found, faults
