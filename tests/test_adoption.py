"""Getting in and living with what is there: switches, levels, identifiers, and what a real application does."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from metricx_observe import (
    ConfigurationError,
    ContextDep,
    InputError,
    Observability,
    TrackerDep,
    capture_exception,
    context,
    init_observability,
)
from metricx_observe.events import Event, ga4_name_faults, ga4_parameter_faults, ga4_user_faults
from metricx_observe.ids import new_id, subject_id
from metricx_observe.logs import level_of, say, set_level
from metricx_observe.request.inbound import client_behind
from metricx_observe.settings import Settings, load_settings, unknown_variables
from metricx_observe.vendors.sentry.burst import error_key

from .receiver_server import Receiver
from .support import call, keys_for, observed


@pytest.fixture
def user_id() -> str:
    return f"user-{new_id()}"


# switches


async def test_switched_off_it_is_as_if_it_were_not_installed(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, user_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """METRICX_ENABLED=false: dependencies work, nothing is sent, no header is added; one line says so."""
    monkeypatch.setenv("METRICX_ENABLED", "false")
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app, identify=lambda _: user_id)

        @app.get("/")
        async def root(tracker: TrackerDep, cell: ContextDep) -> str | None:
            cell.bind_user(user_id)
            return tracker.track("feature_used")

        answer = await call(app, "/")
        assert (answer.status, answer.body) == (200, b"null")
        assert "x-request-id" not in answer.headers
        assert not any(observability.states().values())
        assert observability.flush(1)
    assert "[STARTUP] Observability: none: switched off by METRICX_ENABLED" in caplog.text
    assert receiver.signals(user=user_id) == []


@pytest.mark.parametrize(
    ("variables", "off"),
    [
        ({"METRICX_DISABLED": "sentry, analytics"}, {"sentry", "rudderstack"}),
        ({"LANGFUSE_TRACING_ENABLED": "False"}, {"langfuse"}),
        ({"OTEL_SDK_DISABLED": "true"}, {"langfuse"}),
        ({"OTEL_SDK_DISABLED": "maybe", "LANGFUSE_TRACING_ENABLED": "yes"}, set()),
    ],
)
def test_a_vendor_that_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], off: set[str]
) -> None:
    """The reason names the variable."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = load_settings({"environment": "development"})
    vendors = {name: settings.vendor(name) for name in ("sentry", "rudderstack", "langfuse")}
    assert {name for name, vendor in vendors.items() if vendor.state == "off"} == off
    assert all(vendors[name].reason.startswith("switched off by ") for name in off)


def test_a_vendor_that_nobody_knows_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to type."""
    monkeypatch.setenv("METRICX_DISABLED", "posthog")
    with pytest.raises(ConfigurationError, match="type sentry, rudderstack, langfuse"):
        load_settings({})


def test_under_pytest_nothing_leaves_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written to the user's home, unless ENVIRONMENT says so."""
    assert Settings().mode == "test"
    assert Settings().outbox == "memory://"
    monkeypatch.setenv("ENVIRONMENT", "development")
    assert Settings().mode == "development"


