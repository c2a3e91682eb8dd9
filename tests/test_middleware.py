"""The middleware: ids, traces, and each error exactly once, in process and under uvicorn."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import nullcontext
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sentry_sdk
import starlette
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as connect_websocket

from metricx_observe import (
    Consent,
    ContextDep,
    ErrorReporterDep,
    Identity,
    InputError,
    Observability,
    ObserveMiddleware,
    TrackerDep,
)
from metricx_observe.context import current

from .receiver_server import Receiver
from .support import Answer, call, connect, observed, scope_of, serving

HEX = frozenset("0123456789abcdef")


class Broken(Exception):
    """An error of the application's."""


class Handled(Exception):
    """One that the application turns into a response."""


class Raising:
    """A middleware of the application's with an error of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") == "/in-middleware":
            raise Broken("in-middleware")
        await self.app(scope, receive, send)


class Answering:
    """A middleware that answers by itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = PlainTextResponse("by itself", 418) if scope.get("path") == "/answered" else self.app
        await app(scope, receive, send)


class Swallowing:
    """A middleware that turns what it catches into a 500 of its own: inside its `except`, or after it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope.get("path", "").startswith("/swallowed"):
            await self.app(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        except Broken:
            if scope["path"].endswith("inside"):
                await PlainTextResponse("swallowed", 500)(scope, receive, send)
                return
        await PlainTextResponse("swallowed", 500)(scope, receive, send)


async def through(request: Request, call_next: Callable[[Request], Any]) -> Response:
    """A BaseHTTPMiddleware, which runs the rest in a task of its own."""
    if request.url.path == "/in-base":
        raise Broken("in-base")
    response: Response = await call_next(request)
    return response


async def failing() -> None:
    raise Broken("in-async-dependency")


def failing_sync() -> None:
    raise Broken("in-sync-dependency")


async def failing_after() -> AsyncIterator[None]:
    yield
    raise Broken("in-yield-dependency")


def failing_app(observability: Observability, *, base: bool = True) -> FastAPI:
    """A route for each place that an exception can come from; its text is the path's last part."""
    app = FastAPI()
    if base:
        app.add_middleware(BaseHTTPMiddleware, dispatch=through)
    for middleware in (Raising, Answering, Swallowing):
        app.add_middleware(middleware)
    observability.install(app)
    app.add_exception_handler(Handled, lambda _, error: JSONResponse({"detail": str(error)}, 503))
    app.include_router(routes)
    return app


routes = APIRouter()


@routes.get("/in-async-route")
@routes.get("/swallowed-inside")
@routes.get("/swallowed-after")
async def in_async_route(request: Request) -> None:
    raise Broken(request.url.path.removeprefix("/"))


@routes.get("/in-sync-route")
def in_sync_route() -> None:
    raise Broken("in-sync-route")


@routes.get("/in-async-dependency", dependencies=[Depends(failing)])
@routes.get("/in-sync-dependency", dependencies=[Depends(failing_sync)])
@routes.get("/in-yield-dependency", dependencies=[Depends(failing_after)])
async def nothing() -> None:
    pass


@routes.get("/in-background")
async def in_background(tasks: BackgroundTasks) -> None:
    async def later() -> None:
        raise Broken("in-background")

    tasks.add_task(later)


@routes.get("/in-sync-background")
async def in_sync_background(tasks: BackgroundTasks) -> None:
    def later() -> None:
        raise Broken("in-sync-background")

    tasks.add_task(later)


@routes.get("/in-stream")
async def in_stream() -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        yield b"begun"
        raise Broken("in-stream")

    return StreamingResponse(body())


@routes.get("/in-sync-stream")
def in_sync_stream() -> StreamingResponse:
    def body() -> Iterator[bytes]:
        yield b"begun"
        raise Broken("in-sync-stream")

    return StreamingResponse(body())


@routes.websocket("/in-websocket")
async def in_websocket(socket: WebSocket) -> None:
    await socket.accept()
    raise Broken("in-websocket")


@routes.get("/handled")
async def handled() -> None:
    raise Handled("handled")


@routes.get("/http-503")
async def http_503() -> None:
    raise HTTPException(503, "http-503")


@routes.get("/logged-and-raised")
def logged_and_raised() -> None:
    try:
        raise Broken("logged-and-raised")
    except Broken:
        logging.getLogger("application").exception("it failed")
        raise


@routes.get("/captured-and-raised")
def captured_and_raised(errors: ErrorReporterDep) -> None:
    error = Broken("captured-and-raised")
    errors.capture_exception(error)
    raise error


@routes.get("/returned-500")
async def returned() -> PlainTextResponse:
    return PlainTextResponse("no exception", 500)


UNHANDLED = (
    "in-async-route", "in-sync-route", "in-async-dependency", "in-sync-dependency", "in-yield-dependency",
    "in-background", "in-sync-background", "in-stream", "in-sync-stream", "in-websocket", "in-middleware", "in-base",
    "logged-and-raised", "captured-and-raised",
)  # fmt: skip
EARLIER = tuple(map(int, starlette.__version__.split(".")[:2])) < (0, 46)
"""Starlette then keeps what a background task raises below BaseHTTPMiddleware to itself, and denies no websocket."""
LOST = frozenset({"in-background", "in-sync-background"}) if EARLIER else frozenset[str]()
ANSWERED = {"swallowed-inside": 500, "swallowed-after": 500, "handled": 503, "http-503": 503}


