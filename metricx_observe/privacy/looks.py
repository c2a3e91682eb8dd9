"""Secrets and personal data that are known by what they look like, wherever they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

MARK = r"\[(?:scrubbed \w+ len=\d+ #[0-9a-f]{4}|cut|dropped \w+|unreadable \w+)\]"
MARKER = re.compile(MARK)


class Finding(NamedTuple):
    """A stretch of text that must not leave, and the rule that found it."""

    start: int
    end: int
    rule: str


class _Kind(NamedTuple):
    """A regex that begins with one literal character runs at the speed of memchr, any other at a hundredth of it.

    So `near` looks for the rarest character of a kind with what stands beside it, and `pattern` runs only after it. All
    are possessive or bounded, so that the time is linear in the length of the text.
    """

    rule: str
    near: str
    pattern: str


_T = r"[A-Za-z0-9_\-]"
# In a repr a line break before a word is `\n`, whose n is no part of the word.
_ALONE = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))"
# Prose has `bearer tokens` and `basic understanding`: a credential has a digit, a capital inside, or is long.
_CREDENTIALS = (
    r"[Bb](?:(?<![A-Za-z0-9].)|(?<=\\[nrt].))(?:earer|asic|EARER|ASIC)[ ]{1,3}+"
    r"(?=[A-Za-z._~+/=\-]*+\d|[a-z]*+[A-Z]+[a-z]|[A-Za-z0-9._~+/]{20})[A-Za-z0-9._~+/\-]{6,}+=*+"
)
# These have at least 18 characters of this alphabet in a row, which prose seldom has: one look excludes them all.
_KEYS = (
    _Kind("jwt", r"J(?<=eyJ)", rf"{_ALONE}eyJ{_T}{{8,}}+(?:\.{_T}*+=*+){{0,4}}+"),
    _Kind(
        "vendor_key",
        r"-(?!----)(?=[\w\-]{6})(?:(?<=sk-)|(?<=pk-)|(?<=pat-)|(?<=app-)|(?<=SPX-)|(?<=ypi-)|(?<=xox[a-z]-))",
        rf"{_ALONE}(?:(?:sk|pk-lf|glpat|xapp|GOCSPX|pypi)-{_T}{{16,}}+|xox[a-z]-{_T}{{16,}}+)",
    ),
    _Kind(
        "vendor_key",
        r"_(?=\w{10})(?:(?<=k_)|(?<=sec_)|(?<=shp.._)|(?<=shp..._)|(?<=gh._)|(?<=pat_)|(?<=hf_)|(?<=npm_))",
        rf"{_ALONE}(?:[sprk]k_(?:live|test)_\w{{16,}}+|whsec_[\w+/=]{{16,}}+|shp[a-z]{{2,3}}_\w{{16,}}+|gh[pousr]_\w{{20,}}+"
        r"|github_pat_\w{20,}+|(?:hf|npm|gsk)_\w{20,}+)",
    ),
    _Kind(
        "vendor_key",
        r"A(?:[A-Z]{2}A[A-Z0-9]{16}|Iza|(?<=EA)A)",
        rf"{_ALONE}(?:A[A-Z]{{2}}A[A-Z0-9]{{16}}(?![A-Za-z0-9])|AIza{_T}{{30,}}+|EAA[A-Za-z0-9]{{20,}}+)",
    ),
    _Kind(
        "vendor_key",
        r"\.(?:(?<=ya29\.)|(?<=SG\.))",
        rf"{_ALONE}(?:ya29\.{_T}{{18,}}+|SG\.{_T}{{18,}}+\.{_T}{{18,}}+)",
    ),
    _Kind("vendor_key", r"/(?:/0|0A)", rf"{_ALONE}(?:1//0|4/0A){_T}{{20,}}+"),
    _Kind("vendor_key", r"/(?<=com/)services/", r"hooks\.slack\.com/services/[\w/]{20,}+"),
)
_LONG_RUN = b"x" * 18
_RUNS = bytes(0x78 if re.match(_T, chr(byte)) and byte < 0x80 else 0x20 for byte in range(256))
_SECRETS = (
    _Kind("pem", r"-BEGIN (?<=-----BEGIN )", r"-----BEGIN [\w ]{1,40}-----(?s:.*?)(?:-----END [\w ]{1,40}-----|\Z)"),
    _Kind("credentials", r"b(?:earer|asic) ", _CREDENTIALS),
    _Kind("credentials", r"B(?:earer|asic|EARER|ASIC) ", _CREDENTIALS),
    _Kind("url_password", r"@(?<!\s@)", r"://(?:[^\s:/?#@'\"]{0,256}+:[^\s/?#'\"]{1,256}|[\w\-.%]{16,256}+)@"),
    _Kind(
        "encoded_url_password",
        r"%(?:3A%2F%2F|3a%2f%2f)",
        r"(?i:%3A%2F%2F[\w\-.~]{0,256}+%3A[^\s&%]{0,256}+(?:%(?!40)[^\s&%]{1,256}+){0,99}+%40)",
    ),
)
_NO_WORD = r"(?:(?<![\w.:])|(?<=\\[nrt]))"
_PERSONAL = (
    _Kind("email", r"@", r"(?<![\w.+\-])[\w.+\-]{1,64}+@[\w\-]{1,63}+(?:\.[\w\-]{1,63}+){1,8}+"),
    _Kind("ip", r"\.\d{1,3}\.\d", rf"{_NO_WORD}(?:\d{{1,3}}\.){{3}}\d{{1,3}}(?![\w.])"),
    _Kind(
        "ip",
        r":[0-9A-Fa-f:]",
        rf"{_NO_WORD}(?:(?:[0-9A-Fa-f]{{1,4}}:){{7}}+[0-9A-Fa-f]{{1,4}}+"
        r"|(?:[0-9A-Fa-f]{1,4}:){1,7}+(?::[0-9A-Fa-f]{1,4}+){1,7}+)(?![\w:])",
    ),
    _Kind("phone", r"\+\d", rf"{_NO_WORD}\+\d[\d ()\-.]{{6,18}}\d(?!\w)"),
    _Kind("phone", r"\(\d", rf"{_NO_WORD}\(\d{{3}}\)[\d ()\-.]{{6,18}}\d(?!\w)"),
)
_CARD = re.compile(r"(?:(?<![\w.])|(?<=\\[nrt]))[2-6]\d{3}(?:[ \-]?\d){10,15}+(?!\w)")
_DIGITS = bytes.maketrans(b"123456789-", b"000000000 ")

_Search = tuple[str, str, re.Pattern[str], re.Pattern[str]]


def _compiled(kinds: tuple[_Kind, ...]) -> tuple[_Search, ...]:
    return tuple(
        (kind.rule, kind.near.lstrip("\\")[0], re.compile(kind.near), re.compile(kind.pattern)) for kind in kinds
    )


_FIND_KEYS, _FIND_SECRETS, _FIND_PERSONAL = _compiled(_KEYS), _compiled(_SECRETS), _compiled(_PERSONAL)


def by_look(text: str) -> list[Finding]:
    """Credentials, vendors' keys, JWTs, PEM blocks, passwords in URLs, card numbers."""
    data = text.encode("utf-8", "replace")
    found = [_secret_part(rule, match) for rule, match in _matches(_FIND_SECRETS, text)]
    if _LONG_RUN in data.translate(_RUNS):
        found += (_secret_part(rule, match) for rule, match in _matches(_FIND_KEYS, text))
    if _may_hold_card(data):
        found += (Finding(*match.span(), "card") for match in _CARD.finditer(text) if _is_card(match[0]))
    return [part for part in found if part.end and MARKER.match(text, part.start) is None] if found else found


