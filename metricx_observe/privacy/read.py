"""What must not leave of one text: by the names in it, by how it looks, and by what it says in other clothes."""

from __future__ import annotations

import re
from base64 import b64decode
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from .issuers import ALONE
from .looks import Finding, by_look
from .markup import by_markup
from .names import Names
from .siblings import beside
from .text import by_name
from .tools import by_tool

# Percent-encoded, however often, or in base64 as JSON.
_BASE64, _RUN = re.compile(rf"{ALONE}eyJ[\w+/\-]{{8,}}+", re.A), re.compile(r"[^\s\"'<>&]++")
_PERCENT, _ENCODED = re.compile(r"%(?:25)*+3[AaDd]"), re.compile(r"%(?:25)*([0-9A-Fa-f]{2})")


def findings(text: str, names: Names, personal: bool, source: bool) -> list[Finding]:
    """All that is to be replaced, in its order, none over another. source: lines of code."""
    found = _plain(text, names, personal, source)
    for run in _BASE64.finditer(text) if "eyJ" in text else ():
        plain = b64decode(run[0][: len(run[0]) // 4 * 4], b"-_").decode("latin-1")
        if (hidden := _plain(plain, names, personal)) != []:
            found.append((*run.span(), min(hidden)[2]))  # it has no such form here
    for run in _RUN.finditer(text) if "%" in text and _PERCENT.search(text) else ():
        if _PERCENT.search(run[0]):
            found += _encoded(run, names, personal)
    return apart(found)


def _plain(text: str, names: Names, personal: bool, source: bool = False) -> list[Finding]:
    found = by_name(text, names, source) + by_look(text, personal)
    found += by_markup(text, names)
    if names.might_be_beside(text):
        found += by_tool(text, names)
        found += beside(text, names)
    return found


def _encoded(run: re.Match[str], names: Names, personal: bool) -> Iterator[Finding]:
    """What is secret in a percent-encoded run, and where that stands in the text."""
    parts: list[str] = []
    begins, starts = [0], [run.start()]  # of each stretch in plain, and in the text
    at = length = 0
    for code in _ENCODED.finditer(run[0]):
        parts += (run[0][at : code.start()], chr(int(code[1], 16)))
        length += code.start() - at
        begins += (length, length + 1)
        starts += (run.start() + code.start(), run.start() + code.end())
        at, length = code.end(), length + 1
    plain = "".join((*parts, run[0][at:]))

    def place(position: int) -> int:
        stretch = bisect_right(begins, position) - 1
        return starts[stretch] + position - begins[stretch]

    for begin, end, rule in _plain(plain, names, personal):
        yield place(begin), place(end), rule


def apart(found: Sequence[Finding]) -> list[Finding]:
    """`found` in its order, without what lies in another."""
    if len(found) < 2:
        return list(found)
    result: list[Finding] = []
    at = 0
    for start, end, rule in sorted(found, key=lambda each: (each[0], -each[1])):
        if end > at:
            result.append((max(start, at), end, rule))
            at = end
    return result
