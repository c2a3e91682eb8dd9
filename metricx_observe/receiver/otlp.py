"""Read an OTLP trace export, protobuf or JSON, into plain spans of one shape.

https://opentelemetry.io/docs/specs/otlp/ ; the JSON form has ids in hex and 64-bit integers as strings.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from .signals import Refused, expect_list, expect_object, load_object

Span = dict[str, Any]
"""OTLP/JSON's field names, with attributes as one object and times as integers (nanoseconds)."""

_MAX_NANOSECONDS = (1 << 64) - 1


def read_protobuf(body: bytes) -> list[Span]:
    """The spans of a serialised ExportTraceServiceRequest. Raises Refused(400)."""
    request = ExportTraceServiceRequest()
    try:
        request.ParseFromString(body)
    except DecodeError:
        raise Refused(400, "the body is not a valid ExportTraceServiceRequest, or is truncated") from None
    return [
        _span_of_message(span, _attributes(resource.resource.attributes), scope.scope.name)
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _span_of_message(span: Any, resource: dict[str, Any], scope: str) -> Span:
    return _checked(
        {
            "traceId": span.trace_id.hex(),
            "spanId": span.span_id.hex(),
            "parentSpanId": span.parent_span_id.hex() or None,
            "name": span.name,
            "startTimeUnixNano": span.start_time_unix_nano,
            "endTimeUnixNano": span.end_time_unix_nano,
            "attributes": _attributes(span.attributes),
            "status": {"code": int(span.status.code), "message": span.status.message},
            "events": [
                {
                    "name": event.name,
                    "timeUnixNano": event.time_unix_nano,
                    "attributes": _attributes(event.attributes),
                }
                for event in span.events
            ],
            "resource": resource,
            "scope": scope,
        }
    )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    which = value.WhichOneof("value")
    if which == "array_value":
        return [_value(item) for item in value.array_value.values]
    if which == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    if which == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    return None if which is None else getattr(value, which)


def read_json(body: bytes) -> list[Span]:
    """The spans of an OTLP/JSON trace export. Raises Refused(400)."""
    try:
        return [
            _span_of_object(expect_object(span, "a span"), _json_attributes(resource.get("attributes")), scope.get("name"))
            for group in _objects(load_object(body, "the body"), "resourceSpans")
            for resource in [expect_object(group.get("resource", {}), "resource")]
            for scoped in _objects(group, "scopeSpans")
            for scope in [expect_object(scoped.get("scope", {}), "scope")]
            for span in _objects(scoped, "spans")
        ]
    except RecursionError:
        raise Refused(400, "an attribute is nested too deeply") from None


def _objects(parent: dict[str, Any], field: str) -> list[dict[str, Any]]:
    return [expect_object(item, f"an item of {field}") for item in expect_list(parent.get(field, []), field)]


def _span_of_object(span: dict[str, Any], resource: dict[str, Any], scope: object) -> Span:
    status = expect_object(span.get("status", {}), "status")
    return _checked(
        {
            "traceId": str(span.get("traceId", "")).lower(),
            "spanId": str(span.get("spanId", "")).lower(),
            "parentSpanId": str(span.get("parentSpanId") or "").lower() or None,
            "name": str(span.get("name", "")),
            "startTimeUnixNano": _integer(span.get("startTimeUnixNano", 0), _MAX_NANOSECONDS),
            "endTimeUnixNano": _integer(span.get("endTimeUnixNano", 0), _MAX_NANOSECONDS),
            "attributes": _json_attributes(span.get("attributes")),
            "status": {"code": _status(status.get("code", 0)), "message": str(status.get("message", ""))},
            "events": [
                {
                    "name": str(event.get("name", "")),
                    "timeUnixNano": _integer(event.get("timeUnixNano", 0), _MAX_NANOSECONDS),
                    "attributes": _json_attributes(event.get("attributes")),
                }
                for event in _objects(span, "events")
            ],
            "resource": resource,
            "scope": str(scope or ""),
        }
    )


def _checked(span: Span) -> Span:
    """The span when its ids are what OTLP demands: 16 and 8 bytes, of the parent 8 or none."""
    for field, digits in (("traceId", 32), ("spanId", 16), ("parentSpanId", 16)):
        value = span[field]
        if value is None:
            continue
        if len(value) != digits or not set(value) <= set("0123456789abcdef"):
            raise Refused(400, f"a span's {field} is not {digits} hex digits")
    return span


def _json_attributes(pairs: object) -> dict[str, Any]:
    items = [expect_object(pair, "an attribute") for pair in expect_list(pairs or [], "attributes")]
    return {str(pair.get("key", "")): _json_value(pair.get("value")) for pair in items}


def _json_value(value: object) -> Any:
    if value is None or value == {}:
        return None
    kind, inner = next(iter(expect_object(value, "an attribute's value").items()))
    if kind == "arrayValue":
        return [_json_value(item) for item in expect_list(expect_object(inner, kind).get("values", []), "values")]
    if kind == "kvlistValue":
        return _json_attributes(expect_object(inner, kind).get("values"))
    if kind == "intValue":
        return _integer(inner, (1 << 63) - 1)
    if kind in ("stringValue", "boolValue", "doubleValue", "bytesValue"):
        return inner
    raise Refused(400, "an attribute's value is of no type that OTLP knows")


def _integer(value: object, most: int) -> int:
    """An integer that came as a number or, as OTLP/JSON writes 64-bit ones, as a string of at most 20 digits."""
    if isinstance(value, str) and len(value) <= 20:
        try:
            value = int(value)
        except ValueError:
            value = None
    if not isinstance(value, int) or not -most <= value <= most:
        raise Refused(400, "a 64-bit integer is missing, malformed or out of range")
    return value


def _status(code: object) -> int:
    names = {"STATUS_CODE_UNSET": 0, "STATUS_CODE_OK": 1, "STATUS_CODE_ERROR": 2}
    return code if isinstance(code, int) else names.get(str(code), 0)