@pytest.mark.parametrize("base", [True, False], ids=["with BaseHTTPMiddleware", "pure ASGI"])
async def test_each_exception_is_reported_exactly_once(receiver: Receiver, base: bool) -> None:
    """Wherever it came from, and whether a handler, a middleware or nobody made a response of it."""
    run = uuid4().hex[:8]
    places = [place for place in (*UNHANDLED, *ANSWERED) if place not in (LOST if base else {"in-base"})]
    names = {place: [place] for place in places}
    with observed(receiver) as observability:
        app = failing_app(observability, base=base)
        for place in places:
            answer = await _call(app, place, run)
            ended = answer.error
            if isinstance(ended, BaseExceptionGroup):  # which Starlette before 0.46 makes of a stream's error
                names[place], ended = [ended.message], ended.exceptions[0]
            assert isinstance(ended, Broken if place in UNHANDLED else type(None)), place
            assert answer.headers["x-request-id"] == f"{run}-{place}"
            assert place not in ANSWERED or answer.status == ANSWERED[place]
        observability.flush()
        found = {place: receiver.signals(request_id=f"{run}-{place}", kind="error") for place in places}
    assert {place: [error["name"].rpartition(": ")[2] for error in errors] for place, errors in found.items()} == names
    for place, (error,) in found.items():
        (*_, raised) = error["payload"]["exception"]["values"]
        if place in UNHANDLED and "captured" not in place and "logged" not in place:
            assert raised["mechanism"].items() >= {"type": "metricx_observe", "handled": False}.items()


async def _call(app: ASGIApp, place: str, run: str) -> Answer:
    headers = {"x-request-id": f"{run}-{place}"}
    caller = connect if place.endswith("websocket") else call
    return await caller(app, f"/{place}", headers=headers)


def test_each_exception_is_reported_once_under_uvicorn(receiver: Receiver) -> None:
    """uvicorn logs what the application raised, which Sentry's logging integration would report once more."""
    run = uuid4().hex[:8]
    logged = SimpleQueue[logging.LogRecord]()
    handler = QueueHandler(logged)
    server_log = logging.getLogger("uvicorn.error")
    handler.addFilter(lambda record: record.getMessage().startswith("Exception in ASGI application"))
    server_log.addHandler(handler)
    try:
        with observed(receiver) as observability, serving(failing_app(observability)) as url:
            places = [place for place in (*UNHANDLED, *ANSWERED) if place not in LOST]
            for place in places:
                _request(url, place, run)
            _until(lambda: logged.qsize() >= len(places) - len(ANSWERED))
            assert observability.flush()
            found = {place: receiver.signals(request_id=f"{run}-{place}") for place in places}
            errors = [signal for signal in receiver.signals(kind="error") if signal["request_id"] is None]
    finally:
        server_log.removeHandler(handler)
    for place, signals in found.items():
        names = [signal["name"].rpartition(": ")[2] for signal in signals if signal["kind"] == "error"]
        assert names == [place] or (EARLIER and "stream" in place and "TaskGroup" in names[0])
    assert not [error for error in errors if "Exception in ASGI application" in error["name"]]


def _request(url: str, place: str, run: str) -> None:
    headers = {"x-request-id": f"{run}-{place}"}
    if place.endswith("websocket"):
        address = f"{url.replace('http', 'ws')}/{place}"
        with (
            connect_websocket(address, additional_headers=headers, proxy=None) as socket,
            pytest.raises(ConnectionClosed),
        ):
            socket.recv()
        return
    try:
        response = httpx.get(f"{url}/{place}", headers=headers, trust_env=False)
    except httpx.RemoteProtocolError:  # a body that broke off
        assert place.endswith("stream")
    else:
        assert response.headers["x-request-id"] == f"{run}-{place}"


def _until(true: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_a_websocket_that_its_client_closes_is_no_error_of_the_server_either(receiver: Receiver) -> None:
    """The usual endless loop ends with WebSocketDisconnect, which uvicorn logs as an error: it is not reported."""
    logged = SimpleQueue[logging.LogRecord]()
    server_log, handler = logging.getLogger("uvicorn.error"), QueueHandler(logged)
    handler.addFilter(lambda record: record.getMessage().startswith("Exception in ASGI application"))
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app)

        @app.websocket("/echo")
        async def echo(socket: WebSocket) -> None:
            await socket.accept()
            while True:
                await socket.send_text(await socket.receive_text())

        server_log.addHandler(handler)
        try:
            with serving(app) as url:
                with connect_websocket(f"{url.replace('http', 'ws')}/echo", proxy=None) as socket:
                    socket.send("hello")
                    assert socket.recv() == "hello"
                _until(lambda: not logged.empty())
                assert observability.flush()
        finally:
            server_log.removeHandler(handler)
    assert not [signal for signal in receiver.signals(kind="error") if "WebSocketDisconnect" in signal["name"]]


