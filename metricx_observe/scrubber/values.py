"""What a value says by itself: that it is random, that it is nothing, that it was replaced before."""

from __future__ import annotations

import re

MARK = r"\[(?:scrubbed \w+ \w+ len=\d+ #[0-9a-f]{4}|cut|dropped \w+|unreadable \w+)\]"
CUT = "[cut]"
MARKER = re.compile(f"({MARK})")
"""What stands in the place of what was replaced."""

_REPR = re.compile(r"""b?(["'])(.*)\1""", re.S)
says_nothing = re.compile(
    r"(?:None|null|NULL|True|False|true|false|undefined|str|int|bytes|Any|object|\.+|-"
    r"|(?:%(?:\(\w+\))?[srd]|\{[\w.!:\[\]]*\}|\$\{\w+\}|(?:[Bb]earer|[Bb]asic|[Tt]oken)\s*)+"
    r"|(?:[*•xX\- ]|\\u2022){3,}\d{0,4}|\[(?:Filtered|redacted|REDACTED)\]|<redacted>"
    rf"|{MARK})?"
).fullmatch
"""Whether a value under a secret name is no secret: empty, None, a placeholder of a format, or masked already."""
# `waiting_for_review_2024`: words, two or three letters, and years or other small numbers
_LOWER = r"(?:(?=[a-z]{0,4}[aeiouy])[a-z]{4,14}|[a-z]{1,3}|v?\d{1,4})"
_UPPER = r"(?:(?=[A-Z]{0,4}[AEIOUY])[A-Z]{4,14}|[A-Z]{1,3}|V?\d{1,4})"
_JOINED = rf"(?:(?:{_LOWER}[_.:/\-])++{_LOWER}|(?:{_UPPER}[_.:/\-])++{_UPPER})\Z"
_joined_words = re.compile(_JOINED).match
looks_random = re.compile(
    r"(?!\d{4}-\d\d-)"
    rf"(?!{_JOINED})"
    r"(?=[^\s<>(){}]{16})(?=[^\sA-Za-z]*+[A-Za-z])"
    r"(?:[^\s\d]*+\d|(?=[^\sA-Z]*+(?:[A-Z][^\sA-Z]++)*+[A-Z]{2})[^\sa-z]*+[a-z])"
).match
"""Whether a value could be a session id or an authorization code: long, with letters and digits, no spaces."""
_NUMBER = re.compile(r"\d{4,12}").fullmatch


def unquoted(value: str) -> str:
    """A Python repr of a string or of bytes without its quotes, anything else as it is."""
    quoted = _REPR.fullmatch(value)
    return quoted[2] if quoted else value


def is_random(start: str, in_query: bool, is_code: bool) -> bool:
    """start: Of a value under a name that is not always a secret's. In an address less says that it is one."""
    if is_code and (len(start) >= 8 or _NUMBER(start)):
        return True
    return looks_random(start) is not None or (in_query and len(start) >= 8 and not _joined_words(start))
