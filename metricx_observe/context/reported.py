"""Whose an exception was, and whether it was reported: written on the exception itself.

A list of exceptions would keep their frames alive.
"""

from __future__ import annotations

from metricx_observe.interrupts import suppress_faults

from .cell import DETACHED, Context

_LEFT = "__metricx_observe_cell__"
_REPORTED = "__metricx_observe_event__"


def _mark(error: BaseException, name: str, value: object) -> None:
    """Write on an exception, also on one that refuses attributes, as a frozen dataclass does."""
    with suppress_faults():
        BaseException.__setattr__(error, name, value)


def mark_left(error: BaseException, cell: Context) -> None:
    """Remember whose job this exception has ended: a worker's or the interpreter's hook reports it only then."""
    _mark(error, _LEFT, cell)


def left_by(error: BaseException | None) -> Context | None:
    """The cell of the job that this exception ended, or None."""
    cell: Context | None = getattr(error, _LEFT, None)
    return cell


def mark_reported(error: BaseException, cell: Context, event_id: str) -> None:
    """Remember that this exception was reported; an empty id says that it needs no report."""
    cell.reported = True
    _mark(error, _REPORTED, (cell.key, event_id))


def reported_as(error: BaseException, cell: Context) -> str | None:
    """The event id of this very exception in this request or job; one that is raised again in another is news.

    Under `DETACHED`, where none applies, that of whichever reported it: a server or a wrapper around the application
    logs what has ended a request.
    """
    key, event_id = getattr(error, _REPORTED, (None, None))
    return event_id if cell is DETACHED or key == cell.key else None


def report_outwards(error: BaseException, cell: Context, outer: object) -> None:
    """What was reported in a job, or in a request that a job makes, is no news to what it leaves for.

    A request around a request is: both have failed.
    """
    if isinstance(outer, Context) and (cell.info is None or outer.info is None):
        key, event_id = getattr(error, _REPORTED, (None, None))
        if key == cell.key:
            mark_reported(error, outer, event_id or "")
