"""One moment: a signal says the same whether it is encoded inside `put` or after the application has gone.

The same application runs twice. One writer encodes each record at once, on the thread that puts it; the other one after
the requests, their tasks and the application have ended and everything that they held was released.
"""

from __future__ import annotations

import asyncio
import gc
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import pytest
from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse
from langfuse import LangfuseOtelSpanAttributes as Key
from langfuse import get_client
from starlette.background import BackgroundTasks
from starlette.types import ASGIApp, Receive, Scope, Send

from metricx_observe import ContextDep, Identity, Observability, context
from metricx_observe.delivery import Delivery
from metricx_observe.settings import load_settings

from .support import call, connect

HEADERS = {
    "traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "user-agent": "Firefox", "accept-language": "de",
    "referer": "http://testserver/items/7?utm_source=mail", "cookie": "rl_anonymous_id=visitor; _ga=GA1.1.1.2",
}  # fmt: skip
PLACES = (
    "before routing", "identify", "dependency", "route", "mounted", "404", "405", "redirect", "websocket",
    "background", "stream", "after consent", "after bind", "after headers", "after the request",
)  # fmt: skip
KINDS = ("track", "identify", "page", "trace", "generation", "score", "own span", "error")
TRANSACTIONS = (
    "/items/{item}", "/sub/inner/{item}", "<unmatched>", "/old", "/room/{name}", "/stream/{item}", "/quiet/{item}",
)  # fmt: skip

Signals = dict[tuple[str, str], list[bytes]]
"""What was encoded, by kind and place; a transaction's place is its name."""


class Run:
    """One run of the application, and the ids that its signals returned."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}
        self.messages: list[tuple[str, bytes]] = []

    def fire(self, place: str) -> None:
        """A signal of each kind, and after it everything is another one."""
        properties: dict[str, Any] = {"n": 1, "deep": [1]}
        self.ids[context.tracker().track(f"at {place}", properties) or ""] = f"track of {place}"
        self.ids[context.tracker().identify(traits={"place": f"at {place}"}) or ""] = f"identify of {place}"
        self.ids[context.tracker().page(f"at {place}", properties=properties) or ""] = f"page of {place}"
        with context.llm().trace(f"at {place}", input=properties, metadata=properties, tags=["a"]) as trace:
            with trace.generation(f"at {place}", model="m", input=[properties]) as generation:
                generation.update(output="x", usage={"input": 1, "output": 2})
            self.ids[trace.score(f"at {place}", 1) or ""] = f"score of {place}"
            with get_client().start_as_current_observation(name=f"at {place}", as_type="tool", input=properties):
                pass
        self.ids |= {trace.trace_id: f"trace of {place}", trace.id: "root", generation.id: "generation"}
        try:
            raise ValueError(f"at {place}")
        except ValueError:
            context.errors().capture_exception(extra=properties)
        properties["deep"].append("changed")
        properties["n"] = "changed"

    def signals(self) -> Signals:
        """What was encoded, without clocks and the ids that nobody chose."""
        found: Signals = defaultdict(list)
        for vendor, payload in self.messages:
            text = payload.decode()
            for id, label in self.ids.items():
                text = text.replace(id, label) if id else text
            for pattern, label in NOT_THE_SAME:
                text = pattern.sub(label, text)
            found[key_of(vendor, payload)].append(text.encode())
        return {key: sorted(each) for key, each in found.items()}


NOT_THE_SAME = (
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)?"), "TIME"),
    (re.compile(r"\b(?!a{32}|b{16})([0-9a-f]{32}|[0-9a-f]{16})\b"), "ID"),
    (re.compile(r"\b\d{12,}\b|\b0x[0-9a-f]+\b"), "NUMBER"),
    (re.compile(r'"(sample_rand|timestamp|start_timestamp)":"?[\d.]+"?'), r"\1"),
    (re.compile(r'"length":\d+'), "LENGTH"),
)
PLACE = re.compile(rb"at (" + "|".join(PLACES).encode() + rb")\b")


def key_of(vendor: str, payload: bytes) -> tuple[str, str]:
    """Kind and place of a message."""
    if vendor == "sentry":
        event = next(each for each in map(orjson.loads, payload.splitlines()[1:]) if "event_id" in each)
        if event.get("type") == "transaction":
            return "transaction", event["transaction"]
        return "error", event["exception"]["values"][-1]["value"].removeprefix("at ")
    found = PLACE.search(payload)
    assert found is not None, payload
    place, message = found[1].decode(), orjson.loads(payload)
    if vendor == "rudderstack":
        return message["type"], place
    if vendor == "langfuse_scores":
        return "score", place
    attributes = {each["key"]: each["value"].get("stringValue") for each in message["attributes"]}
    type = attributes[Key.OBSERVATION_TYPE] or "none"
    return {"span": "trace", "tool": "own span"}.get(type, type), place


class Middleware:
    """The application's own, before routing."""

    def __init__(self, app: ASGIApp, run: Run) -> None:
        self.app, self.run = app, run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/items/1":
            self.run.fire("before routing")
        await self.app(scope, receive, send)