def _matches(kinds: tuple[_Search, ...], text: str) -> Iterator[tuple[str, re.Match[str]]]:
    for rule, anchor, near, pattern in kinds:
        if anchor in text and near.search(text):
            for match in pattern.finditer(text):
                yield rule, match


def personal(text: str) -> list[Finding]:
    """E-mail addresses, IP addresses and phone numbers, the last only in international or bracketed form."""
    return [Finding(*match.span(), rule) for rule, match in _matches(_FIND_PERSONAL, text)]


def _secret_part(rule: str, match: re.Match[str]) -> Finding:
    """Without the scheme of a credential and the user of a URL.

    A JWT without its dots is matched and let go here: a pattern that demands them could backtrack.
    """
    start, end = match.span()
    if rule == "jwt" and "." not in match[0]:
        end = 0
    elif rule == "credentials":
        start += match[0].rfind(" ") + 1
    elif rule == "url_password":
        start, end = start + max(match[0].find(":", 3) + 1, 3), end - 1
    elif rule == "encoded_url_password":
        start, end = start + match[0].upper().find("%3A", 9) + 3, end - 3
    return Finding(start, end, rule)


def _may_hold_card(data: bytes) -> bool:
    digits = data.translate(_DIGITS)
    return b"0000" in digits and (b"0000 0000" in digits or b"0" * 14 in digits)


def _is_card(text: str) -> bool:
    """Luhn's check and the issuers' prefixes and lengths: an id of 13 to 19 digits passes Luhn's alone once in ten."""
    number = "".join(filter(str.isdigit, text))
    length, two, four = len(number), int(number[:2]), int(number[:4])
    issued = two == 62 or {
        14: two in (30, 36, 38),
        15: two in (34, 37),
        16: two in (65, *range(40, 50), *range(51, 56)) or four in (6011, *range(2221, 2721), *range(3528, 3590)),
        19: number[0] == "4",
    }.get(length, False)
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in number[-2::-2])
    return issued and (doubled + sum(map(int, number[::-2]))) % 10 == 0
