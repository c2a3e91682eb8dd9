"""One pass of the scrubber over one signal."""

from __future__ import annotations

import hashlib
import re
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

from metricx_observe.normalise import plain

from .looks import MARKER, Finding, by_look, personal
from .names import Verdict
from .text import looks_random, says_nothing, unquoted

if TYPE_CHECKING:
    from . import Scrubber

Personal = Literal["keep", "hash", "drop"]
"""What becomes of e-mail addresses, phone numbers and IP addresses: kept, SHA-256 of the normalised value, or gone."""

MAX_DEPTH = 32
MAX_ITEMS = 50_000
MAX_TEXT = 1_000_000
"""Characters of one string, and of one signal four times as many: Langfuse takes some 4 MB a request."""
MAX_SEPARATORS = 50_000
"""`=`, `:`, `>` and `,` of one text: what has more is no text, and each costs a look at the name before it."""
MAX_LINE = 2000
"""Characters of a line of source code; what is longer was not written by hand and is read as any text."""
_REMEMBERED = 20_000
_LONGEST_REMEMBERED = 300
_SOURCE = frozenset({"context_line", "pre_context", "post_context"})
_BY_VALUE = frozenset({Verdict.HARMLESS, Verdict.IN_QUERY})
_BY_SIBLINGS = frozenset({"value", "input", "params", "token"})
_NAME = re.compile(r"[\w.\-]{1,100}")
_PLACEHOLDER = re.compile(r"%[#0\- +]{0,3}[\d.*]{0,6}[a-zA-Z]")
_HASHED = re.compile(r"[0-9a-f]{64}|\[dropped \w+\]")
_PERSONAL_RULES = frozenset({"personal", "email", "ip", "phone"})
_SMALLEST_CARD = 10**13


