"""The middleware: binds request, user and workspace to a cell, for every signal of one HTTP request or websocket.

Two layers. The outer one wraps everything: the request id is on every response, also on the 500 of an unhandled error,
and errors of other middleware are seen. The inner one sits innermost: authentication has run by then, so it calls
`identify`, and it sees exceptions that a handler turns into a response. Both are pure ASGI.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.trace import get_current_span  # FastAPI depends on it
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from .context import DETACHED, Consent, Context, Identity, Job, RequestContext, job_cell, use_cell
from .inbound import client_behind, drop_foreign_baggage, keep_body, new_cell, see_request_id, with_request_id
from .reporter import RequestStatus

if TYPE_CHECKING:
    from .observability import Observability

Identify = Callable[[HTTPConnection], Awaitable[Identity | str | None] | Identity | str | None]
"""Sync (it must not block) or async. Gives who is signed in, by the server's own authentication, or None."""
AskConsent = Callable[[HTTPConnection], Awaitable[Consent | bool | None] | Consent | bool | None]
"""Sync or async. True or False for analytics, or a `Consent`; None means that the user was not asked: no analytics."""

SCOPE_KEY = "metricx_observe"
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_ENDS = frozenset({"lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed"})
_GONE = (ClientDisconnect, WebSocketDisconnect)
"""The client left: no error of the application."""


class Installed(NamedTuple):
    """What stands in the ASGI scope, and what the providers read there."""

    observability: Observability
    cell: Context


class _Status:
    """Where the status goes without an error vendor."""

    status = 0

    def outside(self) -> AbstractContextManager[object]:
        return nullcontext()


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
        self._identify = identify
        self._consent_required = consent_required
        settings = observability.settings
        self._enabled = settings.enabled
        self._send_bodies = settings.send_bodies
        self._trusted = settings.trusted_proxies if settings.send_client_ip else ()
        observability.serve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._enabled:  # as if it were not installed, but for what the dependencies give
            if scope["type"] in ("http", "websocket"):
                scope.setdefault(SCOPE_KEY, Installed(self._observability, job_cell()))
            await self.app(scope, receive, send)
        elif scope["type"] in ("http", "websocket") and SCOPE_KEY not in scope:
            await self._request(scope, receive, send)
        elif scope["type"] == "lifespan":
            scope[SCOPE_KEY] = Installed(self._observability, DETACHED)
            self._observability.start()  # in the worker's process; again where the application is started once more
            await self.app(scope, receive, self._lifespan_sender(send, job_cell()))
        else:
            if (outer := scope.get(SCOPE_KEY)) is not None:  # a mounted application, or installed twice
                scope[SCOPE_KEY] = Installed(self._observability, outer.cell)
            await self.app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        cell, info = new_cell(scope)
        kept = _is_uvicorns(send)
        if self._trusted and info.client is not None:
            info.client = client_behind(info.client, info.headers, self._trusted)
        if self._send_bodies:
            receive = keep_body(info, receive)
        if self._consent_required:
            cell.set_consent(analytics=False)  # until the inner layer has asked, which not every request reaches
        if info.has_baggage:
            drop_foreign_baggage()
        scope[SCOPE_KEY] = Installed(self._observability, cell)
        with use_cell(cell), self._scope(cell) as request:
            try:
                if self._identify is not None:
                    await bind_identity(self._observability, self._identify, None, scope, cell)
                await self.app(scope, receive, self._sender(cell, request, send, kept))
            except Exception as error:
                if reportable(error, cell) and not cell.answered:
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
                if kept:
                    scope.pop(SCOPE_KEY, None)  # it keeps the scope until the connection's next request

    def _scope(self, cell: Context) -> AbstractContextManager[RequestStatus]:
        sink = self._observability.error_sink
        return sink.scope(cell) if sink is not None else nullcontext(_Status())

    def _sender(self, cell: Context, request: RequestStatus, send: Send, kept: bool) -> Send:
        observability = self._observability
        acknowledged = observability.acknowledged
        async def send_with_request_id(message: Message) -> None:
            if message["type"] in _STARTS:
                request.status = message.get("status", 101)
                # inside a handler's response this is what it handles; whether it goes on after that is not known yet
                cell.pending = sys.exc_info()[1] or cell.pending
                message = {**message, "headers": with_request_id(cell, message.get("headers") or ())}
                if acknowledged and cell.put:
                    await observability.committed()
            elif kept and message["type"] == "http.response.body" and not message.get("more_body"):
                # it starts its keep-alive timer in here, which holds this context while the connection is idle
                with use_cell(DETACHED), request.outside():
                    await send_or_tell(message)
                return
            await send_or_tell(message)

        async def send_or_tell(message: Message) -> None:
            try:
                await send(message)
            except OSError as error:
                cell.send_error = error
                raise

        return send_with_request_id

    def _report_response(self, cell: Context, status: int) -> None:
        """A response that says "server error" and no more: report the exception behind it, or the status alone."""
        if status not in self._observability.error_statuses:
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


