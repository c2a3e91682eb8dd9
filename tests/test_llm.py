"""LLM traces as records: ids, times, nesting, owners and failure marks."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Generator
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from metricx_observe import LLMTracer
from metricx_observe.boundary import Boundary
from metricx_observe.context import Context, RequestContext, use_cell
from metricx_observe.signals.llm import Observation, _current, current_observation

from .odd_values import BrokenText


class Sink:
    """A vendor that keeps what it gets, and counts what is attached."""

    client = "the client"

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.scores: list[Any] = []
        self.taken = True

    def put(self, type: str, record: bytes) -> bool:
        """Keep it."""
        found = orjson.loads(record)
        trace = SimpleNamespace(**found.pop("trace"))
        (self.scores if type == "score" else self.records).append(SimpleNamespace(trace=trace, **found))
        return self.taken

    def samples(self, trace_id: str) -> bool:
        """All."""
        return bool(trace_id)

    def url(self, trace_id: str) -> str:
        """Of the trace."""
        return f"/trace/{trace_id}"


@pytest.fixture
def sink() -> Sink:
    """Where records go."""
    return Sink()


@pytest.fixture
def boundary() -> Boundary:
    """What was counted."""
    return Boundary()


@pytest.fixture
def llm(sink: Sink, boundary: Boundary) -> LLMTracer:
    """Outside any request."""
    return LLMTracer(sink, boundary)


def request_of(user: str | None = "ann") -> Context:
    """A request's cell."""
    cell = Context(RequestContext("r1", "a" * 32))
    cell.bind_user(user, workspace_id="w1")
    return cell


def field(record: Any, name: str) -> Any:
    """What was given."""
    return record.fields[name]


def test_ids_and_nesting(llm: LLMTracer, sink: Sink) -> None:
    """Ids are those of the records; what begins in a trace is its child, what begins in a trace's block too."""
    with llm.trace("outer") as trace:
        with trace.generation("call", model="m") as generation:
            pass
        with trace.span("step") as step, step.tool("inner") as tool:
            pass
        with llm.trace("nested") as nested:
            pass
    ids = {record.name: (record.id, record.parent_id) for record in sink.records}
    assert ids == {
        "call": (generation.id, trace.id), "step": (step.id, trace.id), "inner": (tool.id, step.id),
        "nested": (nested.id, trace.id), "outer": (trace.id, None),
    }  # fmt: skip
    assert {record.trace_id for record in sink.records} == {trace.trace_id}
    assert {record.trace.name for record in sink.records} == {"outer"}
    assert (len(trace.id), len(trace.trace_id), trace.url) == (16, 32, f"/trace/{trace.trace_id}")
    assert llm.client == "the client"


def test_a_generation_may_stand_alone(llm: LLMTracer, sink: Sink) -> None:
    """Outside any block it is a trace of its own with that name; inside a trace's block it belongs to that trace."""
    cell = request_of()
    with llm.bound(cell).generation("alone", model="m", input="q", metadata={"a": 1}) as alone:
        alone.update(output="a", usage={"input": 1, "output": 2})
    assert cell.llm_trace_id == alone.trace_id
    with llm.trace("outer") as trace, llm.generation("inside") as inside:
        assert (inside.trace_id, inside.parent_id) == (trace.trace_id, trace.id)
    (record,) = (each for each in sink.records if each.name == "alone")
    assert (record.type, record.parent_id) == ("generation", None)
    assert (record.trace.name, record.trace.user_id) == ("alone", "ann")
    assert field(record, "metadata") == {"a": 1}


def test_two_traces_are_two(llm: LLMTracer, sink: Sink) -> None:
    """A trace after another, and one in another request's block, have ids of their own."""
    with llm.trace("one") as one:
        other = llm.bound(request_of()).trace("two")
    third = llm.trace("three")
    assert len({one.trace_id, other.trace_id, third.trace_id}) == 3
    assert other.parent_id is third.parent_id is None


def test_times_and_latency(llm: LLMTracer, sink: Sink) -> None:
    """Start and end are those of the block, or what was given; an end never lies before its start."""
    began = datetime(2026, 1, 1, tzinfo=UTC)
    generation = llm.trace("t").generation("g", start_time=began)
    generation.end(began + timedelta(milliseconds=1500))
    backwards = llm.trace("t", start_time=began.replace(tzinfo=None))
    backwards.end(began - timedelta(days=1))
    assert sink.records[0].end_ns - sink.records[0].start_ns == 1_500_000_000
    assert sink.records[1].start_ns == sink.records[1].end_ns == int(began.timestamp()) * 10**9
    trace = llm.trace("t")
    assert trace.last_end_ns == trace.start_ns
    trace.span("s").end()
    assert trace.last_end_ns == sink.records[2].end_ns >= trace.start_ns


