"""The user's regular expressions. Python's engine can backtrack without bound, so what it reads is bounded here.

Rust's engine, which is linear, says whether a stretch of text holds a match, and half by half where. Python's then
reads only what is so short that its backtracking cannot take long.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from pydantic_core import SchemaError

from .hints import occurs

_ATOM = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.S)
_NESTED = "\0"
"""Stands for a group that repeats something."""
_GROUP = re.compile(r"\(([^()]*)\)(\*|\+|\{\d*,?\d*\})?(\+)?")
_MANY = re.compile(r"(?:[*+]|\{\d*,(?:\d{2,})?\}|\{\d{2,}\})(?!\+)")
_VARIES = re.compile(rf"{_MANY.pattern}|(?<![(?*+}}])\?|\{{\d*,\d*\}}(?!\+)|{_NESTED}")
_LONGEST = (64 << 10, 2_048, 256, 100)
"""Characters that Python's engine reads at once, by how many repeats can share them out among themselves."""


class Pattern:
    """One regular expression, in Python's syntax.

    Raises:
        ValueError: It is wrong, or repeats a group that itself repeats something: `(a+)+`.
    """

    def __init__(self, pattern: str) -> None:
        try:
            self._pattern = re.compile(pattern)
        except re.error as error:
            raise ValueError(f"A scrub pattern is not a regular expression: {error.msg}") from None
        repeats = _repeats(pattern)
        if repeats is None:
            raise ValueError(
                "A scrub pattern repeats a group that repeats something itself, as in `(a+)+`, which can take for "
                "ever: make the outer repeat possessive, as in `(a+)++`, or write it without."
            )
        self._longest = _LONGEST[min(repeats, len(_LONGEST) - 1)]
        self._might = _linear(pattern)

    def spans(self, text: str, take: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
        """From where to where it matches. What is too long for Python's engine, or too late, is taken as a whole."""
        yield from self._within(text, 0, len(text), take)

    def _within(self, text: str, begin: int, end: int, take: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
        known = self._might is not None and text.isascii()  # `½` is a letter to Python only
        if known and self._might is not None and not self._might(text[begin:end]):
            return
        if end - begin <= self._longest:
            if not take(end - begin):
                yield begin, end
            else:
                yield from (match.span() for match in self._pattern.finditer(text, begin, end) if match[0])
            return
        middle, overlap = (begin + end) // 2, self._longest // 4
        first = [*self._within(text, begin, middle + overlap, take)]
        found = [*first, *self._within(text, middle - overlap, end, take)]
        yield from found or ([(begin, end)] if known else [])


def _repeats(pattern: str) -> int | None:
    """How many repeats of many there are, the possessive ones apart; None where one holds another, or a choice."""
    simple, count = _ATOM.sub("x", pattern), 0
    while (group := _GROUP.search(simple)) is not None:
        inside, times = len(_MANY.findall(group[1])), group[2] or ""
        many = _MANY.match(times) is not None and not group[3] and not group[1].startswith("?>")
        if many and ("|" in group[1] or _VARIES.search(group[1].removeprefix("?:"))):
            return None
        count += inside * int((re.findall(r"\d", times) or ["1"])[-1] or 1)
        simple = f"{simple[: group.start()]}{_NESTED if inside else 'x'}{times}{group[3] or ''}{simple[group.end() :]}"
    return count + len(_MANY.findall(simple))


def _linear(pattern: str) -> Callable[[str], bool] | None:
    """Whether a text could hold a match; None where the linear engine does not know the pattern's syntax."""
    try:
        return occurs(f"(?m:{pattern})")  # so that `$` is before a line's end, too, as Python's is
    except SchemaError:
        return None
