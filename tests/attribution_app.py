"""An application with one route for each kind of code, that says on each signal whose it must be.

Who is signed in stands in the header `x-user`, which only the test sends. Each signal carries that name in its content,
so that it can be compared with the user that it was attributed to.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from starlette.requests import HTTPConnection

from metricx_observe import ContextDep, ErrorReporterDep, Identity, LLMTracerDep, Observability, TrackerDep
from metricx_observe.context import bind_user

sse = import_module("fastapi.sse") if find_spec("fastapi.sse") else None
"""Events from the server as FastAPI has them from 0.135 on."""

EXECUTOR = ThreadPoolExecutor(4)
"""Its threads outlive each request, and the first was started in somebody's."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Emits one signal of each kind that names its user in its content."""

    user: str
    tracker: Any
    llm: Any
    errors: Any

    def __call__(self) -> None:
        self.tracker.track("probe", {"expected": self.user})
        with self.llm.trace("probe", input=self.user) as trace, trace.generation("probe", model="m", input=self.user):
            pass
        self.errors.capture_message(self.user)


def injected(connection: HTTPConnection, tracker: TrackerDep, llm: LLMTracerDep, errors: ErrorReporterDep) -> Probe:
    """With the request's own facades. A sync dependency: it runs in a thread."""
    return Probe(connection.headers["x-user"], tracker, llm, errors)


async def loose(connection: HTTPConnection) -> Probe:
    """With the process's facades, which find the request in the running code's context."""
    observability: Observability = connection.scope["app"].state.observability
    return Probe(connection.headers["x-user"], observability.tracker, observability.llm, observability.errors)


def _names(connection: HTTPConnection) -> dict[str, Any]:
    user = connection.headers["x-user"]
    return {"id": user, "email": f"{user}@example.com", "workspace_id": f"w-{user}"}


async def bound_in_async(connection: HTTPConnection, context: ContextDep) -> None:
    await asyncio.sleep(0)
    context.bind_user(**_names(connection))


def bound_in_sync(connection: HTTPConnection, context: ContextDep) -> None:
    context.bind_user(**_names(connection))


def bound_by_function(connection: HTTPConnection) -> None:
    bind_user(**_names(connection))


async def bound_in_async_yield(connection: HTTPConnection, context: ContextDep) -> AsyncIterator[None]:
    context.bind_user(**_names(connection))
    yield


def bound_in_sync_yield(connection: HTTPConnection, context: ContextDep) -> Iterator[None]:
    context.bind_user(**_names(connection))
    yield


def identify(connection: HTTPConnection) -> Identity | None:
    """Only for the route that has no other way."""
    if not connection.url.path.endswith("/identify"):
        return None
    names = _names(connection)
    return Identity(names["id"], email=names["email"], workspace_id=names["workspace_id"])


Injected = Annotated[Probe, Depends(injected)]
Loose = Annotated[Probe, Depends(loose)]
SIGNED_IN = [Depends(bound_in_sync)]

binding = APIRouter(prefix="/bind")


@binding.get("/async", dependencies=[Depends(bound_in_async)])
@binding.get("/sync", dependencies=[Depends(bound_in_sync)])
@binding.get("/function", dependencies=[Depends(bound_by_function)])
@binding.get("/async-yield", dependencies=[Depends(bound_in_async_yield)])
@binding.get("/sync-yield", dependencies=[Depends(bound_in_sync_yield)])
@binding.get("/identify")
async def bound_before(probe: Injected) -> None:
    await asyncio.sleep(0)
    probe()


@binding.get("/async-route")
async def bound_in_async_route(connection: HTTPConnection, probe: Injected, context: ContextDep) -> None:
    context.bind_user(**_names(connection))
    await asyncio.sleep(0)
    probe()


@binding.get("/sync-route")
def bound_in_sync_route(connection: HTTPConnection, probe: Injected, context: ContextDep) -> None:
    context.bind_user(**_names(connection))
    probe()