async def test_what_is_no_error_of_the_applications_is_not_reported(receiver: Receiver) -> None:
    """Neither 4xx of any kind, nor a client that left, nor a websocket that closed."""
    run = uuid4().hex[:8]
    with observed(receiver) as observability:
        app = failing_app(observability)

        @app.get("/gone")
        async def gone() -> None:
            raise HTTPException(410)

        @app.get("/number/{number}")
        async def number(number: int) -> None: ...

        @app.get("/left")
        async def left() -> None:
            raise ClientDisconnect

        @app.websocket("/chat")
        async def chat(socket: WebSocket) -> None:
            await socket.accept()
            await socket.receive_text()

        @app.websocket("/denied")
        async def denied(socket: WebSocket) -> None:
            raise HTTPException(403)

        answers = {}
        for path in ("/missing", "/gone", "/number/x", "/answered", "/left"):
            answers[path] = await call(app, path, headers={"x-request-id": f"{run}{path.replace('/', '-')}"})
        answers["/chat"] = await connect(app, "/chat", headers={"x-request-id": f"{run}-chat"})
        answers["/denied"] = await connect(
            app, "/denied", headers={"x-request-id": f"{run}-denied"}, extensions={"websocket.http.response": {}}
        )
        observability.flush()
        found = [signal for signal in receiver.signals() if str(signal["request_id"]).startswith(run)]
    assert [answer.status for answer in answers.values()] == [404, 410, 422, 418, 500, 0, 0 if EARLIER else 403]
    assert isinstance(answers["/left"].error, ClientDisconnect)
    assert isinstance(answers["/chat"].error, WebSocketDisconnect)
    assert {signal["kind"] for signal in found} == {"transaction"}


async def test_a_5xx_without_an_exception_is_reported_by_its_status_and_route(receiver: Receiver) -> None:
    """A response that says "server error" is one, also when nothing was raised; the URL is not in its name."""
    request_id = uuid4().hex
    with observed(receiver) as observability:
        app = failing_app(observability)
        await call(app, "/returned-500?token=x", headers={"x-request-id": request_id})
        observability.flush()
        (error,) = receiver.signals(request_id=request_id, kind="error")
    assert error["name"] == "HTTP 500 from /returned-500"


async def test_the_error_statuses_are_a_setting(receiver: Receiver) -> None:
    """METRICX_ERROR_STATUSES=404,500-502 reports a 404, and leaves a 503 out."""
    run = uuid4().hex[:8]
    with observed(receiver, error_statuses="404,500-502") as observability:
        app = failing_app(observability)
        await call(app, "/missing", headers={"x-request-id": f"{run}-missing"})
        await call(app, "/http-503", headers={"x-request-id": f"{run}-503"})
        await call(app, "/handled", headers={"x-request-id": f"{run}-handled"})
        observability.flush()
        errors = [error for error in receiver.signals(kind="error") if str(error["request_id"]).startswith(run)]
    assert {error["request_id"]: error["name"] for error in errors} == {
        f"{run}-missing": "HTTPException: Not Found",
    }


def _mounted(sub: ASGIApp, observability: Observability, how: str) -> ASGIApp:
    """An observed application in which `sub` is mounted at `/sub`."""
    match how:
        case "in FastAPI":
            app: Starlette = FastAPI()
            app.mount("/sub", sub)
        case "in Starlette":
            app = Starlette(routes=[Mount("/sub", sub)])
        case "two levels down":
            middle, app = FastAPI(), FastAPI()
            middle.mount("/sub", sub)
            app.mount("/middle", middle)
        case _:  # below a middleware of its own
            app = FastAPI()
            app.mount("/sub", BaseHTTPMiddleware(sub, dispatch=_pass_on))
    observability.install(app)
    return app


async def _pass_on(request: Request, call_next: Callable[[Request], Any]) -> Any:
    return await call_next(request)


