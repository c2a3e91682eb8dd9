"""The headers of envelopes and items: what the application or a client put there is scrubbed as anything else."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import orjson
import pytest
import sentry_sdk
from fastapi import FastAPI
from sentry_sdk import logger as sentry_logger
from sentry_sdk.crons import capture_checkin
from sentry_sdk.envelope import Envelope, Item, PayloadRef
from sentry_sdk.traces import start_span

from metricx_observe import ContextDep, ErrorReporterDep
from metricx_observe.boundary import Boundary
from metricx_observe.scrubber import Scrubber
from metricx_observe.vendors.sentry.channel import SentryChannel, freeze
from metricx_observe.vendors.vendor import Target

from .faults import FaultyVendor
from .receiver_server import Receiver
from .support import call, keys_for, observed, with_option

EMAIL = "ann@example.com"


@pytest.fixture
def vendor() -> Iterator[FaultyVendor]:
    """Keeps what is posted to it."""
    vendor = FaultyVendor()
    yield vendor
    vendor.close()


def headers(body: bytes) -> list[dict[str, Any]]:
    """Of an envelope and its items."""
    position, found = body.index(b"\n") + 1, [orjson.loads(body[: body.index(b"\n")])]
    while position < len(body):
        end = body.index(b"\n", position)
        found.append(orjson.loads(body[position:end]))
        position = end + 1 + found[-1]["length"] + 1
    return found


RELEASE, ENVIRONMENT = "shop@1.2.3", "ops@example.com"
"""An environment has no such name; it would be taken for an address as well."""


def _session(**more: Any) -> None:
    scope = sentry_sdk.get_isolation_scope()
    scope.set_user({"email": EMAIL, "ip_address": "203.0.113.7"})
    scope.start_session(**more)
    scope.end_session()


def _streamed_span() -> None:
    with start_span(name="step"):
        pass


def _envelope(kind: str, content: dict[str, Any]) -> None:
    sent = Envelope(items=[Item(payload=PayloadRef(json=content), type=kind)])
    sentry_sdk.get_client().transport.capture_envelope(sent)  # type: ignore[union-attr]


OF_SDK = {"release": RELEASE, "environment": ENVIRONMENT}
SENDING: dict[str, Callable[[], object]] = {
    "session": _session,
    "sessions": lambda: _session(session_mode="request"),
    "check_in": lambda: capture_checkin(monitor_slug="nightly", status="ok"),
    "event": lambda: sentry_sdk.capture_message("x"),
    "transaction": lambda: sentry_sdk.start_transaction(name="job", sampled=True).finish(),
    "log": lambda: sentry_logger.error("x"),
    "trace_metric": lambda: sentry_sdk.metrics.count("x", 1),
    "span": _streamed_span,
    "feedback": lambda: _envelope("feedback", OF_SDK),
    "profile": lambda: _envelope("profile", OF_SDK),
    "profile_chunk": lambda: _envelope("profile_chunk", OF_SDK),
    "replay_event": lambda: _envelope("replay_event", OF_SDK),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[with_option("trace_lifecycle")] if kind == "span" else []) for kind in SENDING]
)
def test_the_release_and_the_environment_are_no_persons(vendor: FaultyVendor, receiver: Receiver, kind: str) -> None:
    """`name@1.2.3` has the look of an e-mail address; in whatever item it is what was set, and so in its headers."""
    settings = {**keys_for(receiver), "sentry_dsn": f"http://public@127.0.0.1:{vendor.port}/1", "release": RELEASE}
    options: dict[str, Any] = {"enable_logs": True, "environment": ENVIRONMENT}
    if kind == "span":
        options |= {"trace_lifecycle": "stream", "traces_sample_rate": 1.0}
    with observed(receiver, **settings, sentry_options=options) as observability:
        observability.start()
        with sentry_sdk.isolation_scope() as scope:
            scope.set_new_propagation_context()  # that of the process may keep the release of another test
            SENDING[kind]()
        assert observability.flush(10)
    (body,) = [body for _, body in vendor.requests if any(each.get("type") == kind for each in headers(body))]
    header, item = headers(body)[0], orjson.loads(body.split(b"\n")[2])
    given = item.get("attrs", item)
    if "items" in item:
        given = {name.removeprefix("sentry."): each["value"] for name, each in item["items"][0]["attributes"].items()}
    assert (given["release"], given["environment"]) == (RELEASE, ENVIRONMENT)
    assert header.get("trace", OF_SDK).items() >= OF_SDK.items()
    assert EMAIL.encode() not in body
    assert b"203.0.113.7" not in body
    assert kind != "session" or len(item["did"]) == 64, "of the user there is a hash"


@pytest.mark.parametrize("refused", [True, False])
async def test_no_header_holds_the_paths_token_or_an_address(
    vendor: FaultyVendor, receiver: Receiver, refused: bool
) -> None:
    """The trace header has the name that the SDK knew, and attachments have names of the application's."""
    token, key, app = uuid4().hex, f"sk-ant-api03-{secrets.token_urlsafe(30)}", FastAPI()
    settings = {**keys_for(receiver), "sentry_dsn": f"http://public@127.0.0.1:{vendor.port}/1"}
    with observed(receiver, **settings, trace_hosts="127.0.0.1") as observability:
        observability.install(app)

        @app.get("/reset/{token}")
        async def reset(token: str, context: ContextDep, errors: ErrorReporterDep) -> None:
            context.set_consent(analytics=not refused)
            scope = sentry_sdk.get_isolation_scope()
            scope.set_transaction_name(f"/reset/{token} {EMAIL}")
            name, kind = f"{token} of {EMAIL} (1).txt", f"text/plain; x={key}"
            scope.add_attachment(bytes=b"1", filename=name, content_type=kind)
            sentry_sdk.get_traceparent()
            sentry_sdk.get_baggage()
            errors.capture_exception(ValueError("boom"))

        assert (await call(app, f"/reset/{token}")).status == 200
        assert observability.flush(10)
    found = [each for _, body in vendor.requests for each in headers(body)]
    assert {each["type"] for each in found if "type" in each} >= {"event", "transaction", "attachment"}
    text = json.dumps(found)
    assert token not in text
    assert EMAIL not in text
    assert key not in text
    names = [each["filename"] for each in found if "filename" in each]
    assert names
    assert all(name.startswith("[scrubbed") and name.endswith(".txt") for name in names)
    assert all(("[dropped email]" in name) is refused for name in names)


