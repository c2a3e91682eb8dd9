"""How the fields of observations and traces are read and frozen, each when it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import time_ns
from typing import Any

import orjson

from metricx_observe.normalise import Notes, as_text, identifier, moment, plain, short_text, snapshot

from .usage import cost_details, usage_details

_MAX_TAGS = 50
_LEVELS = ("DEBUG", "DEFAULT", "WARNING", "ERROR")


def observation_name(value: object, notes: Notes) -> str:
    """One line that is never empty."""
    return short_text(value, notes).strip() or "unnamed"


def time_in_ns(time: object, notes: Notes) -> int:
    """Of `time`, else of now. Whole microseconds, which is what a datetime has: a length that was given is exact."""
    given = None if time is None else moment(time, notes)
    us = round(given.timestamp() * 1e6) if given is not None else time_ns() // 1000
    return us * 1000


def _level(value: object, notes: Notes) -> str | None:
    level = short_text(value, notes).upper()
    return level if level in _LEVELS else None


def _time(value: object, notes: Notes) -> str | None:
    time = moment(value, notes)
    return None if time is None else time.isoformat().replace("+00:00", "Z")


def _frozen(value: object, notes: Notes) -> orjson.Fragment:
    return orjson.Fragment(snapshot(value, notes))


def _counts(found: Mapping[str, float]) -> orjson.Fragment | None:
    return orjson.Fragment(orjson.dumps(found)) if found else None


def _tags(value: object, notes: Notes) -> list[str]:
    found = plain(value, notes)
    return [short_text(tag, notes) for tag in (found if isinstance(found, list) else [found])[:_MAX_TAGS]]


READ: Mapping[str, Callable[[object, Notes], Any]] = {
    "input": _frozen, "output": _frozen, "metadata": _frozen, "model_parameters": _frozen,
    "usage": lambda value, _: _counts(usage_details(value)),
    "cost": lambda value, _: _counts(cost_details(value)),
    "model": short_text, "status_message": as_text, "level": _level, "completion_start_time": _time,
}  # fmt: skip
READ_TRACE: Mapping[str, Callable[[object, Notes], Any]] = {
    "user_id": identifier, "workspace_id": identifier, "session_id": identifier, "tags": _tags,
}  # fmt: skip
"""How each field of an observation, and of its trace, is frozen; None: it says nothing that Langfuse could use."""
