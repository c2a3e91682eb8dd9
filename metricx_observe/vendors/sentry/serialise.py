"""What the SDK's serialiser makes of an event's values. It takes 4 us for each, and walks locals twice."""

from __future__ import annotations

from typing import Any

import orjson
from sentry_sdk.serializer import add_global_repr_processor, global_repr_processors

from metricx_observe.normalise import named_fields, plain

from .events import dicts
from .size import to_json

_PARTS = ("contexts", "logentry", "modules", "request", "tags", "user")
"""Parts of an event that the serialiser neither cuts nor shows to its processors."""
_PLAIN = frozenset({str, int, float, bool, type(None), list, dict})
_EXACT = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
_LARGEST, _DEEPEST = 20_000, 10
"""Bytes of a named tuple that are shown, and how deep one is looked for."""


class _Json(dict[str, Any]):
    """An event, or a part of one, that is JSON already: the serialiser takes a copy of it as it is."""

    def __sentry_repr__(self) -> Any:
        cut = {key: value for key, value in self.items() if hasattr(value, "metadata")}  # lists that the SDK annotates
        values = {**self, **{key: annotated.value for key, annotated in cut.items()}}
        try:
            found = orjson.loads(orjson.dumps(values, option=orjson.OPT_UTC_Z))
        except TypeError:  # of what was put in meanwhile
            found = orjson.loads(to_json(values))
        return {**found, "_meta": {key: {"": annotated.metadata} for key, annotated in cut.items()}} if cut else found


def prepare(event: dict[str, Any], as_it_is: bool) -> dict[str, Any]:
    """Make dicts of named tuples, and leave what is JSON already to us, where that is wanted (`as_it_is`).

    Returns the event, of which the serialiser takes a copy as it is where all of a transaction is JSON.
    """
    if as_it_is and event.get("type") == "transaction" and _is_json(event, orjson.OPT_PASSTHROUGH_DATACLASS):
        return _Json(event)
    for key in _PARTS:
        part = event.get(key)
        if not _is_json(part, _EXACT):  # nor is a named tuple
            event[key] = _with_names(part, 0)
        elif as_it_is and type(part) is dict:
            event[key] = _Json(part)
    for value in (*dicts(event.get("exception")), *dicts(event.get("threads"))) if as_it_is else ():
        if type(value.get("stacktrace")) is dict:  # its locals have been serialised
            value["stacktrace"] = _Json(value["stacktrace"])
    return event


def _is_json(value: Any, option: int) -> bool:
    try:
        orjson.dumps(value, option=option)
    except TypeError:
        return False
    return True


def _with_names(value: Any, depth: int) -> Any:
    if depth > _DEEPEST:
        return value
    if type(value) is dict:
        return {key: _with_names(item, depth + 1) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [_with_names(item, depth + 1) for item in value]
    fields = named_fields(value)
    return value if fields is None else _with_names(fields, depth + 1)


def show_named_tuples() -> None:
    """Let the SDK's serialiser show named tuples as dicts, in this process from now on.

    It makes lists of them, and without its name no secret in them can be told.
    """
    if _show not in global_repr_processors:
        add_global_repr_processor(_show)


def _show(value: Any, hints: dict[str, Any]) -> Any:  # noqa: ARG001
    fields = None if type(value) in _PLAIN else named_fields(value)
    return NotImplemented if fields is None else plain(fields, max_bytes=_LARGEST)
