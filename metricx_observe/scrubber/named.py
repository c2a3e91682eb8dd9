"""Secrets inside text that the name before them, or beside them, gives away.

Text is everything that is not a dict or a list: log messages, exception texts, the Python reprs that Sentry makes of
locals (nested and truncated), JSON in strings, query strings, URLs, cookies, header lines, source code.

Every pattern is possessive or bounded, so that the time is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from .names import COOKIE, IF_RANDOM, IN_QUERY, SECRET, SIBLINGS_OF, Names, name_before
from .rules import Finding
from .values import is_random, says_nothing

NAMED = (
    r"(?i:{stems})s?(?:[^a-z\s=:,;&<>(){{}}][^\s=:,;&<>(){{}}]*)?"
    r"(?:(?:[\s\x1c-\x1f]|\\[a-z])*!?[=:]|[\"']\s*,)"
)
"""In Rust's syntax what occurs before a separator: a stem at the end of a word, and the rest of the name."""
# A comma counts only between two quoted strings, as in a header pair.
_SEPARATOR = re.compile(
    r"""(=>|==?+|:=?+|(?<=["']),(?=\s{0,3}+b?\\{0,8}+["']))[*`]{0,3}+[ \t\xa0]{0,9}+[*`]{0,3}+"""
    r"""(?:\r?\n[ \t]{0,80}+(?=b?\\{0,8}+["'\[({]))?+"""
)
# What stands before a parameter of an address, also where it is written in HTML or JSON, or alone.
_BEFORE_PARAMETER = re.compile(
    r"""(?:[?&#;]|\\u00(?:26|3[fF])|(?:query\w{0,10}|search)[\\"']{0,9}\s{0,3}[=:]\s{0,3}b?[\\"']{1,9})\Z"""
)
BESIDE = rf"(?:^|[^\w.\-]|\\n)(?i:{SIBLINGS_OF})[\\\"']*\s*[=:]>?\s*[\\\"']*[\w.:\-\[\]]*(?i:{{stems}})"
"""In Rust's syntax what occurs where the name of a value is the value of another member, as in `"name": "password"`."""
_MEMBER = re.compile(
    rf"""(?:(?<![\w.\-])|(?<=\\n))(?i:({SIBLINGS_OF})|(?:parameter|option)?_?(?:value|val|v))"""
    r"""[\\"']{0,9}+\s{0,3}+(=>|==?|:=?)[ \t]{0,9}+"""
)
# A name, of several words in YAML: `name: password reset`, and not `name=password value=x`.
_WORD = r"""[^\s\\"',;(){}<>=:]{1,64}+"""
_NAME = re.compile(rf"""[bu]?[\\"']{{0,9}}+({_WORD}(?:[ ](?!\w+\s?[=:]){_WORD}){{0,5}}+)""")
# Between the two there is little, no other object begins or ends, and no other item of YAML's.
_together = re.compile(r"(?:(?!\\n\s*- |\n\s*- )[^{}()\[\]]){0,400}+").fullmatch

_LITERAL = r""""((?:[^"\\]++|\\.)*+)"?+|'((?:[^'\\]++|\\.)*+)'?+"""
_LITERALS = re.compile(_LITERAL, re.S)
_BRACKETS = re.compile(rf"{_LITERAL}|[\[({{]|[\])}}]", re.S)
# A string, to its end or that of the text; quotes inside of other quotes have backslashes.
_QUOTED = re.compile(rf"""[bruf ]{{0,2}}+(?:(\\{{1,8}}+["'])(.*?)(?:(?<!\\)\1|\Z)|{_LITERAL})""", re.S | re.I)
_KEY = re.compile(r"""\s{0,3}+b?(\\{0,8}+["'])[\w.\-]{1,64}+\1\s{0,3}+:(?!:)""")
_OPEN_BRACKET = re.compile(r"([a-z_][\w.]{0,99}+)?[(\[{]", re.I)
# What has no quotes ends at a space or `&`, and at a comma, a quote or a bracket that closes something around it.
_BARE = re.compile(
    r"""(?:(?:bearer|basic|token|digest|apikey)[ ]{1,3}+)?+"""
    r"""(?:<[^<>\n]{1,200}>|(?:[^\s&;,'"\\)\]}<>]++|[,'")\]}](?![\s,;:&'")\]}<>]|\Z)|\\(?![nrt"'\\]))++|)""",
    re.I,
)
_ESCAPED = re.compile(r"u00[0-9a-fA-F]{2}|[nrt]")
_LINE = re.compile(r"""[^\r\n'"\\]*+""")
_CODES = ("code", "mfa", "verify", "verification", "confirm", "confirmation")
_DECIDES = 128
"""Characters of a value that show whether it is random: what is read beyond is replaced, and so is read once only."""
_LONGEST_NAME = 80  # characters before a separator that are looked at


