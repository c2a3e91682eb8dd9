"""Sentry: what arrives at the receiver from the real SDK through our scopes, transport and channel."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
import sentry_sdk
from fastapi import FastAPI
from sentry_sdk import logger as sentry_logger
from sentry_sdk.crons import capture_checkin
from sentry_sdk.envelope import Envelope, Item, PayloadRef
from sentry_sdk.scope import Scope
from sentry_sdk.tracing import Transaction
from sentry_sdk.utils import event_from_exception
from starlette.requests import Request

from metricx_observe import ContextDep, ErrorReporterDep, Observability
from metricx_observe.boundary import Boundary
from metricx_observe.context import bind_user, detached
from metricx_observe.delivery.channel import Importance
from metricx_observe.exceptions import ConfigurationError
from metricx_observe.scrubber import Scrubber
from metricx_observe.settings import load_settings
from metricx_observe.vendors.sentry.channel import SentryChannel, freeze, thaw
from metricx_observe.vendors.vendor import Target

from .receiver_server import Receiver
from .support import call, observed


class Failure(Exception):
    """What the tests raise."""


@pytest.fixture
def observability(receiver: Receiver) -> Iterator[Observability]:
    """One that sends to the receiver, with a release."""
    with observed(receiver, release="shop@1.2.3") as running:
        running.start()
        yield running


def raised(text: str = "boom") -> Failure:
    """An exception with a traceback and a local."""
    basket = {"items": 3, "api_key": "sk-live-0123456789abcdefghij"}
    try:
        raise Failure(text + str(len(basket))[:0])
    except Failure as error:
        return error


def only(receiver: Receiver, **filters: Any) -> dict[str, Any]:
    """The payload of the one signal that matches."""
    (signal,) = receiver.wait_for(1, **filters)
    payload: dict[str, Any] = signal["payload"]
    return payload


def without_argv(extra: dict[str, Any]) -> dict[str, Any]:
    """What was given: the SDK adds the command line."""
    return {key: value for key, value in extra.items() if key != "sys.argv"}


def test_an_error_has_everything_in_sentrys_native_places(receiver: Receiver) -> None:
    """User, workspace, request, route, release, environment and extra stand where Sentry looks for them."""
    app, user = FastAPI(), uuid4().hex
    with observed(receiver, release="shop@1.2.3", environment="Development") as observability:
        observability.install(app)

        @app.get("/shop/{item}")
        async def shop(item: int, context: ContextDep, errors: ErrorReporterDep) -> str:
            context.bind_user(user, email="ann@example.com", workspace_id="w1")
            context.bind_workspace("w1", name="Acme")
            return str(errors.capture_exception(raised(), extra={"operation": "risky", "n": 1}, level="warning"))

        async def run() -> str:
            headers = {"x-request-id": f"r-{user}", "authorization": "Bearer s3cret", "accept": "text/x"}
            answer = await call(app, "/shop/7?a=1", headers=headers)
            return answer.body.decode().strip('"')

        event_id = asyncio.run(run())
        assert observability.flush(10)
    event = only(receiver, kind="error", user=user)
    assert event["event_id"] == event_id
    assert event["user"] == {"id": user, "email": "ann@example.com"}
    assert event["tags"] == {"request_id": f"r-{user}", "workspace_id": "w1"}
    assert event["contexts"]["workspace"] == {"id": "w1", "name": "Acme"}
    assert event["transaction"] == "/shop/{item}"
    assert event["transaction_info"] == {"source": "route"}
    assert event["request"]["method"] == "GET"
    assert event["request"]["url"] == "http://testserver/shop/7"
    assert event["request"]["query_string"] == "a=1"
    assert event["request"]["headers"] == {"host": "testserver", "x-request-id": f"r-{user}", "accept": "text/x"}
    assert event["release"] == "shop@1.2.3"
    assert event["environment"] == "development"
    assert without_argv(event["extra"]) == {"operation": "risky", "n": 1}
    assert event["level"] == "warning"
    transaction = only(receiver, kind="transaction", user=user)
    assert (transaction["release"], transaction["environment"]) == ("shop@1.2.3", "development")
    assert transaction["transaction"] == "/shop/{item}"
    assert transaction["contexts"]["trace"]["trace_id"] == event["contexts"]["trace"]["trace_id"]
    assert transaction["contexts"]["trace"]["data"]["http.response.status_code"] == 200


def test_the_same_exception_twice_is_one_event_with_one_id(receiver: Receiver, observability: Observability) -> None:
    """In a request or job and outside one; what comes second gets the first one's id, whether logged or captured."""
    user = uuid4().hex
    with observability.context(user_id=user):
        error = raised(user)
        first = observability.errors.capture_exception(error)
        assert observability.errors.capture_exception(error) == first
    alone = raised(f"alone {user}")
    assert observability.errors.capture_exception(alone) == observability.errors.capture_exception(alone)
    logged = raised(f"logged {user}")
    logging.getLogger("shop").error("it failed %s", user, exc_info=logged)
    assert (known := observability.errors.capture_exception(logged)) is not None
    assert observability.flush(10)
    assert [signal["id"] for signal in receiver.signals(kind="error", user=user)] == [first]
    assert len([signal for signal in receiver.signals(kind="error") if user in signal["name"]]) == 3
    assert known in [signal["id"] for signal in receiver.signals(kind="error")]


