"""The headers of envelopes and items: what the application or a client put there is scrubbed as anything else."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import orjson
import pytest
import sentry_sdk
from fastapi import FastAPI
from sentry_sdk.envelope import Envelope, Item

from metricx_observe import ContextDep, ErrorReporterDep
from metricx_observe.privacy import Scrubber
from metricx_observe.settings import Vendor
from metricx_observe.vendors.sentry_channel import Sent, SentryChannel

from .faults import FaultyVendor
from .receiver_server import Receiver
from .support import call, keys_for, observed

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
    channel = SentryChannel(Vendor("on", "http://public@127.0.0.1:1/1"), Scrubber())
    trace = {
        "trace_id": "a" * 32, "public_key": "c" * 32, "environment": "production", "release": "shop@1.2.3",
        "transaction": "/shop/{item}", "sample_rate": "0.1", "sample_rand": "0.012345", "sampled": "true",
    }  # fmt: skip
    given = {"event_id": "b" * 32, "sent_at": "2026-11-30T10:00:00Z", "sdk": {"name": "sentry.python"}, "trace": trace}
    envelope = Envelope(given)
    attachment = {"filename": "report.txt", "attachment_type": "event.attachment", "content_type": "text/plain"}
    envelope.add_item(Item(b"content", headers=attachment, type="attachment"))
    (message,) = channel.encode(Sent(envelope))
    first, second = headers(message.payload)
    assert first == given
    assert second == {**attachment, "type": "attachment", "length": 7}


def test_an_upstreams_trace_header_is_scrubbed() -> None:
    """A queue's message may hand on a transaction's name, a user's address and tags from another service."""
    channel = SentryChannel(Vendor("on", "http://public@127.0.0.1:1/1"), Scrubber())
    user = {"email": EMAIL, "token": "hunter2hunter2"}
    envelope = Envelope({"trace": {"transaction": f"mail to {EMAIL}", "user": user}})
    envelope.add_item(Item(b"1", type="attachment", headers={"filename": "token=hunter2hunter2.txt"}))
    (message,) = channel.encode(Sent(envelope))
    assert EMAIL.encode() not in message.payload
    assert b"hunter2" not in message.payload
