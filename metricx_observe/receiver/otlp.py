"""Read an OTLP trace export, protobuf or JSON, into plain spans: https://opentelemetry.io/docs/specs/otlp/

The two differ in ids (bytes, hex) only, so protobuf becomes the JSON form and one reader reads both.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from .signals import Refused, expect, load

ID_DIGITS = {"traceId": 32, "spanId": 16, "parentSpanId": 16}
_LARGEST = 1 << 63


def read_spans(body: bytes, media_type: str) -> list[dict[str, Any]]:
    """The spans, in OTLP/JSON's form but with attributes as one object, times as integers, resource and scope inside.

    Raises:
        Refused: 400 for a body that is not what its type says, 415 for another type than protobuf and JSON.
    """
    try:
        if media_type == "application/json":
            return list(_spans(load(body, "the body"), False))
        if media_type == "application/x-protobuf":
            message = ExportTraceServiceRequest.FromString(body)
            return list(_spans(MessageToDict(message, use_integers_for_enums=True), True))
    except DecodeError:
        raise Refused(400, "the body is not a valid ExportTraceServiceRequest, or is truncated") from None
    raise Refused(415, "Content-Type must be application/x-protobuf or application/json")


def _spans(request: object, binary_ids: bool) -> Iterator[dict[str, Any]]:
    for group in _objects(request, "resourceSpans"):
        resource = _attributes(group.get("resource") or {})
        for scoped in _objects(group, "scopeSpans"):
            scope = expect(scoped.get("scope") or {}, dict, "scope").get("name")
            for span in _objects(scoped, "spans"):
                ids = {field: _id(span.get(field), field, binary_ids) for field in ID_DIGITS}
                times = {field: _integer(span.get(field, 0)) for field in ("startTimeUnixNano", "endTimeUnixNano")}
                yield span | ids | times | {"attributes": _attributes(span), "resource": resource, "scope": scope}


def _objects(parent: object, field: str) -> list[dict[str, Any]]:
    items = expect(parent, dict, f"what holds {field}").get(field)
    return [expect(item, dict, f"an item of {field}") for item in expect([] if items is None else items, list, field)]


def _id(value: object, field: str, binary: bool) -> str | None:
    if not value and field == "parentSpanId":
        return None
    try:
        raw = base64.b64decode(str(value)) if binary else bytes.fromhex(str(value))
    except (ValueError, binascii.Error):
        raw = b""
    if len(raw) * 2 != ID_DIGITS[field]:
        raise Refused(400, f"a span's {field} is not {ID_DIGITS[field]} hex digits")
    return raw.hex()


def _attributes(parent: object, field: str = "attributes") -> dict[str, Any]:
    return {str(pair.get("key")): _value(pair.get("value")) for pair in _objects(parent, field)}


def _value(value: object) -> Any:
    """An attribute's value. Both parsers bound the nesting (JSON at 1,024, three a value), so recursion is safe."""
    kind, inner = next(iter(expect(value or {"": None}, dict, "an attribute's value").items()))
    if kind == "arrayValue":
        return [_value(item) for item in expect(expect(inner, dict, kind).get("values", []), list, "values")]
    if kind == "kvlistValue":
        return _attributes(inner, "values")
    return _integer(inner) if kind == "intValue" else inner


def _integer(value: object) -> int:
    """A 64-bit integer, which OTLP/JSON writes as a string."""
    try:
        number = int(value) if isinstance(value, int) or (isinstance(value, str) and len(value) <= 20) else None
    except ValueError:
        number = None
    if number is None or not -_LARGEST <= number < _LARGEST:
        raise Refused(400, "a 64-bit integer is malformed or out of range")
    return number
