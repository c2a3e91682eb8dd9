"""The dependencies: what routers declare, in applications of all shapes."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI, WebSocket
from fastapi.routing import APIRouter

from metricx_observe import (
    ContextDep,
    ErrorReporterDep,
    LLMTracerDep,
    NotInstalledError,
    Observability,
    ObserveError,
    SignalsDep,
    Tracker,
    TrackerDep,
)
from metricx_observe.boundary import Boundary
from metricx_observe.dependencies import get_context, get_error_reporter, get_llm_tracer, get_tracker

from .receiver_server import Receiver
from .support import call, connect, observed

router = APIRouter()


@router.get("/all")
async def everything(
    tracker: TrackerDep, llm: LLMTracerDep, errors: ErrorReporterDep, context: ContextDep
) -> dict[str, Any]:
    context.bind_user("alice", workspace_id="acme")
    tracker.track("seen")
    with llm.trace("seen"):
        pass
    return {"request_id": context.request_id, "event_id": errors.capture_message("seen")}


@router.websocket("/all")
async def everything_by_websocket(
    socket: WebSocket, tracker: TrackerDep, llm: LLMTracerDep, errors: ErrorReporterDep, context: ContextDep
) -> None:
    await socket.accept()
    context.bind_user("alice", workspace_id="acme")
    tracker.track("seen")
    with llm.trace("seen"):
        pass
    errors.capture_message("seen")


@router.get("/plain/{number}")
async def plain(number: int, q: str = "") -> dict[str, int]:
    return {"number": number}


@router.get("/one")
async def everything_by_one(signals: SignalsDep) -> dict[str, Any]:
    signals.context.bind_user("alice", workspace_id="acme")
    signals.tracker.track("seen")
    with signals.llm.trace("seen"):
        pass
    return {"request_id": signals.context.request_id, "event_id": signals.errors.capture_message("seen")}


SIGNALS = {"error", "track", "trace", "transaction"}


@pytest.mark.parametrize(
    ("caller", "path"), [(call, "/all"), (connect, "/all"), (call, "/one")], ids=["http", "websocket", "by one"]
)
async def test_all_four_work_in_routes_and_websockets(receiver: Receiver, caller: Any, path: str) -> None:
    """Each facade is the request's own, and the signals have the user that the context was given."""
    request_id = uuid4().hex
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app)
        app.include_router(router)
        answer = await caller(app, path, headers={"x-request-id": request_id})
        assert answer.error is None
        observability.flush()
        found = receiver.signals(request_id=request_id)
    assert {signal["kind"] for signal in found} == SIGNALS
    assert {(signal["user_id"], signal["workspace_id"]) for signal in found} == {("alice", "acme")}


def test_openapi_is_the_same_with_and_without_us(receiver: Receiver) -> None:
    """The dependencies and the middleware add nothing to the schema, not even the health route."""

    async def ask(number: int, q: str = "") -> dict[str, int]:
        """Ask."""
        return {}

    async def ask_observed(
        number: int, tracker: TrackerDep, llm: LLMTracerDep, errors: ErrorReporterDep, context: ContextDep, q: str = ""
    ) -> dict[str, int]:
        """Ask."""
        return {}

    ask_observed.__name__ = ask.__name__
    bare, app = FastAPI(), FastAPI()
    bare.get("/ask/{number}")(ask)
    with observed(receiver) as observability:
        observability.install(app, health_path="/health/observability")
        app.get("/ask/{number}")(ask_observed)
        assert app.openapi() == bare.openapi()


async def test_dependency_overrides_work(receiver: Receiver) -> None:
    """A test of the application's may put its own in the place of each provider."""
    overridden: dict[str, Any] = {}

    class Recorder(Tracker):
        def track(self, event: Any, *_: Any, **more: Any) -> str:
            overridden["track"] = event
            return "an id"

    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app)

        @app.get("/")
        async def route(
            tracker: TrackerDep, llm: LLMTracerDep, errors: ErrorReporterDep, context: ContextDep
        ) -> list[Any]:
            return [tracker.track("seen"), llm, errors, context]

        app.dependency_overrides = {
            get_tracker: lambda: Recorder(None, Boundary()),
            get_llm_tracer: lambda: "an LLM tracer",
            get_error_reporter: lambda: "a reporter",
            get_context: lambda: "a context",
        }
        answer = await call(app, "/")
    assert answer.body == b'["an id","an LLM tracer","a reporter","a context"]'
    assert overridden == {"track": "seen"}


@pytest.mark.parametrize("caller", [call, connect], ids=["http", "websocket"])
async def test_without_install_the_error_says_what_to_add(caller: Any) -> None:
    """Whoever forgot the one line reads it in the error."""
    app = FastAPI()
    app.include_router(router)
    answer = await caller(app, "/all")
    assert isinstance(answer.error, NotInstalledError)
    assert isinstance(answer.error, ObserveError)
    assert "Observability.from_env().install(app)" in str(answer.error)


