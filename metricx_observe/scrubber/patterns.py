"""The user's regular expressions. Python's engine can backtrack without bound, so what it reads is bounded here.

Rust's engine, which is linear, says whether a stretch of text holds a match, and half by half where. Python's then
reads only what is so short that its backtracking cannot take long.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress

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
        self._might = None  # where the linear engine does not know the syntax
        with suppress(SchemaError):
            self._might = occurs(f"(?m:{pattern})")  # so that `$` is before a line's end, too, as Python's is

    def spans(
        self, text: str, take: Callable[[int], bool], begin: int = 0, end: int | None = None
    ) -> list[tuple[int, int]]:
        """From where to where it matches. What is too long for Python's engine, or too late, is taken as a whole."""
        end = len(text) if end is None else end
        might = self._might if text.isascii() else None  # `½` is a letter to Python only
        if might is not None and not might(text[begin:end]):
            return []
        if end - begin <= self._longest:
            if not take(end - begin):
                return [(begin, end)]
            return [match.span() for match in self._pattern.finditer(text, begin, end) if match[0]]
        middle, overlap = (begin + end) // 2, self._longest // 4
        found = self.spans(text, take, begin, middle + overlap) + self.spans(text, take, middle - overlap, end)
        return found if found or might is None else [(begin, end)]


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
