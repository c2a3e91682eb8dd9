"""The users' own module, whole: each of its functions as their callers write it, and what reached the wire."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import metricx_observe
from metricx_observe import Observability, telemetry
from metricx_observe.context import detached
from metricx_observe.context.running import warn_that_it_is_lost
from metricx_observe.ids import new_id
from metricx_observe.telemetry import calls

from .processes import run_python
from .receiver_server import Receiver
from .support import call, observed

SIGNATURES = """
shutdown_observability()
clear_user_context()
capture_message(message, level=info, extra)
identify(user_id, email, name, traits)
capture_exception(exception, extra)
track_user_signed_up(user_id, email, name, workspace_id)
track_user_logged_in(user_id, email, workspace_id)
track_connected_google_ads(user_id, workspace_id, account_id, account_name)
track_connected_meta_ads(user_id, workspace_id, account_id, account_name)
track_connected_shopify(user_id, workspace_id, shop_domain)
track_copilot_query_sent(user_id, workspace_id, question_length, has_context=False, success, latency_ms)
create_copilot_trace(user_id, workspace_id, question, session_id)
log_generation(trace, name, model, input_messages, output, usage, latency_ms, metadata)
complete_copilot_trace(trace, success, answer, error, latency_ms, total_tokens)
log_span(trace, name, start_time, end_time, metadata)
trace_llm_call(name, user_id, workspace_id, metadata)
flush_analytics()
flush_langfuse()
shutdown_langfuse()
get_langfuse()
init_sentry()
init_analytics()
init_langfuse()
"""
FUNCTIONS = [getattr(telemetry, name) for name in telemetry.__all__]


@pytest.fixture(autouse=True)
def _none_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Observability, "default", None)
    calls.warn_not_started.cache_clear()
    warn_that_it_is_lost.cache_clear()


@pytest.fixture
def running(receiver: Receiver) -> Iterator[Observability]:
    with observed(receiver) as observability:
        observability.start()
        yield observability


@pytest.fixture
def user_id() -> str:
    return f"user-{new_id()}"


def sent(running: Observability, receiver: Receiver, n: int, **by: Any) -> list[dict[str, Any]]:
    assert running.flush(10)
    return receiver.wait_for(n, **by)


@pytest.mark.parametrize("line", SIGNATURES.split("\n")[1:-1])
def test_each_function_has_their_signature(line: str) -> None:
    """By position and by name, with what may be left out."""
    name, _, rest = line.partition("(")
    parameters = list(inspect.signature(getattr(telemetry, name)).parameters.values())
    for given, parameter in zip(filter(None, rest.rstrip(")").split(", ")), parameters, strict=False):
        wanted, _, default = given.partition("=")
        assert parameter.name == wanted
        assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        assert not default or str(parameter.default) == default


def test_events_by_their_functions(running: Observability, receiver: Receiver, user_id: str) -> None:
    """What is not known is left out, and is no "None"."""
    telemetry.track_user_signed_up(user_id, "ada@example.com", name="Ada", workspace_id="w1")
    telemetry.track_user_logged_in(user_id, "ada@example.com")
    telemetry.track_connected_google_ads(user_id, "w1", "123", "Shop")
    telemetry.track_connected_meta_ads(user_id, "w1", account_name="Shop")
    telemetry.track_connected_shopify(user_id, "w1", "shop.example.com")
    telemetry.track_copilot_query_sent(user_id, "w1", 12, success=True, latency_ms=15)
    telemetry.track(user_id, metricx_observe.events.UserLoggedIn(email="ada@example.com", workspace_id=None))  # pyright: ignore[reportArgumentType]
    found = [signal["payload"] for signal in sent(running, receiver, 7, user=user_id)]
    assert sorted((event["event"], tuple(sorted(event["properties"].items()))) for event in found) == sorted(
        (name, tuple(sorted(properties.items())))
        for name, properties in (
            ("user_signed_up", {"email": "ada@example.com", "name": "Ada", "workspace_id": "w1"}),
            ("user_logged_in", {"email": "ada@example.com"}),
            ("connected_google_ads", {"workspace_id": "w1", "account_id": "123", "account_name": "Shop"}),
            ("connected_meta_ads", {"workspace_id": "w1", "account_name": "Shop"}),
            ("connected_shopify", {"workspace_id": "w1", "shop_domain": "shop.example.com"}),
            ("copilot_query_sent", {"workspace_id": "w1", "question_length": 12, "has_context": False,
                                    "success": True, "latency_ms": 15}),
            ("user_logged_in", {"email": "ada@example.com"}),
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("args", "traits"),
    [
        (("ada@example.com", "Ada"), {"email": "ada@example.com", "name": "Ada"}),
        (("ada@example.com", {"plan": "pro"}), {"email": "ada@example.com", "plan": "pro"}),
        (("ada@example.com", "Ada", {"plan": "pro"}), {"email": "ada@example.com", "name": "Ada", "plan": "pro"}),
    ],
)
def test_identify_by_position(
    running: Observability, receiver: Receiver, user_id: str, args: Any, traits: dict[str, str]
) -> None:
    """Id, address and name, as theirs; a mapping in the third place is the traits, as the document has them."""
    telemetry.identify(user_id, *args)
    (found,) = sent(running, receiver, 1, user=user_id)
    assert found["payload"]["context"]["traits"] == traits


def test_errors_and_whose_they_are(running: Observability, receiver: Receiver, user_id: str) -> None:
    """A message has the user who is bound, until nobody is."""
    with detached():  # whom a test binds outside a request stays in that test
        telemetry.set_user_context(user_id, "ada@example.com", "w1")
        first = telemetry.capture_message("low on credit", "warning", {"left": 3})
        second = telemetry.capture_exception(ValueError("a"), {"operation": "risky"})
        telemetry.clear_user_context()
        third = telemetry.capture_exception(error=ValueError("b"))
    assert running.flush(10)
    by_id = {each["id"]: each for each in receiver.signals(kind="error")}
    assert by_id[first]["payload"]["level"] == "warning"
    assert by_id[first]["payload"]["extra"]["left"] == 3
    assert by_id[second]["payload"]["extra"]["operation"] == "risky"
    assert [by_id[each]["user_id"] for each in (first, second, third)] == [user_id, user_id, None]


def test_a_copilot_s_trace_with_spans(running: Observability, receiver: Receiver, user_id: str) -> None:
    """Their positions: error before latency; spans by datetimes, by seconds, and by nothing."""
    trace = telemetry.create_copilot_trace(user_id, "w1", "why?", "s1", name="assistant")
    telemetry.log_span(trace, "fetch", datetime(2026, 11, 30, 12, tzinfo=UTC), datetime(2026, 11, 30, 12, 0, 2))
    telemetry.log_span(trace, "rank", 1_790_000_000.0, 1_790_000_001.5, {"k": 3})
    telemetry.log_generation(trace, "answer", "model-1", [], "because", {"input": 3, "output": 2}, 20.0, {"n": 1})
    telemetry.complete_copilot_trace(trace, False, None, "too slow", 1500, 5)
    with telemetry.trace_llm_call("summary", user_id, "w1", {"a": 1}) as summary:
        assert isinstance(summary, metricx_observe.Trace)
    with pytest.raises(KeyError), telemetry.trace_llm_call("failing", user_id):
        raise KeyError("x")
    found = {each["name"]: each["payload"] for each in sent(running, receiver, 6, user=user_id)}
    assert set(found) == {"assistant", "fetch", "rank", "answer", "summary", "failing"}

    def length(name: str) -> float:
        return (int(found[name]["endTimeUnixNano"]) - int(found[name]["startTimeUnixNano"])) / 1e9

    assert (length("fetch"), length("rank"), length("assistant")) == (2.0, 1.5, 1.5)
    attributes = found["assistant"]["attributes"]
    assert attributes["langfuse.observation.status_message"] == "too slow"
    assert attributes["session.id"] == "s1"
    assert found["answer"]["attributes"]["langfuse.observation.usage_details"] == '{"input":3,"output":2}'
    assert found["failing"]["attributes"]["langfuse.observation.level"] == "ERROR"


def test_start_and_end(receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Texts that are false when off; what flushes and ends can be called at any time, and again."""
    for ends in (telemetry.shutdown_observability, telemetry.shutdown_langfuse):
        ends()
    assert (telemetry.flush_analytics(), telemetry.flush_langfuse(), telemetry.get_langfuse()) == (False, False, None)
    for key in ("SENTRY_DSN", "RUDDERSTACK_WRITE_KEY", "LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("ENVIRONMENT", "production")
    states = telemetry.init_observability()
    assert not any(states.values())
    assert states["sentry"] == "off: not set: SENTRY_DSN"
    telemetry.shutdown_observability()
    monkeypatch.setattr(Observability, "default", None)
    monkeypatch.setenv("ENVIRONMENT", "development")
    monkeypatch.setenv("METRICX_RECEIVER_URL", receiver.url)
    monkeypatch.setenv("METRICX_OUTBOX_URL", "memory://")
    states = telemetry.init_observability(sentry_options={"max_breadcrumbs": 7})
    assert all(states.values())
    assert json.loads(json.dumps(states))["analytics"] == f"local: {receiver.url}"
    assert (telemetry.init_sentry(), telemetry.init_analytics(), telemetry.init_langfuse()) == tuple(states.values())
    assert telemetry.get_langfuse() is not None
    assert telemetry.flush_analytics()
    assert telemetry.flush_langfuse()
    telemetry.shutdown_observability()
    telemetry.shutdown_observability()


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_arguments_that_do_not_fit(
    running: Observability, function: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Unknown, missing and too many arguments are counted, and cost nothing else."""
    with detached():
        function()
        if function is not telemetry.init_observability:
            function(nobody_knows_this=1)
            assert running.boundary.counts[f"{function.__name__}: no argument nobody_knows_this"] == 1
        if function is not telemetry.shutdown_observability:
            function(*range(12))
            assert running.boundary.counts[f"{function.__name__}: too many arguments"] == 1
    assert "Traceback" not in caplog.text


def test_an_argument_that_nobody_knows_costs_itself(running: Observability, receiver: Receiver, user_id: str) -> None:
    """The event arrives all the same."""
    telemetry.track(user_id, "feature_used", {"a": 1}, context={"b": 2})  # type: ignore[call-arg]
    (found,) = sent(running, receiver, 1, user=user_id)
    assert found["payload"]["properties"] == {"a": 1}


WITHOUT_MIDDLEWARE = """
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from metricx_observe.telemetry import *

init_observability()
app = FastAPI()

def signed_in(user: str) -> None:
    set_user_context(user, workspace_id="w1")

@app.get("/track", dependencies=[Depends(signed_in)])
def use() -> str | None:
    complete_copilot_trace(create_copilot_trace(question="why?"), True)
    track(None, "feature_used")
    return capture_message("seen")

@app.get("/anonymous")
async def anonymous() -> str | None:
    return capture_message("nobody")

with TestClient(app) as client:
    for user in {users!r}:
        client.get(f"/track?user={{user}}")
    print(client.get("/anonymous").json())
flush_analytics()
shutdown_observability()
"""


def test_without_the_middleware_the_user_of_a_sync_dependency_is_kept(
    receiver: Receiver, user_id: str, tmp_path: Path
) -> None:
    """What people write first: `init_observability()`, and a dependency of `def`. Requests do not share a user.

    In a process of its own: Sentry's SDK decides about its web integrations once, with the first `init`.
    """
    users = [user_id, f"{user_id}-2"]
    code, settings = WITHOUT_MIDDLEWARE.format(users=users), keys_as_variables(receiver)
    ended = run_python("-c", code, folder=tmp_path, **settings)
    assert ended.returncode == 0, ended.stderr
    for user in users:
        found = receiver.wait_for(4, user=user)
        assert {each["kind"] for each in found} == {"track", "trace", "error", "transaction"}
        assert {each["workspace_id"] for each in found} == {"w1"}
        assert len({each["request_id"] for each in found}) == 1
    nobody = ended.stdout.strip()
    assert [each["user_id"] for each in receiver.signals(kind="error") if each["id"] == nobody] == [None]


def keys_as_variables(receiver: Receiver) -> dict[str, str]:
    return {
        "ENVIRONMENT": "production",
        "METRICX_TRACES_SAMPLE_RATE": "1",
        "SENTRY_DSN": receiver.url.replace("://", "://public@") + "/1",
        "RUDDERSTACK_WRITE_KEY": "write",
        "RUDDERSTACK_DATA_PLANE_URL": receiver.url,
        "LANGFUSE_PUBLIC_KEY": "pk-lf-tests",
        "LANGFUSE_SECRET_KEY": "sk-lf-tests",
        "LANGFUSE_BASE_URL": receiver.url,
        "METRICX_OUTBOX_URL": "memory://",
    }


def test_where_nothing_can_keep_the_user_a_line_says_so(
    receiver: Receiver, user_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the middleware and without Sentry: once, with what to type."""
    app = FastAPI()

    @app.get("/bind")
    def bind() -> None:
        telemetry.set_user_context(user_id)

    with observed(receiver, sentry_dsn=None, environment="production") as observability, TestClient(app) as client:
        observability.start()
        client.get("/bind")
        client.get("/bind")
    told = [record.getMessage() for record in caplog.records if "without the middleware" in record.getMessage()]
    assert len(told) == 1
    assert "init_observability(app)" in told[0]


@pytest.mark.parametrize("how", ["install", "init_observability"])
def test_the_start_in_a_lifespan(receiver: Receiver, user_id: str, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """The application starts, all three are on, and a line says what is missing."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if how == "install":
            observability.install(app)
        else:
            observability.start()
            assert all(telemetry.init_observability(app).values())
        yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/track")
    def track() -> str | None:
        telemetry.set_user_context(user_id)
        telemetry.capture_message("seen")
        return telemetry.track(None, "feature_used")

    with observed(receiver) as observability, TestClient(app) as client:
        assert client.get("/track").json()
        assert observability.flush(10)
        assert {"track", "error"} <= {each["kind"] for each in receiver.wait_for(2, user=user_id)}
    told = [record for record in caplog.records if "comes too late" in record.getMessage()]
    assert [record.levelno for record in told] == [logging.ERROR]


def test_what_is_no_application_costs_the_middleware(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """`init_observability(object())` starts all the same."""
    with observed(receiver) as observability:
        observability.start()
        assert all(telemetry.init_observability(object()).values())  # type: ignore[arg-type]
    assert "no middleware: AttributeError" in caplog.text


# what a newcomer met


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("METRICX_TRUSTED_PROXIES", "banana", "type addresses or networks"),
        ("METRICX_TRACES_SAMPLE_RATE", "150%", "type a number, e.g. 0.1"),
        ("METRICX_SEND_BODIES", "maybe", "type true or false"),
    ],
)
def test_a_wrong_setting_costs_itself(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str, value: str,
    told: str,
) -> None:  # fmt: skip
    """`init_observability` takes its default, says what to type, and starts."""
    monkeypatch.setenv(variable, value)
    try:
        states = telemetry.init_observability(
            environment="development", receiver_url=receiver.url, outbox_url="memory://"
        )
        assert all(states.values())
    finally:
        telemetry.shutdown_observability()
    (line,) = [record.getMessage() for record in caplog.records if variable in record.getMessage()]
    assert told in line
    assert line.endswith("; its default is taken")
    assert value not in line


@pytest.mark.parametrize(
    ("variable", "value"), [("METRICX_ENABLED", "flase"), ("METRICX_SEND_LOCALS", "nope"), ("METRICX_DISABLED", "lang")]
)
def test_a_wrong_setting_that_keeps_something_back_is_not_guessed(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """Nothing starts: what was not to be sent would be."""
    monkeypatch.setenv(variable, value)
    states = telemetry.init_observability(environment="development", outbox_url="memory://")
    assert not any(states.values())
    assert variable in states["sentry"]


async def test_identify_and_health_path_may_be_given_at_once(receiver: Receiver, user_id: str) -> None:
    """The way of `install`, through the documented function."""
    app = FastAPI()

    @app.get("/")
    async def root() -> None:
        telemetry.track(user_id, "feature_used")

    where: dict[str, Any] = {"environment": "development", "receiver_url": receiver.url, "outbox_url": "memory://"}
    telemetry.init_observability(app, identify=lambda _: user_id, health_path="/health", **where)
    try:
        await call(app, "/", headers={"x-request-id": f"r-{user_id}"})
        assert json.loads((await call(app, "/health")).body)["sentry"]["state"].startswith("local")
        assert Observability.default is not None
        assert Observability.default.flush()
    finally:
        telemetry.shutdown_observability()
    assert {signal["request_id"] for signal in receiver.signals(user=user_id)} == {f"r-{user_id}"}


async def test_a_flush_holds_up_no_event_loop(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a loop it waits for nothing; in a thread only for vendors that answer."""
    asked: list[tuple[float, bool]] = []

    def flush(_: Observability, timeout_s: float, *, patient: bool) -> bool:
        asked.append((timeout_s, patient))
        return True

    with observed(receiver) as observability:
        observability.start()
        monkeypatch.setattr(Observability, "flush", flush)
        for function in (telemetry.flush_analytics, telemetry.flush_langfuse):
            assert function() is False
            assert asked == []
            assert await asyncio.to_thread(function) is True
            assert asked.pop() == (5.0, False)
