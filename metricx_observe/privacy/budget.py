"""What the scrubber may do for one signal: more than any usual one takes, and no more than the writer has time for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import thread_time_ns

MAX_ITEMS = 10_000
"""Lists and dicts of a signal."""
MAX_TEXT = 1_000_000
"""Characters of a string, and four times as many of a signal: Langfuse takes some 4 MB a request."""
MAX_WORK_NS = 60_000_000
"""By the estimates below, so that the same signal is cut at the same place everywhere."""
MAX_CPU_NS = 85_000_000
"""By the clock, where the estimates are too low: with the last piece of a text it makes less than 100 ms."""

# Estimates in nanoseconds: of a member of a container, of a new name or text, of a character that may hold something,
# of one that is read because it may, and of what is replaced.
MEMBER, NEW, QUICK, READ, FOUND = 250, 3_000, 10, 30, 3_000
_BETWEEN_CHECKS = 200_000
_LONGEST_STEP_NS = 20_000_000
"""What takes longer between two checks was not the scrubber: Python collects garbage on whichever thread runs."""


class Budget:
    """What is left for one signal."""

    __slots__ = ("_at_check", "_checked_at", "_cpu_left", "items_left", "text_left", "work_left")

    def __init__(self) -> None:
        self.items_left = MAX_ITEMS
        self.text_left = 4 * MAX_TEXT
        self.work_left = MAX_WORK_NS
        self._at_check = MAX_WORK_NS - _BETWEEN_CHECKS
        self._cpu_left, self._checked_at = MAX_CPU_NS, 0

    def spend(self, work_ns: int) -> bool:
        """Whether there was so much left. The clock is asked once in a while."""
        self.work_left -= work_ns
        return self.work_left > 0 and (self.work_left > self._at_check or self.in_time())

    def in_time(self) -> bool:
        """Whether there is any left by the clock, too."""
        self._at_check = self.work_left - _BETWEEN_CHECKS
        now = thread_time_ns()
        if self._checked_at:
            self._cpu_left -= min(now - self._checked_at, _LONGEST_STEP_NS)
        self._checked_at = now
        if self._cpu_left <= 0:
            self.work_left = 0
        return self.work_left > 0

    def grant(self, cpu_ns: int) -> None:
        """Time that was not spent on the signal: what is done once in a process."""
        self._cpu_left += min(cpu_ns, _LONGEST_STEP_NS)

    def members(self, count: int) -> int:
        """Of how many members of another dict or list there is time for; -1 when there is none for the container."""
        self.items_left -= 1
        left = self.work_left - MEMBER * (count + 1)
        if left > self._at_check and self.items_left >= 0:  # nearly always
            self.work_left = left
            return count
        if self.items_left < 0 or self.work_left <= 0:
            self.spend(NEW)
            return -1
        count = min(count, self.work_left // MEMBER)
        self.spend(MEMBER * (count + 1))
        return count


_signal: ContextVar[Budget | None] = ContextVar("metricx_observe_scrubbed_signal", default=None)


@contextmanager
def one_signal() -> Iterator[None]:
    """A block, or a function as its decorator, in which all that is scrubbed is one signal and shares its budget."""
    token = _signal.set(_signal.get() or Budget())
    try:
        yield
    finally:
        _signal.reset(token)


def current() -> Budget | None:
    """The budget of the signal that is being scrubbed by its parts."""
    return _signal.get()
