"""Values that an application may hand over, the usual and the odd ones. What holds CANARY must not arrive."""

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
        raise RuntimeError("error-CANARY")

    __repr__ = __str__


class BrokenItems(dict[str, Any]):
    """A dict that cannot be read by its own methods."""

    def items(self) -> NoReturn:
        raise RuntimeError("error-CANARY")

    __iter__ = keys = values = items


class BrokenAttributes:
    """Every attribute that it does not have fails."""

    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError("error-CANARY")


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
    password: SecretStr = SecretStr("model-CANARY")


@dataclass
class Hidden:
    """A dataclass that hides a field."""

    name: str = "bob"
    password: str = field(repr=False, default="dataclass-CANARY")


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


JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
ODD: dict[str, Any] = {
    "none": None, "true": True, "zero": 0, "huge-int": 10**5000, "int-over-64-bits": 1 << 70, "float": 0.1,
    "nan": math.nan, "infinity": math.inf, "complex": complex(1, 2), "decimal": Decimal("1.5"),
    "decimal-nan": Decimal("sNaN"), "decimal-huge": Decimal("1e999999"), "uuid": UUID(int=7), "bytes": b"text",
    "binary": b"\xff\xfe\x00", "bytearray": bytearray(b"x"), "blank": " \t\n", "line-breaks": "a\r\nb\x00\x1b",
    "surrogate": "a\ud800b", "surrogates-only": "\ud800\udfff", "text-of-100-kb": "many words " * 9_100,
    "text-of-3-mb": "x" * 3_000_000, "emoji": "\U0001f600" * 20_000, "list": [1, "a"], "tuple": (1, 2), "set": {1},
    "list-of-many": [f"item {number}" for number in range(3_000)], "cycle": _cycle(), "deep": _deep(50_000),
    "odd-keys": {1: 2, None: 3, (1, 2): 4, b"k": 5}, "broken-key": {BrokenText(): 1},
    "nested-nan": {"a": [{"b": math.nan}]},
    "broken-items": BrokenItems(a=1), "broken-inside": {"a": BrokenText(), "b": 1}, "broken-text": BrokenText(),
    "broken-attributes": BrokenAttributes(), "function": len, "class": Model, "generator": _generator(),
    "naive": datetime(2024, 1, 1), "aware": datetime(2024, 1, 1, 12, 30, 0, 123456, tzinfo=UTC),
    "long-ago": datetime(1, 1, 1, tzinfo=UTC), "far-ahead": datetime.max, "date": date(2024, 1, 1),
    "duration": timedelta(seconds=-5), "path": PurePosixPath("/a"), "secret-str": SecretStr("secretstr-CANARY"),
    "model": Model(), "dataclass": Hidden(), "array": Array(), "str-subclass": OddStr("odd"), "int-subclass": OddInt(3),
    "enum": Shade.DARK, "int-enum": Step.ONE, "exception": ValueError("x"), "module": math, "ellipsis": ...,
    "secret-by-name": {"password": "hunter-CANARY", "nested": [{"api_key": "key-CANARY"}], "token_count": 3},
    "secret-in-text": "login with password=hunter-CANARY please, Authorization: Bearer bearer-CANARY-0123456789",
    "jwt": f"token {JWT}", "card": "4111 1111 1111 1111", "url-with-password": "postgres://bob:pw-CANARY@db.example/shop",
    "email-in-text": "write to ann@example.com, or call +1 202 555 0146",
    "json-in-text": '{"secret":"json-CANARY","n":1}',
}  # fmt: skip
"""By name. The generator is spent by the first who reads it: none may."""
