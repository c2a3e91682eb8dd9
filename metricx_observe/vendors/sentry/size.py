"""Sentry refuses an event of over 1 MB with a 413, and all of it is lost: so it is cut, more and more, until it fits.

Long texts first, then the locals of outer frames and long lists and objects. Of frames, breadcrumbs and causes the last
ones stay, of anything else the first. All ids arrive, and so do type, message and the innermost frames of an error, and
name, op and status of a transaction.
"""

from __future__ import annotations

from typing import Any

import orjson

from metricx_observe.normalise import plain

MAX_EVENT = 1_000_000
"""Bytes of JSON of an event or transaction (Sentry's size limits)."""
_MANY = 1 << 30
_LIMITS = (
    (64 << 10, _MANY), (16 << 10, _MANY), (4 << 10, _MANY), (4 << 10, 1_000), (1 << 10, 300), (1 << 10, 100),
    (250, 30), (100, 10),
)  # fmt: skip
"""Bytes of JSON of the longest text and members of the largest list or object, one after the other."""
_READ_BYTES = 32 << 20
"""Of what is no JSON yet: what is too much of it is chosen below, not by where it stands."""
_INNERMOST = 10
"""Frames of each exception whose locals go last."""
_LAST = frozenset({"frames", "values", "breadcrumbs"})
"""Lists of which the last members matter most."""
_KEPT = frozenset(
    {"trace", "request_id", "workspace_id", "id", "email", "event_id", "trace_id", "span_id", "parent_span_id", "op",
     "status", "description", "timestamp", "start_timestamp", "end_timestamp", "platform", "level", "type", "value",
     "stacktrace", "frames", "function", "lineno", "exception", "transaction", "name", "message", "body", "is_segment"}
)  # fmt: skip
"""Members of an object that stay, however many it has, and of an event as a whole."""


def to_json(value: Any) -> bytes:
    """`value` as JSON, also where the application's own hook put something else into it."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(plain(value, max_bytes=_READ_BYTES))


def within_bounds(event: dict[str, Any]) -> bytes:
    """An event or item as JSON of at most `MAX_EVENT` bytes."""
    data, event = to_json(event), orjson.loads(to_json(event))
    cut = event
    for texts, members in _LIMITS:
        if len(data) <= MAX_EVENT:
            return data
        cut = {key: _cut(value, texts, members, key) for key, value in event.items()}
        data = orjson.dumps(cut)
    if len(data) > MAX_EVENT and isinstance(contexts := cut.get("contexts"), dict):
        trace = contexts.get("trace")
        trace = {key: trace[key] for key in _KEPT & trace.keys()} if isinstance(trace, dict) else {}
        cut["contexts"] = {"trace": trace}
    for key in sorted(cut.keys() - _KEPT - {"contexts"}, key=lambda key: len(orjson.dumps(cut[key])), reverse=True):
        data = orjson.dumps(cut)
        if len(data) > MAX_EVENT:
            del cut[key]
    return orjson.dumps(cut)


def _cut(value: Any, texts: int, members: int, name: str) -> Any:
    """A value with texts of so many bytes and lists and objects of so many members. `name`: under which it stands."""
    if isinstance(value, str):
        return value if len(value) * 6 <= texts else plain(value, max_bytes=texts)
    if isinstance(value, list):
        kept = value[-members:] if name in _LAST else value[:members]
        if name == "frames" and members < _MANY:
            kept = [_without_locals(each) for each in kept[:-_INNERMOST]] + kept[-_INNERMOST:]
        items = [_cut(each, texts, members, "") for each in kept]
        marked = len(kept) < len(value) and not isinstance(value[0], dict)
        return [*items, f"[cut: {len(value)} items]"] if marked else items
    if isinstance(value, dict):
        names = [*value]
        kept_names = [key for at, key in enumerate(names) if at < members or key in _KEPT]
        found = {key: _cut(value[key], texts, members, key) for key in kept_names}
        return found if len(found) == len(names) else {**found, "metricx.cut": f"[cut: {len(names)} fields]"}
    return value


def _without_locals(frame: Any) -> Any:
    return {key: frame[key] for key in frame if key != "vars"} if isinstance(frame, dict) else frame
