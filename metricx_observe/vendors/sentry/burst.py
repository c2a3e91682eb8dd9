"""Identical errors in a burst: the first ten of each second are sent, the others are counted.

Building one error costs milliseconds, so that 500 identical ones a second would stop a process; recognising one again
costs microseconds. Errors beyond a total rate are counted in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from math import ceil
from threading import Lock
from time import monotonic
from traceback import walk_tb
from typing import NamedTuple

from metricx_observe.interrupts import suppress_faults

IDENTICAL = 10
"""Of one key a second."""
_INNERMOST = 3
"""Frames that tell errors of the same type and message apart."""
_MOST_RELATED = 20
"""Causes, and leaves of groups, that are looked at."""


class Admission(NamedTuple):
    """Whether an error is sent, and the id of its event; else that of the last one that was sent in its place."""

    sent: bool
    event_id: str | None


class Burst:
    """Decides which errors are sent. Safe to use from several threads, and after a fork."""

    def __init__(self, per_second: float) -> None:
        """`per_second`: errors of all kinds."""
        self._most = ceil(per_second)
        self.merged = 0
        """Errors of this process that were not sent, because others of the same second were."""
        self._lock, self._pid = Lock(), os.getpid()
        self._ends = 0.0
        self._last: str | None = None
        self._sent: dict[Hashable, tuple[int, str]] = {}

    def reset(self) -> None:
        """Begin a new second."""
        with self._locked():
            self._ends = 0.0

    def admit(self, key: Hashable, event_id: str) -> Admission:
        """Whether an error of this key is to be sent, as the event of this id."""
        with self._locked():
            refused = self._refused(key)
            if refused is not None:
                return refused
            count, _ = self._sent.get(key, (0, ""))
            self._sent[key] = count + 1, event_id
            self._left -= 1
            self._last = event_id
            return Admission(True, event_id)

    def refused(self, key: Hashable) -> Admission | None:
        """Count an error that is not to be sent, before anything is built of it. None: it may be sent."""
        with self._locked():
            return self._refused(key)

    def _refused(self, key: Hashable) -> Admission | None:
        if monotonic() >= self._ends:
            self._ends = monotonic() + 1.0
            self._left = self._most
            self._last, self._sent = None, {}
        count, last = self._sent.get(key, (0, self._last))
        if count < IDENTICAL and self._left > 0:
            return None
        self.merged += 1
        return Admission(False, last)

    def _locked(self) -> Lock:
        if self._pid != os.getpid():
            # another thread of the parent may have held the lock at the fork
            self._lock, self._pid, self._ends = Lock(), os.getpid(), 0.0
        return self._lock


def error_key(error: BaseException) -> Hashable:
    """What makes two exceptions the same: type, message and innermost frames, also of causes and a group's leaves."""
    found: list[Hashable] = []
    seen: list[BaseException] = []
    related: list[BaseException | None] = [error]
    while related and len(found) < _MOST_RELATED:
        each = related.pop()
        if each is None or any(each is other for other in seen):
            continue
        seen.append(each)
        places = [(frame.f_code.co_filename, number) for frame, number in walk_tb(each.__traceback__)]
        message = "?"
        with suppress_faults():
            message = str(each)
        found.append((type(each), message, tuple(places[-_INNERMOST:])))
        related.append(each.__cause__ or (None if each.__suppress_context__ else each.__context__))
        if isinstance(each, BaseExceptionGroup):
            related += each.exceptions
    return tuple(found)
