"""OTLP/JSON, in which Langfuse takes spans, and how a large one is cut.

Langfuse refuses a request of over 4.5 MB, and all of it is lost: so of a large span goes what matters least. In this
order: the longest texts, the last events, the largest attributes. Ids, name, kind, times, status, and whose the trace
is arrive.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import orjson
from langfuse import LangfuseOtelSpanAttributes as Key

from metricx_observe.normalise import plain

MAX_SPAN = 1_000_000
"""Bytes of JSON of one span, as it is sent: a control character is six of them, in a text that is JSON itself seven."""
_LIMITS = 256 << 10, 64 << 10, 16 << 10, 4 << 10, 1 << 10
"""Bytes of JSON of the longest text or list, one after the other until the span fits."""
_INT64 = 1 << 63
_KEPT = frozenset(
    {Key.TRACE_NAME, Key.TRACE_USER_ID, Key.TRACE_SESSION_ID, Key.TRACE_TAGS, Key.ENVIRONMENT, Key.RELEASE,
     Key.OBSERVATION_TYPE, Key.OBSERVATION_LEVEL, Key.OBSERVATION_STATUS_MESSAGE, Key.OBSERVATION_MODEL,
     Key.OBSERVATION_USAGE_DETAILS, Key.OBSERVATION_COST_DETAILS, f"{Key.TRACE_METADATA}.request_id",
     f"{Key.TRACE_METADATA}.request_trace_id", f"{Key.TRACE_METADATA}.workspace_id"}
)  # fmt: skip


def span_json(span: Mapping[str, Any]) -> bytes:
    """A span as OTLP/JSON."""
    return orjson.dumps({
        "traceId": span["trace_id"],
        "spanId": span["id"],
        **({"parentSpanId": span["parent_id"]} if span["parent_id"] else {}),
        "name": span["name"],
        "kind": span["kind"],
        "startTimeUnixNano": str(span["start_ns"]),
        "endTimeUnixNano": str(span["end_ns"]),
        "attributes": otlp_attributes(span["attributes"]),
        **({"events": [_event(event) for event in span["events"]]} if span["events"] else {}),
        "status": span["status"],
    })  # fmt: skip


def _event(event: Mapping[str, Any]) -> dict[str, Any]:
    time = str(event["time_ns"])
    return {"name": event["name"], "timeUnixNano": time, "attributes": otlp_attributes(event["attributes"])}


def otlp_attributes(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Attributes as OTLP/JSON."""
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int) and -_INT64 <= value < _INT64:
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(item) for item in value]}}
    return {"stringValue": str(value)}


def within_bounds(span: Mapping[str, Any]) -> bytes:
    """A span as OTLP/JSON of at most `MAX_SPAN` bytes."""
    shorter, data = dict(span), b""
    for limit in _LIMITS:
        shorter = {**span} | {part: _shorter(span[part], limit) for part in ("name", "status", "attributes")}
        shorter["events"] = [_shorter(event, limit) for event in span["events"]]
        if len(data := span_json(shorter)) <= MAX_SPAN:
            return data
    return span_json(_without_most(shorter, len(data) - MAX_SPAN))


def _shorter(value: Any, limit: int) -> Any:
    """Each text and list in at most so many bytes; a text that is JSON stays JSON."""
    if isinstance(value, dict):
        return {plain(key, max_bytes=limit): _shorter(item, limit) for key, item in value.items()}
    if isinstance(value, str) and value[:1] in ("[", "{") and _size(value) > limit:
        with suppress(ValueError):
            whole = orjson.loads(value)
            for part in (2, 8):  # quotes and backslashes double once more
                shorter = orjson.dumps(plain(whole, max_bytes=limit // part)).decode()
                if _size(shorter) <= limit:
                    return shorter
    return plain(value, max_bytes=limit)


def _without_most(span: dict[str, Any], over: int) -> dict[str, Any]:
    """The span without so many bytes of its last events and its largest attributes."""
    events, attributes, over = [*span["events"]], dict(span["attributes"]), over + 100  # the marker
    while events and over > 0:
        over -= _size(events.pop())
    largest = sorted(attributes.keys() - _KEPT, key=lambda key: _size(attributes[key]))
    while largest and over > 0:
        over -= _size(attributes.pop(largest.pop()))
    lost = {"attributes": len(span["attributes"]) - len(attributes), "events": len(span["events"]) - len(events)}
    attributes["metricx.cut"] = f"[cut: {', '.join(f'{n} {what}' for what, n in lost.items() if n)}]"
    return {**span, "attributes": attributes, "events": events}


def _size(value: Any) -> int:
    return len(orjson.dumps(value))
