"""The issuers' documented formats of keys, tokens and hashes of passwords: `issuers.tsv`, an issuer a line."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache
from pkgutil import get_data

# A pattern begins at the start of a word. In a repr a line break before it is `\n`, whose n is not a part of the word;
# so is a quote `%22`, `\x22` or `\u0022`, and a colour on a terminal ends with an m.
# Telegram writes `/bot` before its own. What begins with a sign needs none.
ALONE = (
    r"(?:(?<![A-Za-z0-9])|(?=[$%*{])|(?<=\\[nrtbfv])|(?<=[0-9A-Fa-f]{2})(?:(?<=%..)|(?<=\\x..)|(?<=\\u00..))"
    r"|(?<=m)(?:(?<=\[\d.)|(?<=\[\d\d.))|(?<=/bot))"
)
BEFORE = r"(?:\A|[^A-Za-z0-9]|\\[nrtbfv]|(?:%|\\x|\\u00)[0-9A-Fa-f]{2}|\[\d\d?m|/bot)"
"""The same in Rust's syntax, which cannot look behind."""
# How many letters come before the part that is an issuer's own need not be counted to know that it does not occur.
_COUNTED = re.compile(r"\A(?:\[[^\]]+\]|\\d)\{[\d,]+\}")
_begins_word = re.compile(r"(?:\[|\((?:\?:)?)?[A-Za-z0-9]").match

# A letter that a pattern must begin with.
_LETTER = re.compile(r"[A-Za-z0-9_\-](?![?*+{])").match

# Words with hyphens between them are a name: `sk-toggleable-label-2`, `npm_config_value`. A key's parts are longer, or
# digits stand among its letters.
_is_name = re.compile(
    r"(?:(?:[A-Za-z][a-z]{0,14}\d{0,4}|[A-Z]{1,14}\d{0,4}|v?\d{1,8}[a-z]{0,2})(?:[\-_./]++|\Z))++"
).fullmatch
# Read backwards: characters of base64 without a sign of any other text, or the head of a `data:` URL.
_BASE64 = r"(?:[BbFf]2%|[A-Za-z0-9+/])"
_IN_BASE64 = re.compile(rf"{_BASE64}{{64}}|[A-Za-z0-9_\-]{{64}}|({_BASE64}{{0,64}}(?:,|C2%)46esab)").match
_LONGEST = 200  # characters of what that reads


@cache
def formats() -> list[tuple[str, str, list[str], bool]]:
    """Rule, pattern, what one of occurs wherever it does, and whether that begins a word. Read at the first use."""
    found: defaultdict[tuple[str, bool], list[str]] = defaultdict(list)
    for line in (get_data(__name__, "issuers.tsv") or b"").decode().splitlines():
        if not line.startswith("#"):
            rule, _, pattern, *_ = line.split("\t")
            found[rule, _COUNTED.match(pattern) is None and _begins_word(pattern) is not None].append(pattern)
    return [
        (rule, f"{ALONE}{_by_letter(patterns)}", [_COUNTED.sub("", pattern) for pattern in patterns], begins)
        for (rule, begins), patterns in found.items()
    ]


def _by_letter(patterns: list[str]) -> str:
    """One of `patterns`; those that begin alike stand together, since Python tries one alternative after the other."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for pattern in patterns:
        alike[pattern[: _LETTER(pattern) is not None]].append(pattern)
    branches: list[str] = []
    for first, rest in alike.items():
        together = first and len(rest) > 1
        branches += [f"{first}{_by_letter([pattern[1:] for pattern in rest])}"] if together else rest
    return f"(?:{'|'.join(branches)})"


def is_key(text: str, start: int, end: int) -> bool:
    """Whether what looks like a key from `start` to `end` is one: no name made of words, no piece of a file."""
    return not (_is_name(text[start:end]) or in_base64(text, start))


def in_base64(text: str, at: int) -> bool:
    """Whether `at` is inside of an image or another file in base64, in which anything comes up by chance."""
    before = _IN_BASE64(text[max(0, at - _LONGEST) : at][::-1])
    if before is None or before[1] is not None:
        return before is not None
    capitals, digits = (sum(map(kind, before[0])) for kind in (str.isupper, str.isdigit))
    small = sum(map(str.islower, before[0]))
    return min(capitals, small) >= 8 and digits >= 2  # what is hexadecimal, or a path, is not a file
