"""ErrorReporter: exceptions, messages and breadcrumbs, with the context of the request or job."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Protocol

from .boundary import Boundary
from .context import Context, current_cell, use_cell

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
            error = sys.exc_info()[1] if error is None else error
            if isinstance(error, BaseException):
                return self.report(error, handled=True, extra=extra, level=level)
            self._boundary.note("capture_exception", ["no exception given"])
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
        if cell is not None:
            for seen, event_id in cell.captured:
                if seen is error:
                    return event_id
        with use_cell(cell) if cell is not None else nullcontext():
            event_id = self._sink.capture(error, handled=handled, extra=extra, level=level)
        if cell is not None:
            cell.captured.append((error, event_id))
        _mark(error, event_id)
        return event_id

    def capture_message(
        self, text: str, *, level: str = "info", extra: Mapping[str, Any] | None = None
    ) -> str | None:
        """Report a message. Returns the event id."""
        with self._boundary("capture_message"):
            if self._sink is None:
                return None
            cell = self._own_cell()
            with use_cell(cell) if cell is not None else nullcontext():
                return self._sink.message(str(text), level, extra)
        return None

    def add_breadcrumb(
        self, message: str, *, category: str | None = None, data: Mapping[str, Any] | None = None
    ) -> None:
        """Remember a step that shows on the next error of this request."""
        with self._boundary("add_breadcrumb"):
            if self._sink is not None:
                self._sink.breadcrumb(str(message), category, data)

    def _own_cell(self) -> Context | None:
        return self._cell or current_cell()


def _mark(error: BaseException, event_id: str | None) -> None:
    with suppress(AttributeError, TypeError):  # an exception with slots: the cell's own list still knows it
        setattr(error, _MARK, event_id)


def was_reported(error: BaseException) -> bool:
    """Whether this very exception was reported: a server logs it once more after the request."""
    return hasattr(error, _MARK)
