"""Secrets in texts that stand beside their names: `{"name": "DB_PASSWORD", "value": "x"}`, also in YAML."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .named import value_after
from .names import SECRET, SIBLINGS_OF, Names
from .rules import Finding
from .values import says_nothing

BESIDE = rf"(?:^|[^\w.\-]|\\n)(?i:{SIBLINGS_OF})[\\\"']*\s*[=:]>?\s*[\\\"']*[\w.:\-\[\]]*(?i:{{stems}})"
"""What occurs in every text with such a name, in Rust's syntax."""
_NEAR = 400
"""Characters that may stand between the two."""
_MEMBER = re.compile(
    rf"""(?:(?<![\w.\-])|(?<=\\n))(?i:({SIBLINGS_OF})|(?:parameter|option)?_?(?:value|val|v))"""
    r"""[\\"']{0,9}+\s{0,3}+(=>|==?|:=?)[ \t]{0,9}+"""
)
# A name, of several words in YAML: `name: password reset`, and not `name=password value=x`.
_WORD = r"""[^\s\\"',;(){}<>=:]{1,64}+"""
_NAME = re.compile(rf"""[bu]?[\\"']{{0,9}}+({_WORD}(?:[ ](?!\w+\s?[=:]){_WORD}){{0,5}}+)""")
# Another object begins or ends here, or another item of YAML's, or what follows is nested.
_APART = re.compile(r"[{}()\[\]]|(?:\n|\\n)\s*- ")


def by_sibling(text: str, names: Names) -> Iterator[Finding]:
    """The values of members called `value` whose name is the value of another member, before it or after it."""
    read, secret, before = 0, -1, None  # to where, where the last secret name ends, and a value without a name yet
    for member in _MEMBER.finditer(text):
        start = member.start()
        if start < read:  # in a value
            continue
        if member[1] is None:
            if secret >= 0 and _together(text, secret, start):
                for finding in _value(text, member, len(text)):
                    yield finding
                    read = finding[1]
            before = member if secret < 0 else None
            secret = -1
            continue
        name = _NAME.match(text, member.end())
        named = name is not None and names.verdict(name[1]) >= SECRET
        secret = name.end() if named and name is not None else -1
        if named and before is not None and start - before.end() <= 10 * _NEAR:
            for finding in _value(text, before, start):
                if _together(text, finding[1], start):
                    yield finding
                    secret = -1
        before = None


def _together(text: str, begin: int, end: int) -> bool:
    return begin <= end <= begin + _NEAR and _APART.search(text, begin, end) is None


def _value(text: str, member: re.Match[str], stop: int) -> Iterator[Finding]:
    for begin, end in value_after(text, member, False, False, stop):
        if not says_nothing(text[begin:end]):
            yield begin, end, "name"
