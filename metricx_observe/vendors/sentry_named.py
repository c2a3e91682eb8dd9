"""Named tuples for Sentry's serialiser, which makes lists of them: without its name no secret in them can be told.

Where it asks its processors (locals, `extra`, breadcrumbs, spans) ours answers; elsewhere in an event they become dicts
before it runs.
"""

from __future__ import annotations

from typing import Any

import sentry_sdk
from sentry_sdk.serializer import (
    MAX_DATABAG_BREADTH,
    MAX_DATABAG_DEPTH,
    add_global_repr_processor,
    global_repr_processors,
    serialize,
)
from sentry_sdk.utils import disable_capture_event

from metricx_observe.normalise import named_fields

from .sentry_frames import is_json

_DEEPEST = 10
_ASKED = frozenset({"exception", "threads", "extra", "breadcrumbs", "spans"})
"""Parts of an event where the serialiser asks its processors."""


def show_named_tuples() -> None:
    """Let the SDK's serialiser show named tuples as dicts, in this process from now on."""
    if _show not in global_repr_processors:
        add_global_repr_processor(_show)


def name_fields(event: dict[str, Any]) -> None:
    """Make dicts of the named tuples in the parts of an event where the serialiser asks nobody."""
    for key in event.keys() - _ASKED:
        if not is_json(event[key]):
            event[key] = _with_names(event[key], 0)


def _with_names(value: Any, depth: int) -> Any:
    if depth > _DEEPEST:
        return value
    if type(value) is dict:
        return {key: _with_names(item, depth + 1) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [_with_names(item, depth + 1) for item in value]
    fields = named_fields(value)
    return value if fields is None else _with_names(fields, depth + 1)


def _show(value: Any, hints: dict[str, Any]) -> Any:
    fields = named_fields(value)
    if fields is None:
        return NotImplemented
    depth, options = hints.get("remaining_depth"), sentry_sdk.get_client().options
    try:
        return serialize(
            fields, is_databag=True, should_repr_strings=False, remaining_breadth=MAX_DATABAG_BREADTH,
            remaining_depth=MAX_DATABAG_DEPTH if depth is None else depth,
            custom_repr=options.get("custom_repr"), max_value_length=options.get("max_value_length"),
        )  # fmt: skip
    finally:
        disable_capture_event.set(True)  # the pass that asked goes on
