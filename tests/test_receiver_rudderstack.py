"""What the receiver makes of RudderStack's batches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.receiver_server import Receiver, running_receiver
from tests.receiver_wire import RUDDERSTACK, post, refusal


@pytest.fixture(scope="module")
def server() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


@pytest.fixture
def receiver(server: Receiver) -> Receiver:
    server.clear()
    return server


def test_batch_answers_ok_and_replaces_by_message_id(receiver: Receiver) -> None:
    """The same messageId again is one row with what came last: at-least-once delivery shows one."""
    for event in ("first", "second"):
        message = {"type": "track", "event": event, "messageId": "m1", "originalTimestamp": "2026-01-02T03:04:05Z"}
        response = post(receiver, RUDDERSTACK, {"batch": [message]})
        assert (response.status_code, response.text) == (200, "OK")
    (track,) = receiver.signals()
    assert (track["name"], track["time"], track["id"]) == ("second", "2026-01-02T03:04:05.000000Z", "m1")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "body is not valid JSON"),
        (b'{"batch": 1}', "batch is not a JSON array"),
        (b'{"batch": [1]}', "message is not a JSON object"),
        (b'{"batch": [{"type": "track", "properties": {"x": NaN}}]}', "not valid JSON"),
        (b'{"batch": [{"type": "track", "event": "\\ud800"}]}', "not valid JSON"),
        (b'{"batch": [{"type": "track", "event": "\xff"}]}', "not valid JSON"),
    ],
)
def test_bad_batches_are_refused_with_the_reason(receiver: Receiver, body: bytes, reason: str) -> None:
    """RudderStack takes strict JSON; so does the receiver, before the first event reaches the real gateway."""
    assert reason in refusal(post(receiver, RUDDERSTACK, body), 400)
