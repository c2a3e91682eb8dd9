"""One pass of the scrubber over one signal."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any, Literal

from metricx_observe.interrupts import is_interrupt
from metricx_observe.normalise import plain

from .budget import FOUND, MEMBER, NEW, QUICK, READ, Budget
from .budget import MAX_ITEMS as MAX_ITEMS
from .budget import MAX_TEXT as MAX_TEXT
from .looks import MARKER, Finding, by_look, prepare
from .names import COOKIE, HARMLESS, ID, IF_RANDOM, PERSONAL, QUERY, SECRET, SIBLINGS, SOURCE, Verdict
from .read import apart, findings
from .text import by_name, looks_random, says_nothing, unquoted
from .tools import takes_secret

if TYPE_CHECKING:
    from . import Scrubber

Personal = Literal["keep", "hash", "drop"]
"""What becomes of e-mail addresses, phone numbers and IP addresses: kept, SHA-256 of the normalised value, or gone."""

MAX_DEPTH = 32
MAX_SEPARATORS = 50_000  # of one text: what has more is no text, and each costs a look at the name before it
PIECE, _BLOCK, _BEFORE, _REACH = 4 << 10, 32 << 10, 200, (1 << 10, 8 << 10, 32 << 10)
"""Characters that are read at once, and of which a look says that nothing is to be read; what is read again of what is
before, and how far beyond when a secret is longer.

