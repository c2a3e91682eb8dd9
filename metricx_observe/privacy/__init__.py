"""The scrubber that every signal passes before it is stored: nothing secret leaves, and nothing secret is on disk.

A secret is known by the name beside it (`names`, `text`) or by what it looks like (`looks`). In its place stands a
marker with its type, its length and a keyed hash of four characters, by which equal values can be told to be equal.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from threading import Lock
from typing import Any

import orjson

from metricx_observe.exceptions import ConfigurationError

from .names import Names, Verdict
from .text import NamedSecrets, unquoted
from .walk import Pass, Personal

__all__ = ["Personal", "ScrubReport", "Scrubber"]

_REMEMBERED = 4096
_MAX_PLACES = 256


class ScrubReport:
    """What was replaced: counts by signal, place and rule, never a value. Bounded: further places count as `other`."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: dict[tuple[str, str], dict[str, int]] = {}

    def add(self, signal: str, place: str, rule: str) -> None:
        """Count one replacement."""
        with self._lock:
            at = (signal, place)
            if at not in self._counts and len(self._counts) >= _MAX_PLACES:
                at = ("other", "other")
            rules = self._counts.setdefault(at, {})
            rules[rule] = rules.get(rule, 0) + 1

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
        """Add to the built-in rules.

        Args:
            names: Names whose values are secret, in any spelling, also as a part of a longer name.
            patterns: Regular expressions of secret values; that they cannot backtrack without bound is yours to see to.
            safe_names: Whole names whose values are not judged by their name.
            key: For the hash in markers; random per process when None.

        Raises:
            ConfigurationError: A pattern is no regular expression.
        """
        self.report = ScrubReport()
        self._names = Names(names, safe_names)
        self.named = NamedSecrets(self._names.stem, self.verdict)
        self._key = (key or os.urandom(16))[:64]
        self._verdicts: dict[str, Verdict] = {}
        self.clean: dict[Personal, tuple[set[str], set[str]]] = {
            "keep": (set(), set()), "hash": (set(), set()), "drop": (set(), set())
        }  # fmt: skip
        """Short texts and source lines that hold no secret, by policy: names, versions, locals come again and again."""
        self.plain_names: set[str] = set()
        """Names that say nothing of their values."""
        try:
            self.patterns = tuple(re.compile(pattern) for pattern in patterns)
        except re.error as error:
            raise ConfigurationError(f"A scrub pattern is not a regular expression: {error.msg}") from None

    def scrub(self, value: object, signal: str, place: str, *, personal: Personal = "keep") -> Any:
        """A scrubbed copy of `value` as dict, list, str, int, float, bool and None. Never raises, changes nothing.

        Args:
            value: Anything; models and other objects are made plain first.
            signal: What it belongs to, for the report: error, transaction, track, generation, …
            place: Where it stands there, for the report: request.headers, properties, input, …
            personal: What becomes of e-mail addresses, phone numbers and IP addresses.
        """
        return Pass(self, signal, place, personal).value(value, 0)

    def scrub_json(self, data: bytes, signal: str, place: str, *, personal: Personal = "keep") -> bytes:
        """The same for JSON bytes. Gives `data` itself when there is nothing to scrub."""
        run = Pass(self, signal, place, personal)
        try:
            value = orjson.loads(data)
        except ValueError:
            return orjson.dumps(run.value(data, 0))
        scrubbed = run.value(value, 0)
        return orjson.dumps(scrubbed) if run.changed else data

    def text(self, text: str, signal: str, place: str, *, personal: Personal = "keep") -> str:
        """The same for one text. Never raises."""
        return str(Pass(self, signal, place, personal).value(text, 0))

    def verdict(self, name: str) -> Verdict:
        """What a name says of its value, remembered."""
        found = self._verdicts.get(name)
        if found is None:
            if len(self._verdicts) >= _REMEMBERED:  # names can come from outside
                self._verdicts.clear()
            found = self._verdicts[name] = self._names.verdict(name)
        return found

    def marker(self, value: str | float) -> str:
        """What stands in a secret's place: `[scrubbed str len=20 #a1b2]`."""
        text = unquoted(value) if isinstance(value, str) else str(value)
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), key=self._key, digest_size=2).hexdigest()
        return f"[scrubbed {type(value).__name__} len={len(text)} #{digest}]"
