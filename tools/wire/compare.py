"""Differences between two documents, and the file of those that are expected."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from itertools import zip_longest
from pathlib import Path
from typing import Any

from .normalise import TOKEN

MISSING = "(nothing)"


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that is not the same."""

    situation: str
    path: str
    """Vendor, signal and members, with `/` between them."""
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.situation}\n  {self.path}\n    old: {_shown(self.old)}\n    new: {_shown(self.new)}"


def _shown(value: Any) -> str:
    return value if value is MISSING else json.dumps(value, ensure_ascii=False, sort_keys=True)


@dataclass(slots=True)
class Expected:
    """A block of `same_wire.expected`."""

    situation: str
    path: str
    reason: str
    old: str = "*"
    new: str = "*"
    count: int = 0
    """How many differences it was the reason of."""

    def covers(self, found: Difference) -> bool:
        """Whether the difference is this one."""
        return (
            fnmatchcase(found.situation, self.situation)
            and fnmatchcase(found.path, self.path)
            and fnmatchcase(_shown(found.old), self.old)
            and fnmatchcase(_shown(found.new), self.new)
        )


def read_expected(text: str) -> list[Expected]:
    """Blocks with an empty line between them; a line is `name: value`, or goes on with what the one before began.

    Raises:
        ValueError: For a block without situation, path or reason, or with another member.
    """
    blocks = []
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for block in kept.split("\n\n"):
        members: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            first, colon, rest = line.partition(":")
            if colon and first in ("situation", "path", "old", "new", "reason"):
                name, members[first] = first, rest.strip()
            elif name and line.startswith(" "):
                members[name] += " " + line.strip()
            elif line.strip():
                raise ValueError(f"same_wire.expected: {line!r} is no member of a block")
        if members:
            if missing := [each for each in ("situation", "path", "reason") if not members.get(each)]:
                raise ValueError(f"same_wire.expected: a block has no {', '.join(missing)}: {members}")
            blocks.append(Expected(**members))
    return blocks


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """All differences, by situation."""
    found: list[Difference] = []
    for name in dict.fromkeys([*old, *new]):
        if name not in old or name not in new:
            one, other = ("(there)", MISSING) if name in old else (MISSING, "(there)")
            found.append(Difference(name, "situation", one, other))
        else:
            found += _Pair(name).differences(old[name], new[name])
    return found


