"""Anything an application hands to a facade, as JSON.

`snapshot` is what a request pays: orjson reads the value in one go, and the bytes are a copy that later changes cannot
reach. What orjson refuses, or turns into `null` (NaN), or what is too large, goes through `plain`, which replaces the
one bad value by a marker in brackets, notes the kind of fault, and keeps the rest. Nothing here raises.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Set
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import takewhile
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel

from .ids import printable, subject_id
from .interrupts import is_interrupt, suppress_faults

MAX_BYTES = 1_000_000
"""JSON bytes of one value: Langfuse takes some 4 MB a request, and a queue must not hold more of a single call."""
MAX_DEPTH = 32
_INT64 = 1 << 63
_LONG, _FEW = 4_096, 200
_ITEM_BYTES = 16
"""What a value takes in JSON beyond its text, about."""

_LONGEST_NAME = 64
_WORD = r"[A-Za-z]{1,24}\d{0,4}"
_NAME = re.compile(rf"_{{0,2}}{_WORD}(?:[_.:/\-]{{1,2}}(?:{_WORD}|\d{{1,4}}[a-z]?)){{0,12}}_?", re.ASCII)

Notes = list[str]
"""Kinds of fault that were found in what a call was given."""


def snapshot(value: object, notes: Notes, max_bytes: int = MAX_BYTES) -> bytes:
    """`value` as it is now, as JSON of about `max_bytes` at most."""
    try:
        data = orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATACLASS)
        # orjson writes NaN and infinity as null: only a walk can distinguish them from None
        if len(data) <= max_bytes and (_holds_only_texts(value) or b"null" not in data):
            return data
    except Exception as error:  # what JSON does not know
        if is_interrupt(error):
            raise
    return orjson.dumps(plain(value, notes, max_bytes))


def _holds_only_texts(value: object) -> bool:
    """Whether it is a prompt or an answer, as most: looking for `null` in 50 KB of one would cost 50 us."""
    if type(value) is list:
        return len(value) <= _FEW and all(map(_holds_only_texts, value))
    if type(value) is dict:
        return len(value) <= _FEW and all(map(_holds_only_texts, value.values()))
    return type(value) is str


def freeze(record: Mapping[str, Any]) -> bytes:
    """A record as JSON, whose values are plain or frozen already."""
    try:
        data = orjson.dumps(record)
    except TypeError:  # a server's own types in the ASGI scope
        data = orjson.dumps(plain(record))
    return b"%b" % data  # orjson's own bytes keep some 4 KB each while they are queued


def mapping(value: object, notes: Notes, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """`value` as a plain dict: empty for None; anything but a mapping stands under `value`."""
    found = {} if value is None else plain(value, notes, max_bytes)
    return found if isinstance(found, dict) else {"value": found}


def as_text(value: object, notes: Notes, max_bytes: int = 10_000) -> str:
    """`value` as text."""
    return _shown(plain(value, notes, max_bytes))


def short_text(value: object, notes: Notes, limit: int = 200) -> str:
    """`value` as one line of at most `limit` characters, for names and labels; empty for None."""
    if type(value) is str and value.isprintable():
        return value[:limit]
    return "" if value is None else printable(as_text(value, notes, limit * 4))[:limit]


def shown_name(name: str) -> str:
    """A name that an application chose, for our own log and `status()`: as it is where it looks like one from code.

    Words of letters with few digits, joined by `_ . : / -`. Anything else may be somebody's text (`search: ann smith`),
    an address or a key, and only its length is shown.
    """
    return name if len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) else f"[name of {len(name)} characters]"


def identifier(value: object, notes: Notes) -> str | None:
    """`value` as an id; None for None, and for what cannot be one."""
    found = subject_id(value)
    if found is None and value is not None:
        notes.append("unusable id")
    return found


def moment(value: object, notes: Notes) -> datetime | None:
    """A datetime in UTC (naive means UTC); None for None, and for a time that the vendors cannot represent."""
    if isinstance(value, datetime):
        with suppress_faults():  # out of range, or a time zone that fails
            found = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
            if 1970 <= found.year < 2262:  # what 64 bits of nanoseconds hold
                return found
    if value is not None:
        notes.append("unusable time")
    return None


def plain(
    value: object, notes: Notes | None = None, max_bytes: int = MAX_BYTES, *, attributes: tuple[str, ...] = ()
) -> Any:
    """`value` as dict, list, str, int, float, bool and None.

    Args:
        value: Anything: pydantic models, dataclasses, sets, UUID, Decimal, cycles, an object whose `__str__` raises.
        notes: Gets the kinds of fault that were replaced by a marker.
        max_bytes: About how much text is kept; what comes after is replaced by a marker.
        attributes: Those that are read of an object of no known kind which has some of them.
    """
    walk = _Walk(max_bytes, attributes, fair=False)
    found = walk.value(value, 0)
    if "too large" in walk.notes:
        walk = _Walk(max_bytes, attributes, fair=True)
        found = walk.value(value, 0)
    if notes is not None:
        notes += walk.notes
    return found


def named_fields(value: object) -> dict[str, Any] | None:
    """The fields of a named tuple and its like by their names; None for anything else.

    Also of the interpreter's own (`pwd.struct_passwd` has a password), and of rows that know their columns, as
    SQLAlchemy's do.
    """
    kind: Any = type(value)
    if not isinstance(value, tuple):
        with suppress_faults():  # somebody's own method
            found = kind._asdict(value)
            return dict(found) if isinstance(found, Mapping) else None
        return None
    names = getattr(kind, "__match_args__", ()) if hasattr(kind, "n_sequence_fields") else getattr(kind, "_fields", ())
    if kind is tuple or not isinstance(names, tuple) or not names:
        return None
    items = list(tuple.__iter__(value))  # the tuple's own: a subclass may answer anything
    unnamed = ((str(at), item) for at, item in enumerate(items) if at >= len(names))
    return {**dict(zip(map(str, names), items, strict=False)), **dict(unnamed)}


class _Walk:
    """One pass over one value, with what is left of its budget."""

    def __init__(self, max_bytes: int, attributes: tuple[str, ...], fair: bool) -> None:
        self.notes: Notes = []
        self.attributes = attributes
        self.left = max_bytes
        self.fair = fair
        """Whether each item gets at most half of what is left, so that what stands after a huge one arrives too."""
        self.open: set[int] = set()

    def marked(self, note: str, marker: str) -> str:
        self.notes.append(note)
        return marker

    def value(self, value: Any, depth: int) -> Any:
        self.left -= _ITEM_BYTES
        if self.left < 0:
            return self.marked("too large", "[cut]")
        try:
            return self._value(value, depth)
        except Exception as error:
            if is_interrupt(error):
                raise
            return self.marked("unreadable", f"[unreadable {type(value).__name__}]")

    def _value(self, value: Any, depth: int) -> Any:
        if value is None or value is True or value is False:
            return value
        # the base types' own methods: a subclass may have overridden them with anything
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if isinstance(value, int):
            whole = int.__index__(value)
            return whole if -_INT64 <= whole < _INT64 else str(whole)
        if isinstance(value, float):
            number = float.__float__(value)
            return number if math.isfinite(number) else self.marked("not finite", f"[{number}]")
        if id(value) in self.open:
            return self.marked("cycle", "[cycle]")
        if depth >= MAX_DEPTH:
            return self.marked("too deep", "[too deep]")
        self.open.add(id(value))
        try:
            if isinstance(value, list):
                return [self._item(item, depth + 1) for item in takewhile(self._has_room, value)]
            if isinstance(value, Mapping):
                # the dict's own: a subclass may have overridden it
                members = takewhile(self._has_room, dict.items(value) if isinstance(value, dict) else value.items())
                return {_shown(self.value(key, depth + 1)): self._item(item, depth + 1) for key, item in members}
            return self._value(self._simpler(value), depth + 1)
        finally:
            self.open.discard(id(value))

    def _has_room(self, _: object) -> bool:
        return self.left >= 0

    def _item(self, item: Any, depth: int) -> Any:
        kept = self.left // 2 if self.fair else 0
        self.left -= kept
        found = self.value(item, depth)
        # what was cut costs something too, or there would be no end of half of what is left
        self.left = max(self.left, -_ITEM_BYTES) + kept
        return found

    def _text(self, text: str) -> str:
        data = text.encode("utf-8", "replace")
        found = data.decode()
        if found != text:
            self.notes.append("lone surrogate")
        cost = len(data) if len(data) < _LONG else len(orjson.dumps(found))  # a control character is six bytes of JSON
        if cost > self.left:
            found = data[: max(0, self.left) * len(data) // cost].decode(errors="ignore")
            found += self.marked("too large", f"[cut: {len(text)} characters]")
        self.left -= cost
        return found

    def _simpler(self, value: Any) -> Any:
        if (named := named_fields(value)) is not None:
            return named
        for types, simpler in _SIMPLER:
            if isinstance(value, types):
                return simpler(value)
        kind: Any = type(value)
        if dataclasses.is_dataclass(kind):
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.repr}
        if hasattr(kind, "tolist"):  # numpy's arrays and numbers, and their like
            return value.tolist()
        if kind.__repr__ is SimpleNamespace.__repr__:  # its text would be all of its fields, too
            return dict(vars(value))
        # not what `__getattr__` makes up: a mock has whatever it is asked for, at any depth
        known = {*dir(kind), *getattr(value, "__dict__", ())} if self.attributes else ()
        if found := {name: getattr(value, name) for name in self.attributes if name in known}:
            return found
        # an object we know nothing of: its text when it has one. Never `__dict__`: passwords are there
        shown = str(value)[:10_000]
        if callable(value) or (shown.startswith("<") and " at 0x" in shown):  # an address is another one each time
            return self.marked("unknown type", f"[{kind.__name__}]")
        return shown


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _shown_fields(model: BaseModel) -> dict[str, Any]:
    hidden = {name for name, field in type(model).model_fields.items() if not field.repr}
    return model.model_dump(warnings=False, exclude=hidden or None)


def _number(value: Decimal) -> int | float:
    whole = value.is_finite() and value.adjusted() < 18 and value == value.to_integral_value()
    return int(value) if whole else float(value)


def _decoded(value: bytes | bytearray | memoryview) -> str:
    data = bytes(value)
    text = data.decode(errors="replace")
    return text if text.isprintable() and "\ufffd" not in text else f"[bytes {len(data)}]"


_SIMPLER: tuple[tuple[type | tuple[type, ...], Callable[[Any], Any]], ...] = (
    (Enum, lambda value: value.value),
    ((UUID, PurePath), str),
    ((date, time), lambda value: value.isoformat()),
    (timedelta, timedelta.total_seconds),
    (Decimal, _number),
    ((bytes, bytearray, memoryview), _decoded),
    (BaseException, lambda error: f"{type(error).__name__}: {error}"),
    (BaseModel, _shown_fields),
    (tuple, list),
    (Set, list),
)
"""What JSON does not know, and what stands for it."""
