"""The middleware: binds request, user and workspace to a cell, for every signal of one HTTP request or websocket.

Two layers. The outer one wraps everything: the request id is on every response, also on the 500 of an unhandled error,
and errors of other middleware are seen. The inner one sits innermost: authentication has run by then, so it calls
`identify`, and it sees exceptions that a handler turns into a response. Both are pure ASGI.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.trace import get_current_span  # FastAPI depends on it
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from .context import (
    Consent,
    Context,
    Identity,
    RequestContext,
    RequestInfo,
    Upstream,
    use_cell,
    valid_request_id,
    valid_trace_id,
)
from .ids import new_id
from .reporter import RequestStatus

if TYPE_CHECKING:
    from .observability import Observability

Identify = Callable[[HTTPConnection], Awaitable[Identity | str | None] | Identity | str | None]
"""Sync (it must not block) or async. Gives who is signed in, by the server's own authentication, or None."""
AskConsent = Callable[[HTTPConnection], Awaitable[Consent | bool | None] | Consent | bool | None]
"""Sync or async. True or False for analytics, or a `Consent`; None means that the user was not asked: no analytics."""

SCOPE_KEY = "metricx_observe"
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_GONE = (ClientDisconnect, WebSocketDisconnect)
"""The client left: no error of the application."""
_READ = frozenset({b"host", b"sentry-trace", b"traceparent", b"x-request-id"})


class Installed(NamedTuple):
    """What stands in the ASGI scope, and what the providers read there."""

    observability: Observability
    cell: Context


class _Status:
    """Where the status goes without an error vendor."""

    status = 0