@pytest.fixture(params=[False, True], ids=["", "beside Sentry's integration"])
def _server_error_middleware_is_replaced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Sentry's own integration, which an earlier `sentry_sdk.init` leaves in the process."""
    if request.param:
        theirs = ServerErrorMiddleware.__call__

        async def replaced(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
            await theirs(self, scope, receive, send)

        monkeypatch.setattr(ServerErrorMiddleware, "__call__", replaced)


@pytest.mark.usefixtures("_server_error_middleware_is_replaced")
@pytest.mark.parametrize("own_install", [False, True], ids=["plain", "with an install of its own"])
@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize("how", ["in FastAPI", "in Starlette", "two levels down", "in BaseHTTPMiddleware"])
async def test_an_error_of_a_mounted_application_is_handled_where_a_handler_answers_it(
    receiver: Receiver, how: str, debug: bool, own_install: bool
) -> None:
    """A mounted application sends its own 500 of what nobody handled, and raises it again: no handler's answer."""
    run = uuid4().hex[:8]
    with observed(receiver) as observability:
        sub = FastAPI(debug=debug)
        if own_install:
            observability.install(sub)
        app = _mounted(sub, observability, how)

        @sub.exception_handler(Handled)
        async def handle(request: Request, error: Exception) -> Response:
            return PlainTextResponse("no", 503)

        @sub.get("/broken")
        async def broken() -> None:
            raise Broken("broken")

        @sub.get("/handled")
        async def handled() -> None:
            raise Handled("handled")

        for place in ("broken", "handled"):
            path = f"/middle/sub/{place}" if how == "two levels down" else f"/sub/{place}"
            answer = await call(app, path, headers={"x-request-id": f"{run}-{place}"})
            assert answer.status == {"broken": 500, "handled": 503}[place]
        assert observability.flush(10)
        found = {
            place: [_handled(error) for error in receiver.signals(request_id=f"{run}-{place}", kind="error")]
            for place in ("broken", "handled")
        }
    # what is handled in a task of BaseHTTPMiddleware leaves its status only, unless an inner layer is there too
    status_only = how == "in BaseHTTPMiddleware" and not own_install
    handled_there = None if status_only else True
    # earlier ones keep what is raised after the response to themselves, and all that is seen is that
    broken_there = handled_there if EARLIER and how == "in BaseHTTPMiddleware" else False
    assert found == {"broken": [broken_there], "handled": [handled_there]}


def _handled(error: dict[str, Any]) -> bool | None:
    """Whether an event says that its exception was handled; None where it has no exception."""
    values = (error["payload"].get("exception") or {}).get("values")
    return values[-1]["mechanism"]["handled"] if values else None


async def test_a_handler_of_everything_in_a_mounted_application_answers(receiver: Receiver) -> None:
    """Registered for `Exception` it makes the response of the mounted application's, which raises the error all the
    same."""
    run = uuid4().hex
    with observed(receiver) as observability:
        sub = FastAPI()
        app = _mounted(sub, observability, "in FastAPI")

        @sub.exception_handler(Exception)
        async def handle(request: Request, error: Exception) -> Response:
            return PlainTextResponse("sorry", 500)

        @sub.get("/")
        async def broken() -> None:
            raise Broken("broken")

        await call(app, "/sub/", headers={"x-request-id": run})
        assert observability.flush(10)
        (error,) = receiver.signals(request_id=run, kind="error")
    assert _handled(error) is True


def _log_to(name: str) -> Callable[[Exception], object]:
    return lambda error: logging.getLogger(name).error("it ended with an exception", exc_info=error)


@pytest.mark.parametrize("in_job", [False, True], ids=["outside", "in a job around the application"])
@pytest.mark.parametrize(
    "tell",
    [*map(_log_to, ("mangum.http", "_granian", "wrapper", "asyncio")), sentry_sdk.capture_exception],
    ids=["mangum", "granian", "a wrapper's own", "a task's", "captured"],
)
async def test_what_a_wrapper_says_of_a_request_that_ended_is_no_second_event(
    receiver: Receiver, tell: Callable[[Exception], object], in_job: bool
) -> None:
    """By whatever logger it does, or by Sentry's own function; and no step of what comes after it."""
    run = uuid4().hex
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app)

        @app.get("/")
        async def raising() -> None:
            raise Broken(run)

        async def wrapper() -> None:
            try:
                await app(scope_of("/", headers={"x-request-id": run}), _nothing_received, _nothing_sent)
            except Broken as error:
                tell(error)

        with observability.context() if in_job else nullcontext():
            await wrapper()
        observability.errors.capture_message(f"after {run}")
        assert observability.flush(10)
        after, *errors = [each for each in receiver.signals(kind="error") if run in each["name"]]
    assert [error["request_id"] for error in errors] == [run]
    crumbs = (after["payload"].get("breadcrumbs") or {}).get("values", [])
    assert "it ended with an exception" not in [crumb.get("message") for crumb in crumbs]


async def _nothing_received() -> Message:
    return {"type": "http.request"}


async def _nothing_sent(_: Message) -> None: ...


async def test_what_a_wrapper_raises_of_it_is_an_event_of_its_own(receiver: Receiver) -> None:
    """An exception with the reported one as its cause, and the same one where a request is made inside of another."""
    run = uuid4().hex
    with observed(receiver) as observability:
        inner, outer = FastAPI(), FastAPI()
        for app in (inner, outer):
            observability.install(app)

        @inner.get("/")
        async def raising() -> None:
            raise Broken(run)

        @outer.get("/")
        async def calling() -> None:
            await inner(scope_of("/", headers={"x-request-id": f"{run}-inner"}), _nothing_received, _nothing_sent)

        answer = await call(outer, "/", headers={"x-request-id": f"{run}-outer"})
        wrapped = RuntimeError(f"wrapped {run}")
        wrapped.__cause__ = answer.error
        logging.getLogger("wrapper").error("it ended", exc_info=wrapped)
        assert observability.flush(10)
        errors = [error for error in receiver.signals(kind="error") if run in error["name"]]
    assert {error["request_id"] for error in errors} == {f"{run}-inner", f"{run}-outer", None}
    assert len(errors) == 3


async def test_an_exception_that_is_raised_in_two_requests_is_reported_in_both(receiver: Receiver) -> None:
    """Once is once per request, also for an exception object that a module keeps and raises again."""
    run, kept = uuid4().hex[:8], Broken("kept")
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app)

        @app.get("/")
        async def raising() -> None:
            raise kept

        for number in range(2):
            await call(app, "/", headers={"x-request-id": f"{run}-{number}"})
        observability.flush()
        for number in range(2):
            assert len(receiver.signals(request_id=f"{run}-{number}", kind="error")) == 1


