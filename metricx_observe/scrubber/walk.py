"""One pass of the scrubber over one value."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import zip_longest
from typing import Any, Literal

from pydantic_core import to_jsonable_python

from .budget import CONTAINER, VALUE, Budget
from .cards import is_card
from .named import by_name
from .names import COOKIE, HARMLESS, ID, IF_RANDOM, PERSONAL, QUERY, SECRET, SIBLINGS, SOURCE, Names, Verdict
from .read import Reader
from .rules import Finding
from .tables import WORDS
from .values import CUT, MARKER, looks_random, says_nothing, unquoted

Personal = Literal["keep", "hash", "drop"]
"""What becomes of e-mail addresses, phone numbers and IP addresses: kept, SHA-256 of the normalised value, or gone."""
Marker = Callable[[str | float, str], str]
"""What makes of a value and a rule what stands in its place."""
MAX_DEPTH = 32
MAX_TEXT = 1_000_000
"""Characters of a text."""
_LONGEST_LINE = 2000  # of source code; what is longer was not written by hand and is read as any text
_LONGEST_TEMPLATE = 4 << 10  # characters before a placeholder in a log message
_NAME = re.compile(r"[\w.\-]{1,100}")
_COOKIE = re.compile(r"(?:(?!\[scrubbed )[^=;]*+=)?+([^;]*+)")
_PLACEHOLDER = re.compile(r"%[#0\- +]{0,3}[\d.*]{0,6}[a-zA-Z]")
_HASH = re.compile(r"[0-9a-f]{64}")
_SMALLEST_CARD, _LARGEST_CARD = 10**13, 10**19
_OF_JSON = range(-(1 << 63), 1 << 64)
_PERSONAL_RULES = frozenset({"personal", "email", "ip", "phone"})


class Pass:
    """One pass over a signal, or over a part of it, with what is left of its budget."""

    def __init__(self, names: Names, reader: Reader, marker: Marker, personal: Personal, budget: Budget) -> None:
        self._names = names
        self._reader = reader
        self._clean = reader.clean_for[personal != "keep"]
        self._marker = marker
        self._personal: Personal = personal
        self._budget = budget
        self.counts: dict[str, int] = {}  # of what was replaced, by rule

    def value(self, value: Any, depth: int = 0, says: Verdict = HARMLESS) -> Any:
        """A scrubbed copy. says: What the names above say of it."""
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is str and says < QUERY and value in self._clean[says == SOURCE]:
            return value
        if kind is str or kind is float or (kind is int and value in _OF_JSON):
            return self._scalar(value, says)
        if kind is not dict and kind is not list and kind is not tuple:
            return self._other(value, depth, says)
        if depth and (depth > MAX_DEPTH or not self._budget.take(CONTAINER)):
            return self._cut()
        return self._dict(value, depth, says) if kind is dict else self._list(value, depth, says)

    def _other(self, value: Any, depth: int, says: Verdict) -> Any:
        try:
            plain = _simple(value)
        except Exception:  # of somebody else's method: nothing of ours is called here
            self._count("unreadable")
            return f"[unreadable {type(value).__name__}]"
        return self.value(plain, depth + 1, says)

    def _dict(self, members: dict[Any, Any], depth: int, says: Verdict) -> dict[str, Any]:
        """Below a secret name everything is secret, below any other its members' own names count."""
        result: dict[str, Any] = {}
        clean = self._clean[False]
        for key, item in list(members.items()):
            if not self._budget.take(VALUE):
                result[CUT] = self._cut()
                break
            name = key if type(key) is str else _name_of(key)
            if says >= SECRET:
                item = self.value(item, depth + 1, says)
            else:
                item = self._named(name, item, members, depth + 1)
            result[name if name in clean else self._text(name)] = item
        return result

    def _named(self, name: str, item: Any, siblings: dict[Any, Any], depth: int) -> Any:
        """A value by what its name says of it, alone or with what stands beside it."""
        says = self._names.verdict(name)
        if says == SIBLINGS:
            if name == "params" and type(siblings.get("message")) is str and type(item) in (list, tuple):
                return self._parameters(siblings["message"], item, depth)
            if name == "netloc" and type(item) is str:  # as `urlsplit` has it, without the scheme that tells an address
                return self._text(f"netloc={item}").removeprefix("netloc=")
            beside = siblings.get("loc") if name == "input" else [siblings.get(key) for key in WORDS["naming"]]
            names = beside if isinstance(beside, list | tuple) else ()  # a `loc` may be a line's number, too
            says = max((self._names.verdict(each) for each in names if type(each) is str), default=HARMLESS)
        elif name == "token" and "logprob" in siblings:  # a language model's
            says = HARMLESS
        return self.value(item, depth, says)

    def _list(self, items: Sequence[Any], depth: int, says: Verdict) -> list[Any]:
        """In a pair, and after a `--flag`, a secret name is followed by its value."""
        result: list[Any] = []
        of_item = says
        for item in items:
            if not self._budget.take(VALUE):
                result.append(self._cut())
                break
            result.append(self.value(item, depth + 1, of_item))
            of_item = says
            if type(item) is bytes and len(items) == 2:
                item = item.decode("latin-1")
            if type(item) is str and (len(items) == 2 or item[:1] == "-"):
                name = unquoted(item)
                if _NAME.fullmatch(name) and self._names.verdict(name) >= IF_RANDOM:
                    of_item = max(says, self._names.verdict(name))
                elif item[:1] == "-" and self._reader.takes_secret(items[max(0, len(result) - 12) : len(result)]):
                    of_item = SECRET
        return result

    def _parameters(self, message: str, items: Sequence[Any], depth: int) -> list[Any]:
        """A log message's arguments: `token=%s` says what the first is."""
        result: list[Any] = []
        texts = _PLACEHOLDER.split(message[:MAX_TEXT])
        for before, item in zip_longest(texts[: len(items)], items, fillvalue=""):
            if not self._budget.take(VALUE):
                return [*result, self._cut()]
            text = before[-_LONGEST_TEMPLATE:]
            named = any(end > len(text) for _, end, _ in by_name(f"{text}0", self._names))
            result.append(self.value(item, depth, SECRET if named else HARMLESS))
        return result

    def _scalar(self, value: str | float, says: Verdict) -> str | float:
        """A text or a number."""
        if says >= PERSONAL:
            bare = unquoted(str(value))
            if says_nothing(bare):
                return value
            if says == COOKIE:
                cookies = _COOKIE.finditer(bare)
                return self._without(bare, ((*it.span(1), "cookie") for it in cookies if not says_nothing(it[1])))
            if says == SECRET or (says == IF_RANDOM and looks_random(bare)):
                return self._mark(value, "name")
            if says == PERSONAL and self._personal != "keep" and not _HASH.fullmatch(bare):
                return self._mark(value, "personal")
        if isinstance(value, str):
            if says == QUERY and value[:1] not in ("?", "#"):
                return self._text(f"?{value}")[1:]
            return self._text(value, says)
        if _SMALLEST_CARD <= value < _LARGEST_CARD and says != ID:
            digits = str(int(value))
            if is_card(digits, 0, len(digits)):
                return self._mark(value, "card")
        return value

    def _text(self, text: str, says: Verdict = HARMLESS) -> str:
        """`text` with every secret in it replaced, and the markers in it left alone."""
        if says == ID and text.isdecimal() and not self._reader.patterns:  # it may look as a card's number does
            return text
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode()  # lone surrogates
        if len(text) > MAX_TEXT:
            text = text[:MAX_TEXT] + self._cut()
        source = says == SOURCE and len(text) <= _LONGEST_LINE
        if "[" not in text:
            return self._read(text, source)
        parts: list[str] = []
        for at, part in enumerate(MARKER.split(text)):
            if not self._budget.take(VALUE):
                return "".join((*parts, self._cut()))
            parts.append(part if at % 2 else self._read(part, source))
        return "".join(parts)

    def _read(self, text: str, source: bool) -> str:
        personal = self._personal != "keep" and not source
        found = self._reader.findings(text, personal, source, self._budget)
        return self._without(text, found) if found else text

    def _without(self, text: str, found: Iterable[Finding]) -> str:
        parts: list[str] = []
        at = 0
        for start, end, rule in found:
            parts.append(text[at:start])
            if rule == "cut" or self._budget.left <= 0:
                return "".join((*parts, self._cut()))
            parts.append(self._mark(text[start:end], rule))
            at = end
        return "".join((*parts, text[at:])) if parts else text

    def _count(self, rule: str) -> None:
        self.counts[rule] = self.counts.get(rule, 0) + 1

    def _cut(self) -> str:
        self._count("cut")
        return CUT

    def _mark(self, value: str | float, rule: str) -> str:
        """What stands in the place of `value`."""
        if not self._budget.take(VALUE):
            return self._cut()
        self._count(rule)
        if rule not in _PERSONAL_RULES:
            return self._marker(value, rule)
        if self._personal == "drop":
            return f"[dropped {rule}]"
        text = unquoted(str(value))
        normal = re.sub(r"[^\d+]", "", text) if rule == "phone" else text.strip().lower()
        return hashlib.sha256(normal.encode("utf-8", "replace")).hexdigest()


def _simple(value: Any) -> Any:
    """What is read of `value` in its place: the fields of a model or named tuple, the items of a set, else its text.

    May raise: it calls methods of somebody else's.
    """
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        fields = getattr(value, "_fields", ())
        return dict(zip(fields, value, strict=True)) if fields else list(value)
    if isinstance(value, Set):
        return list(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode()
    found = to_jsonable_python(value, fallback=str)
    if type(found) in (str, float, bool, list, dict) or (type(found) is int and found in _OF_JSON):
        return found
    return str.__str__(str(found))


def _name_of(key: object) -> str:
    """A key of a dict as text."""
    return key.decode(errors="replace") if isinstance(key, bytes) else str(key)
