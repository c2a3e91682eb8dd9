"""The scrubber that every signal passes before it is stored: nothing secret leaves, and nothing secret is on disk.

A secret is known by the name beside it (`names`) or by what it looks like (`text`). In its place stands a marker with
its type, its length and a keyed hash of four characters, by which equal values can be told to be equal.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from typing import Any, Literal

import orjson

from ..exceptions import ConfigurationError
from ..normalise import plain
from .names import Names, Verdict, words
from .report import ScrubReport
from .text import HASHED, PERSONAL, Finding, by_name, by_value, looks_random, says_nothing, unquoted

__all__ = ["Personal", "ScrubReport", "Scrubber"]

Personal = Literal["keep", "hash", "drop"]
"""What becomes of e-mail addresses, phone numbers and IP addresses: kept, SHA-256 of the normalised value, or gone."""

MAX_DEPTH = 32
MAX_ITEMS = 50_000
MAX_TEXT = 1_000_000
"""Characters of one string, and of one signal four times as many: Langfuse takes some 4 MB a request."""
_REMEMBERED = 4096
_SOURCE = frozenset({"context_line", "pre_context", "post_context"})
_QUERY = ("query", "query_string", "querystring", "http.query")


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
        self._key = (key or os.urandom(16))[:64]
        self._verdicts: dict[str, Verdict] = {}
        try:
            self._patterns = tuple(re.compile(pattern) for pattern in patterns)
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
        return _Pass(self, signal, place, personal).value(value, 0)

    def scrub_json(self, data: bytes, signal: str, place: str, *, personal: Personal = "keep") -> bytes:
        """The same for JSON bytes. Gives `data` itself when there is nothing to scrub."""
        try:
            value = orjson.loads(data)
        except ValueError:
            value = data
        run = _Pass(self, signal, place, personal)
        scrubbed = run.value(value, 0)
        return data if not run.changed and value is not data else orjson.dumps(scrubbed)

    def text(self, text: str, signal: str, place: str, *, personal: Personal = "keep") -> str:
        """The same for one text. Never raises."""
        return str(_Pass(self, signal, place, personal).value(text, 0))

    def url(self, url: str, signal: str, place: str, *, personal: Personal = "keep") -> str:
        """The same for an address or a query string."""
        run = _Pass(self, signal, place, personal)
        try:
            return run.text(url, query=True)
        except Exception:
            return run.unreadable(url)

    def verdict(self, name: str) -> Verdict:
        """What a name says of its value, remembered."""
        found = self._verdicts.get(name)
        if found is None:
            if len(self._verdicts) >= _REMEMBERED:  # names can come from outside
                self._verdicts.clear()
            found = self._verdicts[name] = self._names.verdict(name)
        return found

    def marker(self, value: str | int | float) -> str:
        """What stands in a secret's place: `[scrubbed str len=20 #a1b2]`."""
        text = unquoted(value) if isinstance(value, str) else str(value)
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), key=self._key, digest_size=2).hexdigest()
        return f"[scrubbed {type(value).__name__} len={len(text)} #{digest}]"


