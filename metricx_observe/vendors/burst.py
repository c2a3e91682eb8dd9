"""Identical errors in a burst: the first of each second are sent in full, the last of those says how many more came.

Building one error costs milliseconds, so that 500 identical ones a second would stop a process; recognising one again
costs microseconds. Errors beyond a total rate are counted in the same way.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Hashable
from contextvars import Context
from math import ceil
from time import monotonic
from typing import Generic, NamedTuple, TypeVar

from metricx_observe.ids import new_id
from metricx_observe.interrupts import suppress_faults

T = TypeVar("T")
IDENTICAL = 10
"""Of one key a second, sent in full."""
INNERMOST = 3
"""Frames that tell errors of the same type and message apart."""
MOST_RELATED = 20
"""Causes, and leaves of groups, that are looked at."""


class Admission(NamedTuple):
    """Whether an error is to be sent, and its id; else the id of the event that will carry its count."""

    sent: bool
    event_id: str | None


class _Run(Generic[T]):
    """The errors of one key in this second, or all of them."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.event_id: str | None = None
        """Of the last that is sent. It is held until the second is over, because it says how many more came."""
        self.event: T | None = None
        self.more = 0
        self.over = False


class Burst(Generic[T]):
    """`admit` before an error is built, `hold` when its event would be sent, `turn` at the end of a second."""

    def __init__(self, total: float, send: Callable[[T, int], object]) -> None:
        """`total`: errors a second, of all kinds. `send` gets a held event and how many more it stands for."""
        self._most = ceil(total)
        self._send = send
        self.merged = 0
        """Errors of this process that were counted on another's event."""
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._held: dict[str, _Run[T]] = {}
        self._begin()

    def _begin(self) -> None:
        self._timer: threading.Timer | None = None
        self._ends = monotonic() + 1.0
        self._runs: dict[Hashable, _Run[T]] = {}
        self._all = _Run[T](self._most)

    def _locked(self) -> threading.Lock:
        if self._pid != os.getpid():  # a fork: what is held is the parent's, and its lock may be taken
            self._start()
        return self._lock

    def admit(self, key: Hashable, event_id: str | None = None) -> Admission:
        """Whether an error of this key is to be sent. `event_id`: of one that is built already."""
        if monotonic() >= self._ends:
            self.turn()
        with self._locked():
            run = self._runs.get(key) or _Run[T](IDENTICAL)
            for full in (run, self._all):
                if not full.left:
                    full.more += 1
                    self.merged += 1
                    return Admission(False, full.event_id)
            self._runs[key] = run
            run.left -= 1
            self._all.left -= 1
            event_id = event_id or new_id()
            if not run.left:
                self._carry(run, event_id)
            if not self._all.left and run.left:
                self._carry(self._all, event_id)
            elif not self._all.left:
                self._all = run  # one event counts for both
            return Admission(True, event_id)

    def _carry(self, run: _Run[T], event_id: str) -> None:
        if self._timer is None:
            self._timer = threading.Timer(max(self._ends - monotonic(), 0.0), self.turn)
            self._timer.daemon = True
            try:
                Context().run(self._timer.start)
            except RuntimeError:  # the interpreter is ending: nothing would send it later
                return
        run.event_id = event_id
        self._held[event_id] = run

    def hold(self, event_id: str, event: T) -> bool:
        """Keep the event until its second is over, if it is one that counts others. False: send it."""
        with self._locked():
            run = self._held.get(event_id)
            if run is None:
                return False
            run.event = event
            if not run.over:
                return True
            del self._held[event_id]
        self._send(event, run.more)
        return True

    def turn(self) -> None:
        """Begin a new second: what was held is sent. One that is still being built is sent when it is."""
        with self._locked():
            if self._timer is not None:
                self._timer.cancel()
            self._begin()
            held = self._held.items()
            ready = [(run.event, run.more) for _, run in held if run.event is not None]
            # what was not there a second ago either never comes: the SDK or the application dropped it
            self._held = {event_id: run for event_id, run in held if run.event is None and not run.over}
            for run in self._held.values():
                run.over = True
        for event, more in ready:
            self._send(event, more)


def error_key(error: BaseException) -> Hashable:
    """What makes two exceptions the same: type, message and innermost frames, of it, of its causes and of a group's
    leaves, as many as there may be."""
    found: list[Hashable] = []
    _add_key(error, found, [])
    return found[0] if len(found) == 1 else tuple(found)


def _add_key(error: BaseException | None, found: list[Hashable], seen: list[BaseException]) -> None:
    while error is not None and len(found) < MOST_RELATED and not any(error is each for each in seen):
        seen.append(error)
        frames: deque[tuple[str, int]] = deque(maxlen=INNERMOST)
        traceback = error.__traceback__
        while traceback is not None:
            frames.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
            traceback = traceback.tb_next
        message = "?"
        with suppress_faults():
            message = str(error)
        found.append((type(error), message, tuple(frames)))
        if isinstance(error, BaseExceptionGroup):
            for each in error.exceptions:
                _add_key(each, found, seen)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
