"""Secrets and personal data that are known by what they look like, wherever they stand.

Most texts hold none, so the answer no is what must be fast: one pass of Rust's regex engine, which pydantic brings, for
all that could be one. Its time is linear in the length of the text whatever the pattern. It cannot look around and
tells no place, so where it says yes the same patterns are looked for as Python reads them, possessive or bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from pydantic_core import SchemaValidator, core_schema

Finding = tuple[int, int, str]
"""From where to where in a text something must not leave, and the rule that found it."""

MARK = r"\[(?:scrubbed \w+ \w+ len=\d+ #[0-9a-f]{4}|cut|dropped \w+|unreadable \w+)\]"
MARKER = re.compile(f"({MARK})")

# In a repr a line break before a word is `\n`, whose n is no part of the word.
_ALONE = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))"
_NO_WORD = r"(?:(?<![\w.:])|(?<=\\[nrt]))"
_T, _A = r"[A-Za-z0-9_\-]", r"[A-Za-z0-9_]"
# The rule and its pattern. A group is what must not leave; where it took no part, nothing must be kept back.
_SECRETS = (
    ("pem", r"-----BEGIN [A-Z0-9 ]{1,40}-----(?s:.*?)(?:-----END [A-Z0-9 ]{1,40}-----|\Z)"),
    # Prose has `bearer tokens` and `basic understanding`: a credential has a digit, a capital inside, or is long.
    ("credentials", rf"{_ALONE}(?i:bearer|basic)[ ]{{1,3}}+(?=[A-Za-z0-9._~+/\-]{{6}})"
     r"((?:[A-Za-z._~+/=\-]*+\d|[a-z]*+[A-Z]+[a-z]|[A-Za-z0-9._~+/]{20})[A-Za-z0-9._~+/\-]*+=*+)"),
    # `netloc` is what `urlsplit` calls an address without its scheme.
    ("url_password", r"(?::\\{0,2}+/\\{0,2}+/|\bnetloc['\"\\]{0,3}+\s?[=:]\s?b?['\"\\]{0,3}+)"
     r"(?:[^\s:/?#@'\"]{0,256}+:([^\s/?#'\"]{1,256})|([A-Za-z0-9_\-.%]{16,256}+))@"),
    ("card", r"(?:(?<![\w.])|(?<=\\[nrt]))[2-6]\d{3}(?:[ \-\xa0]?\d){10,15}+(?!\w)"),
    # A JWT without its dots is matched and let go: to demand them could backtrack.
    ("vendor_key", rf"{_ALONE}(?:(eyJ{_T}{{8,}}+(?:\.{_T}*+=*+){{1,4}}+)|eyJ{_T}++)"),
    ("vendor_key", rf"{_ALONE}(?:(?:sk|pk-lf|glpat|xapp|GOCSPX|pypi|xox[a-z])-{_T}{{16,}}+"
     rf"|whsec_[A-Za-z0-9_+/=]{{16,}}+|(?:[sprk]k_(?:live|test)|shp[a-z]{{2,3}})_{_A}{{16,}}+|(?:gh[pousr]|github_pat|hf|npm|gsk|do[opr]_v1)_{_A}{{20,}}+"
     rf"|A[A-Z]{{2}}A[A-Z0-9]{{16}}(?![A-Za-z0-9])|AIza{_T}{{30,}}+|EAA[A-Za-z0-9]{{20,}}+|ya29\.{_T}{{18,}}+"
     rf"|SG\.{_T}{{18,}}+\.{_T}{{18,}}+|(?:1//0|4/0A){_T}{{20,}}+|key-[0-9a-f]{{32}}|\d{{8,10}}:AA{_T}{{33}})"),
    ("vendor_key", r"(?:hooks\.slack\.com/services|discord(?:app)?\.com/api/webhooks)/([A-Za-z0-9_/\-]{20,}+)"),
    ("password_hash", r"\$(?:2[abxy]|argon2[id]{1,2}|scrypt)\$[A-Za-z0-9./+=,$\-]{20,}+"),
)  # fmt: skip
_PERSONAL = (
    ("email", r"(?<![\w.+\-])[\w.+\-]{1,64}+(?:@|%40)[\w\-]{1,63}+(?:\.[\w\-]{1,63}+){1,8}+"),
    # nobody's address: this machine's, and a version as in Chrome/120.0.0.0
    ("ip", rf"{_NO_WORD}(?<!\w/)(?!127\.|0\.0\.)(?:\d{{1,3}}\.){{3}}\d{{1,3}}(?![\w.])"),
    ("ip", rf"{_NO_WORD}(?:(?:[0-9A-Fa-f]{{1,4}}:){{7}}+[0-9A-Fa-f]{{1,4}}+(?![\w:])"
     r"|(?:[0-9A-Fa-f]{1,4}:){1,7}+(?::[0-9A-Fa-f]{1,4}+){1,7}+(?![\w:]))"),
    ("phone", rf"{_NO_WORD}(?:\+\d|\(\d{{3}}\))[\d ()\-.]{{6,18}}\d(?!\w)"),
)  # fmt: skip
_ISSUED = re.compile(
    r"62\d{12,17}|3[47]\d{13}|3[068]\d{12}|4\d{18}"
    r"|(?=\d{16}\Z)(?:4|5[1-5]|65|6011|35(?:2[89]|[3-8])|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720))\d+"
)


@cache
def occurs(pattern: str) -> Callable[[str], bool]:
    """What tells whether `pattern`, in Rust's syntax, occurs in a text. A lone surrogate would make it a no."""
    return SchemaValidator(core_schema.str_schema(pattern=pattern, strict=True)).isinstance_python


