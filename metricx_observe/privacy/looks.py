"""Secrets and personal data that are known by what they look like, wherever they stand.

Most texts hold none, so the answer no is what must be fast: one pass of Rust's regex engine, which pydantic brings, for
all that could be one. Its time is linear in the length of the text whatever the pattern. It cannot look around and
tells no place, so where it says yes the same patterns are looked for as Python reads them, possessive or bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from time import thread_time_ns

from pydantic_core import SchemaValidator, core_schema

from . import cards, issuers
from .issuers import ALONE as _ALONE

Finding = tuple[int, int, str]
"""From where to where in a text something must not leave, and the rule that found it."""

MARK = r"\[(?:scrubbed \w+ \w+ len=\d+ #[0-9a-f]{4}|cut|dropped \w+|unreadable \w+)\]"
MARKER = re.compile(f"({MARK})")

_NO_WORD = r"(?:(?<![\w.:])|(?<=\\[nrt]))"
_T = r"[A-Za-z0-9_\-]"
# The rule and its pattern. A group is what must not leave: the whole where none took part, nothing where it is empty.
_SECRETS = (
    ("pem", r"-----BEGIN [A-Z0-9 ]{1,40}-----(?s:.*?)(?:-----END [A-Z0-9 ]{1,40}-----|\Z)"),
    # Prose has `bearer tokens` and `basic understanding`: a credential has a digit, a capital inside, or is long.
    ("credentials", rf"{_ALONE}(?i:bearer|basic)[ ]{{1,3}}+(?=[A-Za-z0-9._~+/\-]{{6}})"
     r"((?:[A-Za-z._~+/=\-]*+\d|[a-z]*+[A-Z]+[a-z]|[A-Za-z0-9._~+/]{20})[A-Za-z0-9._~+/\-]*+=*+)"),
    # `netloc` is what `urlsplit` calls an address without its scheme.
    ("url_password", r"(?::\\{0,2}+/\\{0,2}+/|\bnetloc['\"\\]{0,3}+\s?[=:]\s?b?['\"\\]{0,3}+)"
     r"(?:[^\s:/?#@'\"]{0,256}+:([^\s/?#'\"]{1,256})|([A-Za-z0-9_\-.%]{16,256}+))@"),
    ("card", cards.PATTERN),
    # A JWT without its dots is matched and let go: to demand them could backtrack.
    ("vendor_key", rf"{_ALONE}eyJ(?:{_T}{{8,}}+(?:\.{{1,2}}+{_T}++=*+){{1,4}}+|{_T}++())"),
)  # fmt: skip
_CHECKS: dict[str, Callable[[str, int, int], bool]] = {
    "card": cards.is_card, "vendor_key": issuers.is_key, "password_hash": issuers.is_key,
}  # fmt: skip
"""What a pattern cannot say, of the text and from where to where it was found."""
_PERSONAL = (
    ("email", r"(?<![\w.+\-])[\w.+\-]{1,64}+(?:@|%40)[\w\-]{1,63}+(?:\.[\w\-]{1,63}+){1,8}+"),
    # nobody's address: this machine's, and a version as in Chrome/120.0.0.0
    ("ip", rf"{_NO_WORD}(?<!\w/)(?!127\.|0\.0\.)(?:\d{{1,3}}\.){{3}}\d{{1,3}}(?![\w.])"),
    ("ip", rf"{_NO_WORD}(?:(?:[0-9A-Fa-f]{{1,4}}:){{7}}+[0-9A-Fa-f]{{1,4}}+(?![\w:])"
     r"|(?:[0-9A-Fa-f]{1,4}:){1,7}+(?::[0-9A-Fa-f]{1,4}+){1,7}+(?![\w:]))"),
    ("phone", rf"{_NO_WORD}(?:\+\d|\(\d{{3}}\))[\d ()\-.]{{6,18}}\d(?!\w)"),
)  # fmt: skip


@cache
def occurs(pattern: str) -> Callable[[str], bool]:
    """What tells whether `pattern`, in Rust's syntax, occurs in a text. A lone surrogate would make it a no."""
    return SchemaValidator(core_schema.str_schema(pattern=pattern, strict=True)).isinstance_python