def test_what_the_sdk_fills_in_stays() -> None:
    """Ids, rates, types and lengths arrive as they were, and so do names without a secret."""
    channel = SentryChannel(Target("on", "http://public@127.0.0.1:1/1"), Scrubber(), Boundary().count)
    trace = {
        "trace_id": "a" * 32, "public_key": "c" * 32, "environment": "production", "release": "shop@1.2.3",
        "transaction": "/shop/{item}", "sample_rate": "0.1", "sample_rand": "0.012345", "sampled": "true",
    }  # fmt: skip
    given = {"event_id": "b" * 32, "sent_at": "2026-11-30T10:00:00Z", "sdk": {"name": "sentry.python"}, "trace": trace}
    envelope = Envelope(given)
    attachment = {"filename": "report.txt", "attachment_type": "event.attachment", "content_type": "text/plain"}
    envelope.add_item(Item(b"content", headers=attachment, type="attachment"))
    (message,) = channel.encode(freeze(envelope))
    first, second = headers(message.payload)
    assert first == given
    assert second == {**attachment, "type": "attachment", "length": 7}


def test_an_upstreams_trace_header_is_scrubbed() -> None:
    """A queue's message may hand on a transaction's name, a user's address and tags from another service."""
    channel = SentryChannel(Target("on", "http://public@127.0.0.1:1/1"), Scrubber(), Boundary().count)
    user = {"email": EMAIL, "token": "hunter2hunter2"}
    envelope = Envelope({"trace": {"transaction": f"mail to {EMAIL}", "user": user}})
    envelope.add_item(Item(b"1", type="attachment", headers={"filename": "token=hunter2hunter2.txt"}))
    (message,) = channel.encode(freeze(envelope))
    assert EMAIL.encode() not in message.payload
    assert b"hunter2" not in message.payload
