"""Langfuse: our spans are those of its own SDK, and its client works behind our outbox."""

from __future__ import annotations

import asyncio
import base64
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import langfuse
import orjson
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from google.protobuf.json_format import Parse
from hypothesis import given
from hypothesis import strategies as st
from langfuse import LangfuseOtelSpanAttributes as Key
from langfuse import get_client, observe, propagate_attributes
from langfuse._client.resource_manager import LangfuseResourceManager
from opentelemetry import trace as otel_trace
from opentelemetry.context import Context as OtelContext
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from metricx_observe import LLMTracer, LLMTracerDep, Observability
from metricx_observe.boundary import Boundary
from metricx_observe.context import Context, RequestContext
from metricx_observe.delivery.channel import Importance
from metricx_observe.scrubber import Scrubber
from metricx_observe.settings import load_settings
from metricx_observe.vendors.langfuse.channel import LangfuseChannel, ScoreChannel, resource_attributes
from metricx_observe.vendors.langfuse.spans import SpanExport
from metricx_observe.vendors.vendor import Target

from .faults import until
from .odd_values import ODD_VALUES
from .receiver_server import Receiver
from .support import call, observed

SETTINGS = load_settings({"environment": "Staging", "release": "1.2.3", "service": "shop"})
TARGET = Target("on", url="https://langfuse.example", key="pk-lf-test", secret="sk-lf-test")
USAGE = {"input": 100, "output": 50, "total": 150}
OURS = {
    "gen_ai.request.model", "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens",
    "langfuse.trace.metadata.request_id", "langfuse.trace.metadata.request_trace_id",
}  # fmt: skip
"""What we add to the SDK's attributes: OpenTelemetry's GenAI names, and the request."""
THEIRS = {"langfuse.internal.is_app_root", "langfuse.internal.as_root"}
"""What the SDK tells itself and its server about span sources."""


class Kept:
    """An LLM sink that keeps the records."""

    client = None

    def __init__(self) -> None:
        self.records: list[bytes] = []

    def put(self, type: str, record: bytes) -> bool:
        """Keep it."""
        self.records.append(record)
        return bool(type)

    def samples(self, trace_id: str) -> bool:
        """All."""
        return bool(trace_id)

    def url(self, trace_id: str) -> str:
        """Anything."""
        return f"https://langfuse.example/trace/{trace_id}"


