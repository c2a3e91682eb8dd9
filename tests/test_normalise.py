"""The normaliser: anything at all becomes JSON, and what cannot be read is marked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any, NamedTuple
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr

from metricx_observe.normalise import plain, short_text, snapshot

from .odd_values import ODD_VALUES, BrokenText

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)  # fmt: skip
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary()
    | st.decimals() | st.uuids() | st.datetimes() | st.dates() | st.complex_numbers()
    | st.sampled_from([name for name in ODD_VALUES if "huge" not in name]).map(lambda name: ODD_VALUES[name]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers()), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


class Colour(Enum):
    """An enum of text."""

    RED = "red"


class Login(BaseModel):
    """A model with a secret, and a field that its author does not show."""

    name: str
    password: SecretStr
    pin: str = Field(default="1234", repr=False)


@dataclass
class Row:
    """A dataclass with a field that its author does not show."""

    name: str
    token: str = field(repr=False, default="t0ken")


class Point(NamedTuple):
    """A named tuple."""

    x: int
    y: int


class Array:
    """An array as numpy's: it has `tolist`."""

    def __init__(self, value: object) -> None:
        self.value = value

    def tolist(self) -> object:
        """As Python objects."""
        return self.value


class LoudStr(str):
    """Text whose own methods fail."""

    def __str__(self) -> str:
        raise RuntimeError

    def __len__(self) -> int:
        raise RuntimeError


class LoudInt(int):
    """A number whose own methods fail."""

    def __int__(self) -> int:
        raise RuntimeError

    def __le__(self, other: object) -> bool:
        raise RuntimeError


class Lookup(Mapping[str, int]):
    """A mapping that is no dict."""

    def __getitem__(self, key: str) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


class Endless(Mapping[str, int]):
    """A mapping that never ends."""

    def __getitem__(self, key: str) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        return map(str, iter(int, 1))

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("2.5"), 2.5),
        (Decimal(3), 3),
        (Decimal("1e400"), "[inf]"),
        (date(2024, 2, 29), "2024-02-29"),
        (time(1, 2), "01:02:00"),
        (datetime(2024, 1, 1, tzinfo=UTC), "2024-01-01T00:00:00+00:00"),
        (timedelta(minutes=1), 60.0),
        (PurePosixPath("/a/b"), "/a/b"),
        (ValueError("no"), "ValueError: no"),
        (Colour.RED, "red"),
        ({Colour.RED: 1}, {"red": 1}),
        (b"text", "text"),
        (b"\xff\x00", "[bytes 2]"),
        (bytearray(b"ab\x00"), "[bytes 3]"),
        ({1, }, [1]),
        (Point(1, 2), {"x": 1, "y": 2}),
        (Login(name="bob", password=SecretStr("s3cret")), {"name": "bob", "password": "**********"}),
        (Row("a"), {"name": "a"}),
        (SimpleNamespace(a=1, b=[SimpleNamespace(c="x")]), {"a": 1, "b": [{"c": "x"}]}),
        (Array([1, math.nan]), [1, "[nan]"]),
        (Array(7), 7),
        (Array(complex(1, 2)), "(1+2j)"),
        (1 << 70, str(1 << 70)),
        (Lookup(), {"a": 1}),
        ({(1, 2): "pair", None: "none", 3: "three"}, {"[1,2]": "pair", "null": "none", "3": "three"}),
    ],
)  # fmt: skip
def test_a_value_that_json_does_not_know_has_a_readable_form(value: object, expected: object) -> None:
    """Ids, amounts, times, models and arrays arrive as people would write them, and hidden fields not at all."""
    assert plain(value) == expected


def test_a_subclass_is_read_by_the_methods_of_its_base() -> None:
    """A str or int whose own methods fail is still the text or number that it is."""
    assert plain([LoudStr("abc"), LoudInt(7)]) == ["abc", 7]


def test_one_bad_value_costs_nothing_but_itself() -> None:
    """What stands beside an unreadable value or key arrives as it is, and the fault is noted."""
    notes: list[str] = []
    found = plain({"a": 1, "bad": BrokenText(), BrokenText(): 2, "nan": math.nan, "b": [3]}, notes)
    assert found == {"a": 1, "bad": "[unreadable BrokenText]", "[unreadable BrokenText]": 2, "nan": "[nan]", "b": [3]}
    assert notes == ["unreadable", "unreadable", "not finite"]