async def test_every_response_has_the_request_id(receiver: Receiver) -> None:
    """A normal one, a 404, the 500 of an unhandled error, a custom handler's, a middleware's own, and websockets'."""
    with observed(receiver) as observability:
        app = failing_app(observability)

        @app.exception_handler(500)
        async def custom(request: Request, error: Exception) -> JSONResponse:
            return JSONResponse({"oops": True}, 500)

        @app.get("/ok")
        async def ok(context: ContextDep) -> dict[str, str]:
            return {"id": context.request_id}

        @app.get("/own")
        async def own() -> PlainTextResponse:
            return PlainTextResponse("", headers={"X-Request-ID": "the application's own"})

        @app.websocket("/accepted")
        async def accepted(socket: WebSocket) -> None:
            await socket.accept(headers=[(b"x-more", b"1")])

        @app.websocket("/denied")
        async def denied(socket: WebSocket) -> None:
            await socket.send_denial_response(PlainTextResponse("no", 401))

        paths = ("/ok", "/missing", "/in-async-route", "/in-middleware", "/in-base", "/handled", "/answered", "/own")
        answers = [await call(app, path) for path in paths]
        answers.append(await connect(app, "/accepted"))
        answers.append(await connect(app, "/denied", extensions={"websocket.http.response": {}}))
    assert [answer.status for answer in answers] == [200, 404, 500, 500, 500, 503, 418, 200, 0, 401]
    assert answers[2].body == b'{"oops":true}'
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert ids.pop(7) == "the application's own"
    assert len(set(ids)) == len(ids)
    assert all(len(id) == 32 and HEX.issuperset(id) for id in ids)
    assert answers[0].body == b'{"id":"%b"}' % ids[0].encode()
    assert answers[8].headers["x-more"] == "1"


@pytest.mark.parametrize(
    ("given", "taken"),
    [("a", True), ("A-z_0.9", True), ("x" * 128, True), ("x" * 129, False), ("", False), ("a b", False), ("ä", False)],
)
async def test_a_clients_request_id_is_taken_only_when_it_is_valid(receiver: Receiver, given: str, taken: bool) -> None:
    """1 to 128 of [A-Za-z0-9._-]; anything else gives a new one."""
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app)
        answer = await call(app, "/", headers={"x-request-id": given})
    assert (answer.headers["x-request-id"] == given) is taken


TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": f"00-{TRACE}-{SPAN}-01"},
        {"sentry-trace": f"{TRACE}-{SPAN}-1"},
        {"sentry-trace": f"{TRACE}-{SPAN}"},
        {"traceparent": f"00-{TRACE}-{SPAN}-01", "sentry-trace": f"{'1' * 32}-{SPAN}-0"},
        {"traceparent": f"00-{'0' * 32}-{SPAN}-01", "sentry-trace": f"{TRACE}-{SPAN}-1"},
    ],
    ids=["traceparent", "sentry-trace", "deferred", "traceparent first", "an invalid traceparent"],
)
async def test_the_upstreams_trace_goes_on(receiver: Receiver, headers: dict[str, str]) -> None:
    """Its trace id is on the error, in the event's context, and on the transaction, whose parent is its span."""
    request_id = uuid4().hex
    with observed(receiver) as observability:
        app = failing_app(observability)

        @app.get("/both")
        async def both(tracker: TrackerDep, context: ContextDep) -> None:
            tracker.track("seen")
            assert context.trace_id == TRACE
            raise Broken("both")

        await call(app, "/both", headers={**headers, "x-request-id": request_id})
        observability.flush()
        found = {signal["kind"]: signal for signal in receiver.signals(request_id=request_id)}
    assert {kind: signal["trace_id"] for kind, signal in found.items()} == dict.fromkeys(
        ("error", "transaction", "track"), TRACE
    )
    assert found["transaction"]["parent_id"] == SPAN


@pytest.mark.parametrize(
    "value", ["00-x-y-01", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{SPAN}-xx", "é"]
)
async def test_a_malformed_trace_header_begins_a_new_trace(receiver: Receiver, value: str) -> None:
    """What is no trace id never becomes one."""
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app)

        @app.get("/")
        async def read(context: ContextDep) -> str:
            return context.trace_id

        answer = await call(app, "/", headers={"traceparent": value})
    trace_id = answer.body.decode().strip('"')
    assert len(trace_id) == 32
    assert trace_id != TRACE


async def test_a_negative_upstream_leaves_out_the_transaction_only(receiver: Receiver) -> None:
    """Its errors, events and traces are all sent."""
    request_id = uuid4().hex
    with observed(receiver) as observability:
        app = failing_app(observability)

        @app.get("/all")
        async def everything(tracker: TrackerDep) -> None:
            tracker.track("seen")
            with observability.llm.trace("seen"):
                raise Broken("seen")

        await call(app, "/all", headers={"traceparent": f"00-{TRACE}-{SPAN}-00", "x-request-id": request_id})
        observability.flush()
        found = receiver.signals(request_id=request_id)
    assert {signal["kind"] for signal in found} == {"error", "track", "trace"}


