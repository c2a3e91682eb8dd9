"""Secrets inside text: by the name before them, and by what they look like.

Text is everything that is not a dict or a list: log messages, exception texts, the Python reprs that Sentry makes of
locals (nested and truncated), JSON in strings, query strings, URLs, cookies, header lines, source code.

Every pattern is possessive or bounded, so that the time is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .names import Verdict

MARKER = re.compile(r"\[(?:scrubbed \w+ len=\d+ #[0-9a-f]{4}|cut|dropped \w+|unreadable \w+)\]")
HASHED = re.compile(r"[0-9a-f]{64}|\[dropped \w+\]")


class Finding(NamedTuple):
    """A stretch of text that must not leave, and the rule that found it."""

    start: int
    end: int
    rule: str


# The name, what closes it, and what separates it from its value: `name=`, `name: `, `"name":`, `'name', '`, `name">`.
# A separator that is a comma counts only between two quoted strings: a header pair in a repr.
_NAMED = re.compile(
    r"""(?<!\w)([A-Za-z_][\w.\-\[\]%$]{1,63}+)(\\{0,8}+["'])?+\]?+"""
    r"""(?:\s{0,3}+(==?+|!=|:=?+|=>|,(?=\s{0,3}+b?\\{0,8}+["']))\s{0,3}+|(>)|((?:\r?\n|\\r\\n|\\n){2}))"""
)
_OPEN_QUOTE = re.compile(r"""[bBrRuUfF]{0,2}(\\{0,8}+)(["'])""")
_REST = {'"': re.compile(r'(?:[^"\\]++|\\.)*+', re.S), "'": re.compile(r"(?:[^'\\]++|\\.)*+", re.S)}
_BRACKETS = re.compile(r""""(?:[^"\\]++|\\.)*+"?+|'(?:[^'\\]++|\\.)*+'?+|[\[({]|[\])}]""", re.S)
_OPEN_BRACKET = re.compile(r"(?:[A-Za-z_][\w.]{0,99}+)?[(\[{]")
_LITERAL = re.compile(r""""(?:[^"\\]++|\\.)++"|'(?:[^'\\]++|\\.)++'""")
_BARE = re.compile(
    r"""(?:(?:bearer|basic|token|digest|apikey)[ ]{1,3}+)?(?:<[^<>\n]{1,200}>|(?:[^\s&;'"\\,)\]}]|[,)\]}](?![\s,)\]}'"]|\Z)|\\(?![nrt"'\\]))++)""",
    re.I,
)
_LINE = re.compile(r"""[^\r\n'"\\]++""")
_ELEMENT = re.compile(r"[^<]*+")
_PART = re.compile(r".*?(?=\r?\n--|\\r\\n--|\Z)", re.S)
_KEPT = re.compile(
    r"(?:None|null|NULL|True|False|true|false|undefined|str|int|bytes|Any|object|\*+|\.+|-|"
    r"(?:%\(?\w*\)?[srd]|\{[\w.!:\[\]]*\}|\$\{?\w+\}?|(?:[Bb]earer|[Bb]asic|[Tt]oken)\s*)+|\[(?:Filtered|redacted|REDACTED)\]|<redacted>)?"
)
_NUMBER = re.compile(r"\d{3,}")
_RANDOM = re.compile(r"(?=[^\d\s]*+\d)(?=[^A-Za-z\s]*+[A-Za-z])[^\s<>(){}]{16,}")

_TOKEN = r"[A-Za-z0-9_\-]"
VALUES: tuple[tuple[str, str], ...] = (
    ("pem", r"-----BEGIN [A-Z0-9 ]{1,40}-----(?s:.*?)(?:-----END [A-Z0-9 ]{1,40}-----|\Z)"),
    ("jwt", rf"(?<![A-Za-z0-9])eyJ{_TOKEN}{{8,}}+(?:\.{_TOKEN}{{2,}}+=*+){{1,4}}+"),
    (
        "vendor_key",
        r"(?<![A-Za-z0-9])(?:"
        rf"(?:sk|pk-lf)-{_TOKEN}{{16,}}+|(?:sk|pk|rk)_(?:live|test)_\w{{10,}}+|whsec_[\w+/=]{{16,}}+"
        rf"|shp[a-z]{{2,3}}_\w{{16,}}+|gh[pousr]_\w{{20,}}+|github_pat_\w{{20,}}+|(?:glpat|xapp|GOCSPX|pypi)-{_TOKEN}{{16,}}+"
        rf"|xox[a-z](?:\.xox[a-z])?-{_TOKEN}{{10,}}+|A[A-Z]{{2}}A[A-Z0-9]{{16}}(?![A-Za-z0-9])|AIza{_TOKEN}{{30,}}+"
        rf"|EAA[A-Za-z0-9]{{20,}}+|ya29\.{_TOKEN}{{10,}}+|1//0{_TOKEN}{{20,}}+|4/0A{_TOKEN}{{20,}}+"
        rf"|SG\.{_TOKEN}{{16,}}+\.{_TOKEN}{{16,}}+|(?:hf|npm|gsk)_\w{{20,}}+"
        r")|hooks\.slack\.com/services/[\w/]{20,}+",
    ),
    # Prose knows `bearer tokens` and `basic understanding`: a credential has a digit, a capital inside or padding.
    (
        "credentials",
        r"(?<![A-Za-z0-9])(?i:bearer|basic)[ ]{1,3}+(?:(?=[A-Za-z]*+[0-9._~+/=\-]|[a-z]*+[A-Z]+[a-z]|[A-Za-z]{20})[A-Za-z0-9._~+/\-]{6,}+=*+)",
    ),
    ("url_password", r"(?<=://)[^\s:/?#@'\"]{0,256}+:[^\s/?#'\"]{1,256}@|(?<=://)[\w\-.%]{16,256}+@"),
    ("card", r"(?<![\w.])[2-6](?:[ \-]?\d){13,18}+(?![\w])"),
)
VALUE = re.compile("|".join(f"(?P<{rule}>{pattern})" for rule, pattern in VALUES))

PERSONAL = re.compile(
    r"(?P<email>(?<![\w.+\-])[\w.+\-]{1,64}+@[\w\-]{1,63}+(?:\.[\w\-]{1,63}+){1,8}+)"
    r"|(?P<ip>(?<![\w.:])(?:(?:\d{1,3}\.){3}\d{1,3}(?![\w.])|(?:[0-9A-Fa-f]{1,4}:){2,7}(?::?[0-9A-Fa-f]{1,4}){1,7}(?![\w:])))"
    r"|(?P<phone>(?<![\w.])(?:\+\d|\(\d{3}\))[\d ()\-.]{6,18}\d(?!\w))"
)


def looks_random(value: str) -> bool:
    """Whether `value` could be a session id or an authorization code: long, with letters and digits, no spaces."""
    return len(value) >= 16 and _RANDOM.match(value) is not None


def says_nothing(value: str) -> bool:
    """Whether a value under a secret name is no secret: empty, None, a placeholder of a format, or masked already."""
    return _KEPT.fullmatch(value) is not None or MARKER.fullmatch(value) is not None


def unquoted(value: str) -> str:
    """A Python repr of a string or of bytes without its quotes, anything else as it is."""
    start = 1 if value[:1] == "b" else 0
    if len(value) >= start + 2 and value[start] in "'\"" and value[-1] == value[start]:
        return value[start + 1 : -1]
    return value


def by_value(text: str) -> Iterator[Finding]:
    """Secrets that look like what they are, wherever they stand."""
    for match in VALUE.finditer(text):
        rule = match.lastgroup or ""
        start, end = match.span()
        if rule == "card":
            if not _is_card(match[0]):
                continue
        elif rule == "url_password":
            colon = match[0].find(":")
            start, end = start + colon + 1, end - 1
        elif rule == "credentials":
            start += match[0].rfind(" ") + 1
        if MARKER.match(text, start) is None:
            yield Finding(start, end, rule)


def _is_card(text: str) -> bool:
    """Luhn's check and the issuers' prefixes and lengths: ids of 13 to 19 digits pass Luhn alone once in ten."""
    digits = [int(c) for c in text if c.isdigit()]
    number, length = "".join(map(str, digits)), len(digits)
    if not (
        (number[0] == "4" and length in (16, 19))
        or (length == 16 and (51 <= int(number[:2]) <= 55 or 2221 <= int(number[:4]) <= 2720))
        or (length == 16 and (number.startswith(("6011", "65")) or 3528 <= int(number[:4]) <= 3589))
        or (length == 15 and number.startswith(("34", "37")))
        or (length == 14 and number.startswith(("36", "38", "30")))
        or number.startswith("62")
    ):
        return False
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (doubled + sum(digits[::-2])) % 10 == 0


def by_name(text: str, verdict: Callable[[str], Verdict], query: bool = False, source: bool = False) -> Iterator[Finding]:
    """Values that a name before them gives away.

    query: the text is a query string. source: a line of code, where only literals can be secrets.
    """
    at = 0
    while (match := _NAMED.search(text, at)) is not None:
        at = match.end()
        name = match[1]
        if text[match.start() - 1 : match.start()] == "\\" and name[0] in "nrt":
            name = name[1:]  # `\npassword=` in a repr
        says = verdict(name)
        if says is Verdict.HARMLESS or says is Verdict.PERSONAL:
            if name != "input" or "'loc': (" not in text:  # pydantic's errors repeat what was typed
                continue
            says = Verdict.SECRET
        if match[3] == "," and match[2] is None:
            continue
        for start, end in _value(text, match, says, source):
            value = text[start:end]
            at = max(at, end)
            if says_nothing(value):
                continue
            if says is Verdict.IF_RANDOM and not looks_random(value) and not _oauth(text, match.start(), end, query):
                continue
            yield Finding(start, end, "cookie" if says is Verdict.COOKIE else "name")


def _oauth(text: str, start: int, end: int, query: bool) -> bool:
    """Whether a `code` or `state` stands in a query string that has both, or is long there."""
    if not (query or text[start - 1 : start] in ("?", "&") or text[end : end + 1] == "&"):
        return False
    around = text[max(0, start - 500) : end + 500]
    return end - start >= 13 or ("code=" in around and "state=" in around)


def _value(text: str, match: re.Match[str], says: Verdict, source: bool) -> Iterator[tuple[int, int]]:
    """Where the value after a name stands: mostly one stretch; of a container in source code, its literals."""
    at = match.end()
    if MARKER.match(text, at) is not None:
        return
    if match[4] or match[5]:
        if not source:
            yield _span(_ELEMENT if match[4] else _PART, text, at)
        return
    if (quote := _OPEN_QUOTE.match(text, at)) is not None:
        start, end = quote.end(), _closing(text, quote)
        if end < len(text) or not source:
            yield start, end
        return
    if (bracket := _OPEN_BRACKET.match(text, at)) is not None:
        end = _balanced(text, bracket.end() - 1)
        if not source:
            yield at, end
        elif bracket[0][0] in "[({" or bracket[0][0].isupper():
            yield from ((literal.start() + 1, literal.end() - 1) for literal in _LITERAL.finditer(text, at, end))
        return
    whole_line = says is Verdict.COOKIE or (match[3] == ":" and "authorization" in match[1].lower())
    start, end = _span(_LINE if whole_line else _BARE, text, at)
    if not source or _NUMBER.match(text, start) or _inside_literal(text, match.start()):
        yield start, end


def _span(pattern: re.Pattern[str], text: str, at: int) -> tuple[int, int]:
    found = pattern.match(text, at)
    return (at, at) if found is None else found.span()


def _closing(text: str, quote: re.Match[str]) -> int:
    """Where the string that `quote` opens ends; the end of the text when it was truncated."""
    slashes, mark = quote[1], quote[2]
    if not slashes:
        found = _REST[mark].match(text, quote.end())
        return quote.end() if found is None else min(found.end(), len(text))
    at = quote.end()
    while (at := text.find(slashes + mark, at)) >= 0:
        if text[at - 1] != "\\":
            return at
        at += len(slashes) + 1
    return len(text)


def _balanced(text: str, at: int) -> int:
    """Where the bracket at `at` is closed; the end of the text when it was truncated."""
    depth = 0
    for match in _BRACKETS.finditer(text, at):
        if match[0] in "[({":
            depth += 1
        elif match[0] in "])}":
            depth -= 1
            if depth == 0:
                return match.end()
    return len(text)


def _inside_literal(line: str, at: int) -> bool:
    return line.count('"', 0, at) % 2 == 1 or line.count("'", 0, at) % 2 == 1
