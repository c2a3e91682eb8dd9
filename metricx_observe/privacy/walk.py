"""One pass of the scrubber over one signal."""

from __future__ import annotations

import hashlib
import re
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

from metricx_observe.normalise import plain

from .names import Verdict
from .text import PERSONAL, Finding, by_value, looks_random, says_nothing, unquoted

if TYPE_CHECKING:
    from . import Scrubber

Personal = Literal["keep", "hash", "drop"]
"""What becomes of e-mail addresses, phone numbers and IP addresses: kept, SHA-256 of the normalised value, or gone."""

MAX_DEPTH = 32
MAX_ITEMS = 50_000
MAX_TEXT = 1_000_000
"""Characters of one string, and of one signal four times as many: Langfuse takes some 4 MB a request."""
MAX_SEPARATORS = 50_000
"""`=`, `:` and `,` of one text: what has more is no text, and each costs a look at the name before it."""
MAX_LINE = 2000
"""Characters of a line of source code; what is longer was not written by hand and is read as any text."""
_REMEMBERED = 20_000
_SOURCE = frozenset({"context_line", "pre_context", "post_context"})
_QUERY = ("query", "query_string", "querystring")
_PLACEHOLDER = re.compile(r"%[#0\- +]{0,3}[\d.*]{0,6}[a-zA-Z]")
_HASHED = re.compile(r"[0-9a-f]{64}|\[dropped \w+\]")
_PERSONAL_RULES = frozenset({"personal", "email", "ip", "phone"})
_SMALLEST_CARD = 10**13