class _Pass:
    """One pass over one signal, with what is left of its budget."""

    __slots__ = ("_left", "_personal", "_place", "_scrubber", "_signal", "_text_left", "changed")

    def __init__(self, scrubber: Scrubber, signal: str, place: str, personal: Personal) -> None:
        self._scrubber = scrubber
        self._signal = signal
        self._place = place
        self._personal = personal
        self._left = MAX_ITEMS
        self._text_left = 4 * MAX_TEXT
        self.changed = False

    def value(self, value: Any, depth: int) -> Any:
        try:
            return self._value(value, depth)
        except Exception:
            return self.unreadable(value)

    def unreadable(self, value: object) -> str:
        self._count("unreadable")
        return f"[unreadable {type(value).__name__}]"

    def _value(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is str:
            return self.text(value)
        if value is None or kind is bool or kind is float:
            return value
        if kind is int:
            return self._integer(value)
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            self._count("cut")
            return "[cut]"
        if kind is dict:
            return self._dict(value, depth)
        if kind is list or kind is tuple:
            return self._list(value, depth)
        if kind is set or kind is frozenset:
            return [self.value(item, depth + 1) for item in value]
        if kind is bytes or kind is bytearray:
            return self.text(value.decode())
        return self.value(plain(value), depth + 1)

    def _dict(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        name: Any = value.get("name") or value.get("key")
        loc = value.get("loc")
        for key, item in value.items():
            key = key if type(key) is str else key.decode("utf-8", "replace") if type(key) is bytes else str(key)
            says = self._scrubber.verdict(key)
            if key == "value" and type(name) is str and says is Verdict.HARMLESS:
                says = self._scrubber.verdict(name)
            elif key == "input" and loc and type(loc) in (list, tuple):
                says = max(self._scrubber.verdict(part) for part in loc if type(part) is str)
            if key in _SOURCE:
                item = self._source(item)
            elif says is not Verdict.HARMLESS:
                item = self._named(item, says, depth + 1)
            elif type(item) is str:
                item = self.text(item, query=key.lower().endswith(_QUERY))
            elif type(item) is not int or not key.lower().endswith("id"):
                item = self.value(item, depth + 1)
            result[key if len(key) < 12 else self.text(key)] = item
        return self._callback(result)

    def _callback(self, value: dict[str, Any]) -> dict[str, Any]:
        """`code` and `state` side by side are an OAuth callback's, however short."""
        if "code" in value and "state" in value:
            for key in ("code", "state"):
                if type(value[key]) is str:
                    value[key] = self._mark(value[key], "name")
        return value

    def _list(self, value: list[Any] | tuple[Any, ...], depth: int) -> list[Any]:
        """A list; in a pair, and after a `--flag`, a secret name is followed by its value."""
        result: list[Any] = []
        says = Verdict.HARMLESS
        for item in value:
            result.append(self.value(item, depth + 1) if says <= Verdict.IF_RANDOM else self._named(item, says, depth + 1))
            says = Verdict.HARMLESS
            if type(item) is bytes and len(value) == 2:
                item = item.decode("latin-1")
            if type(item) is str and len(item) < 100 and (len(value) == 2 or item.startswith(("--", "'--"))):
                says = self._scrubber.verdict(item)
        return result

    def _source(self, item: Any) -> Any:
        if type(item) is str:
            return self.text(item, source=True)
        return [self.text(line, source=True) for line in item if type(line) is str] if type(item) is list else None

    def _named(self, value: Any, says: Verdict, depth: int) -> Any:
        """The value of a name that says something of it; everything below it when it is a container."""
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is dict or kind is list or kind is tuple:
            self._left -= 1
            if self._left < 0 or depth > MAX_DEPTH:
                return "[cut]"
            if kind is dict:
                return {self.text(str(key)): self._named(item, says, depth + 1) for key, item in value.items()}
            return [self._named(item, says, depth + 1) for item in value]
        if kind is bytes or kind is bytearray:
            value = value.decode("utf-8", "backslashreplace")
        elif kind is not str and kind is not int and kind is not float:
            return self._named(plain(value), says, depth + 1)
        if says is Verdict.PERSONAL:
            return self._as_personal(value)
        if kind is not int and kind is not float and says_nothing(unquoted(value)):
            return value
        if says is Verdict.IF_RANDOM and (not isinstance(value, str) or not looks_random(unquoted(value))):
            return self.text(value) if isinstance(value, str) else value
        return self._cookies(value) if says is Verdict.COOKIE and isinstance(value, str) else self._mark(value, "name")

    def _cookies(self, value: str) -> str:
        pairs = [part.partition("=") for part in unquoted(value).split(";")]
        if not all(equals for _, equals, _ in pairs) or len(pairs) > 100:
            return self._mark(value, "cookie")
        return ";".join(
            f"{self.text(name)}={text if says_nothing(text) else self._mark(text, 'cookie')}" for name, _, text in pairs
        )

    def _as_personal(self, value: Any) -> Any:
        if self._personal == "keep" or not isinstance(value, str):
            return self.text(value) if isinstance(value, str) else value
        return self._personal_text(value, "personal") if value and not HASHED.fullmatch(value) else value

    def _personal_text(self, value: str, rule: str) -> str:
        self._count(rule)
        if self._personal == "drop":
            return f"[dropped {rule}]"
        normal = re.sub(r"[^\d+]", "", value) if rule == "phone" else value.strip().lower()
        return hashlib.sha256(normal.encode("utf-8", "replace")).hexdigest()

    def _integer(self, value: int) -> int | str:
        if -(1 << 63) <= value < 1 << 64:  # what JSON encoders take
            if value > 10**13 and any(True for _ in by_value(str(value))):
                return self._mark(value, "card")
            return value
        return str(value)

    def text(self, text: str, query: bool = False, source: bool = False) -> str:
        """`text` with every secret in it replaced."""
        if len(text) > MAX_TEXT or len(text) > self._text_left:
            self._count("cut")
            text = text[: max(0, min(MAX_TEXT, self._text_left))] + "[cut]"
        self._text_left -= len(text)
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode()
        if len(text) < 6:
            return text
        text = self._replace(text, by_name(text, self._scrubber.verdict, query, source))
        text = self._replace(text, by_value(text))
        for pattern in self._scrubber._patterns:
            text = self._replace(text, (Finding(*found.span(), "pattern") for found in pattern.finditer(text)))
        if self._personal != "keep":
            text = PERSONAL.sub(lambda found: self._personal_text(found[0], found.lastgroup or "personal"), text)
        return text

    def _replace(self, text: str, findings: Iterable[Finding]) -> str:
        parts, at = [], 0
        for start, end, rule in findings:
            if start < at or start == end:
                continue
            parts += (text[at:start], self._mark(text[start:end], rule))
            at = end
        return text if not parts else "".join((*parts, text[at:]))

    def _mark(self, value: str | int | float, rule: str) -> str:
        if isinstance(value, str) and says_nothing(value):
            return value
        self._count(rule)
        return self._scrubber.marker(value)

    def _count(self, rule: str) -> None:
        self.changed = True
        self._scrubber.report.add(self._signal, self._place, rule)
