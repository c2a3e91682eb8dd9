"""Under trio: a request, a stream, a websocket, an error and the lifespan have all their signals, as under asyncio."""

from __future__ import annotations

import contextvars
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from anyio import to_thread
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from starlette.types import ASGIApp, Message, Scope

from metricx_observe import ContextDep, Observability, SignalsDep

from .receiver_server import Receiver
from .support import Answer, keys_for, observed, scope_of

trio: Any = pytest.importorskip("trio")


async def call_scope(app: ASGIApp, scope: Scope, messages: Sequence[Message]) -> Answer:
    """As `support.call_scope`."""
    answer, waiting = Answer(), list(messages)

    async def receive() -> Message:
        if not waiting:
            await trio.sleep_forever()  # nothing more comes
        return waiting.pop(0)

    async def send(message: Message) -> None:
        answer.sent.append(message)

    async def run() -> None:
        try:
            await app(scope, receive, send)
        except Exception as error:
            answer.error = error

    async with trio.open_nursery() as nursery:
        contextvars.Context().run(nursery.start_soon, run)
    return answer


async def call(app: ASGIApp, path: str, request_id: str) -> Answer:
    scope = scope_of(path, headers={"x-request-id": request_id})
    return await call_scope(app, scope, [{"type": "http.request", "body": b"", "more_body": False}])


async def connect(app: ASGIApp, path: str, request_id: str) -> Answer:
    scope = scope_of(path, method="WEBSOCKET", headers={"x-request-id": request_id})
    scope.pop("method")
    leaves = {"type": "websocket.disconnect", "code": 1000}
    return await call_scope(
        app, scope, [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"}, leaves]
    )


def application(observability: Observability, **more: Any) -> FastAPI:
    """Each route sends all kinds of signals."""
    app = FastAPI(**more)
    observability.install(app, identify=identify)

    def emit(signals: SignalsDep) -> None:
        signals.tracker.track("seen")
        with signals.llm.trace("copilot") as trace, trace.generation("answer", model="m"):
            pass

    @app.get("/async")
    async def of_the_loop(signals: SignalsDep) -> None:
        await trio.lowlevel.checkpoint()
        emit(signals)

    @app.get("/sync")
    def of_a_thread(signals: SignalsDep) -> None:
        emit(signals)

    @app.get("/stream")
    async def stream(signals: SignalsDep) -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            yield "a"
            await trio.lowlevel.checkpoint()
            emit(signals)
            yield "b"

        return StreamingResponse(parts())

    @app.get("/fails")
    async def fails(signals: SignalsDep) -> None:
        emit(signals)
        await trio.lowlevel.checkpoint()
        raise LookupError("it failed")

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, signals: SignalsDep) -> None:
        await websocket.accept()
        emit(signals)
        await websocket.send_text(await websocket.receive_text())

    return app


async def identify(_: object) -> str:
    await trio.lowlevel.checkpoint()
    return "alice"


@pytest.mark.parametrize("durability", ["normal", "acknowledged"])
@pytest.mark.parametrize("path", ["/async", "/sync", "/stream", "/fails", "/socket"])
def test_all_signals_of_a_request_arrive(receiver: Receiver, path: str, durability: str) -> None:
    """With the request's id and user; a response waits for the commit where it is to be acknowledged."""
    request_id = uuid4().hex

    async def run() -> Answer:
        app = application(observability)
        answer = await (connect if path == "/socket" else call)(app, path, request_id)
        if durability == "acknowledged":
            assert observability.status()["outbox"]["unacknowledged"] == 0
        await observability.aclose()
        return answer

    with observed(receiver, **keys_for(receiver), durability=durability) as observability:
        answer = trio.run(run)
    assert answer.headers["x-request-id"] == request_id
    assert isinstance(answer.error, LookupError) is (path == "/fails")
    found = receiver.wait_for(5 if path == "/fails" else 4, request_id=request_id)
    kinds = ["generation", "trace", "track", "transaction"]
    assert sorted(each["kind"] for each in found) == sorted([*kinds, "error"] if path == "/fails" else kinds)
    assert {each["user_id"] for each in found} == {"alice"}


def test_a_slow_commit_takes_no_thread_of_the_application(receiver: Receiver, tmp_path: Path) -> None:
    """While the disk is stuck and all threads are taken, the response goes after 250 ms; it is counted."""
    database = tmp_path / "outbox.db"

    async def run() -> None:
        app = application(observability)
        await call(app, "/async", uuid4().hex)
        with sqlite3.connect(database, isolation_level=None) as blocker:
            blocker.execute("BEGIN IMMEDIATE")
            before = observability.status()["outbox"]["unacknowledged"]
            limiter = to_thread.current_default_thread_limiter()
            limiter.total_tokens = 1
            async with limiter:
                with trio.fail_after(20):
                    assert (await call(app, "/async", uuid4().hex)).status == 200
            assert observability.status()["outbox"]["unacknowledged"] == before + 1
            blocker.execute("ROLLBACK")
        blocker.close()
        await observability.aclose()

    settings = {**keys_for(receiver), "durability": "acknowledged", "outbox_url": f"sqlite://{database}"}
    with observed(receiver, **settings) as observability:
        trio.run(run)


def test_a_lifespan_starts_and_closes_it(receiver: Receiver) -> None:
    """What the application sends while it shuts down is delivered before the server is told."""
    user = uuid4().hex
    steps = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    open_at: dict[str, bool] = {}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        observability.tracker.track("starting", user_id=user)
        yield
        await trio.lowlevel.checkpoint()
        observability.tracker.track("stopping", user_id=user)

    async def receive() -> Any:
        return next(steps)

    async def send(message: Any) -> None:
        open_at[message["type"]] = observability.is_open

    async def run() -> None:
        app = application(observability, lifespan=lifespan)
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)

    with observed(receiver, **keys_for(receiver)) as observability:
        trio.run(run)
        assert open_at == {"lifespan.startup.complete": True, "lifespan.shutdown.complete": False}
        assert {each["name"] for each in receiver.signals(user=user)} == {"starting", "stopping"}


def test_a_cancelled_request_is_no_error(receiver: Receiver) -> None:
    """trio's `Cancelled` is the client's going away: status 499, no event."""
    request_id = uuid4().hex

    async def run() -> None:
        app = FastAPI()
        observability.install(app)

        @app.get("/waits")
        async def waits(context: ContextDep) -> None:
            context.bind_user("alice")
            scope.cancel()
            await trio.sleep_forever()

        with trio.CancelScope() as scope:
            await call(app, "/waits", request_id)
        assert scope.cancelled_caught
        await observability.aclose()

    with observed(receiver, **keys_for(receiver)) as observability:
        trio.run(run)
    (found,) = receiver.wait_for(1, request_id=request_id)
    assert found["kind"] == "transaction"
    assert found["payload"]["contexts"]["response"]["status_code"] == 499
