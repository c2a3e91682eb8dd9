"""Transactions that are filled in by us are the SDK's own, and whatever may change one leaves it to the SDK."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
import sentry_sdk
from fastapi import FastAPI, Response
from sentry_sdk.scope import Scope, add_global_event_processor, global_event_processors
from starlette.types import Message

from metricx_observe import Observability
from metricx_observe.context import bind_user, bind_workspace, set_tag
from metricx_observe.vendors.sentry_transactions import PlainTransaction, Transactions

from .receiver_server import Receiver
from .support import observed, scope_of

HEADERS = {"user-agent": "Firefox", "x-forwarded-for": "10.1.2.3", "sentry-trace": f"{'a' * 32}-{'b' * 16}"}


@pytest.fixture(autouse=True)
def clean_scopes() -> Iterator[None]:
    """The process's scopes say nothing, before and after."""
    scopes = sentry_sdk.get_global_scope(), sentry_sdk.get_isolation_scope(), sentry_sdk.get_current_scope()
    for scope in scopes:
        scope.clear()
    yield
    for scope in scopes:
        scope.clear()


async def get(app: FastAPI, path: str, request_id: str) -> None:
    """A request in the process's own context, whose Sentry scopes are those that start-up code has."""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        del message

    await app(scope_of(path, headers={**HEADERS, "x-request-id": request_id}), receive, send)


def traced(receiver: Receiver, plain: list[bool], does: Callable[[], object] = bool, **more: Any) -> dict[str, Any]:
    """The transaction of a request whose route `does` something; whether it was filled in by us goes to `plain`."""
    app, run = FastAPI(), uuid4().hex

    @app.get("/items/{item_id}")
    async def item(item_id: int) -> Response:
        bind_user("bob", email="bob@example.com")
        bind_workspace("w1", name="Acme")
        set_tag("plan", "pro")
        does()
        return Response(status_code=item_id)

    with observed(receiver, traces_sample_rate=1.0, traces_max_per_second=1000, **more) as observability:
        observability.install(app)
        observability.start()
        watch(observability, plain)
        for status in (204, 404):
            asyncio.run(get(app, f"/items/{status}?a=1", f"{run}-{status}"))
        assert observability.flush(10)
    (found,) = receiver.signals(kind="transaction", request_id=f"{run}-404")
    event: dict[str, Any] = found["payload"]
    return event


def watch(observability: Observability, plain: list[bool]) -> None:
    """Note of each transaction that is put whether it is one of ours."""
    sentry: Any = observability.error_sink
    transactions: Any = sentry._transactions
    put = transactions._put

    def noting(record: Any, size: int) -> bool:
        if isinstance(record, PlainTransaction) or record.envelope.get_transaction_event() is not None:
            plain.append(isinstance(record, PlainTransaction))
        return bool(put(record, size))

    transactions._put = sentry._transport.put = noting


def steady(event: dict[str, Any]) -> dict[str, Any]:
    """Without what differs between two requests."""
    event = {key: value for key, value in event.items() if key not in ("event_id", "timestamp", "start_timestamp")}
    event["tags"] = event["tags"] | {"request_id": "?"}
    event["contexts"]["trace"]["span_id"] = "?"
    del event["request"]["headers"]["x-request-id"]
    return event


def test_ours_is_the_sdks(receiver: Receiver) -> None:
    """Filled in by us a transaction says what the SDK makes of the same request."""
    ways: list[bool] = []
    ours = traced(receiver, ways)
    theirs = traced(receiver, ways, lambda: sentry_sdk.get_current_span())
    assert ways == [True, True, False, False]
    assert steady(ours) == steady(theirs)
    assert ours["contexts"]["trace"]["parent_span_id"] == "b" * 16
    assert ours["start_timestamp"] < ours["timestamp"]
    assert list(ours) != []


def test_breadcrumbs_change_nothing(receiver: Receiver) -> None:
    """A log line of the request becomes a breadcrumb, which no transaction has: it is ours all the same."""
    ways: list[bool] = []
    event = traced(receiver, ways, lambda: logging.getLogger("shop").warning("a line"))
    assert ways == [True, True]
    assert "breadcrumbs" not in event


@pytest.mark.parametrize("scope", [Scope.get_global_scope, Scope.get_isolation_scope], ids=["global", "isolation"])
def test_what_the_process_says_of_itself_is_on_it(receiver: Receiver, scope: Callable[[], Scope]) -> None:
    """A tag that was set at start-up is on each transaction, which the SDK makes then."""
    ways: list[bool] = []
    scope().set_tag("region", "eu")
    assert traced(receiver, ways)["tags"]["region"] == "eu"
    assert ways == [False, False]


def test_a_route_may_change_its_transaction(receiver: Receiver) -> None:
    """A tag, a span and a name that the request gives are on it."""
    ways: list[bool] = []

    def does() -> None:
        sentry_sdk.set_tag("shop", "eu")
        with sentry_sdk.start_span(op="db", name="select"):
            pass

    event = traced(receiver, ways, does)
    assert event["tags"]["shop"] == "eu"
    assert [span["op"] for span in event["spans"]] == ["db"]
    assert ways == [False, False]


def test_processors_of_the_application_see_it(receiver: Receiver) -> None:
    """One that it added for all events runs, and so does its `before_send_transaction`."""
    ways: list[bool] = []

    def processor(event: Any, hint: Any) -> Any:
        event.setdefault("tags", {})["seen"] = "yes"
        return event

    add_global_event_processor(processor)
    try:
        assert traced(receiver, ways)["tags"]["seen"] == "yes"
    finally:
        global_event_processors.remove(processor)
    event = traced(receiver, ways, sentry_options={"before_send_transaction": processor})
    assert event["tags"]["seen"] == "yes"
    assert ways == [False] * 4


def test_options_that_leave_transactions_alike_cost_nothing(receiver: Receiver) -> None:
    """A hook for errors does not send transactions the long way."""
    ways: list[bool] = []
    traced(receiver, ways, sentry_options={"before_send": lambda event, hint: event, "max_breadcrumbs": 5})
    assert ways == [True, True]


def test_one_that_the_sdk_drops_is_dropped(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the SDK makes nothing of a status, nothing is made of ours."""
    monkeypatch.setattr(Transactions, "_like", lambda self, op, status: None)
    with pytest.raises(ValueError, match="not enough values"):
        traced(receiver, [])


def test_a_transaction_that_fails_is_counted(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later SDK's may be built otherwise: the request goes on, and the status says that transactions are lost."""
    app = FastAPI()

    @app.get("/")
    async def root() -> None:
        return None

    def fails(*_: object) -> None:
        raise AttributeError("gone")

    monkeypatch.setattr(Transactions, "put_plain", fails)
    with observed(receiver, traces_sample_rate=1.0) as observability:
        observability.install(app)
        observability.start()
        asyncio.run(get(app, "/", uuid4().hex))
        assert observability.status()["faults"] == {"transaction: AttributeError": 1}
