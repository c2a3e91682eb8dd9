"""Secrets inside text that the name before them gives away.

Text is everything that is not a dict or a list: log messages, exception texts, the Python reprs that Sentry makes of
locals (nested and truncated), JSON in strings, query strings, URLs, cookies, header lines, source code, XML, multipart
forms.

Every pattern is possessive or bounded, so that the time is linear in the length of the text.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from urllib.parse import unquote

from .looks import MARK, Finding
from .names import COOKIE, IF_RANDOM, IN_QUERY, SECRET, Names, name_before

# A comma counts only between two quoted strings, as in a header pair.
_SEPARATORS = ("=", ":", "',", '",')
_SEPARATOR = re.compile(
    r"""(=>|==?+|:=?+|,(?=\s{0,3}+b?\\{0,8}+["']))[*`]{0,3}+[ \t\xa0]{0,9}+[*`]{0,3}+"""
    r"""(?:\r?\n[ \t]{0,80}+(?=b?\\{0,8}+["'\[({]))?+"""
)
_REPR = re.compile(r"""b?(["'])(.*)\1""", re.S)
_LITERAL = r""""((?:[^"\\]++|\\.)*+)"?+|'((?:[^'\\]++|\\.)*+)'?+"""
_LITERALS = re.compile(_LITERAL, re.S)
_BRACKETS = re.compile(rf"{_LITERAL}|[\[({{]|[\])}}]", re.S)
# A string, to its end or that of the text; quotes inside of other quotes have backslashes.
_QUOTED = re.compile(rf"""[bruf ]{{0,2}}+(?:(\\{{1,8}}+["'])(.*?)(?:(?<!\\)\1|\Z)|{_LITERAL})""", re.S | re.I)
_OPEN_QUOTE = re.compile(r"""(?:[bruf ]{0,2}+\\{0,8}+["'])?+""", re.I)
_OPEN_BRACKET = re.compile(r"([a-z_][\w.]{0,99}+)?[(\[{]", re.I)
# What has no quotes ends at a space or `&`, and at a comma, a quote or a bracket that closes something around it.
_BARE = re.compile(
    r"""(?:(?:bearer|basic|token|digest|apikey)[ ]{1,3}+)?+"""
    r"""(?:<[^<>\n]{1,200}>|(?:[^\s&;,'"\\)\]}<>]++|[,'")\]}](?![\s,;:&'")\]}<>]|\Z)|\\(?![nrt"'\\]))++|)""",
    re.I,
)
# An XML element with text in it, which may be truncated. `<token>` alone is a placeholder.
_ELEMENT = re.compile(
    r"<(?:[\w.\-]{1,64}+:)?+([\w.\-]{1,64}+)(?:[\s\\][^<>]{0,999}+)?>(?:<!\[CDATA\[)?+(?:([^<]++)</|(\w[^\s<]*+)\Z)"
)
# A field of a multipart form: its name, other headers, an empty line, and the value. In a repr `\\n` ends a line.
_NEW_LINE = r"(?:\r?\n|(?:\\{1,8}+r)?\\{1,8}+n)"
_IN_LINE = rf"(?:(?!{_NEW_LINE}).)"
_FIELD = re.compile(
    rf"""form-data; ?name=\\{{0,8}}+["']?([\w.\-\[\]%$]{{1,64}}+){_IN_LINE}{{0,400}}+{_NEW_LINE}"""
    rf"(?:[\w\-]{{1,64}}+:{_IN_LINE}{{1,400}}+{_NEW_LINE}){{0,5}}+{_NEW_LINE}((?s:.)*?)(?:{_NEW_LINE}--|\Z)"
)
_ATTRIBUTE = re.compile(r"""\b(?:name|key)=\\*+["']([\w.\-]{1,64}+)\\*+["']\s++value=\\*+["']([^"'\\<>]++)""")
_SQL = re.compile(rf"\[SQL: ([^\[]++)\[parameters: ({_IN_LINE}++)")  # how SQLAlchemy ends its errors
# What stands in other clothes: percent-encoded, once or twice, or in base64 as JSON.
_BASE64, _RUN = re.compile(r"eyJ[\w+/\-]{8,}+", re.A), re.compile(r"[^\s\"'<>&]++")
_PERCENT = re.compile(r"%(?:25)?3[AaDd]")
_LINE = re.compile(r"""[^\r\n'"\\]*+""")
says_nothing = re.compile(
    r"(?:None|null|NULL|True|False|true|false|undefined|str|int|bytes|Any|object|\.+|-"
    r"|(?:%(?:\(\w+\))?[srd]|\{[\w.!:\[\]]*\}|\$\{\w+\}|(?:[Bb]earer|[Bb]asic|[Tt]oken)\s*)+"
    r"|(?:[*•xX\- ]|\\u2022){3,}\d{0,4}|\[(?:Filtered|redacted|REDACTED)\]|<redacted>"
    rf"|{MARK})?"
).fullmatch
"""Whether a value under a secret name is no secret: empty, None, a placeholder of a format, or masked already."""
_DECIDES = 128
"""Characters of a value that show whether it is random: what is read beyond is replaced, and so is read once only."""
looks_random = re.compile(
    r"(?!\d{4}-\d\d-)(?=\S*[A-Za-z])(?=\S*\d|(?=\S*[A-Z]{2})\S*[a-z])[^\s<>(){}]{16,}"
).match
"""Whether a value could be a session id or an authorization code: long, with letters and digits, no spaces."""


def unquoted(value: str) -> str:
    """A Python repr of a string or of bytes without its quotes, anything else as it is."""
    quoted = _REPR.fullmatch(value)
    return quoted[2] if quoted else value


def by_name(text: str, names: Names, source: bool = False) -> list[Finding]:
    """The values that a name before them gives away. source: lines of code, where only literals can be secrets."""
    found: list[Finding] = []
    at = 0
    for position in _suspicious(text, names):
        if position >= at and (separator := _SEPARATOR.match(text, position)) is not None:
            found += _judge(text, separator, names, source)
            at = found[-1][1] if found else 0
    if "<" in text or "form-data" in text or "value=" in text or "[SQL: " in text:
        found += _marked_up(text, names)
    return found


def decoded(text: str) -> Iterator[tuple[int, int, str]]:
    """What stands in other clothes: from where to where, and in plain."""
    for run in _BASE64.finditer(text) if "eyJ" in text else ():
        yield *run.span(), b64decode(run[0][: len(run[0]) // 4 * 4], b"-_").decode("latin-1")
    for run in _RUN.finditer(text) if "%" in text else ():
        if _PERCENT.search(run[0]):
            yield *run.span(), unquote(unquote(run[0]))


def _marked_up(text: str, names: Names) -> Iterator[Finding]:
    """What stands in XML elements, in attributes, in the fields of multipart forms, and in the parameters of SQL."""
    for sql in _SQL.finditer(text):
        if any(names.verdicts[word] >= SECRET for word in re.findall(r"\w+", sql[1])):
            yield *sql.span(2), "name"
    for pattern in (_ELEMENT, _FIELD, _ATTRIBUTE):
        for found in pattern.finditer(text):
            says, group = names.verdicts[found[1]], found.lastindex or 0
            random = says == IF_RANDOM and found[1] != "code" and looks_random(found[group])  # HTML's is a listing
            if (says >= SECRET or random) and not says_nothing(found[group]):
                yield *found.span(group), "name"


def _suspicious(text: str, names: Names) -> list[int]:
    """Where separators stand after what could be a secret name."""
    found: list[int] = []
    for separator in _SEPARATORS:
        at = -1
        for before in text.split(separator)[:-1] if separator[0] in text else ():
            at += len(before) + len(separator)
            if names.suspicious[before[before.rfind(" ") + 1 :]]:
                found.append(at)
    return sorted(found)


def _judge(text: str, separator: re.Match[str], names: Names, source: bool) -> Iterator[Finding]:
    before = name_before(text[max(0, separator.start() - 80) : separator.start()][::-1])
    if before is None:
        return
    name, start = before[1][::-1], separator.start() - before.end()
    says = names.verdicts[name]
    if name[0] in "nrt" and text[start - 1 : start] == "\\":
        says = max(says, names.verdicts[name[1:]])  # `\npassword=` in a repr
    if name == "input" and re.search("[\"']loc", text[max(0, start - 300) : start]):
        says = SECRET  # an error of pydantic's repeats what was typed
    in_query = text[start - 1 : start] in ("?", "&")
    if says < (IN_QUERY if in_query else IF_RANDOM):
        return
    whole = says == COOKIE or (separator[1] == ":" and "authorization" in name.lower())

    def counts(begin: int, end: int) -> bool:
        start = text[begin : min(end, begin + _DECIDES)]
        return says >= SECRET or looks_random(start) is not None or (in_query and len(start) >= 8)

    begin = _OPEN_QUOTE.match(text, separator.end()).end()  # type: ignore[union-attr]  # it can be empty
    near = begin + _DECIDES
    if says < SECRET and not (
        (in_query or source or looks_random(text, begin, near))
        and any(counts(*each) for each in _value(text, separator, whole, source, near))
    ):
        return  # without a look at the rest of it, which the next separator in it would read again
    for begin, end in _value(text, separator, whole, source, len(text)):
        value = text[begin:end]
        if counts(begin, end) and not says_nothing(value) and not (name == "token" and "logprob" in text[end : end + 14]):
            yield begin, end, "cookie" if says == COOKIE else "name"


def _value(text: str, separator: re.Match[str], whole: bool, source: bool, stop: int) -> Iterator[tuple[int, int]]:
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