Small, since most pieces of a text hold nothing, and the budget is looked at between them.
"""
_LONGEST_LINE = 2000  # of source code; what is longer was not written by hand and is read as any text
_REMEMBERED, LONGEST_REMEMBERED = 20_000, 300  # texts, and characters of one
_NAME = re.compile(r"[\w.\-]{1,100}")
_COOKIE = re.compile(r"(?:(?!\[scrubbed )[^=;]*+=)?+([^;]*+)")
_PLACEHOLDER = re.compile(r"%[#0\- +]{0,3}[\d.*]{0,6}[a-zA-Z]")
_HASH = re.compile(r"[0-9a-f]{64}")
_NAMING = (
    *("name", "key", "field", "k", "variable", "header", "parameterKey"),
    *("Name", "Key", "Field", "K", "Variable", "Header", "ParameterKey"),
)
_CUT = "[cut]"
SMALLEST_CARD, _LARGEST_CARD = 10**13, 10**19


class Pass:
    """One pass over a signal, or over a part of it, with what is left of its budget."""

    def __init__(self, scrubber: Scrubber, personal: Personal, budget: Budget | None = None) -> None:
        self._scrubber = scrubber
        self._names = scrubber.names
        self._clean = scrubber.clean[personal]
        self._personal: Personal = personal
        self._done: dict[tuple[str, bool], tuple[str, list[str]]] = {}  # a local that is passed on is in many frames
        self._budget = budget or Budget()
        self.counts: defaultdict[str, int] = defaultdict(int)  # of what was replaced, by rule
        self._budget.grant(scrubber.prepare(personal))

    def value(self, value: Any, depth: int = 0, says: Verdict = HARMLESS) -> Any:
        """A scrubbed copy. What cannot be read is replaced, the rest goes on. says: what the names above say of it."""
        try:
            kind = type(value)
            if kind is dict or kind is list or kind is tuple or kind is set or kind is frozenset:
                left = self._budget.members(len(value))
                if depth and (left < 0 or depth > MAX_DEPTH):  # what is given stays a dict or a list
                    return self._cut()
                if not value:
                    return {} if kind is dict else []
                return (self._dict if kind is dict else self._list)(value, depth, says, left)
            if kind is str or kind is int or kind is float:
                return self._scalar(value, says)
            if value is None or kind is bool:
                return value
            if not self._budget.spend(NEW):
                return self._cut()
            if kind is bytes or kind is bytearray:
                return self._scalar(value.decode(), says)
            return self.value(plain(value), depth + 1, says)
        except Exception as error:
            if is_interrupt(error):
                raise
            self.counts["unreadable"] += 1
            return f"[unreadable {type(value).__name__}]"

    def _dict(self, members: dict[Any, Any], depth: int, says: Verdict, left: int) -> dict[str, Any]:
        """Below a secret name everything is secret, below any other its members' own names count."""
        result: dict[str, Any] = {}
        verdicts, clean, budget, secret = self._names.verdicts, self._clean, self._budget, says >= SECRET
        for key, item in members.items() if left == len(members) else islice(members.items(), max(0, left)):
            if secret:
                result[self._text(str(key))] = self.value(item, depth + 1, says)
                continue
            name = key if type(key) is str else next(iter(plain({key: None})))
            says, kind = verdicts[name], type(item)
            if says > ID:
                item = self._named(name, item, says, members, depth + 1)
            elif kind is int and 0 <= item < SMALLEST_CARD:  # these two are nearly all, so without a call
                pass
            elif kind is not str or len(item) > LONGEST_REMEMBERED or item not in clean:
                item = self.value(item, depth + 1, says)
            if name not in clean:
                name = self._text(name)
                if budget.work_left <= 0:
                    break
            result[name] = item
        if budget.work_left <= 0 or left < len(members):
            result[_CUT] = self._cut()
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

    def _list(self, items: Any, depth: int, says: Verdict, left: int) -> list[Any]:
        """In a pair, and after a `--flag`, a secret name is followed by its value."""
        result: list[Any] = []
        pair, of_item, clean, budget = len(items) == 2, says, self._clean, self._budget
        for item in items if left == len(items) else islice(items, max(0, left)):
            text = type(item) is str
            if text and of_item < PERSONAL and len(item) <= LONGEST_REMEMBERED and item in clean:
                result.append(item)
            elif budget.work_left <= 0:
                break
            else:
                result.append(self.value(item, depth + 1, of_item))
            of_item = says
            if (pair and isinstance(item, str | bytes)) or (text and item[:1] == "-"):
                name = unquoted(item.decode("latin-1") if isinstance(item, bytes) else item)
                if _NAME.fullmatch(name) and self._names.verdicts[name] >= IF_RANDOM:
                    of_item = max(says, self._names.verdicts[name])
                elif item[:1] == "-" and isinstance(items, Sequence) and budget.spend(NEW):
                    words = items[max(0, len(result) - 12) : len(result)]
                    of_item = SECRET if takes_secret(words, self._names) else says
        if budget.work_left <= 0 or left < len(items):
            result.append(self._cut())
        return result

    def _parameters(self, message: str, items: Any, depth: int) -> list[Any]:
        """A log message's arguments: `token=%s` says what the first is."""
        result: list[Any] = []
        texts = _PLACEHOLDER.split(message[:MAX_TEXT])
        for text, item in zip_longest((text[-PIECE:] for text in texts[: len(items)]), items, fillvalue=""):
            if not self._budget.spend(NEW):
                return [*result, self._cut()]
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
            if says == ID and len(value) < LONGEST_REMEMBERED and value.isdecimal() and not self._scrubber.patterns:
                return value
            if says == QUERY and value[:1] not in ("?", "#"):
                return self._text(f"?{value}")[1:]
            return self._text(value, says == SOURCE and len(value) <= _LONGEST_LINE)
        if SMALLEST_CARD <= value < _LARGEST_CARD and says != ID:
            if not self._budget.spend(NEW):
                return self._cut()
            if by_look(str(int(value))):
                return self._mark(value, "card")
        return value if isinstance(value, float) or -(1 << 63) <= value < 1 << 64 else str(value)  # what JSON can hold

    def _text(self, text: str, source: bool = False) -> str:
        """`text` with every secret in it replaced, and the markers in it left alone. source: lines of Python."""
        if len(text) <= LONGEST_REMEMBERED and text in self._clean:
            return text
        if not self._budget.spend(NEW + QUICK * min(len(text), MAX_TEXT)):
            return self._cut()
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode()  # lone surrogates
        size = min(MAX_TEXT, self._budget.text_left)
        if len(text) > MAX_SEPARATORS and sum(map(text.count, "=:,")) > MAX_SEPARATORS:
            size = min(size, MAX_SEPARATORS)
        if len(text) > size:
            text = text[:size] + self._cut()
        self._budget.text_left = max(0, self._budget.text_left - len(text))
        if "[" not in text:
            return self._part(text, source)
        parts: list[str] = []
        for at, part in enumerate(MARKER.split(text)):
            if not self._budget.spend(MEMBER):
                return "".join((*parts, self._cut()))
            parts.append(part if at % 2 or not part else self._part(part, source))
        return "".join(parts)

    def _part(self, text: str, source: bool) -> str:
        if (done := self._done.get((text, source))) is not None:
            result, rules = done
            for rule in rules:
                self.counts[rule] += 1
            return result
        found = self._findings(text, source)
        result = self._without(text, found)
        self._done[text, source] = result, [rule for _, _, rule in found]
        if len(text) <= LONGEST_REMEMBERED and not (found or (source and self._findings(text, False))):
            if len(self._clean) >= _REMEMBERED:
                self._clean.clear()
            self._clean.add(text)
        return result

    def _findings(self, text: str, source: bool) -> list[Finding]:
        """In their order, none over another. A long text is read in pieces, of which most hold nothing."""
        personal = self._personal != "keep" and not source
        if len(text) <= PIECE:
            found = self._in_piece(text, personal, source)
            found = [(0, len(text), "cut")] if found is None else found
        else:
            found = self._in_pieces(text, personal, source)
        if not self._scrubber.patterns:
            return found
        for pattern in self._scrubber.patterns:
            found += [(begin, end, "pattern") for begin, end in pattern.spans(text, self._budget.in_time)]
        return apart(found)

    def _in_pieces(self, text: str, personal: bool, source: bool) -> list[Finding]:
        found: list[Finding] = []
        start = begin = 0  # what lies before `start` was read; a piece begins a little before, for the names there
        looked = 0
        while start < len(text):
            if not self._budget.in_time():
                return apart((*found, (start, len(text), "cut")))
            if start >= looked:
                looked = start + _BLOCK
                if not self._scrubber.suspicious(text[begin : looked + _REACH[0]], personal):
                    start, begin = looked, looked - _BEFORE
                    continue
            stop, last = min(start + PIECE, len(text)), 0
            here: list[Finding] = []
            for reach in _REACH:
                part = text[begin : stop + reach]
                more = self._in_piece(part, personal, source)
                if more is None:
                    return apart((*found, (start, len(text), "cut")))
                here = [(begin + at, begin + end, rule) for at, end, rule in more if start <= begin + at < stop]
                last = max((end for _, end, _ in here), default=0)
                if last < begin + len(part) or last == len(text):
                    break
            else:  # nobody knows where it ends
                here.append((last, len(text), "cut"))
                last = len(text)
            found += here
            start, begin = max(stop, last), last if last >= stop else stop - _BEFORE
        return apart(found)

    def _in_piece(self, part: str, personal: bool, source: bool) -> list[Finding] | None:
        """What was found; None when the budget is spent."""
        if not self._scrubber.suspicious(part, personal):
            return []
        self._budget.grant(prepare(personal))
        return findings(part, self._names, personal, source) if self._budget.spend(READ * len(part)) else None

    def _without(self, text: str, found: Iterable[Finding]) -> str:
        parts: list[str] = []
        at = 0
        for start, end, rule in found:
            parts.append(text[at:start])
            if rule == "cut" or self._budget.work_left <= 0:
                return "".join((*parts, self._cut()))
            parts.append(self._mark(text[start:end], rule))
            at = end
        return "".join((*parts, text[at:])) if parts else text

    def _cut(self) -> str:
        self.counts["cut"] += 1
        return _CUT

    def _mark(self, value: str | float, rule: str) -> str:
        """What stands in the place of `value`."""
        if not self._budget.spend(FOUND):
            return self._cut()
        self.counts[rule] += 1
        if rule not in ("personal", "email", "ip", "phone"):
            return self._scrubber.marker(value, rule)
        if self._personal == "drop":
            return f"[dropped {rule}]"
        text = unquoted(str(value))
        normal = re.sub(r"[^\d+]", "", text) if rule == "phone" else text.strip().lower()
        return hashlib.sha256(normal.encode("utf-8", "replace")).hexdigest()