class Pass:
    """One pass, with what is left of its budget."""

    __slots__ = ("_clean", "_clean_lines", "_items_left", "_personal", "_place", "_replaced",
                 "_scrubber", "_signal", "_text_left", "changed")  # fmt: skip

    def __init__(self, scrubber: Scrubber, signal: str, place: str, personal: Personal) -> None:
        self._scrubber = scrubber
        self._signal = signal
        self._place = place
        self._personal: Personal = personal
        self._clean, self._clean_lines = scrubber.clean[personal]
        self._replaced: dict[str, tuple[str, list[str]]] = {}
        self._items_left = MAX_ITEMS
        self._text_left = 4 * MAX_TEXT
        self.changed = False
        """Whether anything was replaced so far."""

    def value(self, value: Any, depth: int) -> Any:
        """A scrubbed copy. What cannot be read is replaced, the rest goes on."""
        try:
            kind = type(value)
            if kind is str:
                return self.text(value)
            if value is None or kind is bool or kind is float:
                return value
            if kind is int:
                return self._integer(value)
            if kind is dict:
                return self._dict(value, depth)
            if kind is list or kind is tuple or kind is set or kind is frozenset:
                return self._list(tuple(value), depth)
            if kind is bytes or kind is bytearray:
                return self.text(value.decode())
            return self.value(plain(value), depth + 1)
        except Exception:
            self._count("unreadable")
            return f"[unreadable {type(value).__name__}]"

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        self._items_left -= 1
        if self._items_left < 0 or depth > MAX_DEPTH:
            return self._cut()
        result: dict[str, Any] = {}
        plain_names, clean = self._scrubber.plain_names, self._clean
        for key, item in value.items():
            if key in plain_names:  # nearly all, so without a call where there is nothing to do
                kind = type(item)
                if kind is str:
                    result[key] = item if item in clean else self.text(item)
                    continue
                if kind is dict:
                    result[key] = self._dict(item, depth + 1)
                    continue
                if item is None or kind is bool or (kind is int and 0 <= item < _SMALLEST_CARD):
                    result[key] = item
                    continue
                if kind is not int:
                    result[key] = self.value(item, depth + 1)
                    continue
            elif key in _SOURCE:
                result[key] = self._lines(item)
                continue
            elif type(key) is not str:
                key = next(iter(plain({key: None})))
            result[key if key in clean else self.text(key)] = self._member(key, item, value, depth)
            self._learn(key)
        return result

    def _learn(self, key: str) -> None:
        """Remember a name whose members are judged by their values alone, whatever the policy and the siblings."""
        names = self._scrubber.plain_names
        if key in names or key in _BY_SIBLINGS or len(key) > 100 or self._scrubber.verdict(key) not in _BY_VALUE:
            return
        if not self._findings(key) and not personal(key):
            if len(names) > _REMEMBERED:  # names can come from outside
                names.clear()
            names.add(key)

    def _member(self, key: str, item: Any, siblings: dict[Any, Any], depth: int) -> Any:
        says = self._says(key, siblings)
        if says not in _BY_VALUE:
            return self._named(item, says, depth + 1)
        if key == "params" and type(siblings.get("message")) is str:
            return self._parameters(siblings["message"], item, depth)
        if type(item) is int and key[-2:] in ("id", "Id", "ID"):
            return item if item < 1 << 63 else str(item)  # ids of 16 digits can look like cards
        return self.value(item, depth + 1)

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

    def _list(self, value: tuple[Any, ...], depth: int) -> Any:
        """A list; in a pair, and after a `--flag`, a secret name is followed by its value."""
        self._items_left -= 1
        if self._items_left < 0 or depth > MAX_DEPTH:
            return self._cut()
        result: list[Any] = []
        says, pair, clean = Verdict.HARMLESS, len(value) == 2, self._clean
        for item in value:
            kind = type(item)
            if says >= Verdict.IF_RANDOM:
                result.append(self._named(item, says, depth + 1))
            elif kind is str:
                result.append(item if item in clean else self.text(item))
            else:
                result.append(self._dict(item, depth + 1) if kind is dict else self.value(item, depth + 1))
            says = self._before(item) if pair or (kind is str and "--" in item[:3]) else Verdict.HARMLESS
        return result

    def _before(self, item: Any) -> Verdict:
        """What an item says of the one that follows it."""
        name = item.decode("latin-1") if type(item) is bytes else item
        if type(name) is not str or _NAME.fullmatch(name := unquoted(name)) is None:
            return Verdict.HARMLESS
        return self._scrubber.verdict(name)

    def _lines(self, item: Any) -> Any:
        if type(item) is list:
            return [self._lines(line) for line in item]
        return self.text(item, source=len(item) <= MAX_LINE) if type(item) is str else self.value(item, MAX_DEPTH)

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
            if kind is dict and says < Verdict.SECRET:
                return self._dict(value, depth)
            self._items_left -= 1
            if self._items_left < 0 or depth > MAX_DEPTH:
                return self._cut()
            if kind is dict:
                return {self.text(str(key)): self._named(item, says, depth + 1) for key, item in value.items()}
            return [self._named(item, says, depth + 1) for item in value]
        if kind is bytes or kind is bytearray:
            value = value.decode("utf-8", "backslashreplace")
        elif kind is int or kind is float:
            if says is Verdict.PERSONAL and self._personal != "keep":
                return self._mark(value, "personal")
            return self._mark(value, "name") if says >= Verdict.SECRET else self.value(value, depth)
        elif kind is not str:
            return self._named(plain(value), says, depth + 1)
        bare = unquoted(value)
        if says_nothing(bare):
            return value
        if says is Verdict.PERSONAL and self._personal != "keep":
            return value if _HASHED.fullmatch(bare) else self._mark(bare, "personal")
        if says is Verdict.PERSONAL or (says is Verdict.IF_RANDOM and not looks_random(bare)):
            return self.text(value)
        return self._cookies(bare) if says is Verdict.COOKIE else self._mark(value, "name")

    def _cookies(self, value: str) -> str:
        pairs = [part.partition("=") for part in value.split(";", 100)]
        if not all(equals for _, equals, _ in pairs):
            return self._mark(value, "cookie")
        return ";".join(
            f"{self.text(name)}={content if says_nothing(content) else self._mark(content, 'cookie')}"
            for name, _, content in pairs
        )

    def _integer(self, value: int) -> int | str:
        if value >= _SMALLEST_CARD and by_look(str(value)):
            return self._mark(value, "card")
        return value if -(1 << 63) <= value < 1 << 64 else str(value)  # what JSON encoders take

    def text(self, text: str, source: bool = False) -> str:
        """`text` with every secret in it replaced."""
        if text in (self._clean_lines if source else self._clean):
            return text
        if (known := self._replaced.get(text)) is not None:  # a local that is passed on is in many frames
            for rule in known[1]:
                self._count(rule)
            return known[0]
        self._text_left -= len(text)
        if len(text) > MAX_SEPARATORS or self._text_left < 0:
            text = self._bounded(text)
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode()  # lone surrogates
        findings = self._findings(text, source)
        return self._without(text, findings) if findings else text

    def _without(self, text: str, findings: list[Finding]) -> str:
        parts: list[str] = []
        rules: list[str] = []
        at = 0
        for start, end, rule in sorted(findings):
            if end > at:
                parts += (text[at : max(start, at)], self._mark(text[max(start, at) : end], rule))
                rules.append(rule)
                at = end
        result = "".join((*parts, text[at:]))
        if len(text) <= _LONGEST_REMEMBERED:
            self._replaced[text] = result, rules
        return result

    def _findings(self, text: str, source: bool = False) -> list[Finding]:
        findings = self._scrubber.named.find(text, source) + by_look(text)
        for pattern in self._scrubber.patterns:
            findings += (Finding(*found.span(), "pattern") for found in pattern.finditer(text))
        if self._personal != "keep":
            findings += personal(text)
        if findings and "[scrubbed " in text:  # a user's pattern can match inside a marker
            kept = [found.span() for found in MARKER.finditer(text)]
            findings = [f for f in findings if not any(start <= f.start and f.end <= end for start, end in kept)]
        if not findings and len(text) <= _LONGEST_REMEMBERED:
            known = self._clean_lines if source else self._clean
            if len(known) > _REMEMBERED:
                known.clear()
            known.add(text)
        return findings

    def _bounded(self, text: str) -> str:
        size = min(MAX_TEXT, max(0, self._text_left + len(text)))
        if sum(map(text.count, "=:,>")) > MAX_SEPARATORS:
            size = min(size, MAX_SEPARATORS)
        return text if len(text) <= size else text[:size] + self._cut()

    def _cut(self) -> str:
        self._count("cut")
        return "[cut]"

    def _mark(self, value: str | float, rule: str) -> str:
        """What stands in the place of `value`."""
        self._count(rule)
        if rule not in _PERSONAL_RULES:
            return self._scrubber.marker(value)
        if self._personal == "drop":
            return f"[dropped {rule}]"
        text = str(value)
        normal = re.sub(r"[^\d+]", "", text) if rule == "phone" else text.strip().lower()
        return hashlib.sha256(normal.encode("utf-8", "replace")).hexdigest()

    def _count(self, rule: str) -> None:
        self.changed = True
        self._scrubber.report.add(self._signal, self._place, rule)
