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
    """The event id of this exception in this request or job; raised again in another one, it is reported again.

    Under `DETACHED`, where no request applies, the id from any request: a server logs an exception after its request.
    """
    key, event_id = getattr(error, _REPORTED, (None, None))
    return event_id if cell is DETACHED or key == cell.key else None


def report_outwards(error: BaseException, cell: Context, outer: object) -> None:
    """A job around a job or request does not report an exception again that was reported inside.

    A request around a request does: both have failed.
    """
    if isinstance(outer, Context) and (cell.info is None or outer.info is None):
        key, event_id = getattr(error, _REPORTED, (None, None))
        if key == cell.key:
            mark_reported(error, outer, event_id or "")