def test_the_same_exception_in_another_request_is_news(receiver: Receiver, observability: Observability) -> None:
    """A module may raise one exception object again and again: each request reports it."""
    user, error = uuid4().hex, raised()
    ids = []
    for _ in range(2):
        with observability.context(user_id=user):
            ids.append(observability.errors.capture_exception(error))
    assert observability.flush(10)
    assert sorted(signal["id"] for signal in receiver.wait_for(2, kind="error", user=user)) == sorted(map(str, ids))


def test_messages_and_breadcrumbs(receiver: Receiver, observability: Observability) -> None:
    """A message has its level and extra, and the steps before it, of this job only."""
    users, event_id = (uuid4().hex, uuid4().hex), None
    for user in users:
        with observability.context(user_id=user):
            observability.errors.add_breadcrumb(f"step of {user}", category="cart", data={"n": 1})
            event_id = observability.errors.capture_message(f"odd {user}", level="warning", extra={"a": [1, 2]})
    assert observability.flush(10)
    event = only(receiver, kind="error", user=users[1])
    assert event["event_id"] == event_id
    assert (event["message"], event["level"]) == (f"odd {users[1]}", "warning")
    assert without_argv(event["extra"]) == {"a": [1, 2]}
    steps = [crumb for crumb in event["breadcrumbs"]["values"] if crumb.get("category") == "cart"]
    assert [(crumb["message"], crumb["data"]) for crumb in steps] == [(f"step of {users[1]}", {"n": 1})]


def test_log_records_become_events_with_the_user(receiver: Receiver, observability: Observability) -> None:
    """`logger.error` of the application is an event of the user; our own loggers and the courier's never are."""
    user = uuid4().hex
    with observability.context(user_id=user):
        logging.getLogger("shop").error("it failed for %s", "ann")
        for name in ("metricx_observe", "metricx_observe.delivery", "metricx_observe.vendors.sentry"):
            logging.getLogger(name).error("ours")
    assert observability.flush(10)
    event = only(receiver, kind="error", user=user)
    assert event["logentry"] == {"message": "it failed for %s", "formatted": "it failed for ann", "params": ["ann"]}
    assert len(receiver.signals(kind="error", user=user)) == 1


