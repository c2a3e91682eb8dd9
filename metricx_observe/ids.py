"""Ids for signals and requests.

Ids need no secrecy, and `os.urandom` releases the GIL (17 us with other threads running), so a private generator
makes them; it is seeded from the system once per process, also after a fork.
"""

from __future__ import annotations

import os
import random
from decimal import Decimal
from enum import Enum
from uuid import UUID

from .interrupts import suppress_faults

_random = random.Random()
_bits = _random.getrandbits

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """A new id of 32 lower-case hex digits: request id, trace id, event id, message id."""
    return (_bits(128) | 1).to_bytes(16).hex()


def new_span_id() -> str:
    """A new span id of 16 lower-case hex digits, never all zero."""
    return (_bits(64) | 1).to_bytes(8).hex()


def chance() -> float:
    """A number in [0, 1) for sampling."""
    return _random.random()


_ID_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-+/=:")
"""Also base64 and what else gateways make their ids of; nothing that means something in a log line or a header."""
_HEX = frozenset("0123456789abcdef")


def valid_request_id(value: str) -> str | None:
    """`value` when it is 1 to 128 of `[A-Za-z0-9._+/=:-]`, else None."""
    return value if 0 < len(value) <= 128 and _ID_CHARACTERS.issuperset(value) else None


def valid_trace_id(value: str) -> str | None:
    """`value` when it is a W3C trace id (32 lower-case hex digits, not all zero), else None."""
    return value if len(value) == 32 and _HEX.issuperset(value) and value.strip("0") else None


_MAX_ID = 200
_LARGEST = 10**30
"""A larger number is not an id, and may have millions of digits: `Decimal("1e999999")`."""


def subject_id(value: object) -> str | None:
    """The id of a user or a workspace: a text, a whole number or a UUID; None for anything else, and for blanks."""
    if isinstance(value, (str, bytes, UUID)):
        return text_id(value.value if isinstance(value, Enum) else value)
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        with suppress_faults():  # not a number, or a class of somebody's own
            return str(int(value)) if -_LARGEST < value < _LARGEST and value == int(value) else None
    return None


def text_id(value: object) -> str | None:
    """An id as a string of at most 200 characters (Langfuse drops longer ones); None for None, blanks and no ids."""
    if value is None:
        return None
    with suppress_faults():
        text = printable(value.decode() if isinstance(value, bytes) else value).strip()
        if text.startswith("<") and " at 0x" in text:  # an address: another one each time
            return None
        return text[:_MAX_ID] or None
    return None


def printable(value: object) -> str:
    """`value` as text without line breaks or control characters."""
    text = value if type(value) is str else str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
