"""Living with what an application has already: its own Sentry, lifespan, OpenTelemetry, and ways to add middleware."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sentry_sdk
from fastapi import APIRouter, FastAPI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.integrations.stdlib import StdlibIntegration
from sentry_sdk.scrubber import EventScrubber
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metricx_observe import ConfigurationError, ContextDep, Observability, ObserveMiddleware, TrackerDep
from metricx_observe.settings import load_settings

from .processes import run_python
from .receiver_server import Receiver
from .support import call, keys_for, observed, serving, with_module

own_server_span = with_module("fastapi", "fastapi.telemetry")
"""Earlier FastAPI makes none."""


@pytest.fixture
def application_client(receiver: Receiver) -> Iterator[Any]:
    """Gives a function that calls `sentry_sdk.init` as an application does; afterwards there is no client again."""

    def init(**options: Any) -> list[Any]:
        events: list[Any] = []

        def keep(event: Any, hint: Any) -> None:
            events.append(event)

        sentry_sdk.init(dsn="http://public@127.0.0.1:9/1", before_send=keep, before_send_transaction=keep, **options)
        return events

    yield init
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)


failing = APIRouter()


@failing.get("/")
async def fail(context: ContextDep) -> None:
    context.bind_user("alice")
    raise LookupError("it failed")


def failing_app(observability: Observability) -> FastAPI:
    app = FastAPI()
    observability.install(app)
    app.include_router(failing)
    return app


async def test_an_earlier_init_is_taken_over_with_one_warning_and_given_back(
    receiver: Receiver, application_client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Events go through ours only, the warning names what was not carried over, and close() restores the client."""
    events, request_id = application_client(traces_sample_rate=1.0, max_breadcrumbs=7), uuid4().hex
    earlier = sentry_sdk.get_client()
    with observed(receiver) as observability:
        app = failing_app(observability)
        (warning,) = (record.getMessage() for record in caplog.records if "sentry_sdk.init" in record.getMessage())
        assert "before_send" in warning
        assert "max_breadcrumbs" in warning
        assert "traces_sample_rate" not in warning  # ours to set
        await call(app, "/", headers={"x-request-id": request_id})
        sentry_sdk.capture_message(f"outside {request_id}")
        observability.flush()
        found = receiver.signals(request_id=request_id)
        outside = [error for error in receiver.signals(kind="error") if error["name"] == f"outside {request_id}"]
    assert sorted(signal["kind"] for signal in found) == ["error", "transaction"]
    assert len(outside) == 1
    assert events == []
    assert sentry_sdk.get_client() is earlier
    sentry_sdk.capture_message("after close")
    assert [event["message"] for event in events] == ["after close"]
    assert "request_id" not in (events[0].get("tags") or {})


LOST = re.compile(r"not carried over: (.*?)\. Give them as ")


@pytest.mark.parametrize(
    ("options", "lost"),
    [
        ({}, "nothing"),
        ({"traces_sample_rate": 0.25, "release": "1.2", "environment": "elsewhere"},
         "environment, release, traces_sample_rate"),
        ({"integrations": [LoggingIntegration(level=None)], "disabled_integrations": [StdlibIntegration()],
          "auto_enabling_integrations": False}, "auto_enabling_integrations, disabled_integrations, integrations"),
        ({"include_local_variables": False, "in_app_include": ["shop"], "server_name": "box"},
         "in_app_include, include_local_variables, server_name"),
        ({"event_scrubber": EventScrubber(denylist=["plan"])}, "event_scrubber"),
        ({"max_breadcrumbs": 7, "attach_stacktrace": True}, "attach_stacktrace"),
    ],
)  # fmt: skip
def test_what_an_earlier_init_loses_is_named(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, options: dict[str, Any], lost: str
) -> None:
    """Its integrations and what is ours to set too, but nothing that the SDK filled in or that was given anew."""
    sentry_sdk.init(dsn="http://public@127.0.0.1:9/1", **options)
    try:
        with observed(receiver, sentry_options={"max_breadcrumbs": 5}) as observability:
            observability.start()
    finally:
        sentry_sdk.get_client().close()
        sentry_sdk.get_global_scope().set_client(None)
    assert [LOST.findall(text) for text in caplog.messages if "sentry_sdk.init" in text] == [[lost]]


