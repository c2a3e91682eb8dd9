"""Ids for signals and requests.

Ids need no secrecy, and `os.urandom` releases the GIL (17 us with other threads running), so a private generator
makes them; it is seeded from the system once per process, also after a fork.
"""

from __future__ import annotations

import os
import random

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
