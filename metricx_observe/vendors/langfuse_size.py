"""Langfuse refuses a request of over 4.5 MB, and all of it is lost: of a large span what matters least is cut here.

In this order: the longest texts, the last events, the largest attributes. Ids, name, kind, times, status, and whose the
trace is arrive.
"""

from __future__ import annotations

from typing import Any

import orjson
from langfuse import LangfuseOtelSpanAttributes as Key

from metricx_observe.normalise import plain

MAX_SPAN = 1_000_000
"""Bytes of JSON of one span, as it is sent: a control character is six of them, in a text that is JSON itself seven."""
_LIMITS = 256 << 10, 64 << 10, 16 << 10, 4 << 10, 1 << 10
"""Bytes of JSON of the longest text or list, one after the other until the span fits."""
_KEPT = frozenset(
    {Key.TRACE_NAME, Key.TRACE_USER_ID, Key.TRACE_SESSION_ID, Key.TRACE_TAGS, Key.ENVIRONMENT, Key.RELEASE,
     Key.OBSERVATION_TYPE, Key.OBSERVATION_LEVEL, Key.OBSERVATION_STATUS_MESSAGE, Key.OBSERVATION_MODEL,
     Key.OBSERVATION_USAGE_DETAILS, Key.OBSERVATION_COST_DETAILS, f"{Key.TRACE_METADATA}.request_id",
     f"{Key.TRACE_METADATA}.request_trace_id", f"{Key.TRACE_METADATA}.workspace_id"}
)  # fmt: skip
_MARKER = "metricx.cut"
"""The attribute that says how much was left out."""


def within_bounds(data: bytes) -> bytes:
    """A span of OTLP/JSON as one of at most `MAX_SPAN` bytes."""
    span, shorter = dict[str, Any](), data
    for limit in _LIMITS:
        span = orjson.loads(data)  # anew, so that a marker says how much there was
        _shorten(span, limit)
        if len(shorter := orjson.dumps(span)) <= MAX_SPAN:
            return shorter
    _leave_out(span, len(shorter) - MAX_SPAN)
    return orjson.dumps(span)


def _shorten(span: dict[str, Any], limit: int) -> None:
    span["name"] = _text(span["name"], limit)
    if "message" in span["status"]:
        span["status"]["message"] = _text(span["status"]["message"], limit)
    for holder in (span, *span.get("events", ())):
        for attribute in holder["attributes"]:
            attribute["value"] = _value(attribute["value"], limit)
            attribute["key"] = _text(attribute["key"], limit)
    for event in span.get("events", ()):
        event["name"] = _text(event["name"], limit)


def _value(value: dict[str, Any], limit: int) -> dict[str, Any]:
    if "stringValue" in value:
        return {"stringValue": _text(value["stringValue"], limit)}
    if "arrayValue" not in value or len(orjson.dumps(value)) <= limit:
        return value
    items, kept, size = value["arrayValue"]["values"], list[Any](), 0
    for item in (_value(each, limit) for each in items):
        size += len(orjson.dumps(item)) + 1
        if size > limit:
            kept.append({"stringValue": f"[cut: {len(items)} items]"})
            break
        kept.append(item)
    return {"arrayValue": {"values": kept}}


def _text(text: str, limit: int) -> str:
    """Of a text that is JSON, its own longest texts and last items, so that it stays JSON."""
    if len(text) * 6 <= limit or (size := len(orjson.dumps(text))) <= limit:
        return text
    if text[0] in "[{":
        try:
            whole = orjson.loads(text)
        except ValueError:
            whole = None
        for part in (2, 8) if whole is not None else ():  # quotes and backslashes double once more
            shorter = orjson.dumps(plain(whole, max_bytes=limit // part)).decode()
            if len(orjson.dumps(shorter)) <= limit:
                return shorter
    return f"{text[: limit * len(text) // size]}[cut: {len(text)} characters]"


def _leave_out(span: dict[str, Any], over: int) -> None:
    events, over = span.get("events", []), over + 100  # the marker
    all_events = len(events)
    while events and over > 0:
        over -= len(orjson.dumps(events.pop())) + 1
    rest = [attribute for attribute in span["attributes"] if attribute["key"] not in _KEPT]
    largest, gone = sorted(rest, key=lambda attribute: len(orjson.dumps(attribute))), set[int]()
    while largest and over > 0:
        attribute = largest.pop()
        gone.add(id(attribute))
        over -= len(orjson.dumps(attribute)) + 1
    span["attributes"] = [attribute for attribute in span["attributes"] if id(attribute) not in gone]
    left_out = {"attributes": len(gone), "events": all_events - len(events)}
    told = ", ".join(f"{n} {what}" for what, n in left_out.items() if n)
    span["attributes"].append({"key": _MARKER, "value": {"stringValue": f"[cut: {told}]"}})
