"""Numbers of payment cards, and the many other numbers that pass for one."""

from __future__ import annotations

import re

from .tables import WORDS

_ISSUED = re.compile(
    r"62\d{12,17}|3[47]\d{13}|3[068]\d{12}|4\d{18}"
    r"|(?=\d{16}\Z)(?:4|5[1-5]|65|6011|35(?:2[89]|[3-8])|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720))\d+"
).fullmatch
_GROUPED = re.compile(r"\d{4}([ \-\xa0])\d{4}\1\d{4}\1\d{2,4}(?:\1\d{1,3})?|\d{4}([ \-\xa0])\d{6}\2\d{4,5}").fullmatch
# One in fifty numbers of 16 digits has an issuer's prefix and passes Luhn's check. What these name are numbers, too.
_NUMBERED = re.compile(rf"(?:{'|'.join(WORDS['numbered'])})(?:e?s)?(?:number|num|no|nr|nummer|id|code)?s?").fullmatch
_WORD = re.compile(r"[A-Z]++(?![a-z])|[A-Z]?[a-z]++|[A-Z]")
_BEFORE = re.compile(r"\\[nrt]|(?<!no)(?<!nr)(?<!num)[.!?;]\s", re.I)
_UNIT = re.compile(r"\s?(?:n|u|µ|m)s(?!\w)|\s?(?:nano|micro|milli)seconds|\s?bytes").match


def is_card(text: str, start: int, end: int) -> bool:
    """Whether digits are a card's number: an issuer's prefix and length, Luhn's check, and nothing that says otherwise.

    In a card's groups they are one whatever the context says.
    """
    number = re.sub(r"\D", "", text[start:end])
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in number[-2::-2])
    if _ISSUED(number) is None or (doubled + sum(map(int, number[::-2]))) % 10:
        return False
    before = _BEFORE.split(text[max(0, start - 80) : start])[-1]
    counted = _UNIT(text, end) or numbers_something_else(_WORD.findall(before))
    return _GROUPED(text, start, end) is not None or not counted


def numbers_something_else(words: list[str]) -> bool:
    """Whether the last words before a number, or those of its name, say what it numbers: an order, a parcel, a time."""
    last = [word.lower() for word in words[-8:]]
    while last and last[-1] in WORDS["between"]:
        last.pop()
    return bool(last) and _NUMBERED(last[-1]) is not None and WORDS["of_a_card"].isdisjoint(last[-3:])