def decode(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    """OTLP/JSON attributes as a dict."""

    def value(item: dict[str, Any]) -> Any:
        ((kind, inner),) = item.items()
        if kind == "arrayValue":
            return [value(each) for each in inner["values"]]
        return int(inner) if kind == "intValue" else inner

    found = {each["key"]: value(each["value"]) for each in attributes}
    assert len(found) == len(attributes), "a key twice"
    return found


def channel() -> LangfuseChannel:
    """A channel to a host that is never called."""
    return LangfuseChannel(SETTINGS, TARGET, Scrubber(), Boundary().count)


def by_sdk() -> list[ReadableSpan]:
    """What the SDK makes of one trace with a tool, a generation, a failed step and all of their fields."""
    exporter, key = InMemorySpanExporter(), f"pk-lf-{uuid4().hex}"
    client = langfuse.Langfuse(
        public_key=key, secret_key="sk-lf-x", base_url="http://127.0.0.1:9", environment="staging", release="1.2.3",
        span_exporter=exporter,
        tracer_provider=TracerProvider(resource=Resource.create(resource_attributes(SETTINGS))),
    )  # fmt: skip
    with (
        client.start_as_current_observation(name="copilot", as_type="span", input="why?") as trace,
        propagate_attributes(
            user_id="u1", session_id="s1", tags=["beta", "workspace:w1"], trace_name="copilot",
            metadata={"workspace_id": "w1", "plan": "pro"},
        ),
    ):  # fmt: skip
        with client.start_as_current_observation(name="search", as_type="tool", input={"q": ["a", 1]}) as tool:
            tool.update(output=["found"])
        with client.start_as_current_observation(
            name="write", as_type="generation", model="claude-x", input=[{"role": "user", "content": "häh?"}],
            model_parameters={"temperature": 0.5}, metadata={"step": 2, "note": "first", "none": None},
        ) as generation:  # fmt: skip
            generation.update(
                output="because", usage_details=USAGE, cost_details={"total": 0.25},
                completion_start_time=datetime(2026, 1, 1, tzinfo=UTC),
            )  # fmt: skip
        with client.start_as_current_observation(name="check", as_type="span") as failed:
            failed.update(level="ERROR", status_message="ValueError: no")
        trace.update(output={"answer": "because"})
    client.flush()
    client.shutdown()
    LangfuseResourceManager._instances.pop(key, None)
    return list(exporter.get_finished_spans())


def by_us() -> list[dict[str, Any]]:
    """What our channel makes of the same."""
    kept = Kept()
    tracer = LLMTracer(kept, Boundary(), Context(RequestContext("r1", "a" * 32)))
    with tracer.trace(
        "copilot", input="why?", user_id="u1", session_id="s1", workspace_id="w1", tags=["beta"],
        metadata={"plan": "pro"},
    ) as trace:  # fmt: skip
        with trace.tool("search", input={"q": ["a", 1]}) as tool:
            tool.update(output=["found"])
        with trace.generation(
            "write", model="claude-x", input=[{"role": "user", "content": "häh?"}],
            model_parameters={"temperature": 0.5}, metadata={"step": 2, "note": "first", "none": None},
        ) as generation:  # fmt: skip
            generation.update(
                output="because", usage=USAGE, cost={"total": 0.25},
                completion_start_time=datetime(2026, 1, 1, tzinfo=UTC),
            )  # fmt: skip
        with trace.span("check") as failed:
            failed.update(level="ERROR", status_message="ValueError: no")
        trace.update(output={"answer": "because"})
    coder = channel()
    return [orjson.loads(message.payload) for record in kept.records for message in coder.encode(record)]


def test_our_spans_are_the_sdks() -> None:
    """Names, kinds, nesting, status, attribute keys and values are what langfuse's SDK emits for the same work."""
    theirs, ours = {span.name: span for span in by_sdk()}, {span["name"]: span for span in by_us()}
    assert ours.keys() == theirs.keys()
    root = {span["name"]: span["spanId"] for span in ours.values()}["copilot"]
    assert len({span["traceId"] for span in ours.values()}) == 1
    for name, span in theirs.items():
        mine = ours[name]
        attributes = decode(mine["attributes"])
        wanted = {**dict(span.attributes or {}), **dict(span.resource.attributes)}
        wanted = {key: list(value) if isinstance(value, tuple) else value for key, value in wanted.items()}
        assert (mine.get("parentSpanId") == root) == (span.parent is not None)
        assert mine["kind"] == span.kind.value + 1
        assert mine["status"].get("code", 0) == span.status.status_code.value
        assert mine["status"].get("message") == span.status.description
        if name == "copilot":  # the SDK gives trace fields to what begins after they were set; we know them at the end
            wanted |= {key: value for key, value in dict(theirs["write"].attributes or {}).items() if "trace" in key}
            wanted |= {"user.id": "u1", "session.id": "s1"}
            wanted = {key: list(value) if isinstance(value, tuple) else value for key, value in wanted.items()}
        extra = attributes.keys() - wanted.keys()
        missing = {key for key in wanted.keys() - attributes.keys() if not key.startswith(("telemetry.", "service."))}
        assert extra <= OURS
        assert missing <= THEIRS
        for key in attributes.keys() & wanted.keys():
            assert same(attributes[key], wanted[key]), key


def same(ours: Any, theirs: Any) -> bool:
    """The same value; JSON texts by what they say, since white space and escapes say nothing; tags in any order.

    The SDK writes a text of metadata as JSON up to 4.x, and as it is from 5 on.
    """
    if isinstance(ours, list):
        return sorted(ours) == sorted(theirs)
    return bool(read(ours) == read(theirs))


def read(value: Any) -> Any:
    try:
        return orjson.loads(value)
    except (orjson.JSONDecodeError, TypeError):
        return value


def test_what_traces_have_in_common_is_that_of_each() -> None:
    """Traces that share name, user or tags share no more than that, and few or many tags are encoded alike."""
    cases: list[dict[str, Any]] = [
        {"user_id": "u1", "tags": ["a"]}, {"user_id": "u1", "tags": ["a", "b"]}, {"user_id": "u2", "tags": ["a"]},
        {"user_id": "u1", "session_id": "s1"}, {"user_id": "u1", "workspace_id": "w1"},
        {"user_id": "u1", "tags": ["a"] * 20, "workspace_id": "w1", "metadata": {"workspace_id": "my", "plan": "pro"}},
        {"metadata": {"workspace_id": "mine"}}, {},
    ]  # fmt: skip
    kept = Kept()
    for state in (None, RequestContext("r1", "a" * 32), RequestContext("r2", "b" * 32)):
        for fields in cases:
            LLMTracer(kept, Boundary(), state and Context(state)).trace("ask", **fields).end()
    coder = channel()
    found = [decode(orjson.loads(coder.encode(record)[0].payload)["attributes"]) for record in kept.records]
    for n, attributes in enumerate(found):
        fields, request = cases[n % len(cases)], n // len(cases)
        workspace, metadata = fields.get("workspace_id"), {**fields.get("metadata", {})}
        metadata |= {"workspace_id": workspace} if workspace else {}
        metadata |= {"request_id": f"r{request}", "request_trace_id": " ab"[request] * 32} if request else {}
        tags = [*fields.get("tags", ()), *([f"workspace:{workspace}"] if workspace else [])]
        assert attributes.get(Key.TRACE_USER_ID) == fields.get("user_id")
        assert attributes.get(Key.TRACE_SESSION_ID) == fields.get("session_id")
        assert attributes.get(Key.TRACE_TAGS, []) == tags
        prefix = f"{Key.TRACE_METADATA}."
        said = {key.removeprefix(prefix): value for key, value in attributes.items() if key.startswith(prefix)}
        assert said == {key: f'"{value}"' for key, value in metadata.items()}


def test_a_secret_in_a_models_name_is_nowhere() -> None:
    """OpenTelemetry's name for the model passes the scrubber as Langfuse's does."""
    kept, secret = Kept(), "sk_live_abcdefghijklmnop1234"
    LLMTracer(kept, Boundary()).generation("ask", model=f"https://x.example/{secret}").update(usage=USAGE).end()
    (message,) = channel().encode(kept.records[0])
    attributes = decode(orjson.loads(message.payload)["attributes"])
    assert attributes["gen_ai.request.model"] == attributes[Key.OBSERVATION_MODEL]
    assert secret.encode() not in message.payload


def test_resource_and_scope_are_the_sdks() -> None:
    """The export names the SDK's own tracer, so that Langfuse takes the spans for its SDK's."""
    post = channel().post([b'{"a":1}', b'{"a":2}'])
    body = orjson.loads(post.body)
    (resource,) = body["resourceSpans"]
    (scope,) = resource["scopeSpans"]
    sdk = by_sdk()[0]
    assert sdk.instrumentation_scope is not None
    assert scope["scope"]["name"] == sdk.instrumentation_scope.name
    assert scope["scope"]["version"] == sdk.instrumentation_scope.version
    assert decode(scope["scope"]["attributes"]).keys() == dict(sdk.instrumentation_scope.attributes or {}).keys()
    attributes = decode(resource["resource"]["attributes"])
    assert attributes["langfuse.release"] == sdk.resource.attributes["langfuse.release"] == "1.2.3"
    assert attributes["langfuse.environment"] == sdk.resource.attributes["langfuse.environment"] == "staging"
    assert attributes["service.name"] == "shop"
    assert scope["spans"] == [{"a": 1}, {"a": 2}]
    assert post.url == "https://langfuse.example/api/public/otel/v1/traces"
    assert base64.b64decode(post.headers["Authorization"][6:]) == b"pk-lf-test:sk-lf-test"
    assert (post.headers["x-langfuse-sdk-name"], post.headers["x-langfuse-ingestion-version"]) == ("python", "4")
    assert post.headers["x-langfuse-sdk-version"] == langfuse.__version__
    assert post.headers["x-langfuse-public-key"] == "pk-lf-test"
    assert channel().destination.startswith("langfuse.example/api")
    assert "pk-lf-test" not in channel().destination


@given(st.text(), st.recursive(
    st.none() | st.integers() | st.floats() | st.text(st.characters()) | st.booleans()
    | st.sampled_from([name for name in ODD_VALUES if "huge" not in name]).map(lambda name: ODD_VALUES[name]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=15))  # fmt: skip
def test_every_span_is_what_otlps_own_parser_takes(name: str, value: Any) -> None:
    """Whatever the fields are, protobuf's parser reads the export, and the name and the ids are in it."""
    kept = Kept()
    trace = LLMTracer(kept, Boundary()).trace(name, input=value, user_id=value, metadata=value, tags=value)
    call = trace.generation(name, model=value, input=value, model_parameters=value, metadata={"a": value})
    call.update(output=value, usage=value, cost=value, level=value, status_message=value, completion_start_time=value)
    call.end()
    trace.end()
    coder = channel()
    payloads = [message.payload for record in kept.records for message in coder.encode(record)]
    request = Parse(as_base64(coder.post(payloads).body), ExportTraceServiceRequest())
    spans = request.resource_spans[0].scope_spans[0].spans
    assert [span.span_id.hex() for span in spans] == [call.id, trace.id]
    assert {span.trace_id.hex() for span in spans} == {trace.trace_id}


def as_base64(body: bytes) -> bytes:
    """Protobuf's JSON has base64 where OTLP's has hex."""
    request = orjson.loads(body)
    for span in request["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for field in ("traceId", "spanId", "parentSpanId"):
            if field in span:
                span[field] = base64.b64encode(bytes.fromhex(span[field])).decode()
    return orjson.dumps(request)


def test_odd_attributes_of_application_spans_are_still_otlp() -> None:
    """Integers over 64 bits, NaN and bytes in an application's own span do not spoil the export."""
    records: list[Any] = []

    def put(record: bytes, size: int) -> bool:
        records.append(record)
        return size > 0

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(SpanExport(put)))
    with provider.get_tracer("x").start_as_current_span("name\ud800") as span:
        span.set_attributes({"big": 1 << 70, "nan": float("nan"), "list": [1, 2], "yes": True, "half": 0.5})
        span.add_event("happened", {"api_key": "0123456789abcdef"})
    coder = channel()
    (message,) = coder.encode(records[0])
    assert b"0123456789abcdef" not in message.payload
    spans = Parse(as_base64(coder.post([message.payload]).body), ExportTraceServiceRequest())
    assert spans.resource_spans[0].scope_spans[0].spans[0].events[0].name == "happened"


def signals(receiver: Receiver, n: int, **filters: Any) -> dict[str, dict[str, Any]]:
    """By name, what arrived of Langfuse's."""
    found = receiver.wait_for(n, **filters)
    return {signal["name"]: signal for signal in found if signal["vendor"] == "langfuse"}


def test_a_request_and_its_llm_work_name_each_other(receiver: Receiver) -> None:
    """The trace has an id of its own; request id, user and workspace are on each observation and on the score."""
    app, user = FastAPI(), uuid4().hex
    made: dict[str, Any] = {}
    with observed(receiver, release="1.2.3") as observability:
        observability.install(app, identify=lambda connection: user)

        @app.get("/ask")
        async def ask(llm: LLMTracerDep) -> None:
            with llm.trace("copilot", input="why?", workspace_id="w1") as trace:
                with trace.generation("write", model="m") as generation:
                    generation.update(output="because", usage=USAGE)
                made["score"] = trace.score("helpful", 0.5, comment="good")
                made["flag"] = generation.score("safe", True)
                made["kind"] = trace.score("tone", "friendly")
            made["trace"] = trace

        trace_id = "b" * 32
        asyncio.run(call(app, "/ask", headers={"traceparent": f"00-{trace_id}-{'c' * 16}-01", "x-request-id": user}))
        assert observability.flush(10)
        trace = made["trace"]
        assert trace.url == f"{receiver.url}/trace/{trace.trace_id}"
    assert trace.trace_id != trace_id
    found = signals(receiver, 5, request_id=user, workspace="w1")
    for name in ("copilot", "write"):
        assert (found[name]["user_id"], found[name]["trace_id"]) == (user, trace.trace_id)
        assert found[name]["request_trace_id"] == trace_id
        attributes = found[name]["payload"]["attributes"]
        assert (attributes["langfuse.environment"], attributes["langfuse.release"]) == ("development", "1.2.3")
        assert attributes[Key.TRACE_TAGS] == ["workspace:w1"]
    scores = {name: found[name]["payload"] for name in ("helpful", "safe", "tone")}
    assert [scores[name]["id"] for name in scores] == [made["score"], made["flag"], made["kind"]]
    assert [scores[name]["value"] for name in scores] == [0.5, 1.0, "friendly"]
    assert [scores[name]["dataType"] for name in scores] == ["NUMERIC", "BOOLEAN", "CATEGORICAL"]
    assert (scores["helpful"]["traceId"], scores["helpful"]["observationId"]) == (trace.trace_id, trace.id)
    assert scores["helpful"]["comment"] == "good"
    assert scores["helpful"]["environment"] == "development"
    assert scores["helpful"]["metadata"]["user_id"] == user


def test_the_applications_own_langfuse_code_nests_under_ours(receiver: Receiver) -> None:
    """`@observe`, `get_client()` and spans of langfuse integrations carry our user and request, under our trace."""
    user = uuid4().hex

    @observe(name="step", as_type="tool")
    def step(question: str) -> str:
        with get_client().start_as_current_observation(name="inner", as_type="generation", model="m"):
            return "found"

    with observed(receiver) as observability:
        observability.start()
        assert get_client() is observability.llm.client or get_client()._resources is not None
        with observability.context(user_id=user, workspace_id="w1") as context, observability.llm.trace("outer") as t:
            step("why?")
        with observability.context(user_id=user):
            step("alone")
        assert observability.flush(10)
        request_id = context.request_id
    found = receiver.wait_for(5, user=user)
    ours = {signal["name"]: signal for signal in found if signal["trace_id"] == t.trace_id}
    assert ours.keys() == {"outer", "step", "inner"}
    assert ours["step"]["parent_id"] == t.id
    assert ours["inner"]["parent_id"] == ours["step"]["id"]
    assert {signal["request_id"] for signal in ours.values()} == {request_id}
    assert {signal["workspace_id"] for signal in ours.values()} == {"w1"}
    assert ours["step"]["payload"]["attributes"][Key.TRACE_NAME] == "outer"
    alone = [signal for signal in found if signal["trace_id"] != t.trace_id]
    assert {signal["name"] for signal in alone} == {"step", "inner"}


def test_spans_go_where_the_application_puts_them(receiver: Receiver) -> None:
    """Innermost of our blocks and theirs; an explicit trace or root is kept; nobody else's spans become ours."""
    others = TracerProvider().get_tracer("shop")
    with observed(receiver) as observability, observability.context(user_id=uuid4().hex):
        observability.start()
        client: Any = observability.llm.client
        tracer = client._otel_tracer
        decorated = tracer.start_as_current_span("decorated")
        with observability.llm.trace("outer") as outer:
            with others.start_as_current_span("a query") as query:
                assert query.get_span_context().trace_id != int(outer.trace_id, 16)
                assert isinstance(query, ReadableSpan)
                assert query.parent is None
                with client.start_as_current_observation(name="theirs") as theirs:
                    assert theirs.trace_id == outer.trace_id
                    with outer.generation("ours") as ours, client.start_as_current_observation(name="inner") as inner:
                        assert format(inner._otel_span.parent.span_id, "016x") == ours.id
                    with client.start_as_current_observation(name="below") as below:
                        assert format(below._otel_span.parent.span_id, "016x") == theirs.id
            with client.start_as_current_observation(name="far", trace_context={"trace_id": "a" * 32}) as far:
                assert far.trace_id == "a" * 32
                assert Key.TRACE_NAME not in far._otel_span.attributes
            assert tracer.start_span("root", context=OtelContext()).parent is None

        def current() -> otel_trace.Span:
            return otel_trace.get_current_span()

        step = decorated(current)
        with observability.llm.trace("later") as later:
            assert step().get_span_context().trace_id == int(later.trace_id, 16)


@pytest.mark.parametrize("allowed", [True, False])
def test_without_consent_no_content_leaves(receiver: Receiver, allowed: bool) -> None:
    """llm_content=False takes input and output off our observations and off the application's own."""
    user = uuid4().hex

    @observe(name="step")
    def step(question: str) -> str:
        return "their answer"

    with observed(receiver) as observability, observability.context(user_id=user) as context:
        observability.start()
        context.set_consent(llm_content=allowed)
        with observability.llm.trace("outer", input="our question") as trace:
            trace.generation("write", model="m", input="our question").update(output="our answer", usage=USAGE).end()
            step("their question")
        assert observability.flush(10)
        found = signals(receiver, 3, user=user)
    text = orjson.dumps(found).decode()
    for content in ("our question", "our answer", "their question", "their answer"):
        assert (content in text) == allowed
    assert found["write"]["payload"]["attributes"][Key.OBSERVATION_MODEL] == "m"
    assert "no_content" not in text


def test_the_global_tracer_provider_is_left_alone(receiver: Receiver) -> None:
    """Langfuse's client has a provider of its own: FastAPI's telemetry would else record each request."""
    before = otel_trace.get_tracer_provider()
    with observed(receiver) as observability:
        observability.start()
        assert otel_trace.get_tracer_provider() is before
    assert otel_trace.get_tracer_provider() is before


def test_after_close_the_same_key_works_again(receiver: Receiver) -> None:
    """A second Observability with the same key has a client that is alive, and its spans arrive."""
    for _ in range(2):
        user = uuid4().hex
        with observed(receiver) as observability, observability.context(user_id=user):
            with get_client().start_as_current_observation(name="theirs", as_type="span"):
                pass
            assert observability.flush(10)
            assert signals(receiver, 1, user=user)["theirs"]
    assert "pk-lf-local" not in LangfuseResourceManager._instances


def test_a_closed_one_is_let_go_of(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of the SDK's would hold the exporter, and by it the writer, for as long as the process lives."""
    monkeypatch.setattr(Observability, "default", None)
    with observed(receiver) as observability:
        observability.start()
        delivery = weakref.ref(observability._pipeline.delivery)
    del observability
    Observability.default = None
    until(lambda: gc.collect() >= 0 and delivery() is None)


def test_a_client_of_the_applications_with_our_key_is_not_closed(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the application made a client first we say that its spans go their own way, and leave it open."""
    theirs = langfuse.Langfuse(
        public_key="pk-lf-local", secret_key="x", base_url=receiver.url, tracer_provider=TracerProvider()
    )
    try:
        with observed(receiver) as observability:
            observability.start()
            assert "exists already" in caplog.text
        assert LangfuseResourceManager._instances["pk-lf-local"] is theirs._resources
    finally:
        theirs.shutdown()
        LangfuseResourceManager._instances.pop("pk-lf-local", None)


def test_a_failure_is_marked_with_its_reason(receiver: Receiver) -> None:
    """An exception in a block marks that observation and the ones around it, and goes on."""
    user = uuid4().hex
    with observed(receiver) as observability, observability.context(user_id=user):
        with pytest.raises(ValueError, match="model is gone"), observability.llm.trace("outer") as trace:  # noqa: PT012
            trace.generation("fine", model="m").end()
            with trace.generation("bad", model="m"):
                raise ValueError("model is gone")
        assert observability.flush(10)
        found = signals(receiver, 3, user=user)
    levels = {name: signal["payload"]["attributes"].get(Key.OBSERVATION_LEVEL) for name, signal in found.items()}
    assert levels == {"outer": "ERROR", "bad": "ERROR", "fine": None}
    assert found["bad"]["payload"]["attributes"][Key.OBSERVATION_STATUS_MESSAGE] == "ValueError: model is gone"
    assert found["bad"]["payload"]["status"]["code"] == 2


def test_blocks_work_in_streams(receiver: Receiver) -> None:
    """A sync `with` holds around the chunks of async and sync streaming bodies; later requests see nothing of it."""
    app, users = FastAPI(), {name: uuid4().hex for name in ("async", "sync", "later")}

    with observed(receiver) as observability:
        observability.install(app, identify=lambda connection: users[connection.url.path.strip("/")])

        @app.get("/async")
        async def in_async(llm: LLMTracerDep) -> StreamingResponse:
            async def body() -> AsyncIterator[str]:
                with llm.trace("stream") as trace:
                    for n in range(3):
                        with trace.generation(f"chunk{n}", model="m"):
                            yield str(n)

            return StreamingResponse(body())

        @app.get("/sync")
        def in_sync(llm: LLMTracerDep) -> StreamingResponse:
            def body() -> Iterator[str]:
                with llm.trace("stream") as trace:
                    for n in range(3):
                        with trace.generation(f"chunk{n}", model="m"):
                            yield str(n)

            return StreamingResponse(body())

        @app.get("/later")
        async def later(llm: LLMTracerDep) -> None:
            with llm.trace("alone"):
                pass

        for name in users:
            answer = asyncio.run(call(app, f"/{name}"))
            assert answer.error is None
        assert observability.flush(10)
    for name in ("async", "sync"):
        found = signals(receiver, 4, user=users[name])
        assert found.keys() == {"stream", "chunk0", "chunk1", "chunk2"}
        assert len({signal["trace_id"] for signal in found.values()}) == 1
        assert {found[f"chunk{n}"]["parent_id"] for n in range(3)} == {found["stream"]["id"]}
    assert signals(receiver, 1, user=users["later"])["alone"]["parent_id"] is None


def test_what_may_be_shown_of_stored_messages() -> None:
    """Id, name and user of a span and of a score."""
    kept = Kept()
    with LLMTracer(kept, Boundary()).trace("copilot", user_id="u1") as trace:
        score = trace.score("helpful", 1)
    coder, scores = channel(), ScoreChannel(SETTINGS, TARGET, Scrubber())
    (stored,) = scores.encode(kept.records[0])
    (span,) = coder.encode(kept.records[1])
    assert coder.describe("trace", span.payload) == (trace.id, "copilot", "u1")
    assert scores.describe("score", stored.payload) == (score, "helpful", "u1")
    assert scores.post([b"{}", b"{}"]).body == b"[{},{}]"
    assert coder.importance("trace") is Importance.SIGNAL
    assert coder.rate_limits(429, {}) == {}


def test_the_clients_calls_reach_the_vendor(receiver: Receiver) -> None:
    """`llm.client` is the SDK's client: its authentication check talks to the same address."""
    with observed(receiver) as observability:
        assert observability.llm.client.auth_check()
    off = Observability(load_settings({"environment": "production"}))
    assert off.llm.client is None
    off.close()
