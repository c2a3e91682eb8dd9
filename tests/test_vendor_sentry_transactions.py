"""Transactions of sampled requests: the SDK's own, with the facts of the request and what the application puts on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
import sentry_sdk
from fastapi import FastAPI, Response
from sentry_sdk.scope import Scope, add_global_event_processor, global_event_processors
from sentry_sdk.tracing import Transaction
from starlette.types import Message

from metricx_observe.context import bind_user, bind_workspace, set_tag

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


def traced(receiver: Receiver, does: Callable[[], object] = bool, **more: Any) -> dict[str, Any]:
    """The transaction of a request whose route `does` something."""
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
        asyncio.run(get(app, "/items/404?a=1", run))
        assert observability.flush(10)
    (found,) = receiver.signals(kind="transaction", request_id=run)
    event: dict[str, Any] = found["payload"]
    return event


def test_a_transaction_has_the_facts_of_its_request(receiver: Receiver) -> None:
    """Name, status, the upstream's span, who and where, and no breadcrumbs."""
    event = traced(receiver, lambda: sentry_sdk.add_breadcrumb(message="a step"))
    trace = event["contexts"]["trace"]
    assert (event["transaction"], event["transaction_info"]) == ("/items/{item_id}", {"source": "route"})
    assert (trace["op"], trace["status"], trace["trace_id"]) == ("http.server", "not_found", "a" * 32)
    assert trace["parent_span_id"] == "b" * 16
    assert event["contexts"]["response"] == {"status_code": 404}
    assert event["start_timestamp"] < event["timestamp"]
    assert event["user"] == {"id": "bob", "email": "bob@example.com"}
    assert event["tags"].items() >= {"plan": "pro", "workspace_id": "w1"}.items()
    assert "breadcrumbs" not in event


@pytest.mark.parametrize("scope", [Scope.get_global_scope, Scope.get_isolation_scope], ids=["global", "isolation"])
def test_what_the_process_says_of_itself_is_on_it(receiver: Receiver, scope: Callable[[], Scope]) -> None:
    """A tag that was set at start-up is on each transaction."""
    scope().set_tag("region", "eu")
    assert traced(receiver)["tags"]["region"] == "eu"


def test_a_route_may_change_its_transaction(receiver: Receiver) -> None:
    """A tag and a span that the request gives are on it."""

    def does() -> None:
        sentry_sdk.set_tag("shop", "eu")
        with sentry_sdk.start_span(op="db", name="select"):
            pass

    event = traced(receiver, does)
    assert event["tags"]["shop"] == "eu"
    assert [span["op"] for span in event["spans"]] == ["db"]


def test_processors_of_the_application_see_it(receiver: Receiver) -> None:
    """One that it added for all events runs, and so does its `before_send_transaction`."""

    def processor(event: Any, hint: Any) -> Any:
        event.setdefault("tags", {})["seen"] = "yes"
        return event

    add_global_event_processor(processor)
    try:
        assert traced(receiver)["tags"]["seen"] == "yes"
    finally:
        global_event_processors.remove(processor)
    event = traced(receiver, sentry_options={"before_send_transaction": processor})
    assert event["tags"]["seen"] == "yes"


@pytest.mark.parametrize("step", ["__init__", "finish"])
def test_a_transaction_that_fails_is_counted(receiver: Receiver, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """A later SDK's may be built otherwise: the request goes on, and the status says that transactions are lost."""
    app, before = FastAPI(), (sentry_sdk.get_isolation_scope(), sentry_sdk.get_current_scope())

    @app.get("/")
    async def root() -> None:
        return None

    def fails(*_: object, **__: object) -> None:
        raise AttributeError("gone")

    monkeypatch.setattr(Transaction, step, fails)
    with observed(receiver, traces_sample_rate=1.0) as observability:
        observability.install(app)
        observability.start()
        asyncio.run(get(app, "/", uuid4().hex))
        assert observability.status()["faults"] == {"transaction: AttributeError": 1}
    assert (sentry_sdk.get_isolation_scope(), sentry_sdk.get_current_scope()) == before