@pytest.mark.parametrize("value", [lambda: None, int, object(), (n for n in "ab"), open])
def test_an_object_is_never_written_with_its_address(value: object) -> None:
    """Functions, classes, generators and plain objects are named by their type: an address says nothing."""
    assert plain(value) == f"[{type(value).__name__}]"


def test_a_cycle_ends_where_it_closes() -> None:
    """A list in itself is marked; the same list twice side by side is no cycle."""
    loop: list[Any] = [1]
    loop.append(loop)
    assert plain(loop) == [1, "[cycle]"]
    assert plain([(same := [2]), same]) == [[2], [2]]


def test_depth_is_bounded() -> None:
    """A value nested a thousand levels deep is cut, whichever way it takes."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    notes: list[str] = []
    assert b"too deep" in snapshot(deep, notes)
    assert notes == ["too deep"]


@pytest.mark.parametrize(
    "value",
    [
        "x" * 5_000_000, ["x" * 1000] * 10_000, [0.123456789] * 10_000_000, [None] * 10_000_000, Endless(),
        {str(n): n for n in range(500_000)}, {"a": {n: [math.nan] for n in range(100_000)}}, "\U0001f600" * 1_000_000,
    ],
    ids=["text", "texts", "floats", "nones", "endless", "keys", "faults", "emoji"],
)  # fmt: skip
def test_size_is_bounded(value: object) -> None:
    """Whatever is large (texts, numbers, keys, nothing at all) is cut to about the bound, and that is noted."""
    notes: list[str] = []
    data = snapshot(value, notes, 20_000)
    assert len(data) < 20_000 * 2
    assert "too large" in notes
    assert b"cut" in data


def test_what_stands_after_a_huge_value_arrives() -> None:
    """Only the huge ones are cut, however many there are before the last."""
    value = {"first": "x" * 100_000, "second": [0.5] * 50_000, "third": {"deep": ["y" * 100_000]}, "last": "here"}
    found = orjson.loads(snapshot(value, [], 20_000))
    assert found["last"] == "here"
    assert found["first"].endswith("[cut: 100000 characters]")
    assert found["second"][-1] == "[cut]"
    assert found["third"]["deep"][0].startswith("yyy")


def test_lone_surrogates_become_question_marks() -> None:
    """A lone surrogate, which no encoder takes, costs one character of its text."""
    notes: list[str] = []
    assert orjson.loads(snapshot({"a\ud800": "b\udfffc"}, notes)) == {"a?": "b?c"}
    assert notes == ["lone surrogate", "lone surrogate"]


def test_a_snapshot_is_not_changed_later() -> None:
    """The bytes say what the value was when it was given."""
    value = {"a": [1]}
    data = snapshot(value, [])
    value["a"].append(2)
    assert data == b'{"a":[1]}'


def test_nan_is_told_from_none() -> None:
    """orjson writes both as null: NaN is marked and counted, None stays None."""
    notes: list[str] = []
    assert snapshot({"a": None, "b": math.inf, "c": "null"}, notes) == b'{"a":null,"b":"[inf]","c":"null"}'
    assert notes == ["not finite"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("a name", "a name"), ("a\nb\x00", "a b "), (7, "7"), ({"a": 1}, '{"a":1}'), (b"bytes", "bytes"), (None, "")],
)
def test_a_line_has_no_line_breaks(value: object, expected: str) -> None:
    """Names and labels are one line, whatever was given."""
    assert short_text(value, []) == expected


@given(json_values)
def test_both_ways_give_the_same(value: Any) -> None:
    """JSON values come out of the quick way as of the slow one, and unchanged."""
    notes: list[str] = []
    assert orjson.loads(snapshot(value, notes)) == orjson.loads(orjson.dumps(plain(value))) == value
    assert notes == []


@given(anything)
def test_nothing_raises_and_everything_is_strict_json(value: Any) -> None:
    """Whatever is given, the result is JSON that a strict decoder takes."""
    notes: list[str] = []
    orjson.loads(snapshot(value, notes))
    assert short_text(value, notes).isprintable()
