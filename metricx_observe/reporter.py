"""ErrorReporter: exceptions, messages and breadcrumbs, with the context of the request or job."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Protocol

from .boundary import Boundary
from .context import DETACHED, Context, current_cell, use_cell
from .normalise import Notes, line, plain

logger = logging.getLogger(__name__)

_LEVELS = ("fatal", "error", "warning", "info", "debug")
_MAX_TEXT = 8_192
"""Sentry's limit for a message."""
_MAX_EXTRA = 200_000
"""Sentry takes 1 MB an event, and there is the rest of it."""
_MARK = "__metricx_observe_event__"


class RequestStatus(Protocol):
    """Where the middleware leaves the status of a response."""

    status: int


class ErrorSink(Protocol):
    """The error vendor, as the facade and the middleware see it."""

    def scope(self, cell: Context) -> AbstractContextManager[RequestStatus]: ...

    def capture(
        self, error: BaseException, *, handled: bool, extra: Mapping[str, Any] | None = None, level: str | None = None
    ) -> str | None: ...

    def message(self, text: str, level: str, extra: Mapping[str, Any] | None = None) -> str | None: ...

    def breadcrumb(self, message: str, category: str | None, data: Mapping[str, Any] | None) -> None: ...


class ErrorReporter:
    """Reports to Sentry. Injected by `ErrorReporterDep`, or `Observability.errors`.

    No method raises into the caller; each returns the id on the wire, or None when nothing will be sent.
    """

    __slots__ = ("_boundary", "_cell", "_sink")

    def __init__(self, sink: ErrorSink | None, boundary: Boundary, cell: Context | None = None) -> None:
        self._sink = sink
        self._boundary = boundary
        self._cell = cell

    def bound(self, cell: Context) -> ErrorReporter:
        """The same reporter for one request, whatever thread it is used from."""
        return ErrorReporter(self._sink, self._boundary, cell)

    def capture_exception(
        self, error: BaseException | None = None, *, extra: Mapping[str, Any] | None = None, level: str | None = None
    ) -> str | None:
        """Report a handled exception.

        Args:
            error: The exception; the one being handled when None.
            extra: More facts, shown as Sentry's "Additional Data".
            level: fatal, error, warning, info or debug; error when None.

        Returns:
            The event id (32 hex digits). An exception that was reported before in this request gives its first id.
        """
        with self._boundary("capture_exception"):
            if error is None:
                error = sys.exc_info()[1]
            if isinstance(error, BaseException):
                return self.report(error, handled=True, extra=extra, level=level)
            self._boundary.note("capture_exception", ["no exception given"])
            if error is not None:  # what was meant as one is not lost
                return self.capture_message(error, level="error" if level is None else level, extra=extra)
        return None

    def report(
        self,
        error: BaseException,
        *,
        handled: bool,
        extra: Mapping[str, Any] | None = None,
        level: str | None = None,
    ) -> str | None:
        """Report once by identity. What the middleware calls, with `handled=False` for what nobody caught."""
        if self._sink is None:
            return None
        cell = self._own_cell()
        known = reported_as(error, cell or DETACHED)
        if known is not None:
            return known or None
        given, level = self._given("capture_exception", extra, level)
        with use_cell(cell) if cell is not None else nullcontext():
            event_id = self._sink.capture(error, handled=handled, extra=given, level=level)
        mark_reported(error, cell or DETACHED, event_id or "")
        logger.info("error %s id=%s", type(error).__name__, event_id)
        return event_id

    def capture_message(
        self, text: object, *, level: str = "info", extra: Mapping[str, Any] | None = None
    ) -> str | None:
        """Report a message. Returns the event id."""
        with self._boundary("capture_message"):
            if self._sink is None:
                return None
            cell, notes = self._own_cell(), Notes()
            message = _text(text, notes)
            given, known = self._given("capture_message", extra, level, notes)
            with use_cell(cell) if cell is not None else nullcontext():
                return self._sink.message(message, known or "info", given)
        return None

    def add_breadcrumb(
        self, message: object, *, category: str | None = None, data: Mapping[str, Any] | None = None
    ) -> None:
        """Remember a step that shows on the next error of this request."""
        with self._boundary("add_breadcrumb"):
            if self._sink is not None:
                notes: Notes = []
                label = None if category is None else line(category, notes)
                given, _ = self._given("add_breadcrumb", data, None, notes)
                self._sink.breadcrumb(_text(message, notes), label, given)

    def _given(
        self, call: str, extra: object, level: object, notes: Notes | None = None
    ) -> tuple[dict[str, Any] | None, str | None]:
        """What a caller gave beside the error: read once here, since Sentry's SDK keeps references."""
        notes = [] if notes is None else notes
        fields = None if extra is None else plain(extra, notes, _MAX_EXTRA)
        known = None if level is None else line(level, notes).lower()
        if known not in (None, *_LEVELS):
            notes.append("unknown level")
            known = None
        self._boundary.note(call, dict.fromkeys(notes))
        return fields if fields is None or isinstance(fields, dict) else {"extra": fields}, known

    def _own_cell(self) -> Context | None:
        cell = self._cell or current_cell()
        return None if cell is DETACHED else cell


def _text(value: object, notes: Notes) -> str:
    found = plain(value, notes, _MAX_TEXT)
    return found if isinstance(found, str) else str(found)


def mark_reported(error: BaseException, cell: Context, event_id: str) -> None:
    """Remember on the exception itself that it was reported: a list of exceptions would keep their frames alive."""
    cell.reported = True
    with suppress(Exception):  # a class of the application's may refuse attributes
        setattr(error, _MARK, (cell.state.request_id, event_id))


def reported_as(error: BaseException, cell: Context) -> str | None:
    """The event id of this very exception in this request or job; one that is raised again in another is news."""
    request_id, event_id = getattr(error, _MARK, (None, None))
    return event_id if request_id == cell.state.request_id else None


def was_reported(error: BaseException) -> bool:
    """Whether this very exception was reported: a server logs it once more after the request."""
    return hasattr(error, _MARK)