async def test_a_positive_upstream_is_traced_within_a_limit(receiver: Receiver) -> None:
    """METRICX_TRACES_MAX_PER_SECOND bounds what callers can make us trace beyond our own rate."""
    run = uuid4().hex[:8]
    with observed(receiver, traces_sample_rate=1e-9, traces_max_per_second=5) as observability:
        app = FastAPI()
        observability.install(app)
        began = time.monotonic()
        for number in range(50):
            headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "x-request-id": f"{run}-{number}"}
            await call(app, "/", headers=headers)
        took = time.monotonic() - began
        await call(app, "/", headers={"x-request-id": f"{run}-own"})
        observability.flush()
        found = [signal for signal in receiver.signals(trace_id=TRACE) if signal["request_id"].startswith(run)]
    assert 5 <= len(found) <= 5 + 5 * took + 1


async def test_transactions_have_the_full_route_template_as_their_name(receiver: Receiver) -> None:
    """Prefixes of include_router and of mounts included, their path parameters too; never a URL."""
    run = uuid4().hex[:8]
    with observed(receiver) as observability:
        app, sub, router = FastAPI(), FastAPI(), APIRouter(prefix="/users")
        observability.install(app)

        @router.get("/{user_id}")
        async def user(user_id: int) -> None: ...

        @sub.get("/items/{item}")
        async def item(item: str) -> None: ...

        async def plain(request: Request) -> Response:
            return Response()

        app.include_router(router, prefix="/api")
        sub.include_router(router)
        app.add_route("/starlette/{id}", plain)
        app.mount("/files", PlainTextResponse("a file"))
        app.mount("/sub", sub)
        app.mount("/tenants/{tenant}", sub)
        app.router.routes.append(Mount("/a/{tenant}/b", routes=[Mount("/{kind}", routes=[Route("/{id:int}", plain)])]))
        names = {
            "/api/users/1": "/api/users/{user_id}",
            "/sub/items/x": "/sub/items/{item}",
            "/sub/users/7": "/sub/users/{user_id}",
            "/tenants/acme/items/acme": "/tenants/{tenant}/items/{item}",
            "/tenants/tenants/items/1": "/tenants/{tenant}/items/{item}",
            "/tenants/acme/users/3": "/tenants/{tenant}/users/{user_id}",
            "/a/acme/b/kind/3": "/a/{tenant}/b/{kind}/{id}",
            "/starlette/1": "/starlette/{id}",
            "/docs": "/docs",
            "/files/any.css": "/files/*",
            "/nowhere/1234": "<unmatched>",
            "/sub/nowhere": "<unmatched>",
        }
        for number, path in enumerate(names):
            headers = {"x-request-id": f"{run}-{number}"}
            await call(app, f"/proxied{path}", headers=headers, root_path="/proxied")
        observability.flush()
        for number, (path, name) in enumerate(names.items()):
            (transaction,) = receiver.signals(request_id=f"{run}-{number}", kind="transaction")
            assert transaction["name"].replace(":int", "") == name, path
            known = {"<unmatched>": "", "/files/*": "/proxied/files/*"}.get(name, f"/proxied{path}")
            assert transaction["payload"]["request"]["url"] == f"http://testserver{known}"


@pytest.mark.parametrize("root", ["/api/v1", ""])
async def test_a_health_check_has_its_path_below_the_root(receiver: Receiver, root: str) -> None:
    """A server gives `root_path`, and a `path` that begins with it; without one `/api/v1/health` is another route."""
    request_id = uuid4().hex
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app)
        app.add_api_route("/health", lambda: None)
        app.add_api_route("/api/v1/health", lambda: None)
        await call(app, "/api/v1/health", headers={"x-request-id": request_id}, root_path=root)
        observability.flush()
        found = receiver.signals(request_id=request_id)
    assert [each["name"] for each in found] == ([] if root else ["/api/v1/health"])


async def test_health_checks_heads_and_options_are_not_traced(receiver: Receiver) -> None:
    """They are most of many services' requests; an error in one is reported all the same."""
    run = uuid4().hex[:8]
    with observed(receiver, ignore_paths="/health*,/ping") as observability:
        app = failing_app(observability)

        @app.get("/ping")
        async def ping() -> None:
            raise Broken("ping")

        calls = {"/health/ready": "GET", "/ping": "GET", "/in-async-route": "OPTIONS", "/handled": "HEAD"}
        for path, method in calls.items():
            await call(app, path, method=method, headers={"x-request-id": run})
        await call(app, "/answered", headers={"x-request-id": run})
        observability.flush()
        found = receiver.signals(request_id=run)
    assert sorted((signal["kind"], signal["name"]) for signal in found) == [
        ("error", "Broken: ping"), ("transaction", "<unmatched>"),
    ]  # fmt: skip


async def test_a_transactions_status_is_the_responses_or_that_of_its_failure(receiver: Receiver) -> None:
    """A body that began with a 200 and broke off is a failed transaction."""
    run = uuid4().hex[:8]
    statuses = {"answered": 418, "handled": 503, "in-async-route": 500, "in-stream": 500, "in-websocket": 500}
    with observed(receiver) as observability:
        app = failing_app(observability)
        for place in statuses:
            await _call(app, place, run)
        observability.flush()
        for place, status in statuses.items():
            (transaction,) = receiver.signals(request_id=f"{run}-{place}", kind="transaction")
            trace = transaction["payload"]["contexts"]["trace"]
            assert trace["data"]["http.response.status_code"] == status, place
            assert trace["op"] == ("websocket.server" if place == "in-websocket" else "http.server")