def test_locals_of_the_application_only(receiver: Receiver, observability: Observability) -> None:
    """The application's frames keep their locals, scrubbed; frames of libraries and ours have none."""
    user = uuid4().hex
    app = FastAPI()

    @app.get("/")
    async def fail(request: Request, errors: ErrorReporterDep) -> None:
        basket = {"items": 3, "api_key": "0123456789abcdefghij"}
        bind_user(user)
        raise Failure(str(basket["items"]))

    with observed(receiver) as other:
        other.install(app)
        asyncio.run(call(app, "/", headers={"authorization": "Bearer s3cret-token"}))
        assert other.flush(10)
    event = only(receiver, kind="error", user=user)
    frames = event["exception"]["values"][-1]["stacktrace"]["frames"]
    ours = [frame for frame in frames if frame["module"].startswith("metricx_observe")]
    assert ours
    assert not any(frame["in_app"] or "vars" in frame for frame in ours)
    assert [frame["function"] for frame in frames if frame["in_app"]] == ["fail"]
    assert not any("vars" in frame for frame in frames if not frame["in_app"])
    assert frames[-1]["vars"]["basket"]["items"] == "3"
    assert frames[-1]["context_line"].strip().startswith("raise Failure")
    assert b"0123456789abcdefghij" not in orjson.dumps(event)
    assert b"s3cret-token" not in orjson.dumps(event)


def test_a_nested_job_has_nothing_of_what_its_parent_sets_later(receiver: Receiver) -> None:
    """Its scope is forked when it begins, however late it first touches Sentry."""
    bob = uuid4().hex
    with observed(receiver) as observability, observability.context(user_id="alice"):
        parent = sentry_sdk.get_isolation_scope()
        with observability.context(user_id=bob):
            parent.set_tag("only_alices", "1")
            observability.errors.capture_exception(raised("bob's"))
        assert observability.flush(10)
    payload = only(receiver, kind="error", user=bob)
    assert "only_alices" not in payload["tags"]


def test_locals_can_be_switched_off(receiver: Receiver) -> None:
    """METRICX_SEND_LOCALS=false: no frame has any."""
    user = uuid4().hex
    with observed(receiver, send_locals=False) as observability, observability.context(user_id=user):
        observability.errors.capture_exception(raised())
        assert observability.flush(10)
    assert b'"vars"' not in orjson.dumps(only(receiver, kind="error", user=user))


def test_every_item_type_goes_through(observability: Observability) -> None:
    """Events, attachments, transactions, sessions, check-ins, logs and types that nobody knows yet are handed over."""
    categories: list[str] = []
    transport: Any = sentry_sdk.get_client().transport
    put: Callable[[bytes, int], bool] = transport.put

    def watch(record: bytes, size: int) -> bool:
        categories.extend(Item(b"", headers=header).data_category for header, _ in thaw(record)[1])
        assert size > 0
        return put(record, size)

    transport.put = watch
    with sentry_sdk.new_scope() as scope:
        scope.add_attachment(b"some bytes", filename="a.txt")
        sentry_sdk.capture_message("with an attachment")
    with sentry_sdk.start_transaction(name="job", sampled=True):
        pass
    capture_checkin(monitor_slug="nightly", status="ok")
    scope = sentry_sdk.get_isolation_scope()
    scope.start_session()
    scope.end_session()
    sentry_sdk.get_client().transport.capture_envelope(  # type: ignore[union-attr]
        Envelope(items=[Item(payload=PayloadRef(json=["new"]), type="new_thing")])
    )
    sentry_sdk.flush(5)
    assert sorted(categories) == ["attachment", "default", "error", "monitor", "session", "transaction"]
    status = observability.status()["sentry"]
    assert status["dropped"] == {}


def test_logs_as_sentry_takes_them(receiver: Receiver) -> None:
    """`enable_logs` of the SDK works: log items arrive."""
    with observed(receiver, sentry_options={"enable_logs": True}) as observability:
        text = f"log {uuid4().hex}"
        observability.start()
        sentry_logger.info(text)
        assert observability.flush(10)
    assert text in [signal["name"] for signal in receiver.wait_for(1, kind="log")]


