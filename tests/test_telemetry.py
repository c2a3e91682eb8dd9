"""The documented functions beyond the document: timing, what is off, odd input, and scripts that end."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI

from metricx_observe import (
    Observability,
    Trace,
    capture_exception,
    complete_copilot_trace,
    create_copilot_trace,
    identify,
    log_generation,
    set_user_context,
    track,
)
from metricx_observe.context import current, detached
from metricx_observe.ids import new_id
from metricx_observe.telemetry import calls

from .processes import run_python
from .receiver_server import Receiver
from .support import call, observed

MS = 1_000_000
"""Nanoseconds."""


@pytest.fixture(autouse=True)
def _none_running(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Observability, "default", None)
    calls.warn_not_started.cache_clear()
    with detached():  # a user whom a test binds outside a request stays in that test
        yield


@pytest.fixture
def running(receiver: Receiver) -> Iterator[Observability]:
    with observed(receiver) as observability:
        observability.start()
        yield observability


@pytest.fixture
def user_id() -> str:
    return f"user-{new_id()}"


def observations(running: Observability, receiver: Receiver, n: int, user_id: str) -> dict[str, dict[str, Any]]:
    """The user's observations by name: their attributes, and `start` and `end` in nanoseconds."""
    assert running.flush(10)
    return {
        signal["name"]: signal["payload"]["attributes"]
        | {"start": int(signal["payload"]["startTimeUnixNano"]), "end": int(signal["payload"]["endTimeUnixNano"])}
        for signal in receiver.wait_for(n, user=user_id)
    }


def test_a_generation_begins_where_the_previous_one_ended(
    running: Observability, receiver: Receiver, user_id: str
) -> None:
    """The first generation begins with the trace, each later one at the end of the one before."""
    trace = create_copilot_trace(user_id, "w1", "why?")
    for name in ("understand", "query", "answer"):
        log_generation(trace, name, "model-1")
    complete_copilot_trace(trace)
    found = observations(running, receiver, 4, user_id)
    assert found["understand"]["start"] == found["copilot"]["start"]
    assert found["query"]["start"] == found["understand"]["end"]
    assert found["answer"]["start"] == found["query"]["end"]
    assert found["copilot"]["end"] >= found["answer"]["end"] >= found["query"]["end"] >= found["understand"]["end"]


def test_start_time_and_latency_override(running: Observability, receiver: Receiver, user_id: str) -> None:
    """`start_time` and `latency_ms` say when a generation was; alone, `latency_ms` counts back from now."""
    began = datetime.now(UTC) - timedelta(minutes=5)
    trace = create_copilot_trace(user_id)
    log_generation(trace, "both", start_time=began, latency_ms=250)
    log_generation(trace, "naive", start_time=began.replace(tzinfo=None), latency_ms=1)
    log_generation(trace, "start", start_time=began)
    before = datetime.now(UTC)
    log_generation(trace, "latency", latency_ms=2_000)
    complete_copilot_trace(trace)
    found = observations(running, receiver, 5, user_id)
    began_ns = round(began.timestamp() * 1e6) * 1000
    assert (found["both"]["start"], found["both"]["end"]) == (began_ns, began_ns + 250 * MS)
    assert (found["naive"]["start"], found["naive"]["end"]) == (began_ns, began_ns + MS)
    assert found["start"]["start"] == began_ns
    assert found["start"]["end"] - began_ns >= 300_000 * MS
    assert found["latency"]["start"] >= (before.timestamp() - 2) * 1e9 - 1000
    assert found["latency"]["end"] - found["latency"]["start"] >= 2_000 * MS


def test_the_end_of_a_trace(running: Observability, receiver: Receiver, user_id: str) -> None:
    """`latency_ms` sets the root's end, to the microsecond; tokens, success and latency are in the metadata."""
    trace = create_copilot_trace(user_id, "w1", "why?", session_id="s1", metadata={"plan": "pro"}, tags=["beta"])
    complete_copilot_trace(trace, True, "because", latency_ms=1234.5, total_tokens=150)
    complete_copilot_trace(trace, False, "a second time changes nothing")
    root = observations(running, receiver, 1, user_id)["copilot"]
    assert root["end"] - root["start"] == 1_234_500_000
    metadata = {key.rpartition(".")[2]: value for key, value in root.items() if ".metadata." in key}
    assert (metadata["total_tokens"], metadata["success"], metadata["plan"]) == ("150", "true", '"pro"')
    assert (root["session.id"], root["langfuse.observation.output"]) == ("s1", "because")
    assert {"beta", "workspace:w1"} <= set(root["langfuse.trace.tags"])
    assert "langfuse.observation.level" not in root


