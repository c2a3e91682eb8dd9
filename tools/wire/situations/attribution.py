"""Whose each signal is, for each kind of code that can send one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from starlette.requests import HTTPConnection

from metricx_observe import ContextDep, ErrorReporterDep, Identity, LLMTracerDep, TrackerDep
from metricx_observe.context import bind_user, errors, llm, tracker

from .running import Run, add

Probe = Any


def probe_of(tracker: Any, llm: Any, errors: Any) -> Probe:
    """A function that sends a signal of each kind."""

    def probe(name: str = "probe") -> None:
        tracker.track(name, {"place": name})
        with llm.trace(name, input=name) as trace, trace.generation("call", model="m", input=name) as generation:
            generation.update(output="answer", usage={"input": 1, "output": 2})
        errors.capture_message(f"{name} happened")

    return probe


def injected(tracker: TrackerDep, llm: LLMTracerDep, errors: ErrorReporterDep) -> Probe:
    return probe_of(tracker, llm, errors)


async def loose() -> Probe:
    return probe_of(tracker(), llm(), errors())


def user_of(connection: HTTPConnection) -> dict[str, Any]:
    user = connection.headers["x-user"]
    return {"id": user, "email": f"{user}@example.com", "workspace_id": f"w-{user}", "traits": {"plan": "pro"}}


async def bind_async(connection: HTTPConnection, context: ContextDep) -> None:
    await asyncio.sleep(0)
    context.bind_user(**user_of(connection))


def bind_sync(connection: HTTPConnection, context: ContextDep) -> None:
    context.bind_user(**user_of(connection))


def bind_by_function(connection: HTTPConnection) -> None:
    bind_user(**user_of(connection))


async def bind_async_yield(connection: HTTPConnection, context: ContextDep) -> AsyncIterator[None]:
    context.bind_user(**user_of(connection))
    yield


def bind_sync_yield(connection: HTTPConnection, context: ContextDep) -> Iterator[None]:
    context.bind_user(**user_of(connection))
    yield


USER = {"x-user": "u-1", "x-request-id": "request-1"}


def binding(dependency: Any, identify: Any = None) -> Any:
    async def do(run: Run) -> None:
        app = run.app(identify=identify) if identify else run.app()

        @app.get("/items/{item}", dependencies=[Depends(dependency)] if dependency else [])
        async def route(item: str, probe: Annotated[Probe, Depends(injected)]) -> None:
            await asyncio.sleep(0)
            probe()

        await run.call(app, "/items/7?page=2", headers=USER)

    return do


def identified(connection: HTTPConnection) -> Identity:
    return Identity("u-identified", email="i@example.com", traits={"seats": 3}, workspace_id="w-identified")


async def identified_later(connection: HTTPConnection) -> str:
    await asyncio.sleep(0)
    return "u-plain-id"


add("attribution.bind.async", binding(bind_async))
add("attribution.bind.sync", binding(bind_sync))
add("attribution.bind.function", binding(bind_by_function))
add("attribution.bind.async-yield", binding(bind_async_yield))
add("attribution.bind.sync-yield", binding(bind_sync_yield))
add("attribution.bind.nobody", binding(None))
add("attribution.bind.identify", binding(None, identified))
add("attribution.bind.identify-async-id", binding(None, identified_later))
add("attribution.bind.identify-fails", binding(None, lambda connection: 1 // 0))
add("attribution.bind.identify-then-dependency", binding(bind_sync, identified))


def routes(app: FastAPI, make: Any, names: tuple[str, ...]) -> None:
    """A route for each place that can send."""
    Given = Depends(make)
    bound = [Depends(bind_sync)]
    executor = ThreadPoolExecutor(1)

    async def emitting(probe: Probe = Given) -> None:
        probe("async-dependency")

    def emitting_sync(probe: Probe = Given) -> None:
        probe("sync-dependency")

    async def emitting_twice(probe: Probe = Given) -> AsyncIterator[None]:
        probe("before")
        yield
        probe("after")

    for name, dependency in {
        "async-dependency": emitting, "sync-dependency": emitting_sync, "async-yield": emitting_twice,
    }.items():  # fmt: skip

        @app.get(f"/{name}", dependencies=[*bound, Depends(dependency)])
        async def nothing() -> None:
            await asyncio.sleep(0)

    @app.get("/async-route", dependencies=bound)
    async def async_route(probe: Probe = Given) -> None:
        probe()

    @app.get("/sync-route", dependencies=bound)
    def sync_route(probe: Probe = Given) -> None:
        probe()

    @app.get("/background", dependencies=bound)
    async def background(tasks: BackgroundTasks, probe: Probe = Given) -> None:
        async def later() -> None:
            probe("async-task")

        tasks.add_task(later)
        tasks.add_task(probe, "sync-task")

    @app.get("/stream", dependencies=bound)
    async def stream(probe: Probe = Given) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            probe("first")
            yield b"1"
            await asyncio.sleep(0)
            probe("second")
            yield b"2"

        return StreamingResponse(body())

    @app.get("/sync-stream", dependencies=bound)
    def sync_stream(probe: Probe = Given) -> StreamingResponse:
        def body() -> Iterator[bytes]:
            probe("first")
            yield b"1"
            probe("second")
            yield b"2"

        return StreamingResponse(body())

    @app.get("/create-task", dependencies=bound)
    async def create_task(probe: Probe = Given) -> None:
        async def work() -> None:
            await asyncio.sleep(0)
            probe()

        await asyncio.create_task(work())

    @app.get("/to-thread", dependencies=bound)
    async def to_thread(probe: Probe = Given) -> None:
        await asyncio.to_thread(probe)

    @app.get("/executor", dependencies=bound)
    async def in_executor(probe: Probe = Given) -> None:
        await asyncio.get_running_loop().run_in_executor(executor, probe)

    @app.get("/raw-thread", dependencies=bound)
    async def raw_thread(probe: Probe = Given) -> None:
        thread = threading.Thread(target=probe)
        thread.start()
        await asyncio.to_thread(thread.join)

    @app.websocket("/websocket", dependencies=bound)
    async def websocket(socket: WebSocket, probe: Probe = Given) -> None:
        await socket.accept()
        probe("accepted")
        await socket.send_text(await socket.receive_text())
        probe("answered")


PLACES = (
    "async-dependency", "sync-dependency", "async-yield", "async-route", "sync-route", "background", "stream",
    "sync-stream", "create-task", "to-thread", "executor", "raw-thread", "websocket",
)  # fmt: skip


def place(name: str, make: Any, mounted: bool = False) -> Any:
    async def do(run: Run) -> None:
        app = run.app()
        inner = FastAPI() if mounted else app
        routes(inner, make, PLACES)
        if mounted:
            app.mount("/shop", inner)
        path = f"/shop/{name}" if mounted else f"/{name}"
        if name == "websocket":
            await run.connect(app, path, "hello", headers=USER)
        else:
            await run.call(app, path, headers=USER)

    return do


for _name in PLACES:
    add(f"attribution.injected.{_name}", place(_name, injected))
    add(f"attribution.loose.{_name}", place(_name, loose))
for _name in ("async-route", "sync-dependency", "background", "stream", "websocket"):
    add(f"attribution.mounted.{_name}", place(_name, injected, mounted=True))
