"""The one boundary between telemetry and the application: nothing of ours raises into a request.

It counts what went wrong by call and kind, logs each kind once without any content, and raises instead when
METRICX_STRICT is set.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from traceback import walk_tb
from typing import Generic, Self, TypeVar

from .context import DETACHED, Context, current_cell
from .exceptions import InputError
from .interrupts import is_interrupt
from .normalise import Notes

logger = logging.getLogger(__name__)

S = TypeVar("S")
_MAX_KINDS = 500
"""Kinds of fault hold names that the application chose, which may be without number."""


class Boundary:
    """`with boundary("track") as notes: ...` swallows, counts and logs exceptions, and faults that were noted.

    `SystemExit` and its like pass, and so does what a signal handler raised meanwhile: see `is_interrupt`.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.counts: Counter[str] = Counter()

    def __call__(self, call: str) -> Guard:
        return Guard(self, call)

    def count(self, call: str, faults: Iterable[str]) -> None:
        """`note` for delivery's threads, where there is nobody to raise to."""
        try:
            self.note(call, faults)
        except InputError:
            logger.warning("%s: %s", call, ", ".join(faults))

    def note(self, call: str, faults: Iterable[str], cause: BaseException | None = None) -> None:
        """Count each kind of fault of a call; log it the first time.

        Raises:
            InputError: With METRICX_STRICT only.
        """
        for fault in dict.fromkeys(faults):
            kind = f"{call}: {fault}"
            if kind not in self.counts and len(self.counts) >= _MAX_KINDS:
                kind = "other"
            self.counts[kind] += 1
            if self.strict:
                raise InputError(kind) from cause
            if self.counts[kind] == 1:
                logger.warning("%s%s (counted in status() from now on, not logged again)", kind, _place(cause))


def _place(error: BaseException | None) -> str:
    """Where it was raised, e.g. ` at main.py:8`: code, and so nothing that the application was given."""
    steps = [] if error is None else list(walk_tb(error.__traceback__))
    return "".join(f" at {Path(frame.f_code.co_filename).name}:{number}" for frame, number in steps[-1:])


class Guard(list[str]):
    """A call of a facade: the faults that it notes. A class, since a generator costs a microsecond more.

    May be used again: an observation has one for all of its calls.
    """

    __slots__ = ("_boundary", "_call")

    def __init__(self, boundary: Boundary, call: str) -> None:
        self._boundary = boundary
        self._call = call

    def __enter__(self) -> Notes:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if error is None and not self:
            return False
        faults = self[:]
        self.clear()
        mine = isinstance(error, Exception) and not isinstance(error, InputError) and not is_interrupt(error)
        if mine:
            faults.append(type(error).__name__)
        if mine or error is None:
            self._boundary.note(self._call, faults, error)
        return mine


class Facade(Generic[S]):
    """What Tracker, LLMTracer and ErrorReporter share: a vendor (None: off), and the cell of the request they are for.

    No method of theirs raises into the caller, whatever it is given.
    """

    def __init__(self, sink: S | None, boundary: Boundary, cell: Context | None = None) -> None:
        self._sink = sink
        self._boundary = boundary
        self._cell = cell

    def bound(self, cell: Context | None) -> Self:
        """The same for one request, whatever thread it is used from."""
        return type(self)(self._sink, self._boundary, cell)

    def _cell_now(self) -> Context | None:
        cell = self._cell or current_cell()
        return None if cell is DETACHED else cell