@pytest.mark.parametrize(
    ("error", "told"),
    [(None, "failed"), ("too slow", "too slow"), (TimeoutError("30 s"), "TimeoutError: 30 s")],
)
def test_a_trace_that_failed(
    running: Observability, receiver: Receiver, user_id: str, error: BaseException | str | None, told: str
) -> None:
    """`success=False` makes the level ERROR and `error` its message; a failed generation too."""
    trace = create_copilot_trace(user_id)
    log_generation(trace, "answer", error=told)
    complete_copilot_trace(trace, False, error=error)
    found = observations(running, receiver, 2, user_id)
    for name in ("copilot", "answer"):
        assert found[name]["langfuse.observation.level"] == "ERROR"
        assert found[name]["langfuse.observation.status_message"] == told


def test_senseless_times_are_left_out(running: Observability, receiver: Receiver, user_id: str) -> None:
    """A latency or start that is no time is ignored, and the call is logged all the same."""
    trace = create_copilot_trace(user_id)
    for n, latency in enumerate([float("nan"), float("inf"), 1e300, -1e300, "fast", -5]):
        log_generation(trace, f"g{n}", latency_ms=latency)  # type: ignore[arg-type]
    log_generation(trace, "text", start_time="yesterday", latency_ms=5)  # type: ignore[arg-type]
    log_generation(trace, "end of time", start_time=datetime.max.replace(tzinfo=UTC), latency_ms=1e12)
    complete_copilot_trace(trace, latency_ms=float("nan"))
    found = observations(running, receiver, 8, user_id)
    assert all(item["end"] >= item["start"] for item in found.values())
    assert {"g0", "g5", "text", "copilot"} <= set(found)


def test_none_as_trace_is_accepted(running: Observability) -> None:
    """`trace=None`, and what is no trace, do nothing."""
    for trace in (None, "trace", 5):
        assert log_generation(trace=trace, name="understand", model="m") is None  # type: ignore[arg-type]
        complete_copilot_trace(trace=trace, success=True)  # type: ignore[arg-type]


def test_langfuse_off(receiver: Receiver) -> None:
    """With Langfuse off a trace is there and does nothing; the other vendors work."""
    only_sentry = {"sentry_dsn": receiver.url.replace("://", "://key@") + "/1", "environment": "production"}
    with observed(receiver, **only_sentry) as observability:
        observability.start()
        assert observability.states()["langfuse"].startswith("off: not set: LANGFUSE_PUBLIC_KEY")
        trace = create_copilot_trace("u1", "w1", "why?")
        assert isinstance(trace, Trace)
        assert (trace.url, trace.score("good", 1)) == (None, None)
        log_generation(trace, "understand", "m", latency_ms=5)
        with trace.span("step"):
            complete_copilot_trace(trace, True, "because", latency_ms=5)
        assert capture_exception(ValueError("x")) is not None
        assert track("u1", "feature_used") is None


def test_before_init_nothing_happens_and_one_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """Before `init_observability` every function does nothing, and one warning in all tells it."""
    assert track("u1", "feature_used", {"a": 1}) is None
    assert identify("u1", "ada@example.com", {"plan": "pro"}) is None
    set_user_context("u1", "ada@example.com", "w1")
    assert capture_exception(ValueError("x")) is None
    trace = create_copilot_trace("u1", "w1", "why?")
    log_generation(trace, "understand", "m", [], "out", {"input": 1})
    complete_copilot_trace(trace, True, "because", latency_ms=5, total_tokens=10)
    assert current() is None
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("metricx_observe")]
    assert line == "telemetry is not started: call init_observability() first. Nothing is sent until then."


async def test_the_user_of_a_sync_dependency_is_on_everything(
    running: Observability, receiver: Receiver, user_id: str
) -> None:
    """`set_user_context` in a sync dependency counts for the route, whatever kind it is."""
    app = FastAPI()
    running.install(app)

    def signed_in() -> None:
        set_user_context(user_id, workspace_id="w1")

    @app.get("/sync", dependencies=[Depends(signed_in)])
    def sync_route() -> str | None:
        complete_copilot_trace(create_copilot_trace(question="why?"))
        return track(None, "feature_used")

    @app.get("/async", dependencies=[Depends(signed_in)])
    async def async_route() -> str | None:
        return capture_exception(ValueError("x"))

    ids = {json.loads((await call(app, path)).body) for path in ("/sync", "/async")}
    assert await asyncio.to_thread(running.flush, 10)
    found = await receiver.await_for(5, user=user_id)
    assert {signal["kind"] for signal in found} == {"track", "trace", "error", "transaction"}
    assert ids <= {signal["id"] for signal in found}
    assert {signal["workspace_id"] for signal in found} == {"w1"}
    assert current() is None


