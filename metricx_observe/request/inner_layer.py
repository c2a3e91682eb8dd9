"""The inner layer of the middleware: authentication has run, and exceptions have not become responses yet."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from opentelemetry.trace import get_current_span  # FastAPI depends on it
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metricx_observe.context import Context, RequestContext

from .identity import AskConsent, Identify, bind_identity
from .inbound import drop_foreign_baggage, read_request_id
from .middleware import SCOPE_KEY, STARTS, is_last

if TYPE_CHECKING:
    from metricx_observe.observability import Observability


class InnerLayer:
    """Innermost user middleware: the application's own session and authentication middleware have run.

    So it calls `identify`, and it sees exceptions that a handler turns into a response.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        observability: Observability,
        identify: Identify | None = None,
        consent: AskConsent | None = None,
    ) -> None:
        self.app = app
        self._observability = observability
        self._error_statuses = observability.settings.error_statuses
        self._identify = identify
        self._consent = consent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        installed = scope.get(SCOPE_KEY)
        if installed is None or scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        cell: Context = installed.cell
        if cell.info is not None:
            cell.info.update_scope(scope)
            read_request_id(cell, scope["headers"])
            if cell.info.has_baggage:
                drop_foreign_baggage()  # a middleware in between may have read it
        identify = None if cell.identified else self._identify
        if identify or self._consent:  # a mounted application's own rule of consent counts too
            cell.identified = True
            await bind_identity(self._observability, identify, self._consent, scope, cell)
        try:
            return await self.app(scope, receive, self._sender(cell, send))
        except Exception as error:
            cell.pending = error  # a middleware outside may turn it into a response of its own
            _mark_active_span(cell.state)
            raise

    def _sender(self, cell: Context, send: Send) -> Send:
        observability, error_statuses = self._observability, self._error_statuses

        async def send_after_report(message: Message) -> None:
            if message["type"] in STARTS:
                read_request_id(cell, message.get("headers") or ())
                _mark_active_span(cell.state)  # FastAPI ends it with the last byte, before the application returns
                error = sys.exc_info()[1]  # inside an exception handler's response this is what it handles
                if isinstance(error, Exception) and message.get("status", 101) in error_statuses:
                    observability.report(error, cell, handled=not is_unanswered(error))
            await send(message)
            if is_last(message):
                cell.answered = True  # seen here, since a middleware around it may end a body that broke off

        return send_after_report


def _mark_active_span(state: RequestContext) -> None:
    """Put the ids on the server span of an application that has OpenTelemetry set up. We make none."""
    span = get_current_span()
    if span.is_recording():
        span.set_attribute("request_id", state.request_id)
        if state.user is not None:
            span.set_attribute("user.id", state.user.id)
        if state.workspace is not None:
            span.set_attribute("workspace_id", state.workspace.id)


def is_unanswered(error: Exception) -> bool:
    """Whether the response to an exception is the plain 500 of a mounted application, which raises it again after that.

    An exception's outermost frame is the one that caught it. Told by its module: Sentry's own integration puts a
    function of its own in the place of the class's `__call__`, for the whole process.
    """
    if error.__traceback__ is None:
        return False
    frame = error.__traceback__.tb_frame
    caught_by = frame.f_locals.get("self")
    if frame.f_globals.get("__name__") != ServerErrorMiddleware.__module__ or frame.f_code.co_name != "__call__":
        return False
    return isinstance(caught_by, ServerErrorMiddleware) and (caught_by.handler is None or caught_by.debug)
