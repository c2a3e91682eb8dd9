"""One pass of the scrubber over one signal."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

from metricx_observe.normalise import plain

from .looks import MARKER, Finding, by_look
from .names import COOKIE, HARMLESS, ID, IF_RANDOM, PERSONAL, SECRET, SIBLINGS, SOURCE, Verdict
from .text import by_name, decoded, looks_random, says_nothing, unquoted

if TYPE_CHECKING:
    from . import Scrubber

Personal = Literal["keep", "hash", "drop"]
"""What becomes of e-mail addresses, phone numbers and IP addresses: kept, SHA-256 of the normalised value, or gone."""

MAX_DEPTH = 32
MAX_ITEMS = 50_000
MAX_TEXT = 1_000_000  # characters of a string, and four times as many of a signal: Langfuse takes some 4 MB a request
MAX_SEPARATORS = 50_000  # of one text: what has more is no text, and each costs a look at the name before it
_LONGEST_LINE = 2000  # of source code; what is longer was not written by hand and is read as any text
_REMEMBERED, LONGEST_REMEMBERED = 20_000, 300  # texts, and characters of one
_NAME = re.compile(r"[\w.\-]{1,100}")
_COOKIE = re.compile(r"(?:(?!\[scrubbed )[^=;]*+=)?+([^;]*+)")
_PLACEHOLDER = re.compile(r"%[#0\- +]{0,3}[\d.*]{0,6}[a-zA-Z]")
_HASH = re.compile(r"[0-9a-f]{64}")
_NAMING = ("name", "key", "field", "k")
SMALLEST_CARD, _LARGEST_CARD = 10**13, 10**19


class Pass:
    """One pass, with what is left of its budget."""

    def __init__(self, scrubber: Scrubber, personal: Personal) -> None:
        self._scrubber = scrubber
        self._names = scrubber.names
        self._clean = scrubber.clean[personal]
        self._personal: Personal = personal
        self._done: dict[tuple[str, bool], tuple[str, list[str]]] = {}  # a local that is passed on is in many frames
        self._items_left = MAX_ITEMS
        self._text_left = 4 * MAX_TEXT
        self.counts: defaultdict[str, int] = defaultdict(int)  # of what was replaced, by rule

    def value(self, value: Any, depth: int = 0, says: Verdict = HARMLESS) -> Any:
        """A scrubbed copy. What cannot be read is replaced, the rest goes on. says: what the names above say of it."""
        try:
            kind = type(value)
            if kind is dict or kind is list or kind is tuple or kind is set or kind is frozenset:
                self._items_left -= 1
                if self._items_left < 0 or depth > MAX_DEPTH:
                    return self._cut()
                return self._dict(value, depth, says) if kind is dict else self._list(value, depth, says)
            if kind is str or kind is int or kind is float:
                return self._scalar(value, says)
            if value is None or kind is bool:
                return value
            if kind is bytes or kind is bytearray:
                return self._scalar(value.decode(), says)
            return self.value(plain(value), depth + 1, says)
        except Exception:
            self.counts["unreadable"] += 1
            return f"[unreadable {type(value).__name__}]"

    def _dict(self, members: dict[Any, Any], depth: int, says: Verdict) -> dict[str, Any]:
        """Below a secret name everything is secret, below any other its members' own names count."""
        if says >= SECRET:
            return {self._text(str(key)): self.value(item, depth + 1, says) for key, item in members.items()}
        result: dict[str, Any] = {}
        verdicts, clean = self._names.verdicts, self._clean
        for key, item in members.items():
            name = key if type(key) is str else next(iter(plain({key: None})))
            says, kind = verdicts[name], type(item)
            if says > ID:
                item = self._named(name, item, says, members, depth + 1)
            elif kind is int and 0 <= item < SMALLEST_CARD:  # these two are nearly all, so without a call
                pass
            elif kind is not str or len(item) > LONGEST_REMEMBERED or item not in clean:
                item = self.value(item, depth + 1, says)
            result[name if name in clean else self._text(name)] = item
        return result

    def _named(self, name: str, item: Any, says: Verdict, siblings: dict[Any, Any], depth: int) -> Any:
        """The value of a name that says something of it, alone or with what stands beside it."""
        if name == "params" and type(siblings.get("message")) is str and type(item) in (list, tuple):
            return self._parameters(siblings["message"], item, depth)
        if name == "netloc" and type(item) is str:  # as `urlsplit` names it, without the scheme that tells an address
            return self._text(f"netloc={item}").removeprefix("netloc=")
        if name == "token" and "logprob" in siblings:  # a language model's
            says = HARMLESS
        elif says == SIBLINGS:
            beside = siblings.get("loc") if name == "input" else [siblings.get(key) for key in _NAMING]
            names = beside if isinstance(beside, list | tuple) else ()  # a `loc` may be a line's number, too
            says = max((self._names.verdicts[name] for name in names if type(name) is str), default=HARMLESS)
        return self.value(item, depth, says)

    def _list(self, items: Collection[Any], depth: int, says: Verdict) -> list[Any]:
        """In a pair, and after a `--flag`, a secret name is followed by its value."""
        result: list[Any] = []
        pair, of_item, clean = len(items) == 2, says, self._clean
        for item in items:
            text = type(item) is str
            known = text and of_item < PERSONAL and len(item) <= LONGEST_REMEMBERED and item in clean
            result.append(item if known else self.value(item, depth + 1, of_item))
            of_item = says
            if (pair and isinstance(item, str | bytes)) or (text and item[:2] == "--"):
                name = unquoted(item.decode("latin-1") if isinstance(item, bytes) else item)
                if _NAME.fullmatch(name) and self._names.verdicts[name] >= IF_RANDOM:
                    of_item = max(says, self._names.verdicts[name])
        return result

    def _parameters(self, message: str, items: Any, depth: int) -> list[Any]:
        """A log message's arguments: `token=%s` says what the first is."""
        texts = _PLACEHOLDER.split(message)[: len(items)]
        named = [any(end > len(text) for _, end, _ in by_name(f"{text}0", self._names)) for text in texts]
        return [self.value(item, depth, SECRET if says else HARMLESS) for item, says in zip_longest(items, named)]

    def _scalar(self, value: str | float, says: Verdict) -> str | float:
        """A text or a number."""
        if says >= PERSONAL:
            bare = unquoted(str(value))
            if says_nothing(bare):
                return value
            if says == COOKIE:
                cookies = _COOKIE.finditer(bare)
                return self._without(bare, [(*it.span(1), "cookie") for it in cookies if not says_nothing(it[1])])
            if says == SECRET or (says == IF_RANDOM and looks_random(bare)):
                return self._mark(value, "name")
            if says == PERSONAL and self._personal != "keep" and not _HASH.fullmatch(bare):
                return self._mark(value, "personal")
        if isinstance(value, str):
            if says == ID and len(value) < LONGEST_REMEMBERED and value.isdecimal() and not self._scrubber.patterns:
                return value
            return self._text(value, says == SOURCE and len(value) <= _LONGEST_LINE)
        if SMALLEST_CARD <= value < _LARGEST_CARD and says != ID and by_look(str(int(value))):
            return self._mark(value, "card")
        return value if isinstance(value, float) or -(1 << 63) <= value < 1 << 64 else str(value)  # what JSON can hold

    def _text(self, text: str, source: bool = False) -> str:
        """`text` with every secret in it replaced, and the markers in it left alone. source: lines of Python."""
        if len(text) <= LONGEST_REMEMBERED and text in self._clean:
            return text
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode()  # lone surrogates
        size = min(MAX_TEXT, self._text_left)
        if len(text) > MAX_SEPARATORS and sum(map(text.count, "=:,")) > MAX_SEPARATORS:
            size = min(size, MAX_SEPARATORS)
        if len(text) > size:
            text = text[:size] + self._cut()
        self._text_left = max(0, self._text_left - len(text))
        if "[" not in text:
            return self._part(text, source)
        return "".join(part if at % 2 else self._part(part, source) for at, part in enumerate(MARKER.split(text)))

    def _part(self, text: str, source: bool) -> str:
        if (done := self._done.get((text, source))) is not None:
            result, rules = done
            for rule in rules:
                self.counts[rule] += 1
            return result
        findings = self._findings(text, source)
        result = self._without(text, findings)
        self._done[text, source] = result, [rule for _, _, rule in findings]
        if len(text) <= LONGEST_REMEMBERED and not (findings or (source and self._findings(text, False))):
            if len(self._clean) >= _REMEMBERED:
                self._clean.clear()
            self._clean.add(text)
        return result

    def _findings(self, text: str, source: bool) -> list[Finding]:
        """In their order, none over another."""
        personal = self._personal != "keep" and not source
        findings: list[Finding] = []
        if self._scrubber.suspicious(text, personal):
            findings = by_name(text, self._names, source) + by_look(text, personal)
            for start, end, plain in decoded(text):
                for begin, stop, rule in sorted(by_name(plain, self._names) + by_look(plain, personal)):
                    at = text.find(plain[begin:stop], start, end)
                    if at < 0:  # it has no such form here
                        findings.append((start, end, rule))
                        break
                    start = at
                    findings.append((at, at + stop - begin, rule))
        for pattern in self._scrubber.patterns:
            findings += [(*found.span(), "pattern") for found in pattern.finditer(text)]
        apart: list[Finding] = []
        at = 0
        for start, end, rule in sorted(findings):
            if end > at:
                apart.append((max(start, at), end, rule))
                at = end
        return apart

    def _without(self, text: str, findings: list[Finding]) -> str:
        parts: list[str] = []
        at = 0
        for start, end, rule in findings:
            parts += (text[at:start], self._mark(text[start:end], rule))
            at = end
        return "".join((*parts, text[at:])) if findings else text

    def _cut(self) -> str:
        self.counts["cut"] += 1
        return "[cut]"

    def _mark(self, value: str | float, rule: str) -> str:
        """What stands in the place of `value`."""
        self.counts[rule] += 1
        if rule not in ("personal", "email", "ip", "phone"):
            return self._scrubber.marker(value, rule)
        if self._personal == "drop":
            return f"[dropped {rule}]"
        text = unquoted(str(value))
        normal = re.sub(r"[^\d+]", "", text) if rule == "phone" else text.strip().lower()
        return hashlib.sha256(normal.encode("utf-8", "replace")).hexdigest()