def test_flush_of_the_sdk_waits_for_the_commit(tmp_path: Path) -> None:
    """After `sentry_sdk.flush()` the error is in the outbox: a function that ends there loses nothing."""
    dead = "http://127.0.0.1:9"
    settings = load_settings(
        {"environment": "development", "receiver_url": dead, "outbox_url": f"sqlite:///{tmp_path}/outbox.db"}
    )
    observability = Observability(settings)
    try:
        event_id = observability.errors.capture_exception(raised())
        sentry_sdk.flush(5)
        assert observability.status()["sentry"]["committed"] == 1
        assert observability._pipeline.delivery is not None
        assert any(event_id is not None and event_id.encode() in row.payload
                   for row in observability._pipeline.delivery.rows("sentry"))  # fmt: skip
    finally:
        observability.close(0.5)


def test_integrations(receiver: Receiver) -> None:
    """The web integrations are ours once the middleware is installed; those of LLM libraries are Langfuse's."""
    llm = {"anthropic", "openai", "langchain", "litellm", "google_genai", "mcp", "openai_agents", "pydantic_ai"}
    with observed(receiver) as observability:
        observability.install(FastAPI())
        found = set(sentry_sdk.get_client().integrations)
        assert not found & (llm | {"fastapi", "starlette"})
        assert {"logging", "excepthook", "threading", "atexit"} <= found


def test_the_application_may_set_options_but_not_ours(receiver: Receiver) -> None:
    """`sentry_options` reach the SDK; dsn, transport and integrations are refused by name."""
    with observed(receiver, sentry_options={"server_name": "box", "max_breadcrumbs": 5}) as observability:
        observability.start()
        assert sentry_sdk.get_client().options["max_breadcrumbs"] == 5
    with pytest.raises(ConfigurationError, match="dsn"):
        Observability(load_settings({"environment": "test"}), sentry_options={"dsn": "https://a@b/1"})


def test_an_error_may_be_dropped_by_the_application(receiver: Receiver) -> None:
    """With `before_send` giving None nothing is sent, and no id is promised."""
    with observed(receiver, sentry_options={"before_send": lambda event, hint: None}) as observability:
        assert observability.errors.capture_exception(raised()) is None
        assert observability.errors.capture_message("odd") is None


def test_a_detached_error_belongs_to_no_request(receiver: Receiver, observability: Observability) -> None:
    """What is reported under `detached()` has no user and no request of whoever began it."""
    text = uuid4().hex
    with observability.context(user_id="ann"), detached():
        observability.errors.capture_exception(raised(text))
    assert observability.flush(10)
    (signal,) = [signal for signal in receiver.signals(kind="error") if text in signal["name"]]
    assert (signal["user_id"], signal["request_id"]) == (None, None)


def test_a_thread_of_the_job_reports_its_user(receiver: Receiver, observability: Observability) -> None:
    """A raw thread has no ContextVars: Sentry's own scope, which threads inherit, is bound to the job as well."""
    user = uuid4().hex
    with observability.context(user_id=user):
        thread = threading.Thread(target=lambda: sentry_sdk.capture_exception(raised()))
        thread.start()
        thread.join()
    assert observability.flush(10)
    assert only(receiver, kind="error", user=user)["tags"]["request_id"]


def test_tags_keep_to_sentrys_limits(receiver: Receiver, observability: Observability) -> None:
    """Tag values are strings of 200 characters without line breaks, keys have 32 characters."""
    user = uuid4().hex
    with observability.context(user_id=user) as context:
        context.set_tag("k" * 50, "v" * 300)
        context.set_tag("lines", "a\nb")
        sentry_sdk.set_tag("number", 7)
        observability.errors.capture_exception(raised())
    assert observability.flush(10)
    tags = only(receiver, kind="error", user=user)["tags"]
    assert tags["k" * 32] == "v" * 200
    assert tags["lines"] == "a b"
    assert tags["number"] == "7"


def test_large_extra_and_deep_data_arrive(receiver: Receiver, observability: Observability) -> None:
    """Extra is not cut to the SDK's ten items: it was given on purpose."""
    user = uuid4().hex
    with observability.context(user_id=user):
        observability.errors.capture_exception(raised(), extra={f"key{n}": n for n in range(30)})
    assert observability.flush(10)
    assert without_argv(only(receiver, kind="error", user=user)["extra"]) == {f"key{n}": n for n in range(30)}


