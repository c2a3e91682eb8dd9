"""Other middleware around ours: OpenTelemetry's instrumentation in either order, and other makers of request ids."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from uuid import uuid4

import pytest
from asgi_correlation_id import CorrelationIdMiddleware, correlation_id
from fastapi import BackgroundTasks, FastAPI
from fastapi.testclient import TestClient
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from starlette.requests import Request
from starlette.responses import Response

from metricx_observe import ContextDep, TrackerDep

from .receiver_server import Receiver
from .support import call, observed


@pytest.mark.parametrize("first", [True, False], ids=["before install", "after install"])
@pytest.mark.parametrize("lifespan", [True, False], ids=["with lifespan", "without"])
def test_opentelemetry_s_instrumentation_before_or_after(receiver: Receiver, first: bool, lifespan: bool) -> None:
    """It takes the stack apart, also for logfire: its server span has our request id, and signals come once."""
    exporter, provider, run = InMemorySpanExporter(), TracerProvider(), uuid4().hex
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with observed(receiver, traces_sample_rate=1.0) as observability:
        app = FastAPI()
        if first:
            FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
        observability.install(app, identify=lambda _: "alice")
        if not first:
            FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)

        @app.get("/items/{item}")
        async def item(item: str) -> None:
            if item == "broken":
                raise LookupError("it failed")

        client = TestClient(app, raise_server_exceptions=False)
        with client if lifespan else nullcontext():
            ids = [f"{run}-{n}" for n in range(3)]
            for request_id, path, status in zip(ids, ("1", "2", "broken"), (200, 200, 500), strict=True):
                answer = client.get(f"/items/{path}", headers={"x-request-id": request_id})
                assert (answer.status_code, answer.headers["x-request-id"]) == (status, request_id)
            assert observability.flush()
    servers = [span for span in exporter.get_finished_spans() if span.kind is SpanKind.SERVER]
    assert [(span.attributes or {}).get("request_id") for span in servers] == ids
    kinds = [sorted(signal["kind"] for signal in receiver.signals(request_id=request_id)) for request_id in ids]
    assert kinds == [["transaction"], ["transaction"], ["error", "transaction"]]
    assert {signal["user_id"] for signal in receiver.signals(request_id=ids[2])} == {"alice"}
    FastAPIInstrumentor.uninstrument_app(app)


def test_an_error_in_the_first_request_under_opentelemetry_s_instrumentation(receiver: Receiver) -> None:
    """Its 500 has the request id too, and one error arrives."""
    request_id = uuid4().hex
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app)
        FastAPIInstrumentor.instrument_app(app, tracer_provider=TracerProvider())

        @app.get("/broken")
        async def broken() -> None:
            raise LookupError("it failed")

        client = TestClient(app, raise_server_exceptions=False)
        answer = client.get("/broken", headers={"x-request-id": request_id})
        assert (answer.status_code, answer.headers["x-request-id"]) == (500, request_id)
        assert observability.flush()
    (error,) = receiver.signals(request_id=request_id, kind="error")
    assert error["payload"]["exception"]["values"][-1]["mechanism"]["handled"] is False
    FastAPIInstrumentor.uninstrument_app(app)


def correlated(app: FastAPI) -> None:
    app.add_middleware(CorrelationIdMiddleware)


def nobody(app: FastAPI) -> None:
    """No id but ours."""


@pytest.mark.parametrize("given", [None, "not-a-uuid-{}", "{}", "with space {}"])
@pytest.mark.parametrize("add", [correlated, nobody])
async def test_one_request_id(receiver: Receiver, add: Callable[[FastAPI], None], given: str | None) -> None:
    """With asgi-correlation-id, or a client's or gateway's id that is used or not: header, log and signals agree."""
    with observed(receiver) as observability:
        app, logged = FastAPI(), list[str | None]()
        add(app)
        observability.install(app)

        @app.get("/")
        async def root(request: Request, tracker: TrackerDep, cell: ContextDep) -> str:
            logged.extend([correlation_id.get() or cell.request_id, cell.request_id, request.headers["x-request-id"]])
            tracker.track("asked")
            raise LookupError("it failed")

        headers = {} if given is None else {"x-request-id": given.format(uuid4())}
        answer = await call(app, "/", headers=headers)
        assert observability.flush()
    (request_id,) = set(logged)
    assert request_id is not None
    assert [value.decode() for name, value in answer.sent[0]["headers"] if name == b"x-request-id"] == [request_id]
    assert sorted(signal["kind"] for signal in receiver.signals(request_id=request_id)) == [
        "error", "track", "transaction",
    ]  # fmt: skip


@pytest.mark.parametrize("own", ["order-77", "a/b+c==", "no id: a text"])
async def test_what_the_application_answers_is_the_id(receiver: Receiver, own: str) -> None:
    """A route that sets `X-Request-ID`: it is on the response once, and on what is made from then on."""
    with observed(receiver, traces_sample_rate=1.0) as observability:
        app, user = FastAPI(), f"user-{uuid4().hex}"
        observability.install(app, identify=lambda _: user)

        @app.get("/")
        async def root(response: Response, tasks: BackgroundTasks) -> None:
            response.headers["X-Request-ID"] = own
            tasks.add_task(observability.tracker.track, "later")

        answer = await call(app, "/", headers={"x-request-id": "from-the-client"})
        assert observability.flush()
    assert [value.decode() for name, value in answer.sent[0]["headers"] if name.lower() == b"x-request-id"] == [own]
    signals = receiver.signals(user=user)
    assert sorted(signal["kind"] for signal in signals) == ["track", "transaction"]
    assert {signal["request_id"] for signal in signals} == {"from-the-client" if " " in own else own}
