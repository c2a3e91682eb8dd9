"""Values that an application may hand over by mistake: the table behind the tests of bad input."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import PurePosixPath
from typing import Any, NoReturn
from uuid import UUID

from pydantic import BaseModel, SecretStr


class BrokenText:
    """Neither its text nor its representation can be had."""

    def __str__(self) -> str:
        raise RuntimeError("SECRET-IN-ERROR")

    __repr__ = __str__


class Broken(BrokenText):
    """It cannot be compared, hashed, measured, iterated, or told true from false either."""

    def _fail(self, *_: object) -> NoReturn:
        raise RuntimeError("SECRET-IN-ERROR")

    __eq__ = __hash__ = __bool__ = __len__ = __iter__ = __getitem__ = __contains__ = __float__ = __int__ = _fail


class BrokenItems(dict[str, Any]):
    """A dict that cannot be read by its own methods."""

    def items(self) -> NoReturn:
        raise RuntimeError("SECRET-IN-ERROR")

    __iter__ = keys = values = items


class BrokenAttributes:
    """Every attribute that it does not have fails."""

    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError("SECRET-IN-ERROR")


class OddStr(str):
    """Text of a class of its own."""


class OddInt(int):
    """A number of a class of its own."""


class Shade(Enum):
    """An enum."""

    DARK = "dark"


class Step(IntEnum):
    """An enum of numbers."""

    ONE = 1


class Model(BaseModel):
    """A model with a secret."""

    name: str = "bob"
    password: SecretStr = SecretStr("SECRET-IN-MODEL")


@dataclass
class Hidden:
    """A dataclass that hides a field."""

    name: str = "bob"
    password: str = field(repr=False, default="SECRET-IN-DATACLASS")


class Array:
    """As numpy's arrays."""

    def tolist(self) -> list[object]:
        """As a list."""
        return [1.5, math.nan]


def _cycle() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def _deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def _generator() -> Iterator[int]:
    yield 1


ODD_VALUES: dict[str, Any] = {
    "none": None, "true": True, "zero": 0, "negative": -1, "huge int": 10**5000, "int over 64 bits": 1 << 70,
    "float": 0.1, "nan": math.nan, "infinity": math.inf, "minus infinity": -math.inf, "complex": complex(1, 2),
    "decimal": Decimal("1.5"), "decimal nan": Decimal("NaN"), "decimal snan": Decimal("sNaN"),
    "decimal huge": Decimal("1e999999"), "uuid": UUID(int=7), "bytes": b"text", "binary": b"\xff\xfe\x00",
    "bytearray": bytearray(b"x"), "empty": "", "blank": " \t\n", "text": "some text", "line breaks": "a\r\nb\x00\x1b",
    "lone surrogate": "a\ud800b", "only surrogates": "\ud800\udfff", "huge text": "x" * 3_000_000,
    "emoji": "\U0001f600" * 20_000, "list": [1, "a"], "tuple": (1, 2), "set": {1},
    "huge list": ["-1.2345678901234567e-300" * 8] * 6_000,  # over the bound of bytes
    "cycle": _cycle(), "deep": _deep(50_000), "dict": {"a": 1}, "odd keys": {1: 2, None: 3, (1, 2): 4, b"k": 5},
    "broken key": {BrokenText(): 1}, "nested nan": {"a": [{"b": math.nan}]}, "broken items": BrokenItems(a=1),
    "broken inside": {"a": BrokenText(), "b": 1}, "broken text": BrokenText(), "broken": Broken(),
    "broken attributes": BrokenAttributes(), "object": object(), "function": lambda: None, "class": Model,
    "generator": _generator(), "naive": datetime(2024, 1, 1), "aware": datetime(2024, 1, 1, tzinfo=UTC),
    "long ago": datetime(1, 1, 1, tzinfo=UTC), "far ahead": datetime.max, "date": date(2024, 1, 1),
    "duration": timedelta(seconds=-5), "path": PurePosixPath("/a"), "secret": SecretStr("SECRET-IN-SECRETSTR"),
    "model": Model(), "dataclass": Hidden(), "array": Array(), "str subclass": OddStr("odd"), "int subclass": OddInt(3),
    "enum": Shade.DARK, "int enum": Step.ONE, "exception": ValueError("x"), "module": math, "ellipsis": ...,
}  # fmt: skip
"""By name. The generator is spent by the first who reads it: none may."""
