"""Exceptions that a signal handler of the application raises while our code runs: they are not ours to swallow.

Celery's soft time limit and RQ's timeouts are plain `Exception`s, raised wherever the main thread happens to be.
"""

from __future__ import annotations

from inspect import CO_VARARGS, getargvalues
from itertools import pairwise
from traceback import walk_tb
from types import FrameType


def is_interrupt(error: BaseException | None) -> bool:
    """Whether a signal handler raised it: a function that was called with a number and the frame that it interrupted.

    Python calls a handler with the very frame that the exception then goes on to, so the traceback alone shows it,
    also when another handler is installed by now. Not recognised: what another thread sets
    (`PyThreadState_SetAsyncExc`, with which RQ's `TimerDeathPenalty` works), a handler that rebinds or deletes its
    arguments or is written in C, what was raised anew from such an exception, and what a vendor's SDK swallows in its
    own code. Costs some microseconds; called only where an exception would be swallowed.
    """
    frames = [] if error is None else [frame for frame, _ in walk_tb(error.__traceback__)]
    return any(_was_called_with(called, interrupted) for interrupted, called in pairwise(frames))


def _was_called_with(frame: FrameType, interrupted: FrameType) -> bool:
    if frame.f_code.co_argcount < 2 and not frame.f_code.co_flags & CO_VARARGS:  # a `__str__`, mostly
        return False
    names, others, _, given = getargvalues(frame)
    values = [given.get(name) for name in names]
    if others is not None and isinstance(given.get(others), tuple):
        values += given[others]
    return any(isinstance(number, int) and after is interrupted for number, after in pairwise(values))


class suppress_faults:
    """`contextlib.suppress(Exception)` for somebody's own code, but for what `is_interrupt`."""

    __slots__ = ()

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        return isinstance(error, Exception) and not is_interrupt(error)
