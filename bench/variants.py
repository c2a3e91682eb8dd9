"""The applications that are measured: the same two routes, with nothing, with others' middleware, by hand, with ours.

Each is built in a process of its own: the first global TracerProvider or Sentry client changes a process for good.
Packages are imported where they are used, so that one that is missing costs its own variant only.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from fastapi import FastAPI, Request

from bench.failing import fail
from bench.payloads import EMAIL, EVENT, INPUTS, MODEL, OUTPUTS, PROPERTIES, USAGE, USER_ID, VARIETY, answer

DRAIN_S = 120.0
BESIDE = ", METRICX_DELIVERY=process"
Signal = Callable[[int], None]


@dataclass(slots=True)
class Variant:
    """An application, how to wait until all its signals are with the vendor, and how many those are."""

    app: Any
    drain: Callable[[], object] = bool
    expected: Mapping[str, float] = field(default_factory=dict)
    """Signals by kind for one request, those that are not sampled."""
    status: Callable[[], dict[str, Any]] = dict
    """What it says of itself."""
    beside: Callable[[], int | None] = lambda: None
    """The process that delivers, if it is another one."""

    def cpu_s(self) -> float:
        """Of this process and the one beside it."""
        pid = self.beside()
        if pid is None or pid == os.getpid():  # it does the work itself where no other one begins
            return time.process_time()
        # the CPU clock of another process (Linux; clock_getcpuclockid has no Python name)
        return time.process_time() + time.clock_gettime((~pid << 3) | 2)


def _nothing(n: int) -> None:
    """What a bare route sends."""


def _app(signal: Signal = _nothing) -> FastAPI:
    """Two routes that send something and answer JSON, and one that fails."""
    app = FastAPI()

    @app.get("/async/{item_id}")
    async def of_the_loop(item_id: int) -> dict[str, Any]:
        signal(item_id)
        return answer(item_id)

    @app.get("/sync/{item_id}")
    def of_a_thread(item_id: int) -> dict[str, Any]:
        signal(item_id)
        return answer(item_id)

    @app.get("/fail/{item_id}")
    async def failing(item_id: int) -> None:
        fail("no rows")

    return app


def bare(url: str) -> Variant:
    return Variant(_app())


class NoOp:
    """A pure ASGI middleware that does nothing."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


def noop(url: str) -> Variant:
    app = _app()
    app.add_middleware(NoOp)
    return Variant(app)


def correlation(url: str) -> Variant:
    app = _app()
    app.add_middleware(import_module("asgi_correlation_id").CorrelationIdMiddleware)
    return Variant(app)


