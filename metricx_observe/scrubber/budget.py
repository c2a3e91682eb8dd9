"""How much the scrubber reads of one signal: more than a usual one holds, and no more than there is time for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import thread_time_ns

MAX_CHARACTERS = 4_000_000
"""Of a signal: Langfuse takes some 4 MB a request."""
CONTAINER, VALUE = 400, 20
"""What a list or dict, and a value or a replacement, count for beside the characters in them."""
_MAX_CPU_NS = 85_000_000
"""With the last piece of a text it makes less than 100 ms."""
_BETWEEN_CHECKS = 8_000  # characters: the clock is a system call
_LONGEST_STEP_NS = 20_000_000
"""What takes longer between two checks was not the scrubber: Python collects garbage on whichever thread runs."""


class Budget:
    """What is left for one signal."""

    __slots__ = ("_checked_at", "_cpu_left", "_next_check", "left")

    def __init__(self) -> None:
        self.left = MAX_CHARACTERS
        self._next_check = MAX_CHARACTERS
        self._cpu_left, self._checked_at = _MAX_CPU_NS, 0

    def take(self, characters: int) -> bool:
        """Whether there was so much left, by the count and by the clock, which is asked once in a while."""
        self.left -= characters
        if self.left < self._next_check:
            self._next_check = self.left - _BETWEEN_CHECKS
            now = thread_time_ns()
            self._cpu_left -= min(now - (self._checked_at or now), _LONGEST_STEP_NS)
            self._checked_at = now
            if self._cpu_left <= 0:
                self.left = 0
        return self.left > 0


_signal: ContextVar[Budget | None] = ContextVar("metricx_observe_scrubbed_signal", default=None)


@contextmanager
def one_signal() -> Iterator[None]:
    """A block, or a function as its decorator, in which all that is scrubbed is one signal and shares its budget."""
    token = _signal.set(_signal.get() or Budget())
    try:
        yield
    finally:
        _signal.reset(token)


def current() -> Budget:
    """The budget of the signal that is being scrubbed by its parts, else one of its own."""
    return _signal.get() or Budget()
