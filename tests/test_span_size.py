"""What is sent for one span is at most 1 MB, whatever it holds: by the facade, by Langfuse's SDK and by Sentry's."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from uuid import uuid4

import orjson
import pytest
import sentry_sdk
from fastapi import FastAPI
from sentry_sdk import logger as sentry_logger

from metricx_observe import Observability
from metricx_observe.delivery.channel import Post
from metricx_observe.vendors.langfuse.channel import LangfuseChannel
from metricx_observe.vendors.langfuse.otlp import MAX_SPAN
from metricx_observe.vendors.sentry.channel import SentryChannel
from metricx_observe.vendors.sentry.size import MAX_EVENT

from .receiver_server import Receiver
from .support import call, observed


def nested(depth: int) -> Any:
    value: Any = "bottom"
    for level in range(depth):
        value = {"text": "x" * 6_000, "level": level, "below": value}
    return value


VALUES: dict[str, Any] = {
    "control characters": "\x01" * 900_000,
    "quotes and backslashes": '"\\' * 450_000,
    "lone surrogates": "\ud800x" * 300_000,
    "messages": [{"role": "user", "content": "\x07" * 20_000} for _ in range(100)],
    "many small fields": {f"k{n}": n for n in range(60_000)},
    "many items": list(range(300_000)),
    "deep": nested(200),
    "not ASCII": "é€" * 300_000,
}
CUT = re.compile(r"\[cut(: \d+ (characters|items|fields|attributes|events)(, \d+ events)?)?\]")


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How large each span or event was as it was posted."""
    found: list[int] = []
    for channel in (LangfuseChannel, SentryChannel):
        monkeypatch.setattr(channel, "post", counted(channel.post, found))
    return found


def counted(post: Any, found: list[int]) -> Any:
    def wrapped(self: Any, payloads: Any) -> Post:
        found.extend(map(len, payloads))
        sent: Post = post(self, payloads)
        return sent

    return wrapped


def too_large(observability: Observability) -> int:
    faults = observability.status()["faults"]
    return sum(n for name, n in faults.items() if name.endswith(": too large"))


@pytest.mark.parametrize("name", VALUES)
def test_an_observation(receiver: Receiver, sizes: list[int], name: str) -> None:
    """Input, output and metadata together; ids, name, type, model, level and user arrive."""
    value, user = VALUES[name], uuid4().hex
    with observed(receiver) as observability:
        with observability.context(user_id=user), observability.llm.trace("ask") as trace:
            generation = trace.generation("answer", model="m", input=value, output=value, metadata={"whole": value})
            generation.fail("it failed").end()
        assert observability.flush(20)
        cut = observability.status()["scrubbed"].get("generation", {})  # where the scrubber's time ran out first
        assert too_large(observability) > 0 or name in ("deep", "many items") or any("cut" in at for at in cut.values())
        assert observability.status()["langfuse"]["dead"] == 0
    (found,) = receiver.wait_for(1, user=user, kind="generation")
    assert max(sizes) <= MAX_SPAN
    assert (found["id"], found["name"], found["trace_id"]) == (generation.id, "answer", trace.trace_id)
    attributes = found["payload"]["attributes"]
    assert attributes["langfuse.observation.model.name"] == "m"
    assert attributes["langfuse.observation.level"] == "ERROR"
    assert attributes["langfuse.observation.status_message"] == "it failed"
    if too_large(observability):
        assert CUT.search(orjson.dumps(attributes).decode())


@pytest.mark.parametrize("name", VALUES)
def test_a_span_of_langfuses_own_sdk(receiver: Receiver, sizes: list[int], name: str) -> None:
    """The application's own code: also as a plain attribute, in an event, and in names."""
    value, user = VALUES[name], uuid4().hex
    with observed(receiver) as observability:
        client = observability.llm.client
        assert client is not None
        with observability.context(user_id=user):
            own = client.start_observation(name="own", as_type="generation", model="m", input=value, output=value)
            own.update(metadata=value if isinstance(value, dict) else {"whole": value})
            if isinstance(value, str):
                own._otel_span.set_attribute("plain", value)
                own._otel_span.add_event(value[:2_000], {"text": value, value[:2_000]: "x"})
                own.update(level="ERROR", status_message=value)
            elif isinstance(value, list):
                own._otel_span.set_attribute("plain", [orjson.dumps(each).decode() for each in value])
            own.end()
        assert observability.flush(20)
        status = observability.status()["langfuse"]
        assert (status["dead"], status["dropped"]) == (0, {})
    (found,) = receiver.wait_for(1, user=user, kind="generation")
    assert max(sizes) <= MAX_SPAN
    assert (found["id"], found["name"], found["trace_id"]) == (own.id, "own", own.trace_id)
    assert found["payload"]["attributes"]["langfuse.observation.model.name"] == "m"
    if isinstance(value, str):
        assert too_large(observability) == 1
        assert CUT.search(orjson.dumps(found["payload"]).decode())