def basehttp(url: str) -> Variant:
    from starlette.middleware.base import BaseHTTPMiddleware

    request_id: ContextVar[str] = ContextVar("request_id")

    class SetsContextVar(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Any:
            request_id.set(os.urandom(16).hex())
            return await call_next(request)

    app = _app()
    app.add_middleware(SetsContextVar)
    return Variant(app)


def init_sentry(url: str, rate: float) -> Callable[[], object]:
    """As the documentation has it: the FastAPI and Starlette integrations come by themselves. Gives the drain."""
    import sentry_sdk

    sentry_sdk.init(dsn(url), traces_sample_rate=rate, environment="production")
    return lambda: sentry_sdk.flush(DRAIN_S)


def dsn(url: str) -> str:
    """Sentry's address of the sink."""
    return url.replace("://", "://public@") + "/1"


def sentry(url: str, rate: float) -> Variant:
    drain = init_sentry(url, rate)
    return Variant(_app(), drain, {"sentry transaction": 1.0} if rate == 1 else {})


def otel(url: str) -> Variant:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces")))
    trace.set_tracer_provider(provider)
    app = _app()
    import_module("opentelemetry.instrumentation.fastapi").FastAPIInstrumentor.instrument_app(app)
    return Variant(app, provider.force_flush)


def logfire(url: str) -> Variant:
    library = import_module("logfire")
    library.configure(
        token="bench", console=False, advanced=library.AdvancedOptions(base_url=url), inspect_arguments=False,
        service_name="bench", metrics=False,
    )  # fmt: skip
    app = _app()
    library.instrument_fastapi(app)
    return Variant(app, library.force_flush)


def posthog(url: str) -> Variant:
    client = import_module("posthog").Posthog("phc_bench", host=url)
    app = _app(lambda n: client.capture(EVENT, distinct_id=USER_ID, properties=PROPERTIES[n % VARIETY]))
    app.add_middleware(import_module("posthog.integrations.asgi").PosthogASGIMiddleware, client=client)
    return Variant(app, client.flush, {"posthog event": 1.0})


def by_hand(url: str, lean: bool = False) -> Variant:
    """The three SDKs as their documentation has it. `lean`: Langfuse on a TracerProvider of its own."""
    from langfuse import Langfuse
    from opentelemetry.sdk.trace import TracerProvider
    from rudderstack import analytics
    from sentry_sdk import set_user

    flush_sentry = init_sentry(url, 0.1)
    analytics.write_key, analytics.dataPlaneUrl = "write-key", url
    own: dict[str, Any] = {"tracer_provider": TracerProvider()} if lean else {}
    langfuse = Langfuse(public_key="pk-lf-bench", secret_key="sk-lf-bench", base_url=url, **own)

    def send(n: int) -> None:
        n %= VARIETY
        set_user({"id": USER_ID, "email": EMAIL})
        analytics.track(USER_ID, EVENT, PROPERTIES[n])
        with langfuse.start_as_current_observation(
            as_type="generation", name="answer", model=MODEL, input=INPUTS[n]
        ) as generation:
            generation.update(output=OUTPUTS[n], usage_details=USAGE)

    def drain() -> None:
        flush_sentry()
        analytics.flush()
        langfuse.flush()

    return Variant(_app(send), drain, {"rudderstack track": 1.0, "langfuse span": 1.0})


def observability(url: str, folder: str, rate: float, **more: Any) -> Any:
    """Ours in production with all three vendors at the sink, on disk, scrubber on."""
    from metricx_observe import Observability

    settings = {
        "ENVIRONMENT": "production", "SENTRY_DSN": dsn(url), "RUDDERSTACK_WRITE_KEY": "write-key",
        "RUDDERSTACK_DATA_PLANE_URL": url, "LANGFUSE_PUBLIC_KEY": "pk-lf-bench", "LANGFUSE_SECRET_KEY": "sk-lf-bench",
        "LANGFUSE_BASE_URL": url, "METRICX_OUTBOX_URL": f"sqlite:///{folder}/outbox.db",
        "METRICX_TRACES_SAMPLE_RATE": str(rate),
        # the processes run elsewhere: all frames of an error shall be the application's, with locals
        "METRICX_IN_APP": "bench",
        # the limits that spare a process are off: as many traces as the SDK makes at this rate
        "METRICX_TRACES_MAX_PER_SECOND": "1000000", "METRICX_ERRORS_MAX_PER_SECOND": "1000000",
    }  # fmt: skip
    os.environ.update(settings)
    return Observability.from_env(**more)


def ours(url: str, rate: float, signals: str = "", **more: Any) -> Variant:
    """Ours with nothing emitted; with the `same` signals as `by_hand`; or with a trace around the generation `more`."""
    folder = tempfile.mkdtemp(dir=".")
    ours = observability(url, os.path.abspath(folder), rate, **more)
    app = {"": _app, "same": _ours_with_the_same, "more": _ours_with_more}[signals]()
    ours.install(app)
    ours.start()
    expected = {"rudderstack track": 1.0, "langfuse span": {"same": 1.0, "more": 2.0}[signals]} if signals else {}
    return Variant(app, lambda: drained(ours), expected, ours.status, lambda: ours.status()["outbox"].get("process"))


def drained(ours: Any) -> None:
    """Until the outbox is empty; raises if anything was dropped or refused on the way."""
    assert ours.flush(DRAIN_S), "not delivered in time"
    for vendor, state in ours.status().items():
        if isinstance(state, dict):
            lost = {key: state[key] for key in ("dropped", "dead") if state.get(key)}
            assert not lost, f"{vendor}: {lost}"


def _ours_with_the_same() -> FastAPI:
    from metricx_observe import SignalsDep

    def send(n: int, signals: SignalsDep) -> None:
        n %= VARIETY
        signals.context.bind_user(USER_ID, email=EMAIL, workspace_id="ws_42")
        signals.tracker.track(EVENT, PROPERTIES[n])
        with signals.llm.generation("answer", model=MODEL, input=INPUTS[n]) as generation:
            generation.update(output=OUTPUTS[n], usage=USAGE)

    async def of_the_loop(item_id: int, signals: SignalsDep) -> dict[str, Any]:
        send(item_id, signals)
        return answer(item_id)

    def of_a_thread(item_id: int, signals: SignalsDep) -> dict[str, Any]:
        send(item_id, signals)
        return answer(item_id)

    return _injected({"signals": SignalsDep}, of_the_loop, of_a_thread)


def _ours_with_more() -> FastAPI:
    from metricx_observe import ContextDep, LLMTracerDep, TrackerDep

    def send(n: int, context: ContextDep, tracker: TrackerDep, llm: LLMTracerDep) -> None:
        n %= VARIETY
        context.bind_user(USER_ID, email=EMAIL, workspace_id="ws_42")
        tracker.track(EVENT, PROPERTIES[n])
        with (
            llm.trace("ask") as trace,
            trace.generation("answer", model=MODEL, input=INPUTS[n]) as generation,
        ):
            generation.update(output=OUTPUTS[n], usage=USAGE)

    async def of_the_loop(item_id: int, context: ContextDep, tracker: TrackerDep, llm: LLMTracerDep) -> dict[str, Any]:
        send(item_id, context, tracker, llm)
        return answer(item_id)

    def of_a_thread(item_id: int, context: ContextDep, tracker: TrackerDep, llm: LLMTracerDep) -> dict[str, Any]:
        send(item_id, context, tracker, llm)
        return answer(item_id)

    return _injected({"context": ContextDep, "tracker": TrackerDep, "llm": LLMTracerDep}, of_the_loop, of_a_thread)


def _injected(types: dict[str, Any], of_the_loop: Callable[..., Any], of_a_thread: Callable[..., Any]) -> FastAPI:
    app = FastAPI()

    @app.get("/plain/{item_id}")
    async def plain(item_id: int) -> dict[str, Any]:
        return answer(item_id)

    for path, route in (("/async/{item_id}", of_the_loop), ("/sync/{item_id}", of_a_thread)):
        # the types are known in those functions only: FastAPI reads annotations by their module
        route.__annotations__ |= {"item_id": int, **types}
        app.get(path, response_model=dict[str, Any])(route)
    return app


BUILD: dict[str, tuple[str, Callable[[str], Variant]]] = {
    "bare": ("bare FastAPI", bare),
    "control": ("bare FastAPI again: the noise", bare),
    "noop": ("a no-op ASGI middleware", noop),
    "correlation": ("asgi-correlation-id", correlation),
    "basehttp": ("a BaseHTTPMiddleware that sets a ContextVar", basehttp),
    "sentry0": ("sentry-sdk's integration, traces 0", lambda url: sentry(url, 0.0)),
    "sentry01": ("sentry-sdk's integration, traces 0.1", lambda url: sentry(url, 0.1)),
    "sentry1": ("sentry-sdk's integration, traces 1.0", lambda url: sentry(url, 1.0)),
    "otel": ("opentelemetry-instrumentation-fastapi", otel),
    "logfire": ("logfire", logfire),
    "posthog": ("posthog's middleware and one capture", posthog),
    "hand": ("the three SDKs by hand", by_hand),
    "hand_lean": ("the three SDKs by hand, Langfuse on its own provider", lambda url: by_hand(url, lean=True)),
    "ours0": ("ours, nothing emitted, traces 0", lambda url: ours(url, 0.0)),
    "ours01": ("ours, nothing emitted, traces 0.1", lambda url: ours(url, 0.1)),
    "ours": ("ours, the same signals as by hand", lambda url: ours(url, 0.1, "same")),
    "ours_process": (
        f"ours, the same{BESIDE}",
        lambda url: ours(url, 0.1, "same", delivery="process"),
    ),
    "ours_more": ("ours, a trace around the generation, three dependencies", lambda url: ours(url, 0.1, "more")),
}
"""By name: what the tables call it, and how to build it for the sink's address."""