def test_the_vendors_own_names_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs win at their vendor, and decide nothing else."""
    for name, value in {
        "ENVIRONMENT": "production", "SENTRY_ENVIRONMENT": "Prod EU", "LANGFUSE_TRACING_ENVIRONMENT": "eu",
        "SENTRY_TRACES_SAMPLE_RATE": "0.25", "RELEASE_VERSION": "1.2.3",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    settings = load_settings({})
    assert (settings.environment_at("sentry"), settings.environment_at("langfuse")) == ("prod-eu", "eu")
    assert (settings.environment_name, settings.sample_rate, settings.release) == ("production", 0.25, "1.2.3")
    monkeypatch.setenv("METRICX_TRACES_SAMPLE_RATE", "0.5")
    monkeypatch.setenv("SENTRY_RELEASE", "2")
    assert (load_settings({}).sample_rate, load_settings({}).release) == (0.5, "2")


@pytest.mark.parametrize("sentrys_own", [True, False])
def test_the_vendors_own_names_on_the_wire(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, user_id: str, sentrys_own: bool
) -> None:
    """SENTRY_ENVIRONMENT, LANGFUSE_TRACING_ENVIRONMENT, and a release: SENTRY_RELEASE before RELEASE_VERSION."""
    monkeypatch.setenv("SENTRY_ENVIRONMENT", "Prod EU")
    monkeypatch.setenv("LANGFUSE_TRACING_ENVIRONMENT", "eu")
    monkeypatch.setenv("RELEASE_VERSION", "1.2.3")
    if sentrys_own:
        monkeypatch.setenv("SENTRY_RELEASE", "shop@4")
    release = "shop@4" if sentrys_own else "1.2.3"
    with observed(receiver) as observability:
        with observability.context(user_id=user_id):
            observability.errors.capture_message("m")
            with observability.llm.trace("t"):
                pass
            assert observability.llm.client is not None
            observability.llm.client.start_observation(name="own").end()
        assert observability.flush(10)
    error, *traces = sorted(receiver.wait_for(3, user=user_id), key=lambda each: each["kind"])
    assert (error["payload"]["environment"], error["payload"]["release"]) == ("prod-eu", release)
    assert len(traces) == 2
    for each in traces:
        found = each["payload"]["attributes"]
        assert (found["langfuse.environment"], found["langfuse.release"]) == ("eu", release)


@pytest.mark.parametrize("rate", ["0", "0.5", "1"])
async def test_a_share_of_requests_is_traced(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, user_id: str, rate: str
) -> None:
    """SENTRY_TRACES_SAMPLE_RATE, which a transaction repeats for Sentry's own arithmetic."""
    monkeypatch.setenv("SENTRY_TRACES_SAMPLE_RATE", rate)
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app, identify=lambda _: user_id)
        for _ in range(60):
            await call(app, "/")
        assert await asyncio.to_thread(observability.flush, 10)
    found = receiver.signals(user=user_id, kind="transaction")
    low, high = {"0": (0, 0), "0.5": (5, 55), "1": (60, 60)}[rate]
    assert low <= len(found) <= high


def test_a_share_of_llm_traces(receiver: Receiver, monkeypatch: pytest.MonkeyPatch, user_id: str) -> None:
    """LANGFUSE_SAMPLE_RATE: whole traces, as the SDK's own spans."""
    monkeypatch.setenv("LANGFUSE_SAMPLE_RATE", "0.5")
    with observed(receiver) as observability:
        for _ in range(60):
            with observability.llm.trace("t", user_id=user_id) as trace, trace.generation("g"):
                pass
            with observability.context(user_id=f"{user_id}-own"):
                assert observability.llm.client is not None
                observability.llm.client.start_observation(name="own").end()
        assert observability.flush(10)
    kinds = [each["kind"] for each in receiver.signals(user=user_id, limit=200)]
    assert 5 < kinds.count("trace") < 55
    assert kinds.count("trace") == kinds.count("generation")
    assert 5 < len(receiver.signals(user=f"{user_id}-own")) < 55


def test_a_misspelt_variable_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """With the nearest name, and no value."""
    monkeypatch.setenv("METRICX_TRACE_SAMPLE_RATE", "0.7")
    told = "METRICX_TRACE_SAMPLE_RATE is not known: did you mean METRICX_TRACES_SAMPLE_RATE?"
    assert unknown_variables() == [told]
    with observed(receiver) as observability:
        observability.install(FastAPI())
    assert f"[STARTUP] {told}" in caplog.messages


# logging


@pytest.mark.parametrize(
    ("text", "level"),
    [("WARN", 30), ("warning", 30), ("20", 20), ("notset", 0), ("fatal", 50), ("loud", None), ("", None), ("٣", None)],
)
def test_levels(text: str, level: int | None) -> None:
    """By any name that logging knows, and by numbers."""
    assert level_of(text) == level


@pytest.fixture
def bare_root() -> Iterator[logging.Logger]:
    root, own = logging.getLogger(), logging.getLogger("metricx_observe")
    handlers, own_handlers, level = root.handlers[:], own.handlers[:], own.level
    yield root
    root.handlers[:], own.handlers[:] = handlers, own_handlers
    own.setLevel(level)


