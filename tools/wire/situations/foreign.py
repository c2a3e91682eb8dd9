"""The application's own use of Langfuse's SDK, beside and below our traces, and of OpenTelemetry."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from langfuse import get_client, observe
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import TracerProvider

from metricx_observe import ContextDep, LLMTracerDep

from .running import Run, add, situation


@observe()
def plain(question: str) -> str:
    """A function of the application's."""
    return f"answer to {question}"


@observe(name="asked", as_type="generation")
async def asked(question: str, password: str = "argument-CANARY") -> dict[str, str]:
    """Another, which calls the first."""
    client = get_client()
    client.update_current_generation(model="m", usage_details={"input": 3}, metadata={"token": "meta-CANARY"})
    return {"answer": plain(question)}


def client_of(run: Run, llm: Any) -> Any:
    client = llm.client
    run.see("client", client is not None)
    return client


def in_request(build: Any, **settings: Any) -> Any:
    async def do(run: Run) -> None:
        app = run.app()

        @app.get("/ask")
        async def route(context: ContextDep, llm: LLMTracerDep) -> None:
            context.bind_user("u-1", workspace_id="w-1")
            await build(run, llm)

        await run.call(app, "/ask", headers={"x-request-id": "request-1"})

    return do


async def decorated(run: Run, llm: Any) -> None:
    run.see("result", await asked("why"))


async def decorated_below_ours(run: Run, llm: Any) -> None:
    with llm.trace("ours", session_id="s-1", tags=["x"]) as trace:
        await asked("why")
        with trace.generation("call", model="m"):
            plain("below")


async def by_client(run: Run, llm: Any) -> None:
    client = client_of(run, llm)
    with client.start_as_current_observation(as_type="span", name="theirs", input={"password": "input-CANARY"}) as span:
        span.update(output="out", metadata={"a": 1})
        with client.start_as_current_observation(as_type="generation", name="call", model="m") as generation:
            generation.update(output="text", usage_details={"input": 1, "output": 2})
            with llm.trace("ours below theirs"):
                pass
        span.score(name="good", value=1)


async def by_client_below_ours(run: Run, llm: Any) -> None:
    client = client_of(run, llm)
    with llm.trace("ours", metadata={"m": 1}) as trace:
        with client.start_as_current_observation(as_type="tool", name="theirs", input="in") as span:
            span.update(output="out", level="WARNING", status_message="slow")
        client.create_score(name="by hand", value=0.5, trace_id=trace.trace_id, comment="password=score-CANARY")
        client.create_event(name="an event", input="x")


async def failing(run: Run, llm: Any) -> None:
    @observe()
    def fails() -> None:
        raise ValueError("theirs failed with password=error-CANARY")

    try:
        with llm.trace("ours"):
            fails()
    except ValueError:
        run.see("raised", True)


async def without_content(run: Run, llm: Any) -> None:
    from metricx_observe.context import set_consent

    set_consent(llm_content=False)
    await decorated_below_ours(run, llm)


async def large(run: Run, llm: Any) -> None:
    with llm.client.start_as_current_observation(as_type="span", name="large", input="word " * 300_000):
        pass


for _name, _build in {
    "decorated": decorated, "decorated-below-ours": decorated_below_ours, "client": by_client,
    "client-below-ours": by_client_below_ours, "failing": failing, "without-content": without_content, "large": large,
}.items():  # fmt: skip
    add(f"foreign.{_name}", in_request(_build))
add("foreign.client-not-sampled", in_request(by_client), langfuse_sample_rate=0.0)
add("foreign.langfuse-off", in_request(decorated), disabled=("langfuse",))


@situation("foreign.outside")
async def _outside(run: Run) -> None:
    llm = run.observability().llm
    await decorated(run, llm)
    await by_client(run, llm)


@situation("foreign.own-opentelemetry")
async def _opentelemetry(run: Run) -> None:
    """A server span of the application's own provider is told our ids, and a global one stays none of ours."""
    tracer = TracerProvider().get_tracer("own")
    app = FastAPI()

    class Server:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            with tracer.start_as_current_span("server") as span:
                await self.inner(scope, receive, send)
                run.see("attributes", {key: str(value) for key, value in (span.attributes or {}).items()})  # type: ignore[attr-defined]

    run.observability().install(app)

    @app.get("/")
    async def route(context: ContextDep, llm: LLMTracerDep) -> None:
        context.bind_user("u-1", workspace_id="w-1")
        with llm.trace("ours"):
            pass

    await run.call(Server(app), "/")
    run.see("global provider", type(otel.get_tracer_provider()).__name__)
