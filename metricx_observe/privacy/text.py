"""Secrets inside text that the name before them gives away.

Text is everything that is not a dict or a list: log messages, exception texts, the Python reprs that Sentry makes of
locals (nested and truncated), JSON in strings, query strings, URLs, cookies, header lines, source code.

Every pattern is possessive or bounded, so that the time is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from .looks import MARK, MARKER, Finding
from .names import Verdict

# The name before a separator, read backwards from it: what closes it, then the name. `API key:` has a space.
_NAME_BEFORE = re.compile(
    r"""!?\s{0,9}+\]?+(?:["']\\{0,8}+)?+([\w.\-\[\]%$]{1,64}+(?:[ ](?:ipa|ssecca|terces|etavirp|drac|ytiruces)\b)?+)""",
    re.I,
)
# A comma counts only between two quoted strings, as in a header pair.
_SEPARATOR = re.compile(
    r"""(=>|==?+|:=?+|>|,(?=\s{0,3}+b?\\{0,8}+["']))[ \t]{0,9}+(?:\r?\n[ \t]{0,80}+(?=b?\\{0,8}+["'\[({]))?+"""
)
_MULTIPART = re.compile(
    r"""name=\\{0,8}+"([^"\\]{1,64})\\{0,8}+"(?:\r?\n|(?:\\{1,8}+r)?\\{1,8}+n){2}(.*?)(?=\r?\n--|\\r\\{1,8}+n--|\Z)""",
    re.S,
)
_SEPARATORS = ("=", ":", ">", "',", '",')
_QUOTE = re.compile(r"""[bru f]{0,2}(\\{0,8}+)(["'])""", re.I)
_REST = {'"': re.compile(r'(?:[^"\\]++|\\.)*+', re.S), "'": re.compile(r"(?:[^'\\]++|\\.)*+", re.S)}
_LITERAL = r""""(?:[^"\\]++|\\.)*+"?+|'(?:[^'\\]++|\\.)*+'?+"""
_LITERALS = re.compile(_LITERAL, re.S)
_BRACKETS = re.compile(rf"{_LITERAL}|[\[({{]|[\])}}]", re.S)
_OPEN_BRACKET = re.compile(r"([a-z_][\w.]{0,99}+)?[(\[{]", re.I)
# What has no quotes ends at a space or `&`, and at a comma, a quote or a bracket that closes something around it.
_BARE = re.compile(
    r"""(?:(?:bearer|basic|token|digest|apikey)[ ]{1,3}+)?+"""
    r"""(?:<[^<>\n]{1,200}>|(?:[^\s&;,'"\\)\]}<>]|[,'")\]}](?![\s,;:&'")\]}<>]|\Z)|\\(?![nrt"'\\]))++)""",
    re.I,
)
_LOC = re.compile(r"""["']loc["']""")
_LINE = re.compile(r"""[^\r\n'"\\]++""")
_ELEMENT = re.compile(r"[^<]*+")
_NOTHING = re.compile(
    r"(?:None|null|NULL|True|False|true|false|undefined|str|int|bytes|Any|object|\.+|-"
    r"|(?:%(?:\(\w+\))?[srd]|\{[\w.!:\[\]]*\}|\$\{\w+\}|(?:[Bb]earer|[Bb]asic|[Tt]oken)\s*)+"
    r"|(?:[*•xX\- ]|\\u2022){3,}\d{0,4}|\[(?:Filtered|redacted|REDACTED)\]|<redacted>"
    rf"|{MARK})?"
)
_RANDOM = re.compile(r"(?!\d{4}-\d\d-)(?=\S*[A-Za-z])(?=\S*\d|(?=\S*[A-Z]{2})\S*[a-z])[^\s<>(){}]{16,}")


def looks_random(value: str) -> bool:
    """Whether `value` could be a session id or an authorization code: long, with letters and digits, no spaces."""
    return _RANDOM.match(value) is not None


def says_nothing(value: str) -> bool:
    """Whether a value under a secret name is no secret: empty, None, a placeholder of a format, or masked already."""
    return _NOTHING.fullmatch(value) is not None


def unquoted(value: str) -> str:
    """A Python repr of a string or of bytes without its quotes, anything else as it is."""
    start = 1 if value[:1] == "b" else 0
    if len(value) >= start + 2 and value[start] in "'\"" and value[-1] == value[start]:
        return value[start + 1 : -1]
    return value


class NamedSecrets:
    """Finds the values that a name before them gives away."""

    def __init__(self, stem: Callable[[str], object], verdict: Callable[[str], Verdict]) -> None:
        self._stem = stem
        self._verdict = verdict
        self._harmless: set[str] = set()
        """What stood before a separator and has no stem in it: names repeat, and looking one up costs nothing."""

    def find(self, text: str, source: bool = False) -> list[Finding]:
        """What to replace. source: a line of code, where only literals can be secrets."""
        found: list[Finding] = []
        at = 0
        for position in self._separators(text):
            if position >= at and (separator := _SEPARATOR.match(text, position)) is not None:
                found += self._judge(text, separator, source)
                at = found[-1].end if found else 0
        if "form-data" in text:
            for part in _MULTIPART.finditer(text):
                if self._verdict(part[1]) >= Verdict.IF_RANDOM:
                    found.append(Finding(*part.span(2), "name"))
        return found

    def _judge(self, text: str, separator: re.Match[str], source: bool) -> Iterator[Finding]:
        before = _NAME_BEFORE.match(text[max(0, separator.start() - 80) : separator.start()][::-1])
        if before is None:
            return
        name = before[1][::-1]
        start = separator.start() - before.end()
        says = self._verdict(name)
        if name[0] in "nrt" and text[start - 1 : start] == "\\":
            says = max(says, self._verdict(name[1:]))  # `\npassword=` in a repr
        if name == "input" and _LOC.search(around := text[max(0, start - 300) : start]) and self._stem(around.lower()):
            says = Verdict.SECRET  # an error of pydantic's repeats what was typed
        in_query = text[start - 1 : start] in ("?", "&") or (start <= 2 and " " not in text)
        if says < (Verdict.IN_QUERY if in_query else Verdict.IF_RANDOM):
            return
        if separator[1] == ">" and (source or text[start - 1 : start] != "<"):
            return
        for begin, end in _value(text, separator, name, says, source):
            marker = MARKER.search(text, begin, end + 80) if "[" in text[begin:end] else None
            if marker is not None and marker.start() < end < marker.end():
                end = marker.start()  # the value ends in the middle of a marker: that one stays whole
            value = text[begin:end]
            if name == "token" and "logprob" in text[end : end + 14]:
                continue  # a language model's
            if says < Verdict.SECRET and not looks_random(value) and not (in_query and _is_callback(text, begin, end)):
                continue
            if not says_nothing(value):
                yield Finding(begin, end, "cookie" if says is Verdict.COOKIE else "name")

    def _separators(self, text: str) -> list[int]:
        """Where a separator has a stem of a secret name before it."""
        found: list[int] = []
        for separator in _SEPARATORS:
            # one character first: memchr is a hundred times as fast as the search for two
            if separator[0] not in text or separator not in text:
                continue
            before = [piece[piece.rfind(" ") + 1 :] for piece in text.split(separator)]
            before.pop()
            if not self._harmless.issuperset(before):
                found += self._suspicious(before, text, separator)
        found.sort()
        return found

    def _suspicious(self, before: list[str], text: str, separator: str) -> Iterator[int]:
        at, harmless = -1, self._harmless
        if len(harmless) > 20_000:
            harmless.clear()
        for piece in before:
            at = text.find(separator, at + 1)
            if piece in harmless:
                continue
            if not piece:  # a space stands before the separator
                piece = text[max(0, at - 64) : at].rstrip(" !").rpartition(" ")[2]
            if self._stem(piece[-64:].lower()):
                yield at + len(separator) - 1
            elif 0 < len(piece) < 32:
                harmless.add(piece)


def _is_callback(text: str, start: int, end: int) -> bool:
    """Whether a `code` or `state` stands in a query string that has both, or is long for a word."""
    around = text[max(0, start - 500) : end + 500]
    return end - start >= 8 or ("code=" in around and "state=" in around)


def _value(
    text: str, separator: re.Match[str], name: str, says: Verdict, source: bool
) -> Iterator[tuple[int, int]]:
    """Where the value after a name stands: mostly one stretch; of an expression in source code, its literals."""
    at = separator.end()
    if MARKER.match(text, at) is not None:
        return
    if separator[1] == ">":
        yield _span(_ELEMENT, text, at)
    elif (quote := _QUOTE.match(text, at)) is not None:
        end = _closing(text, quote)
        if end < len(text) or not source:
            yield quote.end(), end
    elif (bracket := _OPEN_BRACKET.match(text, at)) is not None:
        end = _balanced(text, bracket.end() - 1)
        if not source:
            yield at, end
        elif not bracket[1] or bracket[1][0].isupper():
            yield from ((found.start() + 1, found.end() - 1) for found in _LITERALS.finditer(text, at, end))
    else:
        whole = says is Verdict.COOKIE or (separator[1] == ":" and "authorization" in name.lower())
        start, end = _span(_LINE if whole else _BARE, text, at)
        if not source or text[start : start + 1].isdigit() or _inside_literal(text, separator.start()):
            yield start, end


def _span(pattern: re.Pattern[str], text: str, at: int) -> tuple[int, int]:
    found = pattern.match(text, at)
    return (at, at) if found is None else found.span()


def _closing(text: str, quote: re.Match[str]) -> int:
    """Where the string that `quote` opens ends; the end of the text when it was truncated."""
    slashes, mark, at = quote[1], quote[2], quote.end()
    if not slashes:
        return _span(_REST[mark], text, at)[1]
    while (at := text.find(slashes + mark, at)) >= 0:
        if text[at - 1] != "\\":
            return at
        at += len(slashes) + 1
    return len(text)


def _balanced(text: str, at: int) -> int:
    """Where the bracket at `at` is closed; the end of the text when it was truncated."""
    depth = 0
    for match in _BRACKETS.finditer(text, at):
        depth += (match[0] in "[({") - (match[0] in "])}")
        if depth == 0:
            return match.end()
    return len(text)


def _inside_literal(line: str, at: int) -> bool:
    return line.count('"', 0, at) % 2 == 1 or line.count("'", 0, at) % 2 == 1