@pytest.mark.parametrize("where", ["before it is served", "in its lifespan"])
def test_after_a_later_init_requests_still_report_through_ours(
    receiver: Receiver, application_client: Any, where: str
) -> None:
    """It replaces the global client without a word: `status()` says so, and nothing of a request goes there too."""
    request_id, events = uuid4().hex, list[Any]()
    with observed(receiver, **keys_for(receiver)) as observability:

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            if where == "in its lifespan":
                events.append(application_client(traces_sample_rate=1.0))
            yield

        app = FastAPI(lifespan=lifespan)
        observability.install(app)
        app.include_router(failing)
        assert observability.status()["sentry"]["client_replaced"] is False
        if where == "before it is served":
            events.append(application_client(traces_sample_rate=1.0))
        with serving(app) as url:
            contextvars.Context().run(httpx.get, url, headers={"x-request-id": request_id}, trust_env=False)
            later = sentry_sdk.get_client()
            found = receiver.wait_for(2, request_id=request_id)
            assert observability.status()["sentry"]["client_replaced"] is True
    assert sorted(signal["kind"] for signal in found) == ["error", "transaction"]
    assert {signal["user_id"] for signal in found} == {"alice"}
    assert events == [[]]
    assert sentry_sdk.get_client() is later  # it is the application's now


@pytest.mark.filterwarnings("ignore:The `root_path` parameter is deprecated")
@pytest.mark.parametrize("how", ["uvicorn --root-path", "FastAPI(root_path=)", "FastAPI(root_path=), kept"])
def test_a_health_check_below_a_root_path_is_not_traced(receiver: Receiver, how: str) -> None:
    """Behind a proxy that strips the prefix or leaves it on; what is beside it is traced."""
    run, root = uuid4().hex, "/api/v1"
    with observed(receiver) as observability:
        app = FastAPI(root_path=root if how.startswith("FastAPI") else "")
        observability.install(app)
        app.add_api_route("/health", lambda: None)
        app.add_api_route("/api/health", lambda: None)
        prefix = root if how.endswith("kept") else ""
        with serving(app, root_path=root if how.startswith("uvicorn") else "") as url:
            for path in ("/health", "/api/health"):
                contextvars.Context().run(
                    httpx.get, f"{url}{prefix}{path}", headers={"x-request-id": run}, trust_env=False
                ).raise_for_status()
            found = receiver.wait_for(1, request_id=run)
    assert [each["name"] for each in found] == ["/api/health"]


async def test_the_applications_own_sentry_calls_carry_our_context(receiver: Receiver) -> None:
    """`sentry_sdk.capture_exception` in a route has the user, and what it reported is not reported again."""
    request_id = uuid4().hex
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app)

        @app.get("/")
        def route(context: ContextDep) -> None:
            context.bind_user("alice")
            error = LookupError("once")
            sentry_sdk.capture_exception(error)
            raise error

        await call(app, "/", headers={"x-request-id": request_id})
        observability.flush()
        (error,) = receiver.signals(request_id=request_id, kind="error")
    assert error["user_id"] == "alice"


def test_a_second_one_with_another_dsn_is_a_configuration_error(receiver: Receiver) -> None:
    """Sentry has one client per process; the same DSN again is no fault, and neither is another one after close()."""
    other = load_settings({**keys_for(receiver), "sentry_dsn": "http://other@127.0.0.1:9/2", "outbox_url": "memory://"})
    with observed(receiver) as first:
        first.start()
        with observed(receiver) as second:
            second.start()
        with pytest.raises(ConfigurationError, match="SENTRY_DSN"):
            Observability(other).start()
    last = Observability(other)
    last.start()
    last.close(0.1)