class ObserveMiddleware:
    """The outer layer; by itself with `app.add_middleware(ObserveMiddleware, observability=...)`.

    Added by hand it has no inner layer: `identify` runs before middleware that sits inside it, and a 500 of an
    unhandled error, which is sent outside all user middleware, has no request id. `Observability.install(app)` has
    neither limit.
    """

    def __init__(self, app: ASGIApp, *, observability: Observability, identify: Identify | None = None) -> None:
        self.app = app
        self._observability = observability
        self._identify = identify
        observability.serve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self._observability.start()  # in the worker's process; again where the application is started once more
            await self.app(scope, receive, self._lifespan_sender(send))
        elif scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif (outer := scope.get(SCOPE_KEY)) is not None:  # a mounted application, or installed twice
            scope[SCOPE_KEY] = Installed(self._observability, outer.cell)
            await self.app(scope, receive, send)
        else:
            await self._request(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        cell = new_cell(scope)
        scope[SCOPE_KEY] = Installed(self._observability, cell)
        with use_cell(cell), self._scope(cell) as request:
            try:
                if self._identify is not None:
                    await bind_identity(self._observability, self._identify, None, scope, cell)
                await self.app(scope, receive, self._sender(cell, request, send))
            except Exception as error:
                if reportable(error):
                    request.status = 500  # also of a body or websocket that began well
                    self._observability.report(error, cell, handled=False)
                raise
            else:
                self._report_response(cell, request.status)
            finally:
                cell.end()

    def _scope(self, cell: Context) -> AbstractContextManager[RequestStatus]:
        sink = self._observability.error_sink
        return sink.scope(cell) if sink is not None else nullcontext(_Status())

    def _sender(self, cell: Context, request: RequestStatus, send: Send) -> Send:
        observability = self._observability
        header = (b"x-request-id", cell.state.request_id.encode("latin-1"))

        async def send_with_request_id(message: Message) -> None:
            if message["type"] in _STARTS:
                request.status = message.get("status", 101)
                # inside a handler's response this is what it handles; whether it goes on after that is not known yet
                cell.pending = sys.exc_info()[1] or cell.pending
                headers = [pair for pair in message.get("headers") or () if pair[0].lower() != b"x-request-id"]
                message = {**message, "headers": [*headers, header]}
                if observability.acknowledged and cell.put:
                    await observability.committed()
            await send(message)

        return send_with_request_id

    def _report_response(self, cell: Context, status: int) -> None:
        """A response that says "server error" and no more: report the exception behind it, or the status alone."""
        if status not in self._observability.error_statuses:
            return
        if isinstance(cell.pending, Exception):
            self._observability.report(cell.pending, cell, handled=True)
        elif not cell.reported:
            self._observability.report_status(status, cell)

    def _lifespan_sender(self, send: Send) -> Send:
        async def send_between(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._observability.serve()  # the application may have called `sentry_sdk.init` meanwhile
            elif message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await self._observability.aclose()
            await send(message)

        return send_between


class InnerLayer:
    """Innermost user middleware: the application's own session and authentication middleware have run."""

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
        self._identify = identify
        self._consent = consent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        installed = scope.get(SCOPE_KEY) if scope["type"] in ("http", "websocket") else None
        if installed is None:
            await self.app(scope, receive, send)
            return
        cell: Context = installed.cell
        if not cell.installed and (self._identify or self._consent):
            cell.installed = True
            await bind_identity(self._observability, self._identify, self._consent, scope, cell)
        try:
            await self.app(scope, receive, self._sender(cell, send))
        except Exception as error:
            cell.pending = error  # a middleware outside may turn it into a response of its own
            tell_active_span(cell.state)
            raise

    def _sender(self, cell: Context, send: Send) -> Send:
        observability = self._observability

        async def send_after_report(message: Message) -> None:
            if message["type"] in _STARTS:
                tell_active_span(cell.state)  # FastAPI ends it with the last byte, before the application returns
                error = sys.exc_info()[1]  # inside an exception handler's response this is what it handles
                if message.get("status", 101) in observability.error_statuses and isinstance(error, Exception):
                    observability.report(error, cell, handled=True)
            await send(message)

        return send_after_report


def tell_active_span(state: RequestContext) -> None:
    """Put the ids on the server span of an application that has OpenTelemetry set up. We make none."""
    span = get_current_span()
    if span.is_recording():
        span.set_attribute("request_id", state.request_id)
        if state.user is not None:
            span.set_attribute("user.id", state.user.id)
        if state.workspace is not None:
            span.set_attribute("workspace_id", state.workspace.id)


def reportable(error: BaseException) -> bool:
    """Whether an exception that ended a request is the application's error, and not the client's going away."""
    return not isinstance(error, _GONE)


async def bind_identity(
    observability: Observability, identify: Identify | None, consent: AskConsent | None, scope: Scope, cell: Context
) -> None:
    """Call the application's functions. One that raises is counted, and means no user, or no consent."""
    connection = HTTPConnection(scope)
    if identify is not None:
        with observability.boundary("identify="):
            _bind(cell, await _called(identify, connection))
    if consent is not None:
        cell.set_consent(analytics=False)
        with observability.boundary("consent="):
            answer = await _called(consent, connection)
            given = answer if isinstance(answer, Consent) else Consent(analytics=bool(answer))
            cell.set_consent(analytics=bool(given.analytics), llm_content=given.llm_content)


async def _called(function: Callable[[HTTPConnection], Any], connection: HTTPConnection) -> Any:
    result = function(connection)
    return await result if inspect.isawaitable(result) else result


def _bind(cell: Context, identity: Any) -> None:
    if identity is None:
        return
    if isinstance(identity, Identity):
        cell.bind_user(
            identity.id, email=identity.email, traits=identity.traits, workspace_id=identity.workspace_id
        )
    elif isinstance(identity, (str, int)) or hasattr(identity, "hex"):
        cell.bind_user(identity)
    else:
        raise TypeError("identify= must return an Identity, an id, or None")


def new_cell(scope: MutableMapping[str, Any]) -> Context:
    """The cell of a new request. Of the client's headers only ids and the trace have an effect here."""
    found: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name in _READ:
            found.setdefault(name, value.decode("latin-1"))
    trace_id, upstream = _upstream(found.get(b"traceparent", ""), found.get(b"sentry-trace", ""))
    state = RequestContext(valid_request_id(found.get(b"x-request-id", "")) or new_id(), trace_id or new_id())
    return Context(state, RequestInfo(scope, _host(scope, found.get(b"host", ""))), upstream)


def _upstream(traceparent: str, sentry_trace: str) -> tuple[str | None, Upstream | None]:
    """W3C `00-<trace>-<span>-<flags>`, else Sentry's `<trace>-<span>[-<sampled>]`."""
    parts = traceparent.strip().split("-")
    if len(parts) >= 4 and len(parts[0]) == 2 and parts[0] != "ff" and (trace_id := _trace(parts[1], parts[2])):
        try:
            return trace_id, Upstream(parts[2], bool(int(parts[3], 16) & 1))
        except ValueError:
            return None, None
    parts = sentry_trace.strip().split("-")
    if len(parts) in (2, 3) and (trace_id := _trace(parts[0], parts[1])):
        return trace_id, Upstream(parts[1], {"0": False, "1": True}.get(parts[2]) if len(parts) == 3 else None)
    return None, None


def _trace(trace_id: str, span_id: str) -> str | None:
    """The trace id when both ids are valid; a span id is half as long."""
    return valid_trace_id(trace_id) if valid_trace_id(span_id * 2) and len(span_id) == 16 else None


def _host(scope: MutableMapping[str, Any], header: str) -> str:
    if header and len(header) <= 255 and header.isprintable() and not set(header) & set("/?#@\\ "):
        return header
    server = scope.get("server")
    return f"{server[0]}:{server[1]}" if server and server[1] else "localhost"
