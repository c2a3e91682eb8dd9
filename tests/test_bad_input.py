"""Odd values for every argument of every facade: nothing is raised, the rest arrives, what was odd is counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import uuid4

import orjson
import pytest

from metricx_observe import InputError, Observability, telemetry
from metricx_observe.context import current_cell
from metricx_observe.events import CopilotQuerySent, Event

from .odd_values import ODD_VALUES, BrokenText
from .receiver_server import Receiver
from .support import observed

Sent = str | None
Call = Callable[[Observability, Any, str], Sent | tuple[Sent, ...]]
"""Gets the odd value and a text to be found in what arrives; gives the ids on the wire."""


def _trace(o: Observability, mark: str, **odd: Any) -> Sent:
    with o.llm.trace(**{"name": "trace", "metadata": {"mark": mark}, **odd}) as trace:
        trace.update(output=mark)
    return trace.id


def _generation(o: Observability, mark: str, **odd: Any) -> Sent:
    with o.llm.trace("trace") as trace, trace.generation(**{"name": "call", "model": "m", **odd}) as generation:
        generation.update(output=mark)
    return generation.id


def _updated(o: Observability, mark: str, **odd: Any) -> Sent:
    with o.llm.trace("trace") as trace, trace.generation("call", model=mark) as generation:
        generation.update(**odd)
    return generation.id


def _step(o: Observability, mark: str, kind: str, **odd: Any) -> Sent:
    with o.llm.trace("trace") as trace:
        step = getattr(trace, kind)(**{"name": "step", "output": mark, **odd})
        step.end()
    return str(step.id)


def _recorded(o: Observability, odd: Any, mark: str) -> Sent:
    with o.llm.trace("trace") as trace, trace.generation("call", model="m", input=mark) as generation:
        generation.record(odd)
    return generation.id


def _failed(o: Observability, odd: Any, mark: str) -> Sent:
    with o.llm.trace("trace") as trace, trace.generation("call", input=mark) as generation:
        generation.fail(odd)
    return generation.id


def _ended(o: Observability, odd: Any, mark: str) -> Sent:
    generation = o.llm.trace("trace").generation("call", input=mark)
    generation.end(odd)
    return generation.id


def _scored(o: Observability, mark: str, **odd: Any) -> Sent:
    score: Any = {"name": "helpful", "value": 1.0, "comment": mark, **odd}
    return o.llm.trace("trace").score(score.pop("name"), score.pop("value"), **score)


def _after_breadcrumb(o: Observability, mark: str, **odd: Any) -> Sent:
    o.errors.add_breadcrumb(**{"message": "step", **odd})
    return o.errors.capture_message(mark)


def _bound(o: Observability, mark: str, *odd: Any, **more: Any) -> Sent:
    cell = current_cell()
    assert cell is not None
    before = cell.state
    try:
        cell.bind_user(*odd, **more)
        cell.bind_workspace(before.workspace.id if before.workspace else None)
        return o.tracker.track("bound", {"mark": mark})
    finally:
        cell.state = before


def _set(o: Observability, mark: str, method: str, *odd: Any, **more: Any) -> Sent:
    cell = current_cell()
    assert cell is not None
    before = cell.state
    try:
        getattr(cell, method)(*odd, **more)
        return o.errors.capture_message(mark)
    finally:
        cell.state = before


def _copilot(o: Observability, mark: str, **odd: Any) -> Sent:
    trace = telemetry.create_copilot_trace(**{"question": mark, **odd})
    telemetry.complete_copilot_trace(trace, answer=mark)
    return trace.id


def _logged(o: Observability, mark: str, **odd: Any) -> Sent:
    trace = telemetry.create_copilot_trace(question="why?")
    return telemetry.log_generation(trace, **{"name": "call", "output": mark, **odd})


def _completed(o: Observability, mark: str, **odd: Any) -> Sent:
    trace = telemetry.create_copilot_trace(question=mark)
    telemetry.complete_copilot_trace(trace, **odd)
    return trace.id


def _error(mark: str) -> ValueError:
    return ValueError(mark)


def each(prefix: str, call: Callable[..., Sent], *names: str) -> dict[str, Call]:
    """A call for each of its keywords."""

    def with_odd(name: str) -> Call:
        return lambda o, odd, mark: call(o, mark, **{name: odd})

    return {f"{prefix} {name}": with_odd(name) for name in names}


T = telemetry
VENDORS = ("sentry", "rudderstack", "langfuse", "langfuse_scores")
CALLS: dict[str, Call] = {
    "track event": lambda o, v, m: o.tracker.track(v, {"mark": m}),
    "track properties": lambda o, v, m: o.tracker.track(f"event_{m}", v),
    "track property": lambda o, v, m: o.tracker.track("event", {"odd": v, "mark": m}),
    "track user": lambda o, v, m: o.tracker.track("event", {"mark": m}, user_id=v),
    "track anonymous": lambda o, v, m: o.tracker.track("event", {"mark": m}, anonymous_id=v),
    "track timestamp": lambda o, v, m: o.tracker.track("event", {"mark": m}, timestamp=v),
    "typed event": lambda o, v, m: o.tracker.track(CopilotQuerySent(question_length=v, workspace_id=m)),
    "typed event and more": lambda o, v, m: o.tracker.track(CopilotQuerySent(question_length=1, workspace_id=m), v),
    "identify user": lambda o, v, m: o.tracker.identify(v, traits={"mark": m}),
    "identify email": lambda o, v, m: o.tracker.identify(email=v, traits={"mark": m}),
    "identify traits": lambda o, v, m: o.tracker.identify(f"user {m}", traits=v),
    "identify workspace": lambda o, v, m: o.tracker.identify(traits={"mark": m}, workspace_id=v),
    "group": lambda o, v, m: o.tracker.group(v, traits={"mark": m}),
    "group traits": lambda o, v, m: o.tracker.group(f"w {m}", traits=v),
    "alias previous": lambda o, v, m: o.tracker.alias(v, f"user {m}"),
    "alias user": lambda o, v, m: o.tracker.alias(f"before {m}", v),
    "page": lambda o, v, m: o.tracker.page(v, properties={"mark": m}),
    "page category": lambda o, v, m: o.tracker.page("page", category=v, properties={"mark": m}),
    "page properties": lambda o, v, m: o.tracker.page(f"page {m}", properties=v),
    **each("trace", _trace, "name", "input", "user_id", "workspace_id", "session_id", "metadata", "tags", "start_time"),
    **each("generation", _generation, "name", "input", "model", "model_parameters", "metadata", "start_time"),
    **each("update", _updated, "input", "output", "metadata", "usage", "cost", "level", "status_message"),
    **each("update", _updated, "completion_start_time", "model_parameters", "unknown"),
    **each("span", partial(_step, kind="span"), "name", "input", "metadata"),
    **each("tool", partial(_step, kind="tool"), "name", "input", "metadata"),
    "usage": lambda o, v, m: _updated(o, m, usage={"input": v, "output": 1}),
    "record": _recorded,
    "record usage": lambda o, v, m: _recorded(o, {"model": "m", "usage": v}, m),
    "record choices": lambda o, v, m: _recorded(o, {"choices": v}, m),
    "fail": _failed,
    "end": _ended,
    "score name": lambda o, v, m: _scored(o, m, name=v),
    "score value": lambda o, v, m: _scored(o, m, value=v),
    "score comment": lambda o, v, m: _scored(o, m, name=f"score {m}", comment=v),
    "exception": lambda o, v, m: o.errors.capture_exception(v, extra={"mark": m}),
    "exception extra": lambda o, v, m: o.errors.capture_exception(_error(m), extra=v),
    "exception fact": lambda o, v, m: o.errors.capture_exception(_error(m), extra={"odd": v}),
    "exception level": lambda o, v, m: o.errors.capture_exception(_error(m), level=v),
    "exception argument": lambda o, v, m: o.errors.capture_exception(ValueError(v, m), extra={"mark": m}),
    "message": lambda o, v, m: o.errors.capture_message(v, extra={"mark": m}),
    "message level": lambda o, v, m: o.errors.capture_message(m, level=v),
    "message extra": lambda o, v, m: o.errors.capture_message(m, extra=v),
    **each("breadcrumb", _after_breadcrumb, "message", "category", "data"),
    "bind user": lambda o, v, m: _bound(o, m, v),
    "bind email": lambda o, v, m: _bound(o, m, "bob", email=v),
    "bind traits": lambda o, v, m: _bound(o, m, "bob", traits=v),
    "bind workspace": lambda o, v, m: _bound(o, m, "bob", workspace_id=v),
    "set tag": lambda o, v, m: _set(o, m, "set_tag", "tag", v),
    "set tag key": lambda o, v, m: _set(o, m, "set_tag", v, "x"),
    "set consent": lambda o, v, m: _set(o, m, "set_consent", analytics=v, llm_content=v),
    "documented track": lambda o, v, m: T.track(user_id=v, event="feature_used", properties={"mark": m}),
    "documented track event": lambda o, v, m: T.track("bob", v, {"mark": m}),
    "documented track properties": lambda o, v, m: T.track("bob", f"event_{m}", v),
    "documented identify": lambda o, v, m: T.identify(v, traits={"mark": m}),
    "documented identify email": lambda o, v, m: T.identify("bob", v, {"mark": m}),
    "documented identify traits": lambda o, v, m: T.identify(f"bob {m}", traits=v),
    "documented capture": lambda o, v, m: T.capture_exception(v, extra={"mark": m}),
    "documented capture extra": lambda o, v, m: T.capture_exception(_error(m), v),
    **each("documented trace", _copilot, "user_id", "workspace_id", "question"),
    **each("documented generation", _logged, "name", "model", "input_messages", "usage", "start_time", "latency_ms"),
    **each("documented generation", _logged, "error", "metadata"),
    **each("documented completion", _completed, "success", "answer", "latency_ms", "total_tokens", "error"),
}  # fmt: skip


@pytest.fixture(scope="module")
def running(receiver: Receiver) -> Iterator[tuple[Observability, Receiver]]:
    """One Observability for the whole table, without a limit on errors."""
    with observed(receiver, errors_max_per_second=1_000_000, traces_sample_rate=0) as observability:
        observability.start()
        yield observability, receiver


def faults(observability: Observability) -> int:
    """How many were counted."""
    return sum(observability.boundary.counts.values())


@pytest.mark.parametrize("name", ODD_VALUES)
def test_an_odd_value_costs_nothing_but_itself(
    running: tuple[Observability, Receiver], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """No call raises; what it sends arrives with everything else that was given, or is refused and counted."""
    (observability, receiver), odd, workspace = running, ODD_VALUES[name], uuid4().hex
    expected: dict[str, tuple[str, str]] = {}
    observability.boundary.counts.clear()
    with observability.context(user_id="ann", workspace_id=workspace):
        for call, function in CALLS.items():
            mark, before = uuid4().hex, faults(observability)
            sent = function(observability, odd, mark)
            if sent is None:
                assert faults(observability) > before or name in ("none", "empty", "blank", "exception"), call
            else:
                expected[str(sent)] = call, mark
    assert observability.flush(30)
    status = {vendor: observability.status()[vendor] for vendor in VENDORS}
    assert {vendor: (found["dropped"], found["dead"]) for vendor, found in status.items()} == dict.fromkeys(
        VENDORS, ({}, 0)
    )
    arrived = {signal["id"]: orjson.dumps(signal["payload"]).decode() for signal in receiver.signals()}
    if name == "exception":  # the one object: what reports it again gets its first id
        expected = {sent: found for sent, found in expected.items() if found[0] != "documented capture"}
    for sent, (call, mark) in expected.items():
        assert sent in arrived, call
        assert mark in arrived[sent] or mark[:20] in arrived[sent], call
    assert len(expected) > len(CALLS) * 0.8
    assert "SECRET-IN" not in "".join(arrived.values())
    assert "SECRET-IN" not in caplog.text
    receiver.clear()


@pytest.mark.parametrize(
    "call",
    [
        lambda o: o.tracker.track("event", {"a": math.nan}),
        lambda o: o.tracker.track(None),
        lambda o: o.tracker.track("event", user_id=" "),
        lambda o: o.tracker.track("google-event"),
        lambda o: o.tracker.group(),
        lambda o: o.tracker.alias("a"),
        lambda o: o.llm.trace("t", input=BrokenText()),
        lambda o: o.llm.trace("t").update(unknown=1),
        lambda o: o.llm.trace("t").score("s", math.nan),
        lambda o: o.llm.trace("t").generation("g").update(usage="many"),
        lambda o: o.errors.capture_exception(),
        lambda o: o.errors.capture_message("x", level="loud"),
        lambda o: o.errors.add_breadcrumb("x", data={"a": BrokenText()}),
    ],
)
def test_strict_mode_raises(receiver: Receiver, call: Callable[[Observability], object]) -> None:
    """METRICX_STRICT=true: what would be counted is an InputError, for tests of the application."""
    with observed(receiver, strict=True) as observability:
        observability.start()
        with pytest.raises(InputError):
            call(observability)


def test_each_kind_is_logged_once_without_content(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """The same fault again is only counted; the line names the call and the kind, never the value."""
    with observed(receiver) as observability:
        for _ in range(3):
            observability.tracker.track("event", {"password": "SECRET", "a": math.nan, "b": BrokenText()}, user_id="u")
        counts = observability.status()["faults"]
    assert counts == {"track event: not finite": 3, "track event: unreadable": 3}
    lines = [record.getMessage() for record in caplog.records if record.name == "metricx_observe.boundary"]
    assert [line.partition(" (")[0] for line in lines] == list(counts)
    assert "SECRET" not in caplog.text


def test_the_counts_are_bounded(receiver: Receiver) -> None:
    """Faults are counted by name, and names may come from outside: there is an end to them."""
    with observed(receiver) as observability:
        for n in range(2_000):
            observability.tracker.track(f"event-{n}", user_id="u")
        counts = observability.status()["faults"]
    assert len(counts) <= 501
    assert counts["other"] == 2_000 - len(counts) + 1


def test_an_event_class_keeps_odd_values() -> None:
    """A typed event with a value of the wrong type is no error in the request."""

    class Odd(Event):
        """An event with a number."""

        name = "odd_event"
        count: int

    assert Odd.model_validate({"count": "many"}).count == "many"  # type: ignore[comparison-overlap]
