"""How the command line shows what it did not write itself: names, ids and errors may hold anything."""

from __future__ import annotations

import json


def harmless(text: str, keep: str = "") -> str:
    """`text` with each character that does not print as JSON writes it: an escape sequence, a line's end, a change of
    the writing direction. `keep` are characters that stay."""
    return "".join(each if each.isprintable() or each in keep else json.dumps(each)[1:-1] for each in text)
