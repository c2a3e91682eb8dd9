"""Errors of each kind: where they come from, who handles them, and how often they are told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware

from metricx_observe import ContextDep, ErrorReporterDep

from .running import Run, add, situation

logger = logging.getLogger("wire.shop")
SECRET = "local-CANARY"
"""A constant, so that it does not stand in the lines around an error."""


class Refused(Exception):
    """One of the application's."""


class Frozen(Exception):
    """Refuses attributes."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class Item(BaseModel):
    """A body."""

    price: int


def fail(text: str = "broken") -> None:
    """Raise, below a cause."""
    secret_key, order = SECRET, {"id": 7, "password": SECRET}
    try:
        int("no number")
    except ValueError as error:
        raise Refused(f"{text} for order {order['id']} {len(secret_key)}") from error


def user(context: ContextDep) -> None:
    context.bind_user("u-1", email="u-1@example.com", workspace_id="w-1")


def on(build: Any, path: str = "/", count: int = 1, **settings: Any) -> Any:
    """A situation of an application that `build` adds to."""

    async def do(run: Run) -> None:
        app = run.app()
        build(app)
        for _ in range(count):
            await run.call(app, path, headers={"x-request-id": "request-1"})

    return do


def in_route(app: FastAPI) -> None:
    @app.get("/", dependencies=[Depends(user)])
    async def route() -> None:
        fail()


def in_sync_route(app: FastAPI) -> None:
    @app.get("/", dependencies=[Depends(user)])
    def route() -> None:
        fail()


def in_dependency(app: FastAPI) -> None:
    @app.get("/", dependencies=[Depends(user), Depends(lambda: fail("dependency"))])
    async def route() -> None: ...


def in_exit_of_dependency(app: FastAPI) -> None:
    async def after() -> AsyncIterator[None]:
        yield
        fail("exit")

    @app.get("/", dependencies=[Depends(user), Depends(after)])
    async def route() -> None: ...


def in_middleware(app: FastAPI) -> None:
    async def dispatch(request: Request, call_next: Any) -> Any:
        fail("middleware")

    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)


def behind_middleware(app: FastAPI) -> None:
    async def dispatch(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    in_route(app)


def in_background_task(app: FastAPI) -> None:
    @app.get("/", dependencies=[Depends(user)])
    async def route(tasks: BackgroundTasks) -> None:
        tasks.add_task(fail, "background")


def in_stream(app: FastAPI) -> None:
    @app.get("/", dependencies=[Depends(user)])
    async def route() -> StreamingResponse:
        def body() -> Iterator[bytes]:
            yield b"1"
            fail("stream")

        return StreamingResponse(body())


def reported_then_raised(app: FastAPI) -> None:
    @app.get("/", dependencies=[Depends(user)])
    async def route(errors: ErrorReporterDep) -> None:
        try:
            fail()
        except Refused as error:
            errors.capture_exception(error, extra={"step": "pay"}, level="warning")
            raise


def logged_then_raised(app: FastAPI) -> None:
    @app.get("/", dependencies=[Depends(user)])
    async def route() -> None:
        try:
            fail()
        except Refused:
            logger.exception("paying failed for %s", "order 7")
            raise


def logged_only(app: FastAPI) -> None:
    @app.get("/", dependencies=[Depends(user)])
    async def route() -> None:
        logger.info("begins with %s", "order 7")
        logger.warning("slow", extra={"seconds": 3})
        logger.error("paying failed: %s password=%s", "order 7", "hunter-CANARY", extra={"api_key": "key-CANARY"})


def same_raised_twice(app: FastAPI) -> None:
    error = Refused("always the same")

    @app.get("/", dependencies=[Depends(user)])
    async def route() -> None:
        raise error


def handled_with_500(app: FastAPI) -> None:
    in_route(app)

    @app.exception_handler(Refused)
    async def handle(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"error": "refused"}, 503)


def handled_with_400(app: FastAPI) -> None:
    in_route(app)

    @app.exception_handler(Refused)
    async def handle(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"error": "refused"}, 400)


def handled_by_500_handler(app: FastAPI) -> None:
    in_route(app)

    @app.exception_handler(500)
    async def handle(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "sorry"}, 500)


def handler_that_fails(app: FastAPI) -> None:
    in_route(app)

    @app.exception_handler(Refused)
    async def handle(request: Request, error: Refused) -> JSONResponse:
        raise LookupError("the handler") from error


def http_exception(status: int) -> Any:
    def build(app: FastAPI) -> None:
        @app.get("/", dependencies=[Depends(user)])
        async def route() -> None:
            raise HTTPException(status, "for the client", headers={"x-more": "1"})

    return build


def status_only(status: int) -> Any:
    def build(app: FastAPI) -> None:
        @app.get("/items/{item}", dependencies=[Depends(user)])
        async def route(item: str) -> JSONResponse:
            return JSONResponse({"item": item}, status)

    return build


def group(app: FastAPI) -> None:
    @app.get("/", dependencies=[Depends(user)])
    async def route() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.to_thread(fail, "first"))
            await asyncio.sleep(0)


def nested_group(app: FastAPI) -> None:
    @app.get("/")
    async def route() -> None:
        raise ExceptionGroup(
            "many", [ValueError("one"), ExceptionGroup("inner", [KeyError("two"), OSError(2, "three")])]
        )


def frozen(app: FastAPI) -> None:
    @app.get("/")
    async def route() -> None:
        raise Frozen("no attributes")


def with_secret_text(app: FastAPI) -> None:
    @app.get("/")
    async def route() -> None:
        error = ValueError("connect to postgres://bob:pw-CANARY@db/shop failed, token=tok-CANARY-1")
        error.add_note("password=note-CANARY")
        raise error


def in_mounted(app: FastAPI) -> None:
    inner = FastAPI()
    in_route(inner)
    app.mount("/shop", inner)


def cancelled(app: FastAPI) -> None:
    @app.get("/")
    async def route() -> None:
        raise asyncio.CancelledError


def system_exit(app: FastAPI) -> None:
    @app.get("/")
    def route() -> None:
        raise KeyboardInterrupt


add("errors.route", on(in_route))
add("errors.route-without-locals", on(in_route), send_locals=False)
add("errors.route-not-traced", on(in_route), traces_sample_rate=0.0)
add("errors.sync-route", on(in_sync_route))
add("errors.dependency", on(in_dependency))
add("errors.exit-of-dependency", on(in_exit_of_dependency))
add("errors.middleware", on(in_middleware))
add("errors.behind-middleware", on(behind_middleware))
add("errors.background-task", on(in_background_task))
add("errors.stream", on(in_stream))
add("errors.reported-then-raised", on(reported_then_raised))
add("errors.logged-then-raised", on(logged_then_raised))
add("errors.logged-only", on(logged_only))
add("errors.same-raised-twice", on(same_raised_twice, count=2))
add("errors.two-requests", on(in_route, count=2))
add("errors.handled-with-503", on(handled_with_500))
add("errors.handled-with-400", on(handled_with_400))
add("errors.handled-by-500-handler", on(handled_by_500_handler))
add("errors.handler-that-fails", on(handler_that_fails))
add("errors.group", on(group))
add("errors.nested-group", on(nested_group))
add("errors.frozen", on(frozen))
add("errors.secret-text", on(with_secret_text))
add("errors.mounted", on(in_mounted, "/shop/"))
add("errors.cancelled", on(cancelled))
add("errors.errors-rate-none", on(in_route, count=3), errors_max_per_second=0)
for _status in (401, 404, 422, 500, 503):
    add(f"errors.http-exception.{_status}", on(http_exception(_status)))
for _status in (204, 404, 500, 502):
    add(f"errors.status.{_status}", on(status_only(_status), "/items/7"))
add("errors.status.own-statuses", on(status_only(404), "/items/7"), error_statuses=frozenset({404}))
add("errors.status.not-mine", on(http_exception(500)), error_statuses=frozenset({404}))


@situation("errors.validation")
async def _validation(run: Run) -> None:
    app = run.app()

    @app.post("/items")
    async def route(item: Item) -> None: ...

    await run.call(app, "/items", b'{"price":"much"}', method="POST", headers={"content-type": "application/json"})


@situation("errors.websocket")
async def _websocket(run: Run) -> None:
    app = run.app()

    @app.websocket("/ws/{room}", dependencies=[Depends(user)])
    async def route(socket: WebSocket, room: str) -> None:
        await socket.accept()
        await socket.receive_text()
        fail("websocket")

    await run.connect(app, "/ws/7", "hello")


@situation("errors.breadcrumbs")
async def _breadcrumbs(run: Run) -> None:
    app = run.app()

    @app.get("/", dependencies=[Depends(user)])
    async def route(errors: ErrorReporterDep) -> None:
        errors.add_breadcrumb("opened the cart", category="shop", data={"items": 3, "password": "crumb-CANARY"})
        errors.add_breadcrumb("paid")
        fail()

    await run.call(app, "/")
    await run.call(app, "/")


@situation("errors.facade")
def _facade(run: Run) -> None:
    errors = run.observability().errors
    for level in ("fatal", "error", "warning", "info", "debug", "loud", None):
        run.see(f"{level}", errors.capture_message(f"message {level}", level=level))  # type: ignore[arg-type]
    run.see("nothing to capture", errors.capture_exception())
    try:
        fail("outside")
    except Refused as error:
        first = run.see("implicit", errors.capture_exception(extra={"step": 1}))
        run.see("again is the same", errors.capture_exception(error) == first)
    run.see("not raised", errors.capture_exception(ValueError("never raised"), level="fatal"))
    run.see("a text", errors.capture_exception("a text", extra={"a": 1}))  # type: ignore[arg-type]
    run.see("empty", errors.capture_message(""))


@situation("errors.identical-in-a-burst")
async def _burst(run: Run) -> None:
    app = run.app()
    in_route(app)
    for _ in range(12):
        await run.call(app, "/")
