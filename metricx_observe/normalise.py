"""Anything an application hands to a facade, as JSON.

Two ways, one result. `snapshot` is what a request pays: orjson reads the value in one go, and the bytes are a copy that
later changes cannot reach. What orjson refuses, or turns into `null` (NaN), or what is too large, goes through `plain`,
which replaces the one bad value by a marker in brackets, notes the kind of fault, and keeps the rest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Set
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel

MAX_BYTES = 1_000_000
"""JSON bytes of one value: Langfuse takes some 4 MB a request, and a queue must not hold more of a single call."""
MAX_DEPTH = 32
MAX_ITEMS = 20_000
_INT64 = 1 << 63

Notes = list[str]


def snapshot(value: object, notes: Notes, max_bytes: int = MAX_BYTES) -> bytes:
    """`value` as it is now, as JSON of about `max_bytes` at most. Never raises; adds each kind of fault to `notes`."""
    try:
        data = orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    except (TypeError, ValueError, RecursionError):
        data = b""
    # orjson writes NaN and infinity as null: only a walk can tell them from None
    if not data or len(data) > max_bytes or b"null" in data:
        data = orjson.dumps(plain(value, notes, max_bytes))
    return b"%b" % data  # orjson's own bytes keep some 4 KB each while they are queued


def plain(value: object, notes: Notes | None = None, max_bytes: int = MAX_BYTES) -> Any:
    """`value` as dict, list, str, int, float, bool and None. Never raises.

    Args:
        value: Anything: pydantic models, dataclasses, sets, UUID, Decimal, cycles, an object whose `__str__` raises.
        notes: Gets the kinds of fault that were replaced by a marker.
        max_bytes: About how much text is kept; what comes after is replaced by a marker.
    """
    return _Walk([] if notes is None else notes, max_bytes).value(value, 0)


class _Walk:
    """One pass over one value, with what is left of its budget."""

    __slots__ = ("bytes_left", "items_left", "notes", "open")

    def __init__(self, notes: Notes, max_bytes: int) -> None:
        self.notes = notes
        self.bytes_left = max_bytes
        self.items_left = MAX_ITEMS
        self.open: set[int] = set()

    def marked(self, note: str, marker: str) -> str:
        self.notes.append(note)
        return marker

    def value(self, value: Any, depth: int) -> Any:
        try:
            return self._value(value, depth)
        except Exception:
            return self.marked("unreadable", f"[unreadable {type(value).__name__}]")

    def _value(self, value: Any, depth: int) -> Any:
        if value is None or value is True or value is False:
            return value
        self.items_left -= 1
        if self.items_left < 0 or self.bytes_left < 0:
            return self.marked("too large", "[cut]")
        if isinstance(value, str):
            return self._text(value.value if isinstance(value, Enum) else value)
        if isinstance(value, Enum):
            return self._value(value.value, depth)
        if isinstance(value, int):
            return int(value) if -_INT64 <= value < _INT64 else str(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else self.marked("not finite", f"[{float(value)}]")
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self._bytes(bytes(value))
        scalar = _scalar(value)
        return self._container(value, depth) if scalar is None else self._value(scalar, depth)

    def _container(self, value: Any, depth: int) -> Any:
        if id(value) in self.open:
            return self.marked("cycle", "[cycle]")
        if depth >= MAX_DEPTH:
            return self.marked("too deep", "[too deep]")
        self.open.add(id(value))
        try:
            if (fields := _fields(value)) is not None:
                return {self._key(key): self.value(item, depth + 1) for key, item in fields.items()}
            if isinstance(value, (list, tuple, Set)) or hasattr(type(value), "tolist"):
                items: Iterable[Any] = value.tolist() if hasattr(value, "tolist") else value
                return [self.value(item, depth + 1) for item in items] if hasattr(items, "__iter__") else items
            return self._object(value)
        finally:
            self.open.discard(id(value))

    def _text(self, text: str) -> str:
        if len(text) > self.bytes_left:
            self.notes.append("too large")
            text = f"{text[: max(self.bytes_left, 0)]}[cut: {len(text)} characters]"
        self.bytes_left -= len(text)
        if not text.isascii():
            clean = text.encode("utf-8", "replace").decode()
            if clean != text:
                self.notes.append("lone surrogate")
            return clean
        return str(text)

    def _bytes(self, data: bytes) -> str:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return f"[bytes {len(data)}]"
        return self._text(text) if text.isprintable() else f"[bytes {len(data)}]"

    def _key(self, key: Any) -> str:
        if isinstance(key, Enum):
            key = key.value
        if isinstance(key, (str, int, float, bytes, UUID, date, type(None))):
            return self._bytes(key) if isinstance(key, bytes) else self._text(str(key))
        return self.marked("odd key", f"[{type(key).__name__}]")

    def _object(self, value: Any) -> str:
        """An object we know nothing of: its text when its class wrote one. Never `__dict__`: passwords are there."""
        kind: Any = type(value)
        if (kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__) or callable(value):
            return self.marked("unknown type", f"[{kind.__name__}]")
        return self._text(str(value)[:10_000])


def _scalar(value: Any) -> str | float | int | None:
    if isinstance(value, (UUID, PurePath)):
        return str(value)
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    return None


def _fields(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, BaseModel):
        return value.model_dump()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.repr}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        named: Mapping[Any, Any] = value._asdict()
        return named
    return None
