"""Secrets in XML, HTML, the fields of multipart forms and the parameters of SQL, which the name beside them gives away.

Every pattern is possessive or bounded, so that the time is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .looks import Finding
from .names import IF_RANDOM, SECRET, Names
from .text import looks_random, says_nothing

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
# `<property name="password">x</property>`, also with a `<value>` in it
_NAMED = re.compile(
    r"""\b(?:name|key)=\\*+["']([\w.\-]{1,64}+)\\*+["'][^<>]{0,200}+>(?:\s|\\n){0,99}+(?:<value>)?+([^<]{1,4000}+)</"""
)
_SQL = re.compile(rf"\[SQL: ([^\[]++)\[parameters: ({_IN_LINE}++)")  # how SQLAlchemy ends its errors


def by_markup(text: str, names: Names) -> Iterator[Finding]:
    """What stands in XML elements, in attributes, in the fields of multipart forms, and in the parameters of SQL."""
    if not ("<" in text or "form-data" in text or "value=" in text or "[SQL: " in text):
        return
    for sql in _SQL.finditer(text):
        if any(names.verdicts[word] >= SECRET for word in re.findall(r"\w+", sql[1])):
            yield *sql.span(2), "name"
    for pattern in (_ELEMENT, _FIELD, _ATTRIBUTE, _NAMED):
        for found in pattern.finditer(text):
            says, group = names.verdicts[found[1]], found.lastindex or 0
            random = says == IF_RANDOM and found[1] != "code" and looks_random(found[group])  # HTML's is a listing
            if (says >= SECRET or random) and not says_nothing(found[group]):
                yield *found.span(group), "name"