def test_install_after_the_first_request_says_so(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """The stack is built by then: the vendors start, and the line says when to call it."""
    with observed(receiver) as observability:
        app = FastAPI()
        asyncio.run(call(app, "/"))
        observability.install(app)
        assert all(observability.states().values())
    assert "Call it where the application is made, not in its lifespan" in caplog.text


def test_closing_comes_after_the_applications_own_shutdown_and_before_its_end(receiver: Receiver) -> None:
    """What the application's lifespan sends while it shuts down is delivered when the server has stopped."""
    run = uuid4().hex
    with observed(receiver, **keys_for(receiver)) as observability:

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
            observability.tracker.track("starting", user_id=run)
            yield {"from": "the lifespan"}
            await asyncio.sleep(0)
            observability.tracker.track("stopping", user_id=run)

        app = FastAPI(lifespan=lifespan)
        observability.install(app)
        with serving(app):
            receiver.wait_for(1, user=run)
            assert observability.is_open
        assert not observability.is_open
        assert {signal["name"] for signal in receiver.signals(user=run)} == {"starting", "stopping"}


async def test_it_closes_before_the_server_is_told_that_the_shutdown_is_complete(receiver: Receiver) -> None:
    """A server may end the process at once after that message."""
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app)
        open_at: dict[str, bool] = {}
        steps = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive() -> Any:
            return next(steps)

        async def send(message: Any) -> None:
            open_at[message["type"]] = observability.is_open

        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    assert open_at == {"lifespan.startup.complete": True, "lifespan.shutdown.complete": False}


async def test_the_middleware_alone_works(receiver: Receiver) -> None:
    """`add_middleware(ObserveMiddleware, observability=...)`: starts, identifies, reports once and closes."""
    run = uuid4().hex[:8]
    with observed(receiver) as observability:
        app = FastAPI()
        app.add_middleware(ObserveMiddleware, observability=observability, identify=lambda _: "alice")
        app.add_exception_handler(LookupError, _handled)

        @app.get("/unhandled")
        async def unhandled() -> None:
            raise RuntimeError("unhandled")

        @app.get("/handled")
        async def handled(tracker: TrackerDep) -> None:
            tracker.track("seen")
            raise LookupError("handled")

        answers = [
            await call(app, path, headers={"x-request-id": f"{run}{path.replace('/', '-')}"})
            for path in ("/handled", "/unhandled")
        ]
        observability.flush()
        handled_signals = receiver.signals(request_id=f"{run}-handled")
        unhandled_signals = receiver.signals(request_id=f"{run}-unhandled")
    assert answers[0].headers["x-request-id"] == f"{run}-handled"
    assert "x-request-id" not in answers[1].headers  # sent outside all user middleware
    assert sorted(signal["name"] for signal in handled_signals) == ["/handled", "LookupError: handled", "seen"]
    assert sorted(signal["name"] for signal in unhandled_signals) == ["/unhandled", "RuntimeError: unhandled"]
    assert {signal["user_id"] for signal in handled_signals + unhandled_signals} == {"alice"}


async def _handled(request: Request, error: Exception) -> Response:
    return Response(status_code=503)


async def test_a_plain_starlette_application_works_as_well(receiver: Receiver) -> None:
    """Nothing needs FastAPI but the dependencies."""
    request_id = uuid4().hex

    async def broken(request: Request) -> Response:
        raise LookupError("it failed")

    with observed(receiver) as observability:
        app = Starlette(
            routes=[Route("/items/{item}", broken)],
            middleware=[Middleware(ObserveMiddleware, observability=observability)],
        )
        await call(app, "/items/7", headers={"x-request-id": request_id})
        observability.flush()
        found = receiver.signals(request_id=request_id)
    assert sorted(signal["name"] for signal in found) == ["/items/{item}", "LookupError: it failed"]