def test_an_observation_ends_once(llm: LLMTracer, sink: Sink, boundary: Boundary) -> None:
    """A second end does nothing, and an update after it is counted and changes nothing of what was handed over."""
    trace = llm.trace("t", input="a")
    trace.end()
    trace.update(output="late", level="ERROR")
    trace.end()
    assert len(sink.records) == 1
    assert sink.records[0].fields.keys() == {"input"}
    assert boundary.counts == {"span: updated after its end": 1}


def test_fields_are_read_when_they_are_given(llm: LLMTracer, sink: Sink) -> None:
    """A message list that grows later is sent as it was."""
    messages = [{"role": "user", "content": "why?"}]
    metadata = {"a": {"b": 1}}
    with llm.trace("t", metadata=metadata) as trace, trace.generation("g", input=messages) as generation:
        messages.append({"role": "assistant", "content": "because"})
        metadata["a"]["b"] = 2
        generation.update(usage={"input": 1}, cost=0.5, model="m", model_parameters={"t": 1}, level="warning")
    record = sink.records[0]
    assert field(record, "input") == [{"role": "user", "content": "why?"}]
    assert record.trace.metadata == {"a": {"b": 1}}
    assert (field(record, "usage"), field(record, "cost")) == ({"input": 1}, {"total": 0.5})
    assert (record.fields["model"], record.fields["level"]) == ("m", "WARNING")


def test_a_field_that_cannot_be_read_costs_no_other(llm: LLMTracer, sink: Sink, boundary: Boundary) -> None:
    """Those before it and after it are set, and the failure is counted."""
    with llm.generation("call", model="m") as generation:
        generation.update(usage={BrokenText(): 1}, level="WARNING", output="a")
    assert {"level": "WARNING", "output": "a"}.items() <= dict(sink.records[0].fields).items()
    assert boundary.counts == {"generation: RuntimeError": 1}


def test_messages_are_kept_as_they_were(llm: LLMTracer, sink: Sink) -> None:
    """What a list becomes later changes nothing; what is no text is kept."""
    why = "why? " * 1_000
    messages: list[dict[str, Any]] = [{"role": "user", "content": why}]
    odd: list[Any] = [{"role": "user", "content": "wh\ud800y"}, {"n": 1}, [None]]
    with llm.generation("asked", input=messages, output=odd):
        messages[0]["content"] = "changed"
        messages.append({"role": "user", "content": "more"})
    (record,) = sink.records
    assert field(record, "input") == [{"role": "user", "content": why}]
    assert field(record, "output")[1:] == [{"n": 1}, [None]]
    large: list[Any] = [["a"] * 10_000, [[]] * 10_000, {str(n): "a" for n in range(10_000)}, [["a"] * 150, ["b"] * 150]]
    for many in large:
        llm.generation("many", input=many).end()
        assert field(sink.records.pop(), "input") == many
    itself: list[Any] = ["a"]
    itself.append(itself)
    llm.generation("cycle", input=itself).end()
    assert field(sink.records[1], "input") == ["a", "[cycle]"]


def test_the_owner_is_the_bound_user_unless_given(llm: LLMTracer, sink: Sink) -> None:
    """User and workspace are those that are bound when it ends; `user_id=` on the trace holds for all of it."""
    cell = request_of(None)
    with use_cell(cell):
        with llm.trace("bound"):
            cell.bind_user("bob", workspace_id="w2")
        with llm.trace("given", user_id=7, session_id="s", tags="one") as trace:
            trace.span("child").end()
            trace.update(user_id="later", tags=["a", "b\nc"], metadata={"k": 1})
    owners = {record.name: record.trace for record in sink.records}
    assert (owners["bound"].user_id, owners["bound"].workspace_id) == ("bob", "w2")
    assert (owners["child"].user_id, owners["child"].session_id, owners["child"].tags) == ("7", "s", ["one"])
    assert (owners["given"].user_id, owners["given"].tags) == ("later", ["a", "b c"])
    assert cell.llm_trace_id == trace.trace_id
    assert cell.put


def test_a_failure_has_its_reason_and_goes_on(llm: LLMTracer, sink: Sink) -> None:
    """An exception marks its block ERROR with type and text; being cancelled is a warning, not an error."""
    with pytest.raises(ValueError, match="no"), llm.trace("failed"):
        raise ValueError("no")
    with pytest.raises(asyncio.CancelledError), llm.trace("cancelled"):
        raise asyncio.CancelledError
    llm.trace("by hand").fail("it was wrong").end()
    assert [record.fields for record in sink.records] == [
        {"level": "ERROR", "status_message": "ValueError: no"},
        {"level": "WARNING", "status_message": "cancelled"},
        {"level": "ERROR", "status_message": "it was wrong"},
    ]