def test_an_error_leads_to_its_llm_trace(receiver: Receiver, observability: Observability) -> None:
    """An error after an LLM trace names it in a tag and a context."""
    user = uuid4().hex
    with observability.context(user_id=user):
        with observability.llm.trace("copilot") as trace:
            pass
        observability.errors.capture_exception(raised())
    assert observability.flush(10)
    event = only(receiver, kind="error", user=user)
    assert event["tags"]["langfuse_trace_id"] == event["contexts"]["langfuse"]["trace_id"] == trace.trace_id


@pytest.fixture
def channel() -> SentryChannel:
    """A channel to a host that is never called."""
    return SentryChannel(Target("on", url="https://public@sentry.example/42"), Scrubber(), Boundary().count)


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, {}, {}),
        (200, {"x-sentry-rate-limits": "60:error;transaction:key, 2700:session:organization:quota"},
         {"error": 60.0, "transaction": 60.0, "session": 2700.0}),
        (429, {"x-sentry-rate-limits": "1.5::organization"}, {"": 1.5}),
        (429, {"x-sentry-rate-limits": "soon:error, :error, ²:error"}, {"": 60.0}),
        (429, {"retry-after": "7"}, {"": 7.0}),
        (429, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:27:00 GMT"}, {"": 60.0}),
        (429, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:29:00 GMT"}, {}),
        (429, {"retry-after": "0"}, {}),
        (429, {"x-sentry-rate-limits": "0:error, nan:error, -1:error, inf::organization"}, {}),
        (429, {"x-sentry-rate-limits": "0:error, 5:error;;log_item:key, 3:error"}, {"error": 5.0, "log_item": 5.0}),
        (503, {"retry-after": "7"}, {}),
    ],
)  # fmt: skip
def test_rate_limits_are_read_by_category(
    channel: SentryChannel, status: int, headers: dict[str, str], expected: dict[str, float]
) -> None:
    """`X-Sentry-Rate-Limits` names categories, none means all; without it a 429 waits `Retry-After` or a minute."""
    assert channel.rate_limits(status, headers) == expected


def test_the_channel_names_the_destination_without_a_key(channel: SentryChannel) -> None:
    """The fingerprint has host and project; the post has the key where Sentry wants it."""
    assert channel.destination.startswith("sentry.example/42#")
    assert "public" not in channel.destination
    post = channel.post([b"envelope"])
    assert (post.url, post.body) == ("https://sentry.example/api/42/envelope/", b"envelope")
    assert "sentry_key=public" in post.headers["X-Sentry-Auth"]


def test_errors_matter_most(channel: SentryChannel) -> None:
    """At a bound transactions and sessions go first, errors last."""
    kinds = ("transaction", "session", "log_item", "error")
    assert [channel.importance(kind) for kind in kinds] == [
        Importance.TRANSACTION, Importance.TRANSACTION, Importance.SIGNAL, Importance.ERROR,
    ]  # fmt: skip


def test_what_may_be_shown_of_a_stored_envelope(channel: SentryChannel) -> None:
    """Id, name and user are read from a stored envelope; from one that is none of ours nothing is."""
    event = {
        "event_id": "e1", "user": {"id": "u1"}, "exception": {"values": [{"type": "ValueError", "value": "secret"}]},
        "tags": {"a": 1 << 70},
    }  # fmt: skip
    envelope = Envelope(headers={"event_id": "e1"})
    envelope.add_event(event)  # type: ignore[arg-type]
    (message,) = channel.encode(freeze(envelope))
    assert message.kind == "error"
    assert channel.describe(message.kind, message.payload) == ("e1", "ValueError", "u1")
    assert channel.describe("error", b"no envelope") == ("", "error", None)
    assert channel.describe("default", b"{}\n{}\n[1]\n") == ("", "default", None)


