"""Read an OTLP trace export, protobuf or JSON, into plain spans: https://opentelemetry.io/docs/specs/otlp/

The two differ in ids (bytes, hex) only, so protobuf becomes the JSON form and one reader reads both.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from .signals import MAX_VALUES, Refused, expect, load

ID_DIGITS = {"traceId": 32, "spanId": 16, "parentSpanId": 16}
_LARGEST = 1 << 63
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
"""Wire types: https://protobuf.dev/programming-guides/encoding/"""


def read_spans(body: bytes, media_type: str) -> Iterator[dict[str, Any]]:
    """The spans, in OTLP/JSON's form but with attributes as one object, times as integers, resource and scope inside.

    Raises:
        Refused: 400 for a body that is not what its type says, 413 for too many values, 415 for another type than
            protobuf and JSON.
    """
    if media_type == "application/json":
        return _spans(load(body, "the body"), False)
    if media_type == "application/x-protobuf":
        return _spans(_as_json(body), True)
    raise Refused(415, "Content-Type must be application/x-protobuf or application/json")


def _as_json(body: bytes) -> dict[str, Any]:
    try:
        _check_size(body, ExportTraceServiceRequest.DESCRIPTOR)
        export: dict[str, Any] = MessageToDict(ExportTraceServiceRequest.FromString(body), use_integers_for_enums=True)
        return export
    except (DecodeError, IndexError):  # the second where a number goes on after the end
        raise Refused(400, "the body is not a valid ExportTraceServiceRequest, or is truncated") from None


def _check_size(body: bytes, message_type: Descriptor) -> None:
    """Raises Refused(413) for a message with over MAX_VALUES fields, those of inner messages included.

    Parsing comes after it: an empty span of two bytes becomes an object of two hundred.
    """
    fields = 0
    inner = [(0, len(body), message_type)]
    while inner:
        position, end, message_type = inner.pop()
        while position < end:
            tag, position = _varint(body, position)
            number, wire_type = tag >> 3, tag & 7
            length = _FIXED.get(wire_type, 0)
            if wire_type in (_VARINT, _BYTES):
                value, position = _varint(body, position)
                length = value if wire_type == _BYTES else 0
            elif not length or position + length > end:
                raise DecodeError
            field = message_type.fields_by_number.get(number)
            if wire_type == _BYTES and field is not None and field.message_type is not None:
                inner.append((position, position + length, field.message_type))
            position += length
            fields += 1
            if fields > MAX_VALUES:
                raise Refused(413, f"the body has over {MAX_VALUES} values")


def _varint(body: bytes, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = shift = 0
    while shift < 70:
        byte = body[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise DecodeError


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