@pytest.mark.parametrize(
    ("value", "kind", "number"),
    [(1, "NUMERIC", 1.0), (0.5, "NUMERIC", 0.5), (True, "BOOLEAN", 1.0), ("good", "CATEGORICAL", "good")],
)
def test_scores(llm: LLMTracer, sink: Sink, value: Any, kind: str, number: Any) -> None:
    """A score belongs to its observation, and its type follows from the value."""
    trace = llm.trace("t")
    score_id = trace.score("helpful", value, comment="why")
    (score,) = sink.scores
    assert (score.id, score.trace_id, score.observation_id) == (score_id, trace.trace_id, trace.id)
    assert (score.name, score.data_type, score.value, score.comment) == ("helpful", kind, number, "why")


def test_what_is_not_sent(sink: Sink, boundary: Boundary) -> None:
    """With Langfuse off everything works and does nothing; a sink that refuses gives no score id."""
    off = LLMTracer(None, boundary)
    with off.trace("t", input="x") as trace, trace.generation("g") as generation:
        generation.record({"model": "m", "usage": {"input": 1}})
        assert generation.score("s", 1) is None
    assert (trace.url, off.client) == (None, None)
    assert len(trace.id) == 16
    sink.taken = False
    assert LLMTracer(sink, boundary).trace("t").score("s", 1) is None
    assert boundary.counts == {}


def test_a_tracer_of_a_request_is_right_in_any_thread(llm: LLMTracer, sink: Sink) -> None:
    """The injected tracer holds the request's cell: a raw thread has no ContextVar."""
    tracer = llm.bound(request_of("bob"))
    thread = threading.Thread(target=lambda: tracer.trace("t").end())
    thread.start()
    thread.join()
    assert sink.records[0].trace.user_id == "bob"


async def test_concurrent_blocks_do_not_mix(llm: LLMTracer, sink: Sink) -> None:
    """Tasks that run at the same time nest each under its own trace."""

    async def work(n: int) -> None:
        with llm.trace(f"t{n}"):
            await asyncio.sleep(0)
            with llm.trace(f"c{n}"):
                await asyncio.sleep(0)

    await asyncio.gather(*(work(n) for n in range(20)))
    traces = {record.name: record for record in sink.records}
    for n in range(20):
        assert traces[f"c{n}"].parent_id == traces[f"t{n}"].id


async def test_generators_in_one_context_may_end_in_any_order(llm: LLMTracer, sink: Sink) -> None:
    """Two interleaved async generators leave no trace current that has ended."""

    async def stream(name: str) -> AsyncIterator[int]:
        with llm.trace(name):
            for n in range(2):
                yield n

    one, two = stream("one"), stream("two")
    await anext(one)
    await anext(two)
    assert [n async for n in one] == [1]
    assert [n async for n in two] == [1]
    assert current_observation() is None
    assert llm.trace("later").parent_id is None


def test_a_block_within_itself_ends_with_the_inner_one(llm: LLMTracer, sink: Sink) -> None:
    """`with trace:` around `with trace:` is one block, and leaves nothing current."""
    with llm.trace("outer") as trace:
        with trace:
            pass
        assert current_observation() is None
    assert current_observation() is None
    assert [record.name for record in sink.records] == ["outer"]


def test_blocks_that_end_elsewhere_do_not_pile_up(llm: LLMTracer) -> None:
    """A task that begins one streamed trace after another keeps none of those that ended in another Context."""
    for _ in range(50):
        trace = llm.trace("streamed").__enter__()
        copy_context().run(trace.__exit__, None, None, None)
        assert current_observation() is None
    found, length = _current.get(), 0
    while found is not None and found._token is not None:
        before, length = found._token.old_value, length + 1
        found = before if isinstance(before, Observation) else None
    assert length <= 1


def test_a_block_that_ends_elsewhere_leaves_that_place_alone(llm: LLMTracer, sink: Sink) -> None:
    """A generator that another thread finishes does not take that thread's own trace away."""

    def stream() -> Generator[int, None, None]:
        with llm.trace("streamed"):
            yield 1

    running = stream()
    next(running)
    seen: list[Any] = []

    def finish() -> None:
        with llm.trace("mine") as mine:
            running.close()
            seen.append(current_observation() is mine)

    thread = threading.Thread(target=finish)
    thread.start()
    thread.join()
    assert seen == [True]
    assert [record.name for record in sink.records] == ["streamed", "mine"]
    assert current_observation() is None


def test_key_events_are_logged_without_content(llm: LLMTracer, caplog: pytest.LogCaptureFixture) -> None:
    """INFO says which observation ended in which trace; no input or output."""
    with caplog.at_level(logging.INFO, "metricx_observe"), llm.trace("copilot", input="CONTENT") as trace:
        trace.generation("call", model="m", input="CONTENT").fail("CONTENT").end()
    assert f"generation call trace_id={trace.trace_id} level=ERROR" in caplog.text
    assert "CONTENT" not in caplog.text