def _session_app(observability: Observability, identify: Any, consent: Any = None) -> FastAPI:
    app = FastAPI()
    observability.install(app, identify=identify, consent=consent)
    app.add_middleware(SessionMiddleware, secret_key="of the tests")

    @app.get("/login")
    async def login(request: Request) -> None:
        request.session["user"] = "alice"

    @app.get("/me")
    async def me(context: ContextDep, tracker: TrackerDep) -> list[str | None]:
        tracker.track("seen")
        return [context.user.id if context.user else None, context.workspace.id if context.workspace else None]

    @app.websocket("/me")
    async def my_socket(socket: WebSocket, context: ContextDep) -> None:
        await socket.accept()
        await socket.send_text(context.user.id if context.user else "")

    return app


def identify_sync(connection: HTTPConnection) -> Identity | None:
    user = connection.session.get("user")
    return Identity(user, email=f"{user}@example.com", workspace_id="acme") if user else None


async def identify_async(connection: HTTPConnection) -> str | None:
    await asyncio.sleep(0)
    user: str | None = connection.session.get("user")
    return user


@pytest.mark.parametrize(
    ("identify", "expected"), [(identify_sync, b'["alice","acme"]'), (identify_async, b'["alice",null]')]
)
async def test_identify_sees_the_session(receiver: Receiver, identify: Any, expected: bytes) -> None:
    """The application's session middleware has run; without a session there is no user. Websockets too."""
    with observed(receiver) as observability:
        app = _session_app(observability, identify)
        cookie = (await call(app, "/login")).headers["set-cookie"].partition(";")[0]
        assert (await call(app, "/me")).body == b"[null,null]"
        assert (await call(app, "/me", headers={"cookie": cookie})).body == expected
        assert (await connect(app, "/me", headers={"cookie": cookie})).texts == ["alice"]
        assert (await connect(app, "/me")).texts == [""]


async def test_an_identify_that_fails_means_no_user_and_is_counted(receiver: Receiver) -> None:
    """The request goes on; status() counts it by the kind of the error, and METRICX_STRICT raises."""

    def identify(connection: HTTPConnection) -> object:
        if connection.url.path == "/me":
            raise HTTPException(401, "sk-secret")
        return object()

    with observed(receiver) as observability:
        app = _session_app(observability, identify)
        assert (await call(app, "/me")).body == b"[null,null]"
        assert (await call(app, "/login")).status == 200
        assert observability.status()["faults"] == {"identify=: HTTPException": 1, "identify=: TypeError": 1}
    with observed(receiver, strict=True) as observability:
        answer = await call(_session_app(observability, identify), "/me")
        assert isinstance(answer.error, InputError)


async def test_no_header_or_cookie_of_a_client_makes_it_somebody(receiver: Receiver) -> None:
    """Identity comes from the server's own authentication: what is well known for spoofing binds nobody."""
    headers = {
        "baggage": "langfuse_user_id=victim,user.id=victim", "x-user-id": "victim", "x-forwarded-user": "victim",
        "x-posthog-distinct-id": "victim", "cookie": "user_id=victim; rl_user_id=victim", "remote-user": "victim",
        "x-request-id": uuid4().hex,
    }  # fmt: skip
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app)

        @app.get("/")
        async def everything(tracker: TrackerDep) -> None:
            tracker.track("seen")
            with observability.llm.trace("seen"), observability.llm.client.start_as_current_observation(name="own"):
                raise Broken("seen")

        await call(app, "/", headers=headers)
        observability.flush()
        found = receiver.signals(request_id=headers["x-request-id"])
    assert {signal["kind"] for signal in found} == {"error", "transaction", "track", "trace", "observation"}
    assert {signal["user_id"] for signal in found} == {None}


@pytest.mark.parametrize(
    ("consent", "sent"),
    [
        (lambda connection: True, True),
        (lambda connection: False, False),
        (lambda connection: None, False),
        (lambda connection: Consent(analytics=True, llm_content=False), True),
        (lambda connection: connection.session["nothing"], False),
    ],
    ids=["given", "refused", "not asked", "Consent", "raises"],
)
async def test_with_consent_only_a_yes_sends_analytics(receiver: Receiver, consent: Any, sent: bool) -> None:
    """`install(consent=...)`: not asked, and a fault in asking, are a no."""
    request_id = uuid4().hex
    with observed(receiver) as observability:
        app = _session_app(observability, None, consent)
        assert (await call(app, "/me", headers={"x-request-id": request_id})).status == 200
        observability.flush()
        assert len(receiver.signals(request_id=request_id, kind="track")) == sent


