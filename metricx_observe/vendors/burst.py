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
from typing import Any, Generic, NamedTuple, TypeVar

from metricx_observe.ids import new_id

T = TypeVar("T")
IDENTICAL = 10
"""Of one key a second, sent in full."""
INNERMOST = 3
"""Frames that tell errors of the same type and message apart."""


class Admission(NamedTuple):
    """Whether an error is to be sent, and its id; else the id of the event that will carry its count."""

    sent: bool
    event_id: str | None


class _Carrier(Generic[T]):
    """The last event that is sent of a run: held until its second is over, because it says how many more came."""

    __slots__ = ("event", "event_id", "more", "over")

    def __init__(self, event_id: str) -> None:
        self.event_id = event_id
        self.event: T | None = None
        self.more = 0
        self.over = False


class _Run(Generic[T]):
    __slots__ = ("carrier", "left")

    def __init__(self, left: int) -> None:
        self.left = left
        self.carrier: _Carrier[T] | None = None


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
        self._held: dict[str, _Carrier[T]] = {}
        self._timer: threading.Timer | None = None
        self._begin(monotonic())

    def _begin(self, now: float) -> None:
        self._ends = now + 1.0
        self._runs: dict[Hashable, _Run[T]] = {}
        self._all = _Run[T](self._most)

    def admit(self, key: Hashable, event_id: str | None = None) -> Admission:
        """Whether an error of this key is to be sent. `event_id`: of one that is built already."""
        if self._pid != os.getpid():  # a fork: what is held is the parent's, and its lock may be taken
            self._start()
        if monotonic() >= self._ends:
            self.turn()
        with self._lock:
            run = self._runs.get(key) or _Run[T](IDENTICAL)
            for full in (run, self._all):
                if not full.left:
                    self.merged += 1
                    if full.carrier is None:
                        return Admission(False, None)
                    full.carrier.more += 1
                    return Admission(False, full.carrier.event_id)
            self._runs[key] = run
            event_id = event_id or new_id()
            run.left -= 1
            self._all.left -= 1
            if not (run.left and self._all.left):
                self._carry(event_id, [each for each in (run, self._all) if not each.left])
            return Admission(True, event_id)

    def _carry(self, event_id: str, runs: list[_Run[T]]) -> None:
        if self._timer is None:
            self._timer = threading.Timer(max(self._ends - monotonic(), 0.0), self.turn)
            self._timer.daemon = True
            try:
                Context().run(self._timer.start)
            except RuntimeError:  # the interpreter is ending: nothing would send it later
                return
        self._held[event_id] = carrier = _Carrier[T](event_id)
        for run in runs:
            run.carrier = carrier

    def hold(self, event_id: str, event: T) -> bool:
        """Keep the event until its second is over, if it is one that counts others. False: send it."""
        carrier = self._held.get(event_id)
        if carrier is None:
            return False
        with self._lock:
            carrier.event = event
        if carrier.over:
            self._release(carrier)
        return True

    def turn(self) -> None:
        """Begin a new second: what was held is sent. One that is still being built is sent when it is."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._begin(monotonic())
            ending = list(self._held.values())
            for carrier in ending:
                if carrier.over:  # its event never came: the SDK or the application dropped it
                    del self._held[carrier.event_id]
                carrier.over = True
        for carrier in ending:
            self._release(carrier)

    def _release(self, carrier: _Carrier[T]) -> None:
        with self._lock:
            event, carrier.event = carrier.event, None
            if event is None:
                return
            self._held.pop(carrier.event_id, None)
        self._send(event, carrier.more)


def error_key(error: BaseException) -> Hashable:
    """What makes two exceptions the same: type, message, and file and line of the innermost frames."""
    frames: deque[tuple[str, int]] = deque(maxlen=INNERMOST)
    traceback = error.__traceback__
    while traceback is not None:
        frames.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    return type(error), _message(error), tuple(frames)


def _message(error: Any) -> str:
    try:
        return str(error)
    except Exception:
        return "?"
