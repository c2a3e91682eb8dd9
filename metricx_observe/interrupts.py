"""What a signal handler of the application's raises while our code runs is no fault of ours, and passes.

Celery's soft time limit and RQ's timeouts are plain `Exception`s, raised wherever the main thread happens to be.
"""

from __future__ import annotations

from inspect import CO_VARARGS
from itertools import pairwise
from types import FrameType


def is_interrupt(error: BaseException | None) -> bool:
    """Whether a signal handler raised it: a function that was called with a number and the frame that it interrupted.

    Python calls a handler with the very frame that the exception then goes on to, so the traceback alone tells, whoever
    installed the handler and whether it is installed still. Not told: what another thread sets
    (`PyThreadState_SetAsyncExc`, with which RQ's `TimerDeathPenalty` works), a handler that rebinds or deletes its
    arguments or is written in C, what was raised anew from such an exception, and what a vendor's SDK swallows in its
    own code. Costs some microseconds; called only where an exception would be swallowed.
    """
    step = None if error is None else error.__traceback__
    while step is not None and step.tb_next is not None:
        interrupted, step = step.tb_frame, step.tb_next
        if _was_called_with(step.tb_frame, interrupted):
            return True
    return False


def _was_called_with(frame: FrameType, interrupted: FrameType) -> bool:
    code = frame.f_code
    takes_any = bool(code.co_flags & CO_VARARGS)
    if code.co_argcount < 2 and not takes_any:  # a `__str__`, mostly
        return False
    given, names = frame.f_locals, code.co_varnames
    values = [given.get(name) for name in names[: code.co_argcount]]
    if takes_any:
        rest = given.get(names[code.co_argcount + code.co_kwonlyargcount])
        values += rest if isinstance(rest, tuple) else ()
    return any(isinstance(number, int) and frame is interrupted for number, frame in pairwise(values))


class suppress_faults:
    """`contextlib.suppress(Exception)` for somebody's own code, but for what `is_interrupt`."""

    __slots__ = ()

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        return isinstance(error, Exception) and not is_interrupt(error)