# What we use of the SDK's inside: each of these fails when the SDK changes it.


def test_sdk_event_from_exception() -> None:
    """`event_from_exception` takes the client's options and a mechanism, and gives event and hint."""
    options = sentry_sdk.Client().options
    event: Any
    event, hint = event_from_exception(raised(), client_options=options, mechanism={"type": "m", "handled": True})
    assert event["level"] == "error"
    assert event["exception"]["values"][-1]["mechanism"] == {"type": "m", "handled": True}
    assert hint["exc_info"][0] is Failure


def test_sdk_scope_seams() -> None:
    """A scope has a list of processors to take ours off, a client, a span, and a propagation context to write to."""
    scope = Scope()

    def processor(event: Any, hint: Any) -> Any:
        return event

    scope.add_event_processor(processor)
    assert scope._event_processors == [processor]
    scope.set_new_propagation_context()
    propagation = scope.get_active_propagation_context()
    propagation.trace_id, propagation.parent_span_id, propagation.parent_sampled = "a" * 32, "b" * 16, False
    assert scope.get_traceparent().startswith(f"{'a' * 32}-")  # type: ignore[union-attr]
    with sentry_sdk.isolation_scope() as isolation:
        isolation.client = sentry_sdk.Client("https://public@sentry.example/1", default_integrations=False)
        assert sentry_sdk.get_client() is isolation.client
        sentry_sdk.get_current_scope().span = None
        assert sentry_sdk.get_current_span() is None


def test_sdk_a_decided_transaction_is_not_sampled_again(observability: Observability) -> None:
    """`start_transaction` leaves `sampled=True` alone, although the rate says never, and takes an ended one once."""
    with sentry_sdk.isolation_scope():
        scope = sentry_sdk.get_current_scope()
        transaction = Transaction(name="x", op="http.server", source="route", sampled=True, trace_id="c" * 32)
        assert scope.start_transaction(transaction) is transaction
        transaction.sample_rate = 0.0
        scope.span = transaction
        assert transaction.sampled is True
        assert sentry_sdk.get_current_span() is transaction
        assert "end_timestamp" in inspect.signature(transaction.finish).parameters
        assert transaction.finish() is not None
        assert transaction.finish() is None


def test_sdk_clients_keep_their_integrations_in_a_dict(observability: Observability) -> None:
    """Taking an integration out of `client.integrations` switches it off: get_integration no longer finds it."""
    client: Any = sentry_sdk.get_client()
    assert client.get_integration("logging") is not None
    kept = client.integrations.pop("logging")
    assert client.get_integration("logging") is None
    client.integrations["logging"] = kept


def test_sdk_processors_get_the_id_and_one_hint(observability: Observability) -> None:
    """Each processor of an event sees its final id, and the same hint, so that a mark in it is seen by the next."""
    seen: list[Any] = []

    def first(event: Any, hint: Any) -> Any:
        hint["mark"] = event["event_id"]
        return event

    def second(event: Any, hint: Any) -> Any:
        seen.append(hint["mark"])
        return event

    with sentry_sdk.isolation_scope() as scope:
        scope.add_event_processor(first)
        scope.add_event_processor(second)
        assert seen == [sentry_sdk.capture_message("x")] or not seen
    assert len(seen) == 1


def test_sdk_a_transport_instance_is_taken_as_it_is(observability: Observability) -> None:
    """`init(transport=...)` uses our object; envelopes give their event, and its payload is the dict that we change."""
    transport: Any = sentry_sdk.get_client().transport
    assert type(transport).__name__ == "EnvelopeTransport"
    envelope = Envelope()
    event: Any = {"event_id": "e"}
    envelope.add_event(event)
    assert envelope.get_event() is event
    assert envelope.items[0].payload.json is event