def places(make: Any) -> APIRouter:
    """One route for each place that can emit, with the facades that `make` gives."""
    router = APIRouter(dependencies=SIGNED_IN)

    async def emitting(probe: Probe = Depends(make)) -> None:
        probe()

    def emitting_sync(probe: Probe = Depends(make)) -> None:
        probe()

    async def emitting_twice(probe: Probe = Depends(make)) -> AsyncIterator[None]:
        probe()
        yield
        probe()

    def emitting_twice_sync(probe: Probe = Depends(make)) -> Iterator[None]:
        probe()
        yield
        probe()

    @router.get("/async-dependency", dependencies=[Depends(emitting)])
    @router.get("/sync-dependency", dependencies=[Depends(emitting_sync)])
    @router.get("/async-yield", dependencies=[Depends(emitting_twice)])
    @router.get("/sync-yield", dependencies=[Depends(emitting_twice_sync)])
    async def nothing() -> None:
        await asyncio.sleep(0)

    @router.get("/async-route")
    async def async_route(probe: Probe = Depends(make)) -> None:
        await asyncio.sleep(0)
        probe()

    @router.get("/sync-route")
    def sync_route(probe: Probe = Depends(make)) -> None:
        probe()

    @router.get("/background")
    async def background(tasks: BackgroundTasks, probe: Probe = Depends(make)) -> None:
        async def later() -> None:
            await asyncio.sleep(0)
            probe()

        tasks.add_task(later)
        tasks.add_task(probe)  # sync: in a thread

    @router.get("/stream")
    async def stream(probe: Probe = Depends(make)) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            probe()
            yield b"1"
            await asyncio.sleep(0)
            probe()
            yield b"2"

        return StreamingResponse(body())

    @router.get("/sync-stream")
    def sync_stream(probe: Probe = Depends(make)) -> StreamingResponse:
        def body() -> Iterator[bytes]:
            probe()
            yield b"1"
            probe()
            yield b"2"

        return StreamingResponse(body())

    if sse is not None:

        @router.get("/events", response_class=sse.EventSourceResponse)
        async def events(probe: Probe = Depends(make)) -> AsyncIterator[str]:
            probe()
            yield "1"
            await asyncio.sleep(0)
            probe()

    @router.get("/create-task")
    async def create_task(probe: Probe = Depends(make)) -> None:
        async def work() -> None:
            await asyncio.sleep(0)
            probe()

        await asyncio.create_task(work())

    @router.get("/to-thread")
    async def to_thread(probe: Probe = Depends(make)) -> None:
        await asyncio.to_thread(probe)

    @router.websocket("/websocket")
    async def websocket(socket: WebSocket, probe: Probe = Depends(make)) -> None:
        await socket.accept()
        probe()
        await socket.send_text(await socket.receive_text())
        probe()

    return router


foreign = APIRouter(dependencies=SIGNED_IN)
"""Where no ContextVar reaches: only injected facades know their request there."""


@foreign.get("/executor")
async def executor(probe: Injected) -> None:
    await asyncio.get_running_loop().run_in_executor(EXECUTOR, probe)


@foreign.get("/raw-thread")
async def raw_thread(probe: Injected) -> None:
    thread = threading.Thread(target=probe)
    thread.start()
    await asyncio.to_thread(thread.join)


anonymous = APIRouter()


@anonymous.get("/anonymous")
async def nobody(probe: Injected) -> None:
    await asyncio.sleep(0)
    probe()


TWICE = frozenset({"async-yield", "sync-yield", "background", "stream", "sync-stream", "events", "websocket"})
"""Places that emit two times."""
PLACES = (
    "async-dependency", "sync-dependency", "async-yield", "sync-yield", "async-route", "sync-route", "background",
    "stream", "sync-stream", *(["events"] if sse else []), "create-task", "to-thread", "websocket",
)  # fmt: skip
BINDINGS = ("async", "sync", "function", "async-yield", "sync-yield", "identify", "async-route", "sync-route")
PATHS = (
    *(f"/bind/{name}" for name in BINDINGS),
    *(f"/injected/{name}" for name in PLACES),
    *(f"/loose/{name}" for name in PLACES),
    "/foreign/executor",
    "/foreign/raw-thread",
    "/anonymous",
)


def times(path: str) -> int:
    """How often a route emits."""
    return 2 if path.rpartition("/")[2] in TWICE and not path.startswith("/bind") else 1


def attribution_app(observability: Observability) -> FastAPI:
    app = FastAPI()
    observability.install(app, identify=identify)
    app.state.observability = observability
    app.include_router(binding)
    app.include_router(places(injected), prefix="/injected")
    app.include_router(places(loose), prefix="/loose")
    app.include_router(foreign, prefix="/foreign")
    app.include_router(anonymous)
    return app
