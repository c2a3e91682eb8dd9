"""Sentry refuses an event of over 1 MB with a 413, and all of it is lost: so what matters least is cut here.

In this order: the longest texts, the oldest breadcrumbs, the locals of outer frames, outer frames, the data of spans,
the last spans, and what is left of the largest members. Type, message, the innermost frames and all ids arrive; of a
transaction, and of an item of its own (a streamed span, a log), its name, its op and its status.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from metricx_observe.normalise import plain

MAX_EVENT = 1_000_000
"""Bytes of JSON of an event or transaction (Sentry's size limits)."""
_LIMITS = 64 << 10, 16 << 10, 4 << 10, 1 << 10
"""Bytes of JSON of the longest text, one after the other until the event fits."""
_READ_BYTES = 32 << 20
"""Of an event that is no JSON yet: what is too much of it is chosen below, not by where it stands."""
_INNERMOST = 10
"""Frames of each exception that always arrive; their locals go last of all."""
_KEPT = frozenset(
    {"event_id", "timestamp", "start_timestamp", "platform", "level", "type", "exception", "contexts", "tags", "user",
     "transaction", "release", "environment", "message", "logentry", "attributes", "name", "span_id", "trace_id",
     "parent_span_id", "status", "op", "is_segment", "end_timestamp"}
)  # fmt: skip
_IDS = frozenset({"request_id", "workspace_id", "id", "email"})
"""Of tags and user."""
_MARKER = "metricx.cut"


def within_bounds(event: dict[str, Any]) -> bytes:
    """An event as JSON of at most `MAX_EVENT` bytes. `event` may be changed."""
    try:
        data = orjson.dumps(event)
    except TypeError:  # what the application's own hook put there
        event = plain(event, max_bytes=_READ_BYTES)
        data = orjson.dumps(event)
    for cut in (_texts, _breadcrumbs, _locals, _frames, _data, _spans, _members, _innermost_locals, _tags_and_user):
        if len(data) <= MAX_EVENT:
            break
        for _ in cut(event, len(data) - MAX_EVENT):
            data = orjson.dumps(event)
            if len(data) <= MAX_EVENT:
                break
    return data


def _texts(event: dict[str, Any], over: int) -> Iterator[None]:  # noqa: ARG001
    whole = dict(event)  # so that a marker says how much there was
    for limit in _LIMITS:
        for key, value in whole.items():
            if isinstance(value, (str, dict, list)):
                event[key] = _shortened(value, limit)
        yield


def _shortened(value: Any, limit: int) -> Any:
    if isinstance(value, dict):
        return {key: _shortened(each, limit) for key, each in value.items()}
    if isinstance(value, list):
        return [_shortened(each, limit) for each in value]
    if not isinstance(value, str) or len(value) * 6 <= limit or (size := len(orjson.dumps(value))) <= limit:
        return value
    return f"{value[: limit * len(value) // size]}[cut: {len(value)} characters]"


def _breadcrumbs(event: dict[str, Any], over: int) -> Iterator[None]:
    crumbs = event.get("breadcrumbs")
    values = crumbs.get("values") if isinstance(crumbs, dict) else crumbs
    if not isinstance(values, list):
        return
    freed = 0
    while values and freed < over:
        freed += len(orjson.dumps(values.pop(0))) + 1
    yield


def _stacks(event: dict[str, Any]) -> Iterator[list[Any]]:
    for holder in ("exception", "threads"):
        values = (event.get(holder) or {}).get("values")
        for value in values if isinstance(values, list) else ():
            frames = ((value or {}).get("stacktrace") or {}).get("frames")
            if isinstance(frames, list):
                yield frames


def _locals(event: dict[str, Any], over: int, innermost: int = _INNERMOST) -> Iterator[None]:
    """From the outermost frame of each stack inwards."""
    stacks, freed = [frames[: max(0, len(frames) - innermost)] for frames in _stacks(event)], 0
    for at in range(max(map(len, stacks), default=0)):
        for frames in stacks:
            if at < len(frames) and isinstance(frames[at], dict) and "vars" in frames[at]:
                freed += len(orjson.dumps(frames[at].pop("vars")))
        if freed >= over:
            break
    yield


def _innermost_locals(event: dict[str, Any], over: int) -> Iterator[None]:
    yield from _locals(event, over, innermost=0)


def _frames(event: dict[str, Any], over: int) -> Iterator[None]:
    freed = 0
    for frames in _stacks(event):
        while len(frames) > _INNERMOST and freed < over:
            freed += len(orjson.dumps(frames.pop(0)))
    yield


def _data(event: dict[str, Any], over: int) -> Iterator[None]:  # noqa: ARG001
    """What the application put on spans, on the transaction itself, and on an item that stands for itself."""
    trace, spans = (event.get("contexts") or {}).get("trace"), event.get("spans")
    yield from _first_fields([(trace, "data"), *((span, "data") for span in spans or ()), (event, "attributes")])


def _tags_and_user(event: dict[str, Any], over: int) -> Iterator[None]:  # noqa: ARG001
    yield from _first_fields([(event, "tags"), (event, "user")])


def _first_fields(places: list[tuple[Any, str]]) -> Iterator[None]:
    whole = [(holder, key, dict(holder[key])) for holder, key in places if _has_fields(holder, key)]
    for limit in _LIMITS:
        for holder, key, fields in whole:
            holder[key] = _fields(fields, limit)
        yield


def _has_fields(holder: Any, key: str) -> bool:
    return isinstance(holder, dict) and isinstance(holder.get(key), dict)


def _fields(fields: dict[str, Any], limit: int) -> dict[str, Any]:
    """Those that fit, one after the other, and how many there were."""
    kept, left = dict[str, Any](), limit
    for key, value in fields.items():
        size = len(orjson.dumps({key: value}))
        if size <= left or key in _IDS:
            kept[key] = value
            left -= size
    if len(kept) < len(fields):
        kept[_MARKER] = f"[cut: {len(fields)} fields]"
    return kept


def _spans(event: dict[str, Any], over: int) -> Iterator[None]:
    """Of a transaction, the last ones."""
    spans, freed = event.get("spans"), 0
    while isinstance(spans, list) and spans and freed < over:
        freed += len(orjson.dumps(spans.pop())) + 1
    yield


def _members(event: dict[str, Any], over: int) -> Iterator[None]:  # noqa: ARG001
    """Half of the largest member, again and again; then contexts but for the trace's ids, and causes, the outermost
    first."""
    while others := [key for key in event.keys() - _KEPT if event[key]]:
        largest = max(others, key=lambda key: len(orjson.dumps(event[key])))
        value = event[largest]
        if isinstance(value, dict) and len(value) > 1:
            event[largest] = {key: value[key] for key in [*value][: len(value) // 2]}
        elif isinstance(value, list) and len(value) > 1:
            event[largest] = value[: len(value) // 2]
        else:
            event[largest] = None
        yield
    contexts = event.get("contexts") or {}
    while rest := contexts.keys() - {"trace"}:
        del contexts[max(rest, key=lambda key: len(orjson.dumps(contexts[key])))]
        yield
    values = (event.get("exception") or {}).get("values")
    while isinstance(values, list) and len(values) > 1:
        del values[: max(1, len(values) // 10)]
        yield
