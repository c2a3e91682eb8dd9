"""ErrorReporter: exceptions, messages and breadcrumbs, with the context of the request or job."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from metricx_observe.boundary import Facade
from metricx_observe.context import DETACHED, Context, mark_reported, reported_as, use_cell
from metricx_observe.normalise import Notes, as_text, mapping, short_text

logger = logging.getLogger("metricx_observe.reporter")

_LEVELS = ("fatal", "error", "warning", "info", "debug")
_MAX_TEXT = 8_192
"""Sentry's limit for a message."""
_MAX_EXTRA = 200_000
"""Sentry takes 1 MB an event, and there is the rest of it."""


class RequestStatus(Protocol):
    """Where the middleware leaves the status of a response."""

    status: int

    def outside(self) -> AbstractContextManager[object]:
        """A block that does not belong to the request."""
        ...


class ErrorSink(Protocol):
    """The error vendor, as the facade and the middleware see it."""

    def scope(self, cell: Context) -> AbstractContextManager[RequestStatus]: ...
    def capture(
        self, error: BaseException, *, handled: bool, extra: Mapping[str, Any], level: str | None
    ) -> str | None: ...
    def message(self, text: str, level: str, extra: Mapping[str, Any]) -> str | None: ...
    def breadcrumb(self, message: str, category: str | None, data: Mapping[str, Any]) -> None: ...


class ErrorReporter(Facade[ErrorSink]):
    """Reports to Sentry. Injected by `ErrorReporterDep`, or `Observability.errors`.

    No method raises into the caller; each returns the id on the wire, or None when nothing will be sent.
    """

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
        with self._boundary("capture_exception") as notes:
            if error is None:
                error = sys.exc_info()[1]
            if isinstance(error, BaseException):
                given = mapping(extra, notes, _MAX_EXTRA)
                return self.report(error, handled=True, extra=given, level=_level(level, notes))
            notes.append("no exception given")
            if error is not None:  # what was meant as one is not lost
                return self.capture_message(error, level="error" if level is None else level, extra=extra)
        return None

    def report(
        self, error: BaseException, *, handled: bool, extra: Mapping[str, Any] = {}, level: str | None = None
    ) -> str | None:
        """Report once by identity. What the middleware calls, with `handled=False` for what nobody caught."""
        if self._sink is None:
            return None
        cell = self._cell_now()
        known = reported_as(error, cell or DETACHED)
        if known is not None:
            return known or None
        with _current(cell):
            event_id = self._sink.capture(error, handled=handled, extra=extra, level=level)
        if reported_as(error, cell or DETACHED) is None:  # the sink may know better whose it was
            mark_reported(error, cell or DETACHED, event_id or "")
        logger.info("error %s id=%s", type(error).__name__, event_id)
        return event_id

    def capture_message(
        self, text: object, *, level: str = "info", extra: Mapping[str, Any] | None = None
    ) -> str | None:
        """Report a message. Returns the event id."""
        with self._boundary("capture_message") as notes, _current(self._cell_now()):
            if self._sink is not None:
                given = mapping(extra, notes, _MAX_EXTRA)
                return self._sink.message(as_text(text, notes, _MAX_TEXT), _level(level, notes) or "info", given)
        return None

    def add_breadcrumb(
        self, message: object, *, category: str | None = None, data: Mapping[str, Any] | None = None
    ) -> None:
        """Remember a step that shows on the next error of this request."""
        with self._boundary("add_breadcrumb") as notes:
            if self._sink is not None:
                given = mapping(data, notes, _MAX_EXTRA)
                self._sink.breadcrumb(as_text(message, notes, _MAX_TEXT), short_text(category, notes) or None, given)


def _current(cell: Context | None) -> AbstractContextManager[object]:
    return nullcontext() if cell is None else use_cell(cell)


def _level(level: object, notes: Notes) -> str | None:
    known = short_text(level, notes).lower()
    if known in _LEVELS:
        return known
    if level is not None:
        notes.append("unknown level")
    return None
