"""Anything an application hands to a facade, as JSON.

Two ways, one result. `snapshot` is what a request pays: orjson reads the value in one go, and the bytes are a copy that
later changes cannot reach. What orjson refuses, or turns into `null` (NaN), or what is too large, goes through `plain`,
which replaces the one bad value by a marker in brackets, notes the kind of fault, and keeps the rest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel

from .context import one_line

MAX_BYTES = 1_000_000
"""JSON bytes of one value: Langfuse takes some 4 MB a request, and a queue must not hold more of a single call."""
MAX_DEPTH = 32
MAX_ITEMS = 20_000
_INT64 = 1 << 63
_ITEM_BYTES = 8
"""What a value takes in JSON beyond its text, about."""

Notes = list[str]


def snapshot(value: object, notes: Notes, max_bytes: int = MAX_BYTES) -> bytes:
    """`value` as it is now, as JSON of about `max_bytes` at most. Never raises; adds each kind of fault to `notes`."""
    try:
        data = orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    except Exception:
        data = b""
    # orjson writes NaN and infinity as null: only a walk can tell them from None
    if not data or len(data) > max_bytes or b"null" in data:
        data = orjson.dumps(plain(value, notes, max_bytes))
    return b"%b" % data  # orjson's own bytes keep some 4 KB each while they are queued


def line(value: object, notes: Notes, limit: int = 200) -> str:
    """`value` as one line of at most `limit` characters, for names and labels. Never raises."""
    if type(value) is str and value.isprintable():
        return value[:limit]
    if value is None:
        return ""
    found = plain(value, notes, limit * 4)
    return one_line(found if isinstance(found, str) else orjson.dumps(found).decode())[:limit]


def moment(value: object, notes: Notes) -> datetime | None:
    """A datetime in UTC (naive means UTC); None for None, and for what is no time that the vendors can count from."""
    if isinstance(value, datetime):
        with suppress(Exception):  # out of range, or a time zone that fails
            found = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
            if 1970 <= found.year < 2262:  # what 64 bits of nanoseconds hold
                return found
    if value is not None:
        notes.append("unusable time")
    return None


def plain(value: object, notes: Notes | None = None, max_bytes: int = MAX_BYTES) -> Any:
    """`value` as dict, list, str, int, float, bool and None. Never raises.

    Args:
        value: Anything: pydantic models, dataclasses, sets, UUID, Decimal, cycles, an object whose `__str__` raises.
        notes: Gets the kinds of fault that were replaced by a marker.
        max_bytes: About how much text is kept; what comes after is replaced by a marker.
    """
    walk = _Walk(max_bytes, fair=False)
    found = walk.value(value, 0)
    if "too large" in walk.notes:
        walk = _Walk(max_bytes, fair=True)
        found = walk.value(value, 0)
    if notes is not None:
        notes += walk.notes
    return found


class _Walk:
    """One pass over one value, with what is left of its budget."""

    __slots__ = ("bytes_left", "fair", "items_left", "notes", "open")

    def __init__(self, max_bytes: int, fair: bool) -> None:
        self.notes: Notes = []
        self.fair = fair
        """Whether each item gets at most half of what is left, so that what stands after a huge one arrives too."""
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
        self.items_left -= 1
        self.bytes_left -= _ITEM_BYTES
        if self.spent:
            return self.marked("too large", "[cut]")
        if value is None or value is True or value is False:
            return value
        # the base types' own methods: a subclass may have overridden them with anything
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if isinstance(value, Enum):
            return self._value(value.value, depth)
        if isinstance(value, int):
            number = int.__index__(value)
            return number if -_INT64 <= number < _INT64 else str(number)
        if isinstance(value, float):
            fraction = float.__float__(value)
            return fraction if math.isfinite(fraction) else self.marked("not finite", f"[{fraction}]")
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self._bytes(bytes(value))
        scalar = _scalar(value)
        return self._container(value, depth) if scalar is None else self._value(scalar, depth)

    @property
    def spent(self) -> bool:
        return self.items_left < 0 or self.bytes_left < 0

    def _container(self, value: Any, depth: int) -> Any:
        if id(value) in self.open:
            return self.marked("cycle", "[cycle]")
        if depth >= MAX_DEPTH:
            return self.marked("too deep", "[too deep]")
        self.open.add(id(value))
        try:
            if (fields := _fields(value)) is not None:
                return self._mapping(fields, depth + 1)
            if isinstance(value, (list, tuple, Set)):
                return self._list(value, depth + 1)
            return self.value(value.tolist(), depth + 1) if hasattr(type(value), "tolist") else self._object(value)
        finally:
            self.open.discard(id(value))

    def _mapping(self, fields: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        # the dict's own: a subclass may have overridden it
        for key, item in dict.items(fields) if isinstance(fields, dict) else fields.items():
            if self.spent:
                found["[cut]"] = self.marked("too large", "[cut]")
                break
            name = self.value(key, depth)
            found[name if isinstance(name, str) else orjson.dumps(name).decode()] = self._item(item, depth)
        return found

    def _list(self, items: Iterable[Any], depth: int) -> list[Any]:
        found: list[Any] = []
        for item in items:
            if self.spent:
                found.append(self.marked("too large", "[cut]"))
                break
            found.append(self._item(item, depth))
        return found

    def _item(self, item: Any, depth: int) -> Any:
        if not self.fair:
            return self.value(item, depth)
        kept_bytes, kept_items = self.bytes_left // 2, self.items_left // 2
        self.bytes_left -= kept_bytes
        self.items_left -= kept_items
        found = self.value(item, depth)
        # what was cut costs something too, or there would be no end of half of what is left
        self.bytes_left = max(self.bytes_left, -_ITEM_BYTES) + kept_bytes
        self.items_left = max(self.items_left, -1) + kept_items
        return found

    def _text(self, text: str) -> str:
        size = len(text)
        if not text.isascii():
            data = text.encode("utf-8", "replace")
            clean, size = data.decode(), len(data)
            if clean != text:
                self.notes.append("lone surrogate")
            text = clean
        if size > self.bytes_left:
            self.notes.append("too large")
            text = f"{text.encode()[: self.bytes_left].decode(errors='ignore')}[cut: {len(text)} characters]"
        self.bytes_left -= size
        return text

    def _bytes(self, data: bytes) -> str:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return f"[bytes {len(data)}]"
        return self._text(text) if text.isprintable() else f"[bytes {len(data)}]"

    def _object(self, value: Any) -> str:
        """An object we know nothing of: its text when its class wrote one. Never `__dict__`: passwords are there."""
        kind: Any = type(value)
        if (kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__) or callable(value):
            return self.marked("unknown type", f"[{kind.__name__}]")
        text = str(value)[:10_000]
        if text.startswith("<") and " at 0x" in text:  # an address says nothing, and is another one each time
            return self.marked("unknown type", f"[{kind.__name__}]")
        return self._text(text)


def _scalar(value: Any) -> str | float | int | None:
    if isinstance(value, (UUID, PurePath)):
        return str(value)
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        whole = value.is_finite() and value.adjusted() < 18 and value == value.to_integral_value()
        return int(value) if whole else float(value)
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    return None


def _fields(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, BaseModel):
        hidden = {name for name, field in type(value).model_fields.items() if not field.repr}
        return value.model_dump(warnings=False, exclude=hidden or None)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.repr}
    if isinstance(value, tuple) and (as_dict := getattr(value, "_asdict", None)) is not None:
        named: Mapping[Any, Any] = as_dict()
        return named
    return None
