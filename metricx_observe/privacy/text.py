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

_MARKER = r"\[(?:scrubbed \w+ len=\d+ #[0-9a-f]{4}|cut|dropped \w+|unreadable \w+)\]"
MARKER = re.compile(_MARKER)


class Finding(NamedTuple):
    """A stretch of text that must not leave, and the rule that found it."""

    start: int
    end: int
    rule: str


# The name before a separator, read backwards from it: what closes it, then the name. `API key:` has a space.
_NAME_BEFORE = re.compile(
    r"""!?\s{0,9}+\]?+(?:["']\\{0,8}+)?+([\w.\-\[\]%$]{1,64}+(?:[ ](?:ipa|ssecca|terces|etavirp|drac|ytiruces)\b)?+)""",
    re.I,
)
# A comma counts only between two quoted strings, as in a header pair.
_SEPARATOR = re.compile(
    r"""(==?+|:=?+|=>|>|,(?=\s{0,3}+b?\\{0,8}+["']))[ \t]{0,9}+(?:\r?\n[ \t]{0,80}+(?=b?\\{0,8}+["'\[({]))?+"""
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
    rf"|{_MARKER})?"
)
_RANDOM = re.compile(r"(?!\d{4}-\d\d-)(?=\S*[A-Za-z])(?=\S*\d|(?=\S*[A-Z]{2})\S*[a-z])[^\s<>(){}]{16,}")



class _Kind(NamedTuple):
    """One kind of secret. A regex that begins with one literal character runs at the speed of memchr, any other at a
    hundredth of it: so `near` looks for the rarest character with what stands beside it, and `pattern` runs after it.
    """

    rule: str
    anchor: str
    near: re.Pattern[str]
    pattern: re.Pattern[str]


_T = r"[A-Za-z0-9_\-]"
# Prose has `bearer tokens` and `basic understanding`: a credential has a digit, a capital inside, or is long.
_CREDENTIALS = (
    r"(?:[Bb]earer|[Bb]asic|BEARER|BASIC)[ ]{1,3}+"
    r"(?=[A-Za-z._~+/=\-]*+\d|[a-z]*+[A-Z]+[a-z]|[A-Za-z0-9._~+/]{20})[A-Za-z0-9._~+/\-]{6,}+=*+"
)
_KINDS = tuple(
    _Kind(rule, near.lstrip("\\")[0], re.compile(near), re.compile(pattern if "url" in rule else rf"(?<![A-Za-z0-9])(?:{pattern})"))
    for rule, near, pattern in (
        ("pem", r"-BEGIN (?<=-----BEGIN )", r"-----BEGIN [A-Z0-9 ]{1,40}-----(?s:.*?)(?:-----END [A-Z0-9 ]{1,40}-----|\Z)"),
        ("jwt", r"J(?<=eyJ)", rf"eyJ{_T}{{8,}}+(?:\.{_T}*+=*+){{0,4}}+"),
        ("vendor_key", r"-(?!----)(?=[\w\-]{6})(?:(?<=sk-)|(?<=pk-)|(?<=pat-)|(?<=app-)|(?<=SPX-)|(?<=ypi-)|(?<=xox[a-z]-))",
         rf"(?:sk|pk-lf|glpat|xapp|GOCSPX|pypi)-{_T}{{16,}}+|xox[a-z]-{_T}{{10,}}+"),
        ("vendor_key", r"_(?=\w{10})(?:(?<=k_)|(?<=sec_)|(?<=shp.._)|(?<=shp..._)|(?<=gh._)|(?<=pat_)|(?<=hf_)|(?<=npm_))",
         r"[sprk]k_(?:live|test)_\w{10,}+|whsec_[\w+/=]{16,}+|shp[a-z]{2,3}_\w{16,}+|gh[pousr]_\w{20,}+|github_pat_\w{20,}+"
         r"|(?:hf|npm|gsk)_\w{20,}+"),
        ("vendor_key", r"A(?:[A-Z]{2}A[A-Z0-9]{16}|Iza|(?<=EA)A)",
         rf"A[A-Z]{{2}}A[A-Z0-9]{{16}}(?![A-Za-z0-9])|AIza{_T}{{30,}}+|EAA[A-Za-z0-9]{{20,}}+"),
        ("vendor_key", r"\.(?:(?<=ya29\.)|(?<=SG\.))", rf"ya29\.{_T}{{10,}}+|SG\.{_T}{{16,}}+\.{_T}{{16,}}+"),
        ("vendor_key", r"/(?:/0|0A)", rf"1//0{_T}{{20,}}+|4/0A{_T}{{20,}}+"),
        ("vendor_key", r"/(?<=com/)services/", r"hooks\.slack\.com/services/[\w/]{20,}+"),
        ("credentials", r"b(?:earer|asic) ", _CREDENTIALS),
        ("credentials", r"B(?:earer|asic|EARER|ASIC) ", _CREDENTIALS),
        ("url_password", r"@(?<!\s@)", r"://(?:[^\s:/?#@'\"]{0,256}+:[^\s/?#'\"]{1,256}|[\w\-.%]{16,256}+)@"),
        ("encoded_url_password", r"%(?:3A%2F%2F|3a%2f%2f)",
         r"(?i:%3A%2F%2F[\w\-.~]{0,256}+%3A[^\s&%]{0,256}+(?:%(?!40)[^\s&%]{1,256}+){0,99}+%40)"),
    )
)  # fmt: skip
_CARD = re.compile(r"(?<![\w.])[2-6]\d{3}(?:[ \-]?\d){10,15}+(?!\w)")
_PERSONAL = tuple(
    _Kind(rule, near.lstrip("\\")[0], re.compile(near), re.compile(pattern))
    for rule, near, pattern in (
        ("email", r"@", r"(?<![\w.+\-])[\w.+\-]{1,64}+@[\w\-]{1,63}+(?:\.[\w\-]{1,63}+){1,8}+"),
        ("ip", r"\.\d{1,3}\.\d", r"(?<![\w.:])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])"),
        ("ip", r":[0-9A-Fa-f:]",
         r"(?<![\w.:])(?:(?:[0-9A-Fa-f]{1,4}:){7}+[0-9A-Fa-f]{1,4}+|(?:[0-9A-Fa-f]{1,4}:){1,7}+(?::[0-9A-Fa-f]{1,4}+){1,7}+)(?![\w:])"),
        ("phone", r"\+\d", r"(?<![\w.])\+\d[\d ()\-.]{6,18}\d(?!\w)"),
        ("phone", r"\(\d", r"(?<![\w.])\(\d{3}\)[\d ()\-.]{6,18}\d(?!\w)"),
    )
)  # fmt: skip
_DIGITS = bytes(0x30 if chr(byte).isdigit() and byte < 0x80 else 0x20 if byte == 0x2D else byte for byte in range(256))


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


