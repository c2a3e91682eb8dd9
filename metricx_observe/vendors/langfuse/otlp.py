"""OTLP/JSON, in which Langfuse takes spans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

_INT64 = 1 << 63


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