def test_the_root_logger_is_the_applications(bare_root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """Our lines show while it has no handler, and its own `basicConfig` works after that."""
    bare_root.handlers.clear()  # pytest's, which it adds for each phase of a test
    set_level("INFO")
    own = logging.getLogger("metricx_observe.test")
    own.info("before")
    say(logging.getLogger("app.main"), logging.WARNING, "[STARTUP] %s", "on")
    assert bare_root.handlers == []
    assert capsys.readouterr().err == "INFO:metricx_observe.test:before\nWARNING:app.main:[STARTUP] on\n"
    logging.basicConfig(format="mine %(message)s")
    own.info("after")
    assert capsys.readouterr().err == "mine after\n"


async def test_a_level_that_is_none_fails_no_start(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning."""
    monkeypatch.setenv("LOG_LEVEL", "LOUD")
    with observed(receiver) as observability:
        observability.install(FastAPI())
    assert [record.levelno for record in caplog.records if "is no level" in record.getMessage()] == [logging.WARNING]


# identifiers


@pytest.mark.parametrize(
    ("given", "id"),
    [
        ("u1", "u1"), (7, "7"), (7.0, "7"), (Decimal("8"), "8"), (UUID(int=7), str(UUID(int=7))), (True, None),
        ({"plan": "pro"}, None), ([1], None), (7.5, None), (float("nan"), None), (float("inf"), None), (object(), None),
        (Decimal("1.5"), None), (None, None), ("", None),
    ],
)  # fmt: skip
def test_what_is_an_id(given: object, id: str | None) -> None:
    """Texts, numbers without a fraction and UUIDs."""
    assert subject_id(given) == id


def test_what_is_no_id_is_refused_and_counted(receiver: Receiver) -> None:
    """Nobody is made of it, and strict mode raises."""
    with observed(receiver) as observability:
        assert observability.tracker.identify({"plan": "pro"}) is None
        with observability.context(user_id="u1") as cell:
            cell.bind_user({"plan": "pro"})
            assert cell.user is None
        assert observability.boundary.counts == {"identify: unusable id": 1, "bind_user: unusable id": 1}
    with observed(receiver, strict=True) as observability:
        with pytest.raises(InputError):
            observability.tracker.identify({"plan": "pro"})
        with observability.context() as cell, pytest.raises(InputError):
            cell.bind_user({"plan": "pro"})


# GA4


@pytest.mark.parametrize("name", ["Session_Start", "Google_x", "app_store_subscription_renew", "FIREBASE_a"])
def test_reserved_names_in_any_case(name: str) -> None:
    """GA4 drops them in silence."""
    assert list(ga4_name_faults(name))


@pytest.mark.parametrize("name", ["plan-name", "plan name", "1st_plan", "GA_x"])
def test_parameters_that_google_drops(name: str) -> None:
    """Also when a class of events is defined."""
    assert ga4_parameter_faults({name: 1})


def test_values_that_are_too_long_inside_of_others() -> None:
    """And a user's properties, which are shorter."""
    assert ga4_parameter_faults({"a": {"b": ["x" * 101]}})
    assert not ga4_parameter_faults({"a": {"b": ["x" * 100]}})
    assert len(ga4_user_faults({"a" * 25: "x" * 37})) == 2
    assert not ga4_user_faults({"a" * 24: "x" * 36})


def test_large_numbers_go_as_text(receiver: Receiver, user_id: str) -> None:
    """From 2**53 on JavaScript rounds them."""
    with observed(receiver) as observability:
        observability.tracker.track("large", {"a": 1 << 53, "b": (1 << 53) - 1, "c": [-(1 << 53)]}, user_id=user_id)
        observability.tracker.identify(user_id, traits={"favourite_colour_of_the_user": "blue"})
        assert observability.flush(10)
        assert any(key.startswith("identify: GA4 takes 24") for key in observability.boundary.counts)
    (found,) = receiver.wait_for(1, user=user_id, kind="track")
    assert found["payload"]["properties"] == {"a": str(1 << 53), "b": (1 << 53) - 1, "c": [str(-(1 << 53))]}


class WithNothing(Event):
    """An event with an id that may be unknown."""

    name = "with_nothing"
    workspace_id: str | None = None


def test_none_is_left_out(receiver: Receiver, user_id: str) -> None:
    """Of an event's class and of a plain one."""
    with observed(receiver) as observability:
        observability.tracker.track(WithNothing(), {"a": 1, "b": None}, user_id=user_id)
        assert observability.flush(10)
    (found,) = receiver.wait_for(1, user=user_id)
    assert found["payload"]["properties"] == {"a": 1}


# errors


@dataclass(frozen=True)
class OutOfStock(Exception):
    """Refuses attributes."""

    sku: str


def test_an_exception_that_refuses_attributes_stays_itself(receiver: Receiver, user_id: str) -> None:
    """And can be pickled, as workers do with what ended a job."""
    with observed(receiver) as observability:
        with pytest.raises(OutOfStock) as caught, observability.context(user_id=user_id):
            raise OutOfStock("x")
        with pytest.raises(OutOfStock), context.restore({}):
            raise OutOfStock("x")
        with pytest.raises(ValueError, match="plain") as plain, observability.context():
            raise ValueError("plain")
        assert str(pickle.loads(pickle.dumps(plain.value))) == "plain"
        assert observability.errors.capture_exception(caught.value)
        assert observability.errors.capture_exception(caught.value)


def failed(message: str) -> Exception:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def test_leaves_and_causes_make_errors_differ() -> None:
    """30 usual ones and one rare behind one task group or one `raise … from` are not identical."""

    def grouped(message: str) -> BaseException:
        return ExceptionGroup("unhandled errors in a TaskGroup", [failed("same"), failed(message)])

    def caused(message: str) -> BaseException:
        error = RuntimeError("service")
        error.__cause__ = failed(message)
        return error

    for make in (grouped, caused):
        assert error_key(make("a")) == error_key(make("a"))
        assert error_key(make("a")) != error_key(make("b"))
    loop = failed("loop")
    loop.__context__ = loop
    assert error_key(loop) == error_key(loop)


@pytest.mark.parametrize("how", ["group", "nested group", "send"])
async def test_a_client_that_leaves_is_no_error(receiver: Receiver, user_id: str, how: str) -> None:
    """Inside a task group, or as the server's `send` says it."""
    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app)

        @app.get("/{n}")
        async def leave(n: str) -> str:
            gone = ExceptionGroup("g", [WebSocketDisconnect(1006)])
            if how == "send":
                return n
            raise gone if how == "group" else ExceptionGroup("outer", [gone])

        async def receive() -> dict[str, Any]:
            return {"type": "http.request"}

        async def send(_: MutableMapping[str, Any]) -> None:
            if how == "send":
                raise BrokenPipeError

        scope = {
            "type": "http", "method": "GET", "path": f"/{user_id}", "headers": [(b"x-request-id", user_id.encode())],
            "query_string": b"", "server": ("test", 80),
        }  # fmt: skip
        with pytest.raises((ExceptionGroup, OSError)):
            await app(scope, receive, send)
        observability.errors.capture_message("last")
        assert await asyncio.to_thread(observability.flush, 10)
    assert [each for each in receiver.signals(request_id=user_id) if each["kind"] == "error"] == []


@pytest.mark.parametrize("moment", ["start", "end"])
def test_a_lifespan_that_fails_is_an_error(receiver: Receiver, moment: str) -> None:
    """One event, delivered before the server is told."""
    mark = f"{moment} {new_id()}"

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if moment == "start":
            raise RuntimeError(mark)
        yield
        raise RuntimeError(mark)

    with observed(receiver, **keys_for(receiver)) as observability:
        app = FastAPI(lifespan=lifespan)
        observability.install(app)
        with pytest.raises(RuntimeError, match=mark), TestClient(app):
            pass
        found = [each for each in receiver.signals(kind="error") if mark in str(each["payload"].get("exception"))]
    assert len(found) == 1
    assert found[0]["payload"]["exception"]["values"][-1]["mechanism"]["handled"] is False


# the client's address


@pytest.mark.parametrize(
    "hop",
    ["203.0.113.9", " 203.0.113.9:51234", '"203.0.113.9"', "::ffff:203.0.113.9", "[::ffff:203.0.113.9]:443"],
)
@pytest.mark.parametrize("peer", ["10.0.0.1", "::ffff:10.0.0.1"])
def test_the_forms_that_proxies_write(hop: str, peer: str) -> None:
    """The client behind a trusted proxy, whatever form its address has."""
    settings = load_settings({"trusted_proxies": "10.0.0.0/8"})
    headers = [(b"x-forwarded-for", hop.encode())]
    assert client_behind((peer, 1), headers, settings.trusted_proxies)[0] == "203.0.113.9"


@pytest.mark.parametrize("hop", ["2001:db8::7", "[2001:db8::7]", "[2001:db8::7]:51234", "2001:db8::7%eth0"])
def test_ipv6_hops(hop: str) -> None:
    """With and without brackets, port and zone."""
    settings = load_settings({"trusted_proxies": "10.0.0.0/8"})
    assert client_behind(("10.0.0.1", 1), [(b"x-forwarded-for", hop.encode())], settings.trusted_proxies)[0] == (
        "2001:db8::7"
    )


# deep code


async def test_deep_code_has_the_requests_facades(receiver: Receiver, user_id: str) -> None:
    """In a request and in a job; and nothing happens where nothing was started."""

    def deep() -> None:
        context.tracker().track("deep")
        context.errors().capture_message("deep")
        with context.llm().trace("deep"):
            pass

    with observed(receiver) as observability:
        app = FastAPI()
        observability.install(app, identify=lambda _: user_id)

        @app.get("/")
        async def root() -> None:
            deep()

        await call(app, "/")
        with observability.context(user_id=f"{user_id}-job"):
            deep()
        assert await asyncio.to_thread(observability.flush, 10)
    for user in (user_id, f"{user_id}-job"):
        found = receiver.wait_for(3, user=user)
        assert {"track", "error", "trace"} <= {each["kind"] for each in found}
    before, Observability.default = Observability.default, None
    try:
        deep()
    finally:
        Observability.default = before


# sentry_options


@pytest.mark.parametrize("rate", [0.0, 1.0, True, "no number"])
async def test_a_traces_sampler_decides(
    receiver: Receiver, rate: Any, user_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The application's own, with what the SDK gives it; one that fails traces nothing."""
    asked: list[dict[str, Any]] = []

    def sampler(context: dict[str, Any]) -> Any:
        asked.append(context)
        return rate

    with observed(receiver, sentry_options={"traces_sampler": sampler}) as observability:
        app = FastAPI()
        observability.install(app)

        @app.get("/sampled")
        async def sampled() -> None: ...

        await call(app, "/sampled", headers={"x-request-id": user_id})
        if rate == "no number":
            await call(app, "/sampled")
            assert caplog.text.count("traces_sampler raised ValueError") == 1
        assert await asyncio.to_thread(observability.flush, 10)
    found = receiver.signals(request_id=user_id, kind="transaction")
    assert len(found) == (rate in (1.0, True))
    assert asked[0]["transaction_context"]["op"] == "http.server"
    assert asked[0]["asgi_scope"]["path"] == "/sampled"


def test_the_documented_start_takes_them_too(receiver: Receiver, monkeypatch: pytest.MonkeyPatch, user_id: str) -> None:
    """`init_observability(sentry_options=…)`: the application's own hook and limit act on what is sent."""

    def named(event: Any, hint: Any) -> Any:
        return {**event, "tags": {**event.get("tags", {}), "named": "by the application"}}

    given: Any = {"receiver_url": receiver.url, "outbox_url": "memory://"}
    options = {"before_send": named, "max_breadcrumbs": 2}
    states = init_observability(sentry_options=options, environment="development", **given)
    assert all(states.values())
    running = Observability.default
    assert running is not None
    try:
        with running.context(user_id=user_id):
            for n in range(5):
                running.errors.add_breadcrumb(f"step {n}")
            capture_exception(ValueError("v"))
        assert running.flush(10)
    finally:
        running.close()
    (found,) = receiver.wait_for(1, user=user_id, kind="error")
    assert found["payload"]["tags"]["named"] == "by the application"
    assert [each["message"] for each in found["payload"]["breadcrumbs"]["values"]] == ["step 3", "step 4"]


@pytest.mark.parametrize("option", ["profiles_sample_rate", "transport"])
def test_an_option_that_cannot_be_set_says_what_to_type(option: str) -> None:
    """At once."""
    with pytest.raises(ConfigurationError, match=f"{option} cannot be set there, .* leave it out"):
        Observability.from_env(sentry_options={option: 1})