async def test_a_mounted_application_shares_the_request(receiver: Receiver) -> None:
    """Its dependencies work without an install of its own, and nothing is doubled."""
    request_id = uuid4().hex
    with observed(receiver) as observability:
        app, sub = FastAPI(), FastAPI()
        observability.install(app, identify=lambda _: "the mounting application's")
        sub.include_router(router)
        app.mount("/sub", sub)

        @sub.get("/broken")
        async def broken() -> None:
            raise LookupError("in the mounted application")

        for path in ("/sub/all", "/sub/broken"):
            answer = await call(app, path, headers={"x-request-id": request_id})
            assert answer.headers["x-request-id"] == request_id
        observability.flush()
        found = receiver.signals(request_id=request_id)
    kinds = Counter(signal["kind"] for signal in found)
    assert kinds == {"error": 2, "trace": 1, "track": 1, "transaction": 2}
    assert {signal["name"] for signal in found if signal["kind"] == "transaction"} == {"/sub/all", "/sub/broken"}


async def test_a_mounted_application_with_an_install_of_its_own_uses_that_with_the_same_request(
    receiver: Receiver,
) -> None:
    """Its facades are its own Observability's; user and request id are the whole request's; errors come once."""
    request_id = uuid4().hex
    with observed(receiver, service="outer") as outer, observed(receiver, service="inner") as inner:
        app, sub = FastAPI(), FastAPI()
        outer.install(app, identify=lambda _: "alice")
        inner.install(sub, identify=lambda _: "somebody else")
        app.mount("/sub", sub)

        @sub.get("/ask")
        async def ask(tracker: TrackerDep, context: ContextDep) -> None:
            assert context.request_id == request_id
            tracker.track("seen")
            raise LookupError("once")

        await call(app, "/sub/ask", headers={"x-request-id": request_id})
        for observability in (inner, outer):
            observability.flush()
        found = {signal["kind"]: signal for signal in receiver.signals(request_id=request_id)}
        assert len(receiver.signals(request_id=request_id)) == 3
    assert set(found) == {"track", "error", "transaction"}
    assert {signal["user_id"] for signal in found.values()} == {"alice"}
    assert found["track"]["payload"]["context"]["app"]["name"] == "inner"
    assert found["transaction"]["name"] == "/sub/ask"


async def test_a_mounted_application_identifies_where_the_outer_does_not(receiver: Receiver) -> None:
    """Only the mounted one knows its users: its identify is asked."""
    request_id = uuid4().hex
    with observed(receiver) as outer, observed(receiver) as inner:
        app, sub = FastAPI(), FastAPI()
        outer.install(app)
        inner.install(sub, identify=lambda _: "alice")
        app.mount("/sub", sub)

        @sub.get("/ask")
        async def ask(tracker: TrackerDep) -> None:
            tracker.track("seen")

        await call(app, "/sub/ask", headers={"x-request-id": request_id})
        for observability in (inner, outer):
            observability.flush()
        found = receiver.signals(request_id=request_id)
    assert {(signal["kind"], signal["user_id"]) for signal in found} == {("track", "alice"), ("transaction", "alice")}


async def test_installed_twice_everything_comes_once(receiver: Receiver) -> None:
    """The second install reuses the first one's cell: one identify, one error, one transaction, one header."""
    request_id, asked = uuid4().hex, list[str]()

    def identify(connection: Any) -> str:
        asked.append("asked")
        return "alice"

    with observed(receiver) as observability:
        app = FastAPI()
        for _ in range(2):
            observability.install(app, identify=identify)

        @app.get("/")
        async def route(tracker: TrackerDep) -> None:
            tracker.track("seen")
            raise LookupError("once")

        answer = await call(app, "/", headers={"x-request-id": request_id})
        observability.flush()
        found = receiver.signals(request_id=request_id)
    assert sorted(signal["kind"] for signal in found) == ["error", "track", "transaction"]
    assert asked == ["asked"]
    assert [name for name, _ in answer.sent[0]["headers"]].count(b"x-request-id") == 1


async def test_the_apps_own_state_is_left_alone(receiver: Receiver) -> None:
    """Providers read the ASGI scope; `app.state` and the scope's `state` have nothing of ours."""
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app)
        state: dict[str, Any] = {}

        @app.get("/")
        async def route(context: ContextDep) -> None:
            assert context.request is not None

        await call(app, "/", state=state)
    assert state == {}
    assert app.state._state == {}


async def test_outside_a_request_the_facades_of_observability_have_no_context(receiver: Receiver) -> None:
    """A script's tracker, tracer and reporter take what they are given."""
    run = uuid4().hex
    with observed(receiver) as observability:
        assert isinstance(observability, Observability)
        observability.tracker.track("script", user_id=run)
        with observability.llm.trace("script", user_id=run):
            pass
        observability.flush()
        found = receiver.signals(user=run)
    assert {(signal["kind"], signal["request_id"]) for signal in found} == {("track", None), ("trace", None)}