class Pass:
    """One pass, with what is left of its budget."""

    __slots__ = ("_clean", "_clean_lines", "_items_left", "_personal", "_place", "_scrubber", "_signal", "_text_left")

    def __init__(self, scrubber: Scrubber, signal: str, place: str, personal: Personal) -> None:
        self._scrubber = scrubber
        self._signal = signal
        self._place = place
        self._personal: Personal = personal
        self._clean, self._clean_lines = scrubber.clean[personal]
        self._items_left = MAX_ITEMS
        self._text_left = 4 * MAX_TEXT

    def is_clean(self, value: Any, depth: int) -> bool:
        """Whether a value fresh from JSON needs no change; False when in doubt. It copies nothing and counts nothing."""
        kind = type(value)
        if kind is str:
            return len(value) < 6 or value in self._clean or (len(value) <= MAX_TEXT and not self._findings(value))
        if kind is int:
            return bool(value < _SMALLEST_CARD)
        if (kind is not dict and kind is not list) or not value:
            return True
        self._items_left -= len(value)
        if depth > MAX_DEPTH or self._items_left < 0:
            return False
        if kind is dict:
            verdict, clean = self._scrubber.verdict, self._clean
            for key in value:
                if verdict(key) or (key not in clean and not self.is_clean(key, 0)):
                    return False
            if "loc" in value or "params" in value or ("value" in value and ("name" in value or "key" in value)):
                return False
            value = value.values()
        for item in value:
            # the common cases here, without a call
            if item is not None and item not in (True, False) and not self.is_clean(item, depth + 1):
                return False
        return True

    def value(self, value: Any, depth: int) -> Any:
        """A scrubbed copy. What cannot be read is replaced, the rest goes on."""
        try:
            return self._value(value, depth)
        except Exception:
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
        self._items_left -= 1
        if self._items_left < 0 or depth > MAX_DEPTH:
            return self._cut()
        if kind is dict:
            return self._dict(value, depth)
        if kind is list or kind is tuple or kind is set or kind is frozenset:
            return self._list(tuple(value), depth)
        if kind is bytes or kind is bytearray:
            return self.text(value.decode())
        return self.value(plain(value), depth + 1)

    def _dict(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, item in value.items():
            key = key if type(key) is str else key.decode("utf-8", "replace") if type(key) is bytes else str(key)
            says = self._says(key, value)
            name = key if len(key) < 6 else self.text(key)
            if key in _SOURCE:
                result[name] = self._lines(item)
            elif says is not Verdict.HARMLESS and says is not Verdict.IN_QUERY:
                result[name] = self._named(item, says, depth + 1)
            elif type(item) is str:
                result[name] = self.text(item, query=key.lower().endswith(_QUERY))
            elif key == "params" and type(value.get("message")) is str:
                result[name] = self._parameters(value["message"], item, depth)
            elif type(item) is int and key[-2:] in ("id", "Id", "ID"):
                result[name] = item  # ids of 16 digits can look like cards
            else:
                result[name] = self.value(item, depth + 1)
        return result

    def _says(self, key: str, siblings: dict[Any, Any]) -> Verdict:
        """What a key says of its value, or what its siblings do."""
        verdict = self._scrubber.verdict
        says = verdict(key)
        if key == "value":
            name = siblings.get("name") or siblings.get("key")
            return verdict(name) if type(name) is str else says
        if key == "input" and type(siblings.get("loc")) in (list, tuple):  # an error of pydantic's
            return max((verdict(part) for part in siblings["loc"] if type(part) is str), default=says)
        if says is Verdict.IF_RANDOM and "code" in siblings and "state" in siblings:
            return Verdict.SECRET  # an OAuth callback's
        if says is Verdict.SECRET and key == "token" and "logprob" in siblings:
            return Verdict.HARMLESS  # a language model's
        return says

    def _list(self, value: tuple[Any, ...], depth: int) -> list[Any]:
        """A list; in a pair, and after a `--flag`, a secret name is followed by its value."""
        result: list[Any] = []
        says = Verdict.HARMLESS
        for item in value:
            secret = says >= Verdict.SECRET
            result.append(self._named(item, says, depth + 1) if secret else self.value(item, depth + 1))
            name = item.decode("latin-1") if type(item) is bytes else item if type(item) is str else ""
            named = len(name) < 100 and (len(value) == 2 or name.startswith(("--", "'--")))
            says = self._scrubber.verdict(name) if named else Verdict.HARMLESS
        return result

    def _lines(self, item: Any) -> Any:
        if type(item) is list:
            return [self._lines(line) for line in item]
        return self.text(item, source=len(item) <= MAX_LINE) if type(item) is str else None

    def _parameters(self, message: str, params: Any, depth: int) -> Any:
        """A log message's arguments: `token=%s` says what the first is."""
        if type(params) not in (list, tuple):
            return self.value(params, depth + 1)
        number = count()
        numbered = _PLACEHOLDER.sub(lambda _: f"\0{next(number)}\0", message)
        secret = {numbered[start:end] for start, end, _ in self._scrubber.named.find(numbered)}
        return [
            self._named(item, Verdict.SECRET, depth + 1) if f"\0{at}\0" in secret else self.value(item, depth + 1)
            for at, item in enumerate(params)
        ]

    def _named(self, value: Any, says: Verdict, depth: int) -> Any:
        """The value of a name that says something of it; everything below it when it is a container."""
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is dict or kind is list or kind is tuple:
            self._items_left -= 1
            if self._items_left < 0 or depth > MAX_DEPTH:
                return self._cut()
            if kind is dict:
                return {self.text(str(key)): self._named(item, says, depth + 1) for key, item in value.items()}
            return [self._named(item, says, depth + 1) for item in value]
        if kind is bytes or kind is bytearray:
            value = value.decode("utf-8", "backslashreplace")
        elif kind is int or kind is float:
            return self._mark(value, "name") if says >= Verdict.SECRET else value
        elif kind is not str:
            return self._named(plain(value), says, depth + 1)
        bare = unquoted(value)
        if says is Verdict.PERSONAL and self._personal != "keep":
            return value if not bare or _HASHED.fullmatch(bare) else self._mark(bare, "personal")
        if says is Verdict.PERSONAL or (says is Verdict.IF_RANDOM and not looks_random(bare)):
            return self.text(value)
        return self._cookies(bare) if says is Verdict.COOKIE else self._mark(value, "name")

    def _cookies(self, value: str) -> str:
        pairs = [part.partition("=") for part in value.split(";", 100)]
        if not all(equals for _, equals, _ in pairs):
            return self._mark(value, "cookie")
        return ";".join(f"{self.text(name)}={self._mark(content, 'cookie')}" for name, _, content in pairs)

    def _integer(self, value: int) -> int | str:
        if value >= _SMALLEST_CARD and any(by_value(str(value))):
            return self._mark(value, "card")
        return value if -(1 << 63) <= value < 1 << 64 else str(value)  # what JSON encoders take

    def text(self, text: str, query: bool = False, source: bool = False) -> str:
        """`text` with every secret in it replaced."""
        if text in (self._clean_lines if source else self._clean) and not query:
            return text
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode()  # lone surrogates
        text = self._bounded(text)
        findings = self._findings(text, query, source)
        if not findings:
            return text
        parts, at = [], 0
        for start, end, rule in sorted(findings):
            if end > at:
                start = max(start, at)
                parts += (text[at:start], self._mark(text[start:end], rule))
                at = end
        return "".join((*parts, text[at:]))

    def _findings(self, text: str, query: bool = False, source: bool = False) -> list[Finding]:
        if len(text) < 6:
            return []
        findings = [*self._scrubber.named.find(text, query, source), *by_value(text)]
        for pattern in self._scrubber.patterns:
            findings += (Finding(*found.span(), "pattern") for found in pattern.finditer(text))
        if self._personal != "keep":
            findings += (Finding(*found.span(), found.lastgroup or "") for found in PERSONAL.finditer(text))
        if not findings and len(text) < 256 and not query:
            known = self._clean_lines if source else self._clean
            if len(known) > _REMEMBERED:
                known.clear()
            known.add(text)
        return findings

    def _bounded(self, text: str) -> str:
        size = min(MAX_TEXT, max(0, self._text_left))
        if len(text) > MAX_SEPARATORS and sum(map(text.count, "=:,")) > MAX_SEPARATORS:
            size = min(size, MAX_SEPARATORS)
        self._text_left -= len(text)
        return text if len(text) <= size else text[:size] + self._cut()

    def _cut(self) -> str:
        self._count("cut")
        return "[cut]"

    def _mark(self, value: str | float, rule: str) -> str:
        """What stands in the place of `value`."""
        if isinstance(value, str) and says_nothing(value):
            return value
        self._count(rule)
        if rule not in _PERSONAL_RULES:
            return self._scrubber.marker(value)
        if self._personal == "drop":
            return f"[dropped {rule}]"
        text = str(value)
        normal = re.sub(r"[^\d+]", "", text) if rule == "phone" else text.strip().lower()
        return hashlib.sha256(normal.encode("utf-8", "replace")).hexdigest()

    def _count(self, rule: str) -> None:
        self._scrubber.report.add(self._signal, self._place, rule)