def test_a_span_with_many_attributes_and_events(
    receiver: Receiver, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where OpenTelemetry's limits were raised: the last events go first, then the largest attributes."""
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "100000")
    monkeypatch.setenv("OTEL_SPAN_EVENT_COUNT_LIMIT", "100000")
    # On a slow machine the scrubber's time ends before the size matters, and less is left than would be cut.
    monkeypatch.setattr("metricx_observe.scrubber.budget._MAX_CPU_NS", 10**12)
    user = uuid4().hex
    with observed(receiver) as observability:
        client = observability.llm.client
        assert client is not None
        with observability.context(user_id=user):
            own = client.start_observation(name="n" * 2_000_000, as_type="tool")
            for n in range(5_000):
                own._otel_span.set_attribute(f"a{n}", "v" * 500)
                own._otel_span.add_event("e", {"x": "y" * 500})
            own.end()
        assert observability.flush(20)
        assert too_large(observability) == 1
    (found,) = receiver.wait_for(1, user=user)
    assert max(sizes) <= MAX_SPAN
    assert (found["id"], found["trace_id"]) == (own.id, own.trace_id)
    assert re.fullmatch(r"n+\[cut: \d+ characters\]", found["payload"]["name"])
    assert CUT.fullmatch(found["payload"]["attributes"]["metricx.cut"])


@pytest.mark.parametrize("name", VALUES)
async def test_a_transaction_and_its_spans(receiver: Receiver, sizes: list[int], name: str) -> None:
    """What the application puts on Sentry's spans, on the transaction, in tags and in contexts."""
    value, request_id = VALUES[name], uuid4().hex
    values = value if isinstance(value, dict) else {"whole": value, **{f"k{n}": "x" * 50 for n in range(2_000)}}
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app)

        @app.get("/large")
        async def large() -> None:
            transaction = sentry_sdk.get_current_scope().transaction
            assert transaction is not None
            with sentry_sdk.start_span(op="db", name="query") as span:
                for key, each in values.items():
                    span.set_data(key, each)
                    transaction.set_data(key, each)
            sentry_sdk.set_context("large", values)
            for n in range(300):
                sentry_sdk.set_tag(f"tag{n}", "t" * 150)

        answer = await call(app, "/large", headers={"x-request-id": request_id})
        assert answer.status == 200
        assert await asyncio.to_thread(observability.flush, 20)
        cut = observability.status()["scrubbed"].get("transaction", {})  # where the scrubber's time ran out first
        assert too_large(observability) == 1 or any("cut" in rules for rules in cut.values())
        assert observability.status()["sentry"]["dead"] == 0
    (found,) = receiver.wait_for(1, request_id=request_id, kind="transaction")
    assert max(sizes) <= MAX_EVENT + 2_000  # with the envelope's headers
    event = found["payload"]
    assert found["name"] == "/large"
    assert event["contexts"]["trace"]["op"] == "http.server"
    assert event["contexts"]["trace"]["status"] == "ok"
    assert event["tags"]["request_id"] == request_id
    (span,) = event["spans"]
    assert (span["op"], span["description"], len(span["span_id"])) == ("db", "query", 16)
    assert span["trace_id"] == event["contexts"]["trace"]["trace_id"]
    assert CUT.search(orjson.dumps(event).decode())


@pytest.mark.parametrize("name", ["control characters", "many small fields"])
def test_a_log(receiver: Receiver, sizes: list[int], name: str) -> None:
    """An item with attributes, as a streamed span is one: each is within the bound."""
    value, mark = VALUES[name], uuid4().hex
    attributes = value if isinstance(value, dict) else {f"a{n}": value for n in range(3)}
    with observed(receiver, sentry_options={"enable_logs": True}) as observability:
        with observability.context(user_id=mark):
            sentry_logger.warning(f"large {mark}", attributes=attributes)
        assert observability.flush(20)
        assert observability.status()["sentry"]["dead"] == 0
        assert too_large(observability) == 1 or "cut" in str(observability.status()["scrubbed"])
    assert max(sizes) <= MAX_EVENT + 2_000
    assert any(mark in str(each["payload"]) for each in receiver.signals())
