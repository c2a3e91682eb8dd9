"""The scrubber that every signal passes before it is stored: nothing secret leaves, and nothing secret is on disk.

A secret is known by the name beside it (`names`, `text`) or by what it looks like (`looks`). In its place stands a
marker with the rule, the type, the length and a keyed hash of four characters, by which equal values are told to be so.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import cached_property, lru_cache
from threading import Lock
from time import thread_time_ns
from typing import Any

import orjson

from . import looks
from .budget import QUICK, current, one_signal
from .names import ID, Names
from .patterns import Pattern
from .text import unquoted
from .tools import HINTS
from .walk import LONGEST_REMEMBERED, MAX_SEPARATORS, SMALLEST_CARD, Pass, Personal

__all__ = ["Personal", "ScrubReport", "Scrubber", "one_signal"]

_MAX_PLACES = 256
_COUNTS = frozenset({int, bool, type(None)})  # no float: 1.2345678901234e-05 looks as random as a key
_LONG_OBJECT = 1_000  # bytes, of which the names are not remembered


class ScrubReport:
    """What was replaced: counts by signal, place and rule, never a value. Bounded: further places count as `other`."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)

    def add(self, signal: str, place: str, counts: dict[str, int]) -> None:
        """Count replacements by rule."""
        with self._lock:
            at = (signal, place)
            if at not in self._counts and len(self._counts) >= _MAX_PLACES:
                at = ("other", "other")
            self._counts[at].update(counts)

    def as_dict(self) -> dict[str, dict[str, dict[str, int]]]:
        """The counts as `{"error": {"request.headers": {"name": 3}}}`."""
        result: dict[str, dict[str, dict[str, int]]] = {}
        with self._lock:
            for (signal, place), rules in self._counts.items():
                result.setdefault(signal, {})[place] = dict(rules)
        return result


