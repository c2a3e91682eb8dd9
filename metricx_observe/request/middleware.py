"""The middleware: binds request, user and workspace to a cell, for every signal of one HTTP request or websocket.

Two layers, both pure ASGI. The outer one, here, wraps everything: the request id is on every response, also on the 500
of an unhandled error, and errors of other middleware are seen. The inner one is in `inner_layer.py`.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple, cast

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from metricx_observe.context import DETACHED, Context, Job, job_cell, use_cell

from .identity import Identify, bind_identity
from .inbound import client_behind, drop_foreign_baggage, keep_body, new_cell, with_request_id

if TYPE_CHECKING:
    from metricx_observe.observability import Observability
    from metricx_observe.signals.errors import RequestStatus

SCOPE_KEY = "metricx_observe"
STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
"""The messages that begin a response."""
_ENDS = frozenset({"lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed"})


class Installed(NamedTuple):
    """What stands in the ASGI scope, and what the providers read there."""

    observability: Observability
    cell: Context


class ObserveMiddleware:
    """The outer layer; by itself with `app.add_middleware(ObserveMiddleware, observability=...)`.

    Added by hand it has no inner layer: `identify` runs before middleware that sits inside it, and a 500 of an
    unhandled error, which is sent outside all user middleware, has no request id. `Observability.install(app)` has
    neither limit.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        observability: Observability,
        identify: Identify | None = None,
        consent_required: bool = False,
    ) -> None:
        self.app = app
        self._observability = observability
        self._settings = observability.settings
        self._acknowledged = observability.settings.durability == "acknowledged"
        self._identify = identify
        self._consent_required = consent_required
        observability.serve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_request, outer = scope["type"] in ("http", "websocket"), scope.get(SCOPE_KEY)
        if not self._settings.enabled:  # as if it were not installed, but for what the dependencies give
            if is_request and outer is None:
                scope[SCOPE_KEY] = Installed(self._observability, job_cell())
        elif scope["type"] == "lifespan":
            scope[SCOPE_KEY] = Installed(self._observability, DETACHED)
            self._observability.start()  # in the worker's process; again where the application is started once more
            send = self._lifespan_sender(send, job_cell())
        elif outer is not None:  # a mounted application, or installed twice
            scope[SCOPE_KEY] = Installed(self._observability, outer.cell)
        elif is_request:
            return await self._request(scope, receive, send)
        return await self.app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        cell, info = new_cell(scope)
        if self._settings.send_client_ip and info.client is not None:
            info.client = client_behind(info.client, info.headers, self._settings.trusted_proxies)
        if self._settings.send_bodies:
            receive = keep_body(info, receive)
        if self._consent_required:
            cell.set_consent(analytics=False)  # until the inner layer has asked, which not every request reaches
        if info.has_baggage:
            drop_foreign_baggage()
        scope[SCOPE_KEY] = Installed(self._observability, cell)
        under_uvicorn = _is_uvicorns(send)
        with use_cell(cell), self._scope(cell) as request:
            try:
                if self._identify is not None:
                    await bind_identity(self._observability, self._identify, None, scope, cell)
                await self.app(scope, receive, self._sender(cell, request, send, under_uvicorn))
            except Exception as error:
                if is_applications(error, cell) and not cell.answered:
                    request.status = 500  # also of a body or websocket that began well, but not of what came after it
                self._observability.report(error, cell, handled=False)
                raise
            except BaseException:  # cancelled: 499 is what servers log for a client that left
                request.status = request.status or 499
                raise
            else:
                self._report_response(cell, request.status)
            finally:
                cell.end()
                if under_uvicorn:
                    scope.pop(SCOPE_KEY, None)  # it keeps the scope until the connection's next request

    def _scope(self, cell: Context) -> AbstractContextManager[RequestStatus]:
        if (sink := self._observability.error_sink) is not None:
            return sink.scope(cell)
        return nullcontext(cast("RequestStatus", SimpleNamespace(status=0, outside=nullcontext)))

    def _sender(self, cell: Context, request: RequestStatus, send: Send, under_uvicorn: bool) -> Send:
        observability, acknowledged = self._observability, self._acknowledged

        async def send_with_request_id(message: Message) -> None:
            if message["type"] in STARTS:
                request.status = message.get("status", 101)
                # inside a handler's response this is what it handles; whether it goes on after that is not known yet
                cell.pending = sys.exc_info()[1] or cell.pending
                message = {**message, "headers": with_request_id(cell, message.get("headers") or ())}
                if acknowledged and cell.put:
                    await observability.committed()
            try:
                if under_uvicorn and is_last(message):
                    # it starts its keep-alive timer in here, which holds this context while the connection is idle
                    with use_cell(DETACHED), request.outside():
                        await send(message)
                else:
                    await send(message)
            except OSError as error:
                cell.send_error = error
                raise

        return send_with_request_id

    def _report_response(self, cell: Context, status: int) -> None:
        """A response that says "server error" and no more: report the exception behind it, or the status alone."""
        if status not in self._settings.error_statuses:
            return
        if isinstance(cell.pending, Exception):
            self._observability.report(cell.pending, cell, handled=True)
        elif not cell.reported:
            self._observability.report_status(status, cell)

    def _lifespan_sender(self, send: Send, cell: Context) -> Send:
        async def send_between(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._observability.serve()  # the application may have called `sentry_sdk.init` meanwhile
            elif message["type"] in _ENDS:
                error = sys.exc_info()[1]  # of a lifespan that failed: the framework says so while it handles it
                if isinstance(error, Exception) and message["type"] != "lifespan.shutdown.complete":
                    with Job(cell):
                        self._observability.report(error, cell, handled=False)
                await self._observability.aclose()  # before the server is told, which then ends the process
            await send(message)

        return send_between


def is_last(message: Message) -> bool:
    """Whether a message ends an HTTP response."""
    return message["type"] == "http.response.body" and not message.get("more_body")


def is_applications(error: BaseException, cell: Context) -> bool:
    """Whether an exception that ended a request is the application's error, and not the client's going away.

    That is also an `OSError` of the server's `send`. A task group's is an error where any of its own is one.
    """
    if isinstance(error, BaseExceptionGroup):
        return any(is_applications(each, cell) for each in error.exceptions)
    return not isinstance(error, (ClientDisconnect, WebSocketDisconnect)) and error is not cell.send_error


def _is_uvicorns(send: Send) -> bool:
    """Whether nobody stands between the server and us who might want to know whose request this is."""
    return type(getattr(send, "__self__", None)).__module__.startswith("uvicorn.")
