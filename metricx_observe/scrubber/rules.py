"""Secrets and personal data that one pattern finds: by their look, beside a name in markup, in what tools print.

The patterns are in `rules.tsv`, the issuers' documented formats of keys and hashes of passwords in `issuers.tsv`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

from .cards import is_card
from .hints import occurs, shorter, wider
from .names import IF_RANDOM, SECRET, SIBLINGS_OF, Names
from .tables import WORDS, lines
from .values import looks_random, says_nothing

Finding = tuple[int, int, str]
"""From where to where in a text something must not leave, and the rule that found it."""

_NAMES = re.compile(r"[^\s,()=:'\"`]+")
# Words with hyphens between them are a name: `sk-toggleable-label-2`, `npm_config_value`. A key's parts are longer, or
# digits stand among its letters.
_is_name = re.compile(
    r"(?:(?:[A-Za-z][a-z]{0,14}\d{0,4}|[A-Z]{1,14}\d{0,4}|v?\d{1,8}[a-z]{0,2})(?:[\-_./]++|\Z))++"
).fullmatch
# Read backwards: characters of base64 without a sign of any other text, or the head of a `data:` URL.
_BASE64 = r"(?:[BbFf]2%|[A-Za-z0-9+/])"
_IN_BASE64 = re.compile(rf"{_BASE64}{{64}}|[A-Za-z0-9_\-]{{64}}|({_BASE64}{{0,64}}(?:,|C2%)46esab)").match
_LONGEST = 200  # characters of what that reads
# Where an option is described no value follows it: `--password PASSWORD`, `the --token is`.
_NO_VALUE = re.compile(
    rf"(?:{'|'.join(WORDS['no_value'])}|[A-Z][A-Z_\-]*|[.,:;!?=$%/.\-]*|\$.*|%.*|\.\.\.)[.,:;!?]*", re.S
).fullmatch

# How many letters come before the part that is an issuer's own need not be counted to know that it does not occur.
_COUNTED = re.compile(r"\A(?:\[[^\]]+\]|\\d)\{[\d,]+\}")
_begins_word = re.compile(r"(?:\[|\((?:\?:)?)?[A-Za-z0-9]").match
_BEFORE = r"(?:\A|[^A-Za-z0-9]|\\[nrtbfv]|(?:%|\\x|\\u00)[0-9A-Fa-f]{2}|\[\d\d?m|/bot)"
"""What stands before the start of a word, as the part ALONE says it in Python's syntax."""


_compiled = cache(re.compile)  # when a pattern is needed: some take milliseconds


class Rule(NamedTuple):
    """One pattern, and in Rust's syntax what occurs wherever it does."""

    kind: str
    rule: str
    pattern: str
    hint: str

    def findings(self, text: str, names: Names) -> Iterator[Finding]:
        """Where it finds what must not leave."""
        pattern = _compiled(self.pattern)
        name = pattern.groupindex.get("name", 0)
        for found in pattern.finditer(text):
            taken = [at for at in range(1, pattern.groups + 1) if at != name and found[at] is not None]
            start, end = found.span(taken[-1] if taken else 0)
            if start < end and self._is_secret(text, start, end, names, found[name] if name else None):
                yield start, end, self.rule

    def _is_secret(self, text: str, start: int, end: int, names: Names, name: str | None) -> bool:
        """What a pattern cannot say of what it has found."""
        if self.rule == "card":
            return is_card(text, start, end) and not _in_base64(text, start)
        if self.rule in ("vendor_key", "password_hash"):
            return not (_is_name(text, start, end) or _in_base64(text, start))
        if self.kind not in ("markup", "tool"):
            return True
        value = text[start:end]
        if says_nothing(value) or (self.kind == "tool" and _NO_VALUE(value)):
            return False
        says = SECRET if name is None else max(map(names.verdict, _NAMES.findall(name)), default=0)
        random = self.kind == "markup" and says == IF_RANDOM and name != "code"  # HTML's is a listing
        return says >= SECRET or (random and looks_random(value) is not None)


def _in_base64(text: str, at: int) -> bool:
    """Whether `at` is inside of an image or another file in base64, in which anything comes up by chance."""
    before = _IN_BASE64(text[max(0, at - _LONGEST) : at][::-1])
    if before is None or before[1] is not None:
        return before is not None
    capitals, small, digits = (sum(map(kind, before[0])) for kind in (str.isupper, str.islower, str.isdigit))
    return min(capitals, small) >= 8 and digits >= 2  # what is hexadecimal, or a path, is not a file


class Group:
    """Rules that are looked for together."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = [(occurs(rule.hint), rule) for rule in rules]
        self.might = occurs("|".join(dict.fromkeys(rule.hint for _, rule in self.rules)))

    def findings(self, text: str, names: Names, kind: str | None = None) -> Iterator[Finding]:
        """What they find, or those of one kind do."""
        for might, rule in self.rules if self.might(text) else ():
            if kind in (None, rule.kind) and might(text):
                yield from rule.findings(text, names)


@cache  # at the first use: nobody pays for it by an import
def groups(stems: str) -> tuple[Group, Group, Group]:
    """The rules for secrets, the issuers', and those for personal data.

    stems: What every secret name has one of, as alternatives.
    """
    found: defaultdict[bool, list[Rule]] = defaultdict(list)
    for kind, rule, *fields in lines("rules.tsv"):
        if kind != "part":
            pattern, hint = (_filled(field, STEMS=stems, SIBLINGS=SIBLINGS_OF) for field in fields[:2])
            found[kind == "personal"].append(Rule(kind, rule, pattern, hint or wider(pattern, stems)))
    return Group(found[False]), Group(_issued()), Group(found[True])


@cache
def part(name: str) -> str:
    """A part that several patterns have."""
    return next(_filled(fields[0]) for kind, part, *fields in lines("rules.tsv") if (kind, part) == ("part", name))


def _filled(pattern: str, **given: str) -> str:
    return re.sub(r"@([A-Z0-9_]+)@", lambda name: given.get(name[1]) or part(name[1]), pattern)


def _issued() -> Iterator[Rule]:
    found: defaultdict[tuple[str, bool], list[str]] = defaultdict(list)
    for rule, _, pattern, *_ in lines("issuers.tsv"):
        found[rule, _COUNTED.match(pattern) is None and _begins_word(pattern) is not None].append(pattern)
    for (rule, begins), patterns in found.items():
        hint = "|".join(shorter(wider(_COUNTED.sub("", pattern))) for pattern in patterns)
        whole = f"{part('ALONE')}(?:{'|'.join(patterns)})"
        yield Rule("issued", rule, whole, f"{_BEFORE}(?:{hint})" if begins else hint)