async def test_other_asgi_messages_pass(receiver: Receiver) -> None:
    """A scope of another type goes to the application untouched."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    with observed(receiver) as observability:
        middleware = ObserveMiddleware(app, observability=observability)
        await middleware({"type": "other"}, _never, _never)
    assert seen == [{"type": "other"}]


async def _never(*_: Any) -> Any:
    raise AssertionError


async def test_a_shared_message_is_not_changed(receiver: Receiver) -> None:
    """An application may send one and the same message to many requests: each gets its own id on a copy."""
    start = {"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1")]}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start)
        await send({"type": "http.response.body", "body": b""})

    with observed(receiver) as observability:
        middleware = ObserveMiddleware(app, observability=observability)
        first, second = await call(middleware, "/"), await call(middleware, "/")
    assert start["headers"] == [(b"x-a", b"1")]
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


@pytest.mark.parametrize(
    ("host", "url"),
    [("shop.example", "http://shop.example/"), ("evil/@x", "http://127.0.0.1:80/"), ("", "http://127.0.0.1:80/")],
)
async def test_a_host_that_is_none_is_not_taken(receiver: Receiver, host: str, url: str) -> None:
    """A Host header that would change the URL's meaning gives the server's own address."""
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app)

        @app.get("/")
        async def read(context: ContextDep) -> str:
            assert context.request is not None
            return context.request.url

        answer = await call(app, "/", headers={"host": host})
        assert answer.body == f'"{url}"'.encode()
        assert (await call(app, "/", headers={"host": ""}, server=None)).body == b'"http://localhost/"'


async def test_acknowledged_waits_for_the_commit_before_the_response(receiver: Receiver) -> None:
    """METRICX_DURABILITY=acknowledged: when the client sees the response, the signal is in the outbox."""
    with observed(receiver, durability="acknowledged") as observability:
        app = _session_app(observability, None)
        committed: list[int] = []

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                committed.append(observability.status()["rudderstack"]["committed"])

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        await app(scope_of("/me"), receive, send)
    assert committed == [1]


async def test_with_sentry_off_the_ids_are_there_all_the_same(receiver: Receiver) -> None:
    """No error vendor: nothing is reported, and the request id is on the response."""
    settings = {"environment": "production", "langfuse_public_key": "pk", "langfuse_secret_key": "sk"}
    with observed(receiver, **settings, langfuse_base_url=receiver.url) as observability:
        app = failing_app(observability)
        answer = await call(app, "/in-async-route")
        assert isinstance(answer.error, Broken)
        assert answer.status == 500
        assert len(answer.headers["x-request-id"]) == 32
        assert current() is None


async def test_requests_go_on_after_close(receiver: Receiver) -> None:
    """Nothing of ours raises into a request that comes when all is closed, and a flush waits for nothing."""
    with observed(receiver) as observability:
        app = failing_app(observability)
        await call(app, "/answered")
    assert observability.flush(3600) is False
    answer = await call(app, "/handled")
    assert (answer.status, answer.error) == (503, None)
    assert len(answer.headers["x-request-id"]) == 32


async def test_a_server_keeps_nothing_of_a_request(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """uvicorn holds the context of the last byte, and the scope, while a connection is idle: neither has anything."""
    app, seen = FastAPI(), list[tuple[str, str | None, bool]]()
    scope = scope_of("/", headers={"x-request-id": "kept"})

    def look(where: str) -> None:
        state = current()
        seen.append((where, state and state.request_id, sentry_sdk.get_isolation_scope() is outside))

    @app.get("/")
    async def route(tasks: BackgroundTasks) -> str:
        tasks.add_task(look, "background")
        return "ok"

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    class Cycle:
        """uvicorn's, as far as it can be told."""

        async def send(self, message: Message) -> None:
            look(message["type"])

    monkeypatch.setattr(Cycle, "__module__", RequestResponseCycle.__module__)
    with observed(receiver) as observability:
        observability.install(app)
        outside = sentry_sdk.get_isolation_scope()
        await app(scope, receive, Cycle().send)
    assert seen == [
        ("http.response.start", "kept", False),
        ("http.response.body", None, True),
        ("background", "kept", False),
    ]
    assert not any("metricx" in repr(type(value)) for value in scope.values())


@pytest.mark.parametrize("inside", [True, False], ids=["the mount is observed", "the mounted application is"])
async def test_an_early_event_in_a_mount_does_not_give_the_path_away(receiver: Receiver, inside: bool) -> None:
    """Before the inner route is known nobody knows that a part of the path is a token; no signal may show it."""
    token, run = f"hunter2-{uuid4().hex}", uuid4().hex
    with observed(receiver, traces_sample_rate=1.0) as observability:
        inner, outer = FastAPI(), FastAPI()

        @inner.middleware("http")
        async def early(request: Request, call_next: Callable[..., Any]) -> Any:
            observability.tracker.track("early")
            return await call_next(request)

        @inner.get("/reset/{token}")
        async def reset(token: str, tracker: TrackerDep) -> int:
            tracker.track("late")
            return len(token)

        outer.mount("/acct/{tenant}", inner)
        observability.install(outer if inside else inner)
        await call(outer, f"/acct/acme/reset/{token}", headers={"x-request-id": run})
        assert observability.flush(10)
        signals = receiver.wait_for(3, request_id=run)
    assert sorted(signal["kind"] for signal in signals) == ["track", "track", "transaction"]
    assert token not in repr(signals)