class Scrubber:
    """Replaces secrets by markers in anything that is to be sent. Safe to use from several threads."""

    def __init__(
        self,
        *,
        names: Iterable[str] = (),
        patterns: Iterable[str] = (),
        safe_names: Iterable[str] = (),
        key: bytes | None = None,
    ) -> None:
        """Add to the built-in rules. Raises ConfigurationError for a pattern that is wrong or whose time has no bound.

        Args:
            names: Names whose values are secret, in any spelling, also as a part of a longer name.
            patterns: Regular expressions of secret values, without a repeated group that repeats something itself.
            safe_names: Whole names whose values are not judged by their name.
            key: For the hash in markers; random per process when None.
        """
        self.report = ScrubReport()
        self.names = Names(names, safe_names, HINTS)
        self.clean: defaultdict[Personal, set[str]] = defaultdict(set)
        """Short texts without a secret, by policy: names, versions, locals come again and again. Never a secret."""
        self._harmless_names = lru_cache(1_000)(self._look_at)
        self._prepared: set[Personal] = set()
        self._key = (key or os.urandom(16))[:64]
        self.patterns = [Pattern(pattern) for pattern in patterns]

    def scrub(self, value: object, signal: str, place: str, *, personal: Personal = "keep") -> Any:
        """A scrubbed copy of `value` as dict, list, str, int, float, bool and None. Never raises, changes nothing.

        Takes 100 ms of CPU at most: what is left then is replaced by `[cut]` and counted as `cut`. Calls in a block of
        `with one_signal():` are one signal and share that time.

        Args:
            value: Anything; models and other objects are made plain first.
            signal: What it belongs to, for the report: error, transaction, track, generation, …
            place: Where it stands there, for the report: request.headers, properties, input, …
            personal: What becomes of e-mail addresses, phone numbers and IP addresses.
        """
        return self._scrubbed(value, signal, place, personal)[0]

    def scrub_json(
        self, data: bytes, signal: str, place: str, *, personal: Personal = "keep", value: object = None
    ) -> bytes:
        """The same for JSON bytes. Gives `data` itself when there is nothing to scrub. value: what `data` says."""
        try:
            if len(data) > _LONG_OBJECT and (budget := current()) is not None:
                budget.spend(QUICK * len(data))
            if personal == "keep" and not self.patterns:
                text = data.decode()
                if not any(might(text) for might in self._might_be_in_json):
                    return data
            if type(value) is dict and len(data) <= _LONG_OBJECT and self.harmless(value, personal):
                return data
            value = orjson.loads(data) if value is None else value
        except ValueError:
            return orjson.dumps(self.scrub(data, signal, place, personal=personal))
        scrubbed, changed = self._scrubbed(value, signal, place, personal)
        return orjson.dumps(scrubbed) if changed else data

    def text(self, text: str, signal: str, place: str, *, personal: Personal = "keep") -> str:
        """The same for one text. Never raises."""
        if type(text) is not str:  # a span of the application's own code may be called anything
            known = False
        elif len(text) <= LONGEST_REMEMBERED:
            known = text in self.clean[personal]
        else:  # not where it has a surrogate, which would make any answer a no, nor where it is cut
            read = text.isascii() and len(text) <= MAX_SEPARATORS and not self.patterns
            known = read and not self.suspicious(text, personal != "keep")
        return text if known else str(self.scrub(text, signal, place, personal=personal))

    def harmless(self, members: dict[str, Any], personal: Personal) -> bool:
        """Whether a flat object can go as it is, by what is known of its names and texts: a third of a pass's time."""
        values = members.values()
        by_name = personal == "keep" and _COUNTS.issuperset(map(type, values))
        if not self._harmless_names(tuple(members), personal, by_name):
            return False
        clean = self.clean[personal]
        for value in values:
            kind = type(value)
            if kind is int or kind is float:
                if value >= SMALLEST_CARD:
                    return False
            elif kind is str:
                if value not in clean:
                    return False
            elif value is not None and kind is not bool:
                return False
        return True

    def _look_at(self, names: tuple[str, ...], personal: Personal, counts: bool) -> bool:
        """Where there are texts, one of them may be the name of another value. A name may be an address itself."""
        run = Pass(self, personal)
        run.value(dict.fromkeys(names, 0))
        return not run.counts and (counts or all(self.names.verdicts[name] <= ID for name in names))

    def suspicious(self, text: str, personal: bool = False) -> bool:
        """Whether `text` could hold a secret, or personal data: most hold neither, and this is quick to say so."""
        for might in self._might_be_personal if personal else self._might_be_secret:  # noqa: SIM110  # twice as fast
            if might(text):
                return True
        return False

    def prepare(self, personal: Personal) -> int:
        """Compile what `suspicious` needs. Returns the nanoseconds of CPU that it took: at the first use only."""
        if personal in self._prepared:
            return 0
        before = thread_time_ns()
        self.suspicious("", personal != "keep")
        self._prepared.add(personal)
        return thread_time_ns() - before

    @cached_property  # made when they are needed: that takes milliseconds
    def _might_be_secret(self) -> list[Callable[[str], bool]]:
        # each fits its engine's memory, see `looks`
        separated, named, others = self.names.hints
        return [looks.occurs(hint) for hint in (separated, named, f"{others}|{looks.hints()}", looks.issued())]

    @cached_property
    def _might_be_personal(self) -> list[Callable[[str], bool]]:
        return [*self._might_be_secret, looks.occurs(looks.personal_hints())]

    @cached_property
    def _might_be_in_json(self) -> list[Callable[[str], bool]]:
        return [*self._might_be_secret, looks.occurs(self.names.in_json)]

    def _scrubbed(self, value: object, signal: str, place: str, personal: Personal) -> tuple[Any, bool]:
        # what is short costs little, and may be a name that is remembered: it is not cut because of what was before it
        run = Pass(self, personal, None if type(value) is str and len(value) <= LONGEST_REMEMBERED else current())
        scrubbed = run.value(value)
        if run.counts:
            self.report.add(signal, place, run.counts)
        return scrubbed, bool(run.counts)

    def marker(self, value: str | float, rule: str) -> str:
        """What stands in a secret's place: `[scrubbed name str len=20 #a1b2]`."""
        text = unquoted(value) if isinstance(value, str) else str(value)
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), key=self._key, digest_size=2).hexdigest()
        return f"[scrubbed {rule} {type(value).__name__} len={len(text)} #{digest}]"
