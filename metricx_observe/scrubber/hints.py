"""What occurs in a text that could hold something: most hold nothing, and that is to be said fast.

Rust's regex engine, which pydantic brings, looks for all that could be something in one pass. Its time is linear in the
length of the text whatever the pattern. It cannot look around and tells no place, so where it says yes the text is read
by Python's patterns. It builds a state for each set of places in its patterns that a text can be at, and keeps some two
thousand: a text that needs more sends it a way that takes a thousand times as long. So hints are short.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from pydantic_core import SchemaValidator, core_schema

_NAME = re.compile(r"\(\?P<name>(\[(?:\\.|[^\]\\])+\]|\\w)[^)]*\)")
_LOOKAROUND, _EMPTY = re.compile(r"\(\?<?[=!](?:[^()\\]|\\.)*\)|(?<=[*+}])\+"), re.compile(r"\(\?:\|[(?:)|]*\)")
_COUNT, _COUNTED = re.compile(r"\{(\d+)(?:,\d*)?\}"), 8
_ATOM = r"(?:\\.|\[(?:\\.|[^\]\\])*\]|\((?:[^()\\]|\\.)*\)|[^\\\[\](){}|])"
_head = re.compile(rf"{_ATOM}{{3,}}?\{{{_COUNTED},\}}").match


@cache
def occurs(hint: str) -> Callable[[str], bool]:
    """What tells whether `hint`, in Rust's syntax, occurs in a text. A lone surrogate would make it a no."""
    return SchemaValidator(core_schema.str_schema(pattern=hint, strict=True)).isinstance_python


def wider(pattern: str, stems: str = "") -> str:
    """`pattern` for Rust's engine: what it does not have is left out, so that it matches all that Python's does."""
    pattern = _NAME.sub(lambda name: f"{name[1]}*(?i:{stems}){name[1]}*", pattern)
    pattern = re.sub(r",\d+\}", ",}", _EMPTY.sub("", _LOOKAROUND.sub("", pattern)))
    # a text that is not ASCII sends it the slow way, too, if it has to know where words begin
    pattern = pattern.replace(r"\b", "")
    return pattern.replace(r"\w", r"[\w\p{N}]").replace(r"\Z", r"\z")  # `½` is a letter to Python only


def shorter(hint: str) -> str:
    """`hint`, that counts to eight, and goes no further than that after an issuer's own letters."""
    hint = _COUNT.sub(lambda count: f"{{{min(int(count[1]), _COUNTED)},}}", hint)
    head = _head(hint)
    return head[0] if head else hint