@dataclass(slots=True)
class _Pair:
    """One situation of both. Ids are equal when they are so throughout: which number one has says nothing."""

    name: str
    forth: dict[str, str] = field(default_factory=dict)
    back: dict[str, str] = field(default_factory=dict)

    def differences(self, old: Mapping[str, list[Any]], new: Mapping[str, list[Any]]) -> Iterator[Difference]:
        for part in dict.fromkeys([*old, *new]):
            one, other = old.get(part, []), new.get(part, [])
            if part == "caller":
                yield from self._value(part, one, other)
                continue
            for first, second in _paired(one, other):
                signal = first if first is not None else second
                path = f"{part}/{_blank(str(signal.get('signal', 'request')))}"
                if first is None or second is None:
                    yield self._difference(
                        path, MISSING if first is None else first, MISSING if second is None else second
                    )
                else:
                    yield from self._value(path, first, second)

    def _difference(self, path: str, old: Any, new: Any) -> Difference:
        return Difference(self.name, path, old, new)

    def _value(self, path: str, old: Any, new: Any) -> Iterator[Difference]:
        if isinstance(old, dict) and isinstance(new, dict):
            yield from self._members(path, old, new)
        elif isinstance(old, list) and isinstance(new, list):
            yield from self._items(path, old, new)
        elif isinstance(old, str) and isinstance(new, str):
            if not self._same_text(old, new):
                yield self._difference(path, old, new)
        elif type(old) is not type(new) or old != new:
            yield self._difference(path, old, new)

    def _items(self, path: str, old: list[Any], new: list[Any]) -> Iterator[Difference]:
        """By place where both are as long, else what was put in or taken out."""
        if len(old) == len(new):
            spans = [(0, len(old), 0, len(new))]
        else:
            texts = ([_blank(json.dumps(each, sort_keys=True)) for each in listed] for listed in (old, new))
            spans = [span[1:] for span in SequenceMatcher(None, *texts, autojunk=False).get_opcodes()]
        for old_start, old_end, new_start, new_end in spans:
            pairs = zip_longest(old[old_start:old_end], new[new_start:new_end], fillvalue=MISSING)
            for number, (one, other) in enumerate(pairs, old_start):
                if one is MISSING or other is MISSING:
                    yield self._difference(f"{path}/{number}", one, other)
                else:
                    yield from self._value(f"{path}/{number}", one, other)

    def _members(self, path: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[Difference]:
        others = {_blank(key): key for key in new if key not in old}
        for key in old:
            match = key if key in new else others.pop(_blank(key), None)
            if match is None:
                yield self._difference(f"{path}/{key}", old[key], MISSING)
            else:
                yield from self._value(f"{path}/{key}", old[key], new[match])
        for key in new:
            if key not in old and key in others.values():
                yield self._difference(f"{path}/{key}", MISSING, new[key])

    def _same_text(self, old: str, new: str) -> bool:
        if _blank(old) != _blank(new):
            return False
        return all(
            self.forth.setdefault(one[0], other[0]) == other[0] and self.back.setdefault(other[0], one[0]) == one[0]
            for one, other in zip(TOKEN.finditer(old), TOKEN.finditer(new), strict=True)
        )


def _blank(text: str) -> str:
    return TOKEN.sub(r"<\1>", text)


def _paired(old: list[Any], new: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Signals that are the same but for their ids, then the likest of a name, then what only one of both has."""
    left = list(new)
    texts = [_blank(json.dumps(each, sort_keys=True)) for each in left]
    unpaired = []
    for each in old:
        text = _blank(json.dumps(each, sort_keys=True))
        if text in texts:
            place = texts.index(text)
            texts.pop(place)
            yield each, left.pop(place)
        else:
            unpaired.append((each, text))
    alone = []
    for each, text in unpaired:
        if (place := _likest(each, text, left, texts)) is None:
            alone.append(each)
        else:
            texts.pop(place)
            yield each, left.pop(place)
    # what is called otherwise in both is one signal with another name, where each has one such
    for kind in dict.fromkeys(_kind(each) for each in (*alone, *left)):
        one, other = ([each for each in listed if _kind(each) == kind] for listed in (alone, left))
        if len(one) == len(other) == 1:
            yield one[0], other[0]
        else:
            yield from ((each, None) for each in one)
            yield from ((None, each) for each in other)


def _kind(signal: Any) -> str:
    return str(signal.get("signal", "request")).partition(":")[0]


def _likest(each: Any, text: str, left: list[Any], texts: list[str]) -> int | None:
    name = _blank(str(each.get("signal", "request")))
    places = [place for place, other in enumerate(left) if _blank(str(other.get("signal", "request"))) == name]
    if len(places) <= 1:
        return places[0] if places else None
    return max(places, key=lambda place: SequenceMatcher(None, text[:3000], texts[place][:3000]).quick_ratio())


def judge(
    found: list[Difference], expected: list[Expected], situations: set[str]
) -> tuple[list[Difference], list[Expected]]:
    """What no block is the reason of, and the blocks of situations that ran which are the reason of nothing."""
    unexpected = []
    for difference in found:
        reasons = [block for block in expected if block.covers(difference)]
        for block in reasons:
            block.count += 1
        if not reasons:
            unexpected.append(difference)
    ran = [block for block in expected if any(fnmatchcase(name, block.situation) for name in situations)]
    return unexpected, [block for block in ran if not block.count]


def report(old: Path, new: Path, expected: Path) -> int:
    """Print what is different, whole. 1 when something is not expected, 2 when the two say nothing of each other."""
    first, second = json.loads(old.read_text()), json.loads(new.read_text())
    if first["made by"] != second["made by"]:
        print("The two were made by different versions of this tool: run both again")
        return 2
    one, other = first["situations"], second["situations"]
    blocks = read_expected(expected.read_text()) if expected.exists() else []
    found = compare(one, other)
    unexpected, unused = judge(found, blocks, {*one, *other})
    known = [each for each in found if each not in unexpected]
    for title, listed in (("expected", known), ("NOT EXPECTED", unexpected)):
        for difference in listed:
            print(f"{title}: {difference}\n")
    for block in unused:
        print(f"NO LONGER THERE: {block.situation} {block.path}: {block.reason}\n")
    print(
        f"{len(one)} situations before, {len(other)} now: {len(unexpected)} differences that are not expected, "
        f"{len(known)} that are, {len(unused)} that are expected and no longer there"
    )
    return 1 if unexpected else 0