def by_value(text: str) -> list[Finding]:
    """Secrets that look like what they are, wherever they stand."""
    found: list[Finding] = []
    for rule, anchor, near, pattern in _KINDS:
        if anchor in text and near.search(text):
            found += (_secret_part(rule, match) for match in pattern.finditer(text))
    if _may_hold_card(text):
        found += (Finding(*match.span(), "card") for match in _CARD.finditer(text) if _is_card(match[0]))
    return [finding for finding in found if finding.end and MARKER.match(text, finding.start) is None] if found else found


def _secret_part(rule: str, match: re.Match[str]) -> Finding:
    """Without the scheme of a credential and the user of a URL. A JWT without its dots is matched and let go here: a
    pattern that demands them could backtrack."""
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


def personal(text: str) -> list[Finding]:
    """E-mail addresses, IP addresses and phone numbers, the latter only in international or bracketed form."""
    return [
        Finding(*match.span(), rule)
        for rule, anchor, near, pattern in _PERSONAL
        if anchor in text and near.search(text)
        for match in pattern.finditer(text)
    ]


def _may_hold_card(text: str) -> bool:
    digits = text.encode("utf-8", "replace").translate(_DIGITS)
    return b"0000 0000" in digits or b"0" * 14 in digits


def _is_card(text: str) -> bool:
    """Luhn's check and the issuers' prefixes and lengths: an id of 13 to 19 digits passes Luhn's alone once in ten."""
    number = "".join(filter(str.isdigit, text))
    length, two, four = len(number), int(number[:2]), int(number[:4])
    issued = (
        (number[0] == "4" and length in (16, 19))
        or (length == 16 and (51 <= two <= 55 or 2221 <= four <= 2720 or 3528 <= four <= 3589 or two == 65 or four == 6011))
        or (length == 15 and two in (34, 37))
        or (length == 14 and two in (30, 36, 38))
        or two == 62
    )
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in number[-2::-2])
    return issued and (doubled + sum(map(int, number[::-2]))) % 10 == 0


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
            before = [piece[-64:].rpartition(" ")[2] for piece in text.split(separator)]
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
            if self._stem(piece.lower()):
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