OPENTELEMETRY = """
import asyncio, json, sys
from fastapi import APIRouter, FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from metricx_observe import ContextDep, LLMTracerDep, Observability, TrackerDep
from tests.support import call

exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
app, bare = FastAPI(), FastAPI()
observability = Observability.from_env()
observability.install(app)

@app.get("/items/{item}")
async def ask(item: str, context: ContextDep, tracker: TrackerDep, llm: LLMTracerDep) -> None:
    context.bind_user("alice", workspace_id="acme")
    tracker.track("seen")
    with llm.trace("copilot") as trace, trace.generation("g", model="m"):
        pass
    llm.client

@bare.get("/items/{item}")
async def ask_bare(item: str) -> None: ...

def spans():
    found = [(span.name, dict(span.attributes)) for span in exporter.get_finished_spans()]
    exporter.clear()
    return found

asyncio.run(call(bare, "/items/7"))
without = spans()
answer = asyncio.run(call(app, "/items/7", headers={"x-request-id": "r-1"}))
assert answer.status == 200
with_us = spans()
observability.close()
print(json.dumps({
    "untouched": trace.get_tracer_provider() is provider,
    "names": [name for name, _ in without] == [name for name, _ in with_us],
    "server": with_us[-1][1],
}, default=str))
"""


@own_server_span
def test_a_global_tracer_provider_is_left_alone_and_its_server_span_told(receiver: Receiver, tmp_path: Path) -> None:
    """We create no span on it, and put request id, user and workspace on the application's own server span."""
    variables = {"ENVIRONMENT": "development", "METRICX_RECEIVER_URL": receiver.url}
    done = run_python("-c", OPENTELEMETRY, folder=tmp_path, METRICX_OUTBOX_URL="memory://", **variables)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["untouched"]
    assert result["names"]
    server = result["server"]
    assert (server["request_id"], server["user.id"], server["workspace_id"]) == ("r-1", "alice", "acme")
    assert server["http.route"] == "/items/{item}"


@own_server_span
@pytest.mark.parametrize("path", ["/items/7", "/broken"])
async def test_the_server_span_of_an_applications_own_provider_is_told(receiver: Receiver, path: str) -> None:
    """Also of a provider that only this FastAPI has, and of a request that fails; other spans are left alone."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with observed(receiver) as observability:
        app = FastAPI(telemetry={"tracer_provider": provider})
        observability.install(app)

        @app.get("/items/{item}")
        async def item(item: str, context: ContextDep) -> None:
            context.bind_user("alice", workspace_id="acme")

        @app.get("/broken")
        async def broken(context: ContextDep) -> None:
            context.bind_user("alice", workspace_id="acme")
            raise LookupError("it failed")

        await call(app, path, headers={"x-request-id": "r-1"})
    *others, server = exporter.get_finished_spans()
    told = {key: value for key, value in (server.attributes or {}).items() if key in _TOLD}
    assert told == {"request_id": "r-1", "user.id": "alice", "workspace_id": "acme"}
    assert not any(_TOLD & set(span.attributes or ()) for span in others)


_TOLD = {"request_id", "user.id", "workspace_id"}


def test_a_startup_that_fails_is_the_servers_to_tell(receiver: Receiver) -> None:
    """The middleware passes the message on, and closes nothing: the server ends the process."""
    sent: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        raise LookupError("no database")
        yield

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    with observed(receiver) as observability:
        app = FastAPI(lifespan=lifespan)
        observability.install(app)
        with pytest.raises(LookupError):
            asyncio.run(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send))
    assert sent == ["lifespan.startup.failed"]


async def test_the_applications_error_log_is_reported_with_its_user(receiver: Receiver) -> None:
    """A `logger.error` in a request is an event of that request's user, in a thread too."""
    request_id = uuid4().hex
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app)

        @app.get("/")
        def route(context: ContextDep) -> None:
            context.bind_user("alice")
            logging.getLogger("application").error("it is odd")

        await call(app, "/", headers={"x-request-id": request_id})
        observability.flush()
        (error,) = receiver.signals(request_id=request_id, kind="error")
    assert (error["name"], error["user_id"]) == ("it is odd", "alice")