def test_closing_gives_the_global_client_back(receiver: Receiver) -> None:
    """After close() the client and the processors of the global scope are those from before."""
    scope = sentry_sdk.get_global_scope()
    processors = list(scope._event_processors)
    assert not sentry_sdk.get_client().is_active()
    with observed(receiver) as observability:
        observability.start()
        assert sentry_sdk.get_client().is_active()
        assert len(scope._event_processors) == len(processors) + 1
    assert not sentry_sdk.get_client().is_active()
    assert scope._event_processors == processors


def test_two_observabilities_with_different_dsns_are_a_mistake(receiver: Receiver) -> None:
    """The global client has one owner: a second DSN is refused, and the first one goes on."""
    first = observed(receiver)
    with first as observability:
        observability.start()
        other = load_settings({"environment": "production", "sentry_dsn": "https://public@sentry.example/1"})
        with pytest.raises(ConfigurationError, match="close"):
            Observability(other).start()
        assert sentry_sdk.get_client() is not None
        assert observability.errors.capture_message("still here") is not None


def test_of_identical_errors_ten_a_second_are_sent(receiver: Receiver) -> None:
    """Of 50 in a second ten arrive, at once; the others are counted and have the id of the last one that was sent."""
    user = uuid4().hex
    with observed(receiver) as observability, observability.context(user_id=user):
        started = time.monotonic()
        ids = [observability.errors.capture_exception(raised("the same")) for _ in range(50)]
        in_a_second = time.monotonic() - started < 1
        merged = observability.status()["sentry"]["merged"]
        signals = receiver.wait_for(50 - merged, kind="error", user=user)
    assert {signal["id"] for signal in signals} == set(ids)
    assert len(signals) + merged == 50
    if in_a_second:  # a slow machine may begin a new second in between
        assert len(signals) == 10
        assert ids[9:] == [ids[9]] * 41


def test_different_errors_are_never_merged_below_the_total(receiver: Receiver) -> None:
    """Errors that differ in their text all arrive; beyond METRICX_ERRORS_MAX_PER_SECOND they are counted."""
    user = uuid4().hex
    with observed(receiver, errors_max_per_second=20) as observability, observability.context(user_id=user):
        for n in range(15):
            observability.errors.capture_exception(raised(f"number {n}"))
        assert observability.flush(10)
        assert len(receiver.wait_for(15, kind="error", user=user)) == 15
        ids = {observability.errors.capture_exception(raised(f"later {n}")) for n in range(100)}
        assert observability.flush(10)
        signals = receiver.signals(kind="error", user=user)
        merged = observability.status()["sentry"]["merged"]
    assert len(signals) < 115
    assert ids <= {signal["id"] for signal in signals}
    assert len(signals) + merged == 115


def test_log_records_in_a_burst_are_counted_too(receiver: Receiver, observability: Observability) -> None:
    """The same error logged 30 times is ten events; other levels are left alone."""
    user = uuid4().hex
    with observability.context(user_id=user):
        for _ in range(30):
            logging.getLogger("shop").error("the database is gone")
            observability.errors.capture_message("a remark")
    assert observability.flush(10)
    signals = receiver.signals(kind="error", user=user)
    remarks = [signal for signal in signals if signal["name"] == "a remark"]
    assert len(remarks) == 30
    logged = [signal for signal in signals if signal["name"] != "a remark"]
    assert len(logged) + observability.status()["sentry"]["merged"] == 30
    assert len(logged) < 30


def test_delivery_s_threads_start_no_process(observability: Observability, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK asks git for a release that it is not told, and a process that forks just then hangs the thread."""
    started: list[object] = []
    monkeypatch.setattr("subprocess.Popen", lambda *command, **_: started.append(command))
    with observability._pipeline.isolated():
        assert not started


def test_a_vendor_that_is_off_reports_nothing() -> None:
    """Without Sentry every call gives None and does nothing."""
    observability = Observability(load_settings({"environment": "production"}))
    try:
        assert observability.errors.capture_exception(raised()) is None
        assert observability.errors.capture_message("x") is None
        observability.errors.add_breadcrumb("x")
    finally:
        observability.close()