def by_name(text: str, names: Names, source: bool = False) -> Iterator[Finding]:
    """The values that a name before them gives away. source: lines of code, where only literals can be secrets."""
    at = 0
    for separator in _SEPARATOR.finditer(text):
        start = separator.start()
        before = text[max(0, start - _LONGEST_NAME) : start]
        if start >= at and names.is_telling_end(before[before.rfind(" ") + 1 :]):
            for finding in _judge(text, separator, names, source):
                at = finding[1]
                yield finding


def _judge(text: str, separator: re.Match[str], names: Names, source: bool) -> Iterator[Finding]:
    before = name_before(text[max(0, separator.start() - _LONGEST_NAME) : separator.start()][::-1])
    if before is None:
        return
    name, start = before[1][::-1], separator.start() - before.end()
    says, escaped = names.verdict(name), None
    if text[start - 1 : start] == "\\" and (escaped := _ESCAPED.match(name)) is not None:
        says = max(says, names.verdict(name[escaped.end() :]))  # `\npassword=` in a repr, `\u0026code=` in JSON
    if name == "input" and re.search("[\"']loc", text[max(0, start - 300) : start]):
        says = SECRET  # an error of pydantic's repeats what was typed
    opens = start + escaped.end() if escaped else start
    in_query = IN_QUERY <= says < SECRET and _BEFORE_PARAMETER.search(text, max(0, opens - 40), opens) is not None
    if says < (IN_QUERY if in_query else IF_RANDOM):
        return
    if separator[1] == "," and _KEY.match(text, separator.end()):
        return  # `"name": "password", "value": …` is not a pair
    is_code = in_query and name.lower().endswith(_CODES)

    def is_secret(begin: int, end: int) -> bool:
        return says >= SECRET or is_random(text[begin : min(end, begin + _DECIDES)], in_query, is_code)

    whole = says == COOKIE or (separator[1] == ":" and "authorization" in name.lower())
    if says < SECRET:  # without a look at the rest of it, which the next separator in it would read again
        near = separator.end() + _DECIDES
        if not any(is_secret(*each) for each in value_after(text, separator, whole, source, near)):
            return
    for begin, end in value_after(text, separator, whole, source, len(text)):
        of_a_model = name == "token" and "logprob" in text[end : end + 14]
        if is_secret(begin, end) and not of_a_model and not says_nothing(text[begin:end]):
            yield begin, end, "cookie" if says == COOKIE else "name"


def by_sibling(text: str, names: Names) -> Iterator[Finding]:
    """The values of members called `value` whose name is the value of the member before or after."""
    at = 0
    for first, second in pairwise(_MEMBER.finditer(text)):
        holds, member = (first, second) if first[1] else (second, first)
        name = _NAME.match(text, holds.end()) if holds[1] and not member[1] and first.start() >= at else None
        if name is None or names.verdict(name[1]) < SECRET:
            continue
        for begin, end in value_after(text, member, False, False, len(text) if member is second else second.start()):
            between = (name.end(), member.start()) if member is second else (end, holds.start())
            if not says_nothing(text[begin:end]) and _together(text, *between):
                at = end
                yield begin, end, "name"


def value_after(text: str, separator: re.Match[str], whole: bool, source: bool, stop: int) -> Iterator[tuple[int, int]]:
    """Where the value after a name stands: mostly one stretch; of an expression in source code, its literals.

    whole: What has no quotes goes to the end of the line, as a header does. stop: How far the text is read.
    """
    at = separator.end()
    if (quoted := _QUOTED.match(text, at, stop)) is not None:
        if not source or quoted.end() > quoted.end(quoted.lastindex or 0) or quoted.end() == stop < len(text):
            yield quoted.span(quoted.lastindex or 0)
    elif (bracket := _OPEN_BRACKET.match(text, at, stop)) is not None:
        end = _balanced(text, bracket.end() - 1, stop)
        if not source:
            yield at, end
        elif not bracket[1] or bracket[1][0].isupper():
            yield from (found.span(found.lastindex or 0) for found in _LITERALS.finditer(text, at, end))
    elif not source or text[at : at + 1].isdigit() or any(text.count(quote, 0, at) % 2 for quote in "'\""):
        yield at, (_LINE if whole else _BARE).match(text, at, stop).end()  # type: ignore[union-attr]  # it can be empty


def _balanced(text: str, at: int, stop: int) -> int:
    """Where the bracket at `at` is closed; the end of what is read when it is not."""
    depth = 0
    for match in _BRACKETS.finditer(text, at, stop):
        depth += (match[0] in "[({") - (match[0] in "])}")
        if depth == 0:
            return match.end()
    return min(stop, len(text))
