"""The files of words and rules: a line each, tabs between the fields."""

from __future__ import annotations

from pkgutil import get_data


def lines(file: str) -> list[list[str]]:
    """The lines of a file of this package, by their fields."""
    text = (get_data(__name__, file) or b"").decode()
    return [row.split("\t") for row in text.splitlines() if not row.startswith("#")]


WORDS = {name: frozenset(words.split()) for name, _, words in lines("words.tsv")}