def _wider(pattern: str) -> str:
    """`pattern` for Rust's engine: without what it does not have, so that it matches what Python's does, and more."""
    pattern = re.sub(r"\(\?<?[=!](?:[^()\\]|\\.)*\)|(?<=[*+}])\+", "", pattern)  # looking around, possessiveness
    pattern = re.sub(r",\d+\}", ",}", pattern)  # to count costs it memory
    return pattern.replace(r"\w", r"[\w\p{N}]").replace(r"\Z", r"\z")  # `½` is a letter to Python only


@cache
def hints(personal: bool) -> str:
    """What occurs in every text that `by_look` finds something in, in Rust's syntax."""
    return "|".join(_wider(pattern) for _, pattern in (_SECRETS + _PERSONAL if personal else _SECRETS))


@cache  # at its first use: nobody pays for it by an import
def _looks(personal: bool) -> list[tuple[str, Callable[[str], bool], re.Pattern[str]]]:
    kinds = _SECRETS + _PERSONAL if personal else _SECRETS
    return [(rule, occurs(_wider(pattern)), re.compile(pattern)) for rule, pattern in kinds]


def by_look(text: str, personal: bool = False) -> list[Finding]:
    """Credentials, vendors' keys, JWTs, PEM blocks, passwords in URLs, card numbers.

    personal: E-mail addresses, IP addresses and phone numbers too, the last only in international or bracketed form.
    """
    if not occurs(hints(personal))(text):
        return []
    return [
        (*match.span(match.lastindex or 0), rule)
        for rule, might, pattern in _looks(personal)
        if might(text)
        for match in pattern.finditer(text)
        if (match.lastindex or not pattern.groups) and (rule != "card" or _is_card(match[0]))
    ]


def _is_card(text: str) -> bool:
    """Luhn's check and the issuers' prefixes and lengths: an id of 13 to 19 digits passes Luhn's alone once in ten."""
    number = re.sub(r"\D", "", text)
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in number[-2::-2])
    return _ISSUED.fullmatch(number) is not None and (doubled + sum(map(int, number[::-2]))) % 10 == 0