def application(run: Run, tasks: set[asyncio.Task[None]]) -> FastAPI:
    """An application with a signal of each kind at each place."""
    app, inner = FastAPI(), FastAPI()
    app.add_middleware(Middleware, run=run)
    app.mount("/sub", inner)

    def dependency(context: ContextDep) -> None:
        run.fire("dependency")
        context.set_tag("place", "dependency")

    @app.get("/items/{item}", dependencies=[Depends(dependency)])
    async def items(item: int, request: Request, context: ContextDep, background: BackgroundTasks) -> None:
        run.fire("route")
        background.add_task(run.fire, "background")
        context.bind_user("bob", email="bob@example.com", workspace_id="w2")
        run.fire("after bind")
        context.set_consent(analytics=True, llm_content=False)
        run.fire("after consent")
        request.scope["headers"][:] = [(b"host", b"changed.example"), (b"user-agent", b"changed")]
        run.fire("after headers")

        async def later() -> None:
            while context.request is None or not context.request.ended:
                await asyncio.sleep(0)
            run.fire("after the request")
            context.bind_user("mallory")
            context.set_tag("place", "changed")
            context.set_consent(analytics=False)

        tasks.add(asyncio.create_task(later()))

    @inner.get("/inner/{item}")
    def mounted(item: int) -> None:
        run.fire("mounted")

    @app.exception_handler(404)
    async def missing(request: Request, error: Exception) -> JSONResponse:
        run.fire("404")
        return JSONResponse({}, 404)

    @app.exception_handler(405)
    async def refused(request: Request, error: Exception) -> JSONResponse:
        run.fire("405")
        return JSONResponse({}, 405)

    @app.get("/old")
    async def old() -> RedirectResponse:
        run.fire("redirect")
        return RedirectResponse("/items/1")

    @app.websocket("/room/{name}")
    async def room(websocket: WebSocket, name: str) -> None:
        await websocket.accept()
        run.fire("websocket")
        await websocket.close()

    @app.get("/quiet/{item}")
    async def quiet(item: int) -> None:
        """Puts nothing anywhere."""

    @app.get("/stream/{item}")
    async def stream(item: int) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"1"
            run.fire("stream")

        return StreamingResponse(body())

    return app


def identified(run: Run) -> Any:
    """Of `install(identify=)`."""

    def identify(connection: Any) -> Identity:
        if connection.url.path == "/items/1":
            run.fire("identify")
        return Identity("ann", "ann@example.com", {"plan": "pro"}, "w1")

    return identify


async def use(run: Run, observability: Observability) -> None:
    """Make the requests, and wait for what outlives them."""
    tasks: set[asyncio.Task[None]] = set()
    app = application(run, tasks)
    observability.install(app, identify=identified(run))
    for n, path in enumerate(("/items/1", "/sub/inner/2", "/nowhere/s3cret-123", "/old", "/stream/4", "/quiet/5")):
        answer = await call(app, path, headers={**HEADERS, "x-request-id": f"r{n}"})
        assert answer.error is None
    await call(app, "/old", method="DELETE", headers={**HEADERS, "x-request-id": "r8"})
    await connect(app, "/room/5", headers={**HEADERS, "x-request-id": "r9"})
    await asyncio.gather(*tasks)


def signals_of(monkeypatch: pytest.MonkeyPatch, *, at_once: bool) -> Signals:
    """What one of the two writers makes of the application."""
    run, waiting = Run(), list[tuple[Any, str, Any]]()

    def put(self: Delivery, vendor: str, record: object, size: int = 0) -> bool:
        waiting.append((self._channels[vendor], vendor, record))
        if at_once:
            encode()
        return size >= 0

    def encode() -> None:
        while waiting:
            channel, vendor, record = waiting.pop(0)
            run.messages.extend((vendor, message.payload) for message in channel.encode(record))

    monkeypatch.setattr(Delivery, "put", put)
    given = {"environment": "development", "receiver_url": "http://127.0.0.1:9", "outbox_url": "memory://"}
    observability = Observability(load_settings({**given, "traces_sample_rate": 1.0, "traces_max_per_second": 1e6}))
    try:
        asyncio.run(use(run, observability))
        get_client().flush()
        observability.flush(0)
        gc.collect()
        encode()
    finally:
        observability.close(0.1)
    return run.signals()


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Signals, Signals]]:
    """What the writer that encodes at once makes of it, and the one that encodes when all is over."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield signals_of(monkeypatch, at_once=True), signals_of(monkeypatch, at_once=False)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_both_writers_say_the_same(both: tuple[Signals, Signals], kind: str, place: str) -> None:
    """Of each kind of signal at each place there is one, and it has the same bytes."""
    at_once, later = (found.get((kind, place), []) for found in both)
    assert len(at_once) == 1
    assert later == at_once


@pytest.mark.parametrize("name", TRANSACTIONS)
def test_both_writers_say_the_same_of_a_transaction(both: tuple[Signals, Signals], name: str) -> None:
    """Whatever its request did, and what outlives it still does."""
    at_once, later = (found.get(("transaction", name), []) for found in both)
    assert at_once
    assert later == at_once
