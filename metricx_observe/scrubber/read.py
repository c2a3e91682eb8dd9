"""What must not leave of one text: by the names in it, by rules, by the user's patterns, and in other clothes.

A text of any length is read piece by piece, as long as there is time.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property

from .budget import Budget
from .hints import occurs
from .named import BESIDE, NAMED, by_name, by_sibling
from .names import Names
from .patterns import Pattern
from .rules import Finding, Group, groups, part

_PIECE, _BEFORE, _REACH, _LONGEST_REACH = 4 << 10, 200, 1 << 10, 32 << 10
"""Characters that are read at once; what is read again of what is before, and how far beyond at first, and at most.

Small, since most pieces of a text hold nothing, and the budget is looked at between them.
"""
# Percent-encoded, however often, or in base64 as JSON.
_hides = occurs(r"%(?:25)*3[AaDd]|eyJ[A-Za-z0-9_+/\-]{8}")
_PERCENT, _ENCODED = re.compile(r"%(?:25)*+3[AaDd]"), re.compile(r"%(?:25)*([0-9A-Fa-f]{2})|.", re.S)
_RUN = re.compile(r"[^\s\"'<>&]++")


Might = Callable[[str], bool]
LONGEST, _MOST = 300, 20_000
"""Characters of a text that is remembered, and how many are."""


class CleanTexts(set[str]):
    """Short texts in which nothing was found, so never a secret. Bounded, since texts come from outside.

    The one memory of texts: names, versions and lines of source come again and again, and each costs microseconds. What
    it is worth stands in docs/explanation/cost.md.
    """

    def add(self, text: str) -> None:
        """Remember a text that is not longer than `LONGEST`."""
        if len(self) >= _MOST:
            self.clear()
        super().add(text)


class Reader:
    """Finds what must not leave. Most texts have none of the hints, and are not read any further."""

    def __init__(self, names: Names, patterns: Sequence[Pattern] = ()) -> None:
        self.patterns = patterns
        self._names = names
        self.clean = {(personal, source): CleanTexts() for personal in (True, False) for source in (True, False)}
        """By whether personal data was looked for, and whether they were read as source code."""
        self.clean_for = {
            personal: {source: self.clean[personal and not source, source] for source in (True, False)}
            for personal in (True, False)
        }
        """By whether personal data is to be looked for, which is not done in source code; then by that."""

    @cached_property  # compiled when they are needed: that takes milliseconds
    def _named(self) -> tuple[Might, Might]:
        stems = self._names.stems
        return occurs(f"{NAMED}|{BESIDE}".format(stems=stems)), occurs(BESIDE.format(stems=stems))

    @cached_property
    def _rules(self) -> tuple[Group, Group, Group]:
        return groups(self._names.stems)

    def findings(self, text: str, personal: bool, source: bool, budget: Budget) -> list[Finding]:
        """In their order, none over another; the last one may be a `cut`: for what comes then there was no time."""
        short = len(text) <= LONGEST and budget.take(len(text))
        found = [*(self.read(text, personal, source) if short else self._in_pieces(text, personal, source, budget))]
        for pattern in self.patterns:
            found += [(begin, end, "pattern") for begin, end in pattern.spans(text, budget.take)]
        if not found and len(text) <= LONGEST:
            self.clean[personal, source].add(text)
        return _apart(found) if len(found) > 1 else found

    def takes_secret(self, words: Iterable[object]) -> bool:
        """Whether what follows such words of a command is a secret: `["docker", "login", "-p"]`."""
        command = " ".join(word[:100] for word in words if type(word) is str)
        found = self._rules[0].findings(f"{command} x:x%x", self._names, "tool")
        return any(end > len(command) for _, end, _ in found)

    def _in_pieces(self, text: str, personal: bool, source: bool, budget: Budget) -> Iterator[Finding]:
        start = begin = 0  # what lies before `start` was read; a piece begins a little before, for the names there
        reach = _REACH
        while start < len(text):
            stop = min(start + _PIECE, len(text))
            if not budget.take(stop - start):
                yield start, len(text), "cut"
                return
            whole = text[begin : stop + reach]
            found = ((begin + at, begin + to, rule) for at, to, rule in self.read(whole, personal, source))
            here = [each for each in found if start <= each[0] < stop]
            end = max((to for _, to, _ in here), default=0)
            if end == begin + len(whole) < len(text) and 8 * reach <= _LONGEST_REACH:  # the last one may be longer
                reach *= 8
                continue
            yield from here
            if end == begin + len(whole) < len(text):  # nobody knows where it ends
                yield end, len(text), "cut"
                return
            start, begin, reach = max(stop, end), end if end >= stop else stop - _BEFORE, _REACH

    def read(self, text: str, personal: bool, source: bool) -> Iterator[Finding]:
        """All that is found in a text of some thousand characters."""
        yield from self._plain(text, personal, source)
        if not _hides(text):
            return
        for run in re.finditer(rf"{part('ALONE')}eyJ[\w+/\-]{{8,}}+", text, re.A):
            plain = b64decode(run[0][: len(run[0]) // 4 * 4], b"-_").decode("latin-1")
            if hidden := [*self._plain(plain, personal, False)]:
                yield (*run.span(), min(hidden)[2])  # it has no such form here
        for run in _RUN.finditer(text):
            if _PERCENT.search(run[0]):
                yield from self._encoded(run, personal)

    def _plain(self, text: str, personal: bool, source: bool) -> Iterator[Finding]:
        might, beside = self._named
        if might(text):
            yield from by_name(text, self._names, source)
            if beside(text):
                yield from by_sibling(text, self._names)
        for group in self._rules if personal else self._rules[:2]:
            yield from group.findings(text, self._names)

    def _encoded(self, run: re.Match[str], personal: bool) -> Iterator[Finding]:
        """What is secret in a percent-encoded run, and where that stands in the text."""
        read = [*_ENCODED.finditer(run[0])]
        plain = "".join(chr(int(each[1], 16)) if each[1] else each[0] for each in read)
        places = [*(run.start() + each.start() for each in read), run.end()]
        for begin, end, rule in self._plain(plain, personal, False):
            yield places[begin], places[end], rule


def _apart(found: Iterable[Finding]) -> list[Finding]:
    """`found` in its order, without what lies in another."""
    result: list[Finding] = []
    at = 0
    for start, end, rule in sorted(found, key=lambda each: (each[0], -each[1])):
        if end > at:
            result.append((max(start, at), end, rule))
            at = end
    return result
