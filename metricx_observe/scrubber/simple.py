"""Values of other types than JSON's, which are rare: most signals are made plain when they are recorded."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from pydantic_core import to_jsonable_python


def simple(value: Any) -> Any:
    """What is read of `value` in its place: the fields of a model or named tuple, the items of a set, else its text.

    May raise: it calls methods of somebody else's.
    """
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        fields = getattr(value, "_fields", ())
        return dict(zip(fields, value, strict=True)) if fields else list(value)
    if isinstance(value, Set):
        return list(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode()
    found = to_jsonable_python(value, fallback=str)
    return found if type(found) in (str, int, float, bool, list, dict) else str(found)


def name_of(key: object) -> str:
    """A key of a dict as text."""
    return key.decode(errors="replace") if isinstance(key, bytes) else str(key)