def _is_uvicorns(send: Send) -> bool:
    """Whether nobody stands between the server and us who might want to know whose request this is."""
    return type(getattr(send, "__self__", None)).__module__.startswith("uvicorn.")


class OuterStack(ServerErrorMiddleware):
    """The application's stack inside the outer layer, with the parts of the stack for who takes it apart.

    OpenTelemetry's instrumentation for FastAPI does, and makes no span where it finds anything but this class.
    """

    def __init__(self, stack: ServerErrorMiddleware, **more: Any) -> None:
        """`more`: as of `ObserveMiddleware`."""
        super().__init__(stack.app, stack.handler, stack.debug)
        self._outer = ObserveMiddleware(stack, **more)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._outer(scope, receive, send)


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
        installed = scope.get(SCOPE_KEY)
        if installed is None:
            await self._with_outer(scope, receive, send)
            return
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        cell: Context = installed.cell
        if cell.info is not None:
            cell.info.see(scope)
            see_request_id(cell, scope["headers"])
            if cell.info.has_baggage:
                drop_foreign_baggage()  # a middleware in between may have read it
        identify = None if cell.installed else self._identify
        if identify or self._consent:  # a mounted application's own rule of consent counts too
            cell.installed = True
            await bind_identity(self._observability, identify, self._consent, scope, cell)
        try:
            await self.app(scope, receive, self._sender(cell, send))
        except Exception as error:
            cell.pending = error  # a middleware outside may turn it into a response of its own
            tell_active_span(cell.state)
            raise

    async def _with_outer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Somebody has taken the application's stack apart, and the outer layer with it: put it back around."""
        more: dict[str, Any] = {"observability": self._observability, "consent_required": self._consent is not None}
        app: Any = scope.get("app")
        if getattr(app, "middleware_stack", None) is not None:
            app.middleware_stack = ObserveMiddleware(app.middleware_stack, **more)  # for what comes next
        await ObserveMiddleware(self, **more)(scope, receive, send)

    def _sender(self, cell: Context, send: Send) -> Send:
        observability = self._observability

        async def send_after_report(message: Message) -> None:
            if message["type"] in _STARTS:
                see_request_id(cell, message.get("headers") or ())
                tell_active_span(cell.state)  # FastAPI ends it with the last byte, before the application returns
                error = sys.exc_info()[1]  # inside an exception handler's response this is what it handles
                if isinstance(error, Exception) and message.get("status", 101) in observability.error_statuses:
                    observability.report(error, cell, handled=not _is_unanswered(error))
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                cell.answered = True  # seen here, since a middleware around it may end a body that broke off

        return send_after_report


def _is_unanswered(error: Exception) -> bool:
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


def tell_active_span(state: RequestContext) -> None:
    """Put the ids on the server span of an application that has OpenTelemetry set up. We make none."""
    span = get_current_span()
    if span.is_recording():
        span.set_attribute("request_id", state.request_id)
        if state.user is not None:
            span.set_attribute("user.id", state.user.id)
        if state.workspace is not None:
            span.set_attribute("workspace_id", state.workspace.id)


def reportable(error: BaseException, cell: Context) -> bool:
    """Whether an exception that ended a request is the application's error, and not the client's going away.

    That is also an `OSError` of the server's `send`. A task group's is an error where any of its own is one.
    """
    if isinstance(error, BaseExceptionGroup):
        return any(reportable(each, cell) for each in error.exceptions)
    return not isinstance(error, _GONE) and error is not cell.send_error


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
        cell.bind_user(identity.id, email=identity.email, traits=identity.traits, workspace_id=identity.workspace_id)
    elif isinstance(identity, (str, int)) or hasattr(identity, "hex"):
        cell.bind_user(identity)
    else:
        raise TypeError("identify= must return an Identity, an id, or None")