# The engine builds a state for each set of places in its patterns that a text can be at, and keeps some two thousand.
# A text that needs more, such as base64, sends it the slow way, which takes a thousand times as long. So what has many
# states is looked for by itself, and of an issuer's format little: it begins where a word does, counts to eight, and is
# read no further than that after the issuer's own letters.
_COUNT, _COUNTED = re.compile(r"\{(\d+)(?:,\d*)?\}"), 8
_ATOM = r"(?:\\.|\[(?:\\.|[^\]\\])*\]|\((?:[^()\\]|\\.)*\)|[^\\\[\](){}|])"
_head = re.compile(rf"{_ATOM}{{3,}}?\{{{_COUNTED},\}}").match


def _wider(pattern: str) -> str:
    """`pattern` for Rust's engine: without what it does not have, so that it matches what Python's does, and more."""
    pattern = re.sub(r"\(\?<?[=!](?:[^()\\]|\\.)*\)|(?<=[*+}])\+", "", pattern)  # looking around, possessiveness
    pattern = re.sub(r"\(\?:\|[(?:)|]*\)", "", pattern)  # alternatives of which nothing is left
    pattern = re.sub(r",\d+\}", ",}", pattern)
    # a text that is not ASCII sends it the slow way, too, if it has to know where words begin
    pattern = pattern.replace(r"\b", "")
    return pattern.replace(r"\w", r"[\w\p{N}]").replace(r"\Z", r"\z")  # `½` is a letter to Python only


def _shortest(patterns: Sequence[str], begins: bool) -> str:
    """What occurs wherever one of an issuers' formats does. begins: a word."""
    short = [_COUNT.sub(lambda count: f"{{{min(int(count[1]), _COUNTED)},}}", _wider(each)) for each in patterns]
    hint = "|".join(head[0] if (head := _head(each)) else each for each in short)
    return f"{issuers.BEFORE}(?:{hint})" if begins else hint


def hints() -> str:
    """What occurs in every text that `by_look` finds a secret in, in Rust's syntax, but for those of `issued`."""
    return "|".join(_wider(pattern) for _, pattern in _SECRETS)


@cache  # at its first use: nobody pays for it by an import
def issued() -> str:
    """The same of all that has an issuer's format."""
    return "|".join(_shortest(hints, begins) for _, _, hints, begins in issuers.formats())


def personal_hints() -> str:
    """The same of personal data."""
    return "|".join(_wider(pattern) for _, pattern in _PERSONAL)


@cache
def _looks(personal: bool) -> list[tuple[str, Callable[[str], bool], re.Pattern[str]]]:
    kinds = [(rule, pattern, _wider(pattern)) for rule, pattern in _SECRETS]
    kinds += [(rule, pattern, _shortest(hints, begins)) for rule, pattern, hints, begins in issuers.formats()]
    kinds += [(rule, pattern, _wider(pattern)) for rule, pattern in _PERSONAL] if personal else []
    return [(rule, occurs(hint), re.compile(pattern)) for rule, pattern, hint in kinds]


_prepared: set[bool] = set()


def prepare(personal: bool) -> int:
    """Compile what `by_look` needs. Returns the nanoseconds of CPU that it took: at the first use only."""
    if personal in _prepared:
        return 0
    before = thread_time_ns()
    _looks(personal)
    _prepared.add(personal)
    return thread_time_ns() - before


def by_look(text: str, personal: bool = False) -> list[Finding]:
    """Credentials, vendors' keys, JWTs, PEM blocks, passwords in URLs, card numbers.

    personal: E-mail addresses, IP addresses and phone numbers too, the last only in international or bracketed form.
    """
    return [
        (*span, rule)
        for rule, might, pattern in _looks(personal)
        if might(text)
        for match in pattern.finditer(text)
        for span in [match.span(match.lastindex or 0)]
        if span[0] < span[1] and (rule not in _CHECKS or _CHECKS[rule](text, *span))
    ]