class Hostile:
    """Raises whatever is done with it."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__
    __len__ = __bool__ = __repr__


@pytest.mark.parametrize("value", [None, "", b"\xff", float("nan"), object(), Hostile(), {"a": Hostile()}, [1, {2}]])
def test_no_function_raises(running: Observability, value: Any) -> None:
    """Whatever is given, nothing raises."""
    track(value, value, value)
    identify(value, value, value)
    set_user_context(value, value, value)
    capture_exception(value, value, value)
    capture_exception(ValueError("x"), extra=value)
    trace = create_copilot_trace(value, value, value, session_id=value, metadata=value, tags=value)
    log_generation(
        trace, value, value, value, value, value, start_time=value, latency_ms=value, error=value, metadata=value
    )
    complete_copilot_trace(trace, value, value, value, value, value)


@pytest.mark.parametrize("level", ["fatal", None])
def test_capture_exception_takes_what_is_being_handled(
    running: Observability, receiver: Receiver, user_id: str, level: str | None
) -> None:
    """Without an argument it is the exception that is being handled; `level` and `extra` arrive."""
    set_user_context(user_id)
    try:
        raise KeyError("missing")
    except KeyError:
        event_id = capture_exception(extra={"n": 1}, level=level)
    assert running.flush(10)
    (error,) = receiver.wait_for(1, user=user_id)
    assert (error["id"], error["payload"]["level"]) == (event_id, level or "error")
    assert error["payload"]["extra"]["n"] == 1


SCRIPT = """
import sys
from metricx_observe import *

init_observability()
set_user_context("{user}", workspace_id="w1")
track("{user}", "report_made", {{"rows": 3}})
identify("{user}", "ada@example.com")
trace = create_copilot_trace("{user}", "w1", "why?")
log_generation(trace, "understand", "m", [], "out", {{"input": 1, "output": 1}})
complete_copilot_trace(trace, True, "because")
capture_exception(ValueError("handled"))
{end}
"""
ENDS = {"": 0, "sys.exit(3)": 3, "raise RuntimeError('nobody catches this')": 1}
KINDS = ["track", "identify", "trace", "generation", "error"]


def test_a_script_that_ends_loses_nothing(receiver: Receiver, tmp_path: Path) -> None:
    """A script that calls the functions and ends, however it does, leaves all of it to the next start at the latest."""
    settings = {"METRICX_RECEIVER_URL": receiver.url, "ENVIRONMENT": "development"}
    users = {end: f"user-{new_id()}" for end in ENDS}

    def end_one(end: str) -> int:
        return run_python("-c", SCRIPT.format(user=users[end], end=end), folder=tmp_path, **settings).returncode

    with ThreadPoolExecutor() as pool:
        assert dict(zip(ENDS, pool.map(end_one, ENDS), strict=True)) == ENDS
    code = "from metricx_observe import *\ninit_observability()\nassert Observability.default.flush(20)"
    second = run_python("-c", code, folder=tmp_path, **settings)
    assert second.returncode == 0, second.stderr
    for end, user_id in users.items():
        crash = ["error"] if end.startswith("raise") else []
        assert sorted(signal["kind"] for signal in receiver.signals(user=user_id)) == sorted(KINDS + crash)


def test_logging_of_key_events_holds_ids_and_no_person(
    running: Observability, caplog: pytest.LogCaptureFixture, user_id: str
) -> None:
    """At INFO each event and observation is a line with its id; no e-mail address and no content."""
    caplog.set_level(logging.INFO, "metricx_observe")
    message_id = track(user_id, "feature_used", {"email": "ada@example.com"})
    running.tracker.alias("ada@example.com", user_id)
    trace = create_copilot_trace(user_id, question="secret question")
    complete_copilot_trace(trace)
    assert f"track feature_used id={message_id}" in caplog.text
    assert trace.trace_id in caplog.text
    assert "ada@example.com" not in caplog.text
    assert "secret question" not in caplog.text
