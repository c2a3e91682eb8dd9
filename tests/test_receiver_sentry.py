"""What the receiver makes of Sentry's envelopes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.receiver_server import Receiver, running_receiver
from tests.receiver_wire import SENTRY, envelope, post, refusal


@pytest.fixture(scope="module")
def server() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


@pytest.fixture
def receiver(server: Receiver) -> Receiver:
    server.clear()
    return server


def test_envelope_answers_the_event_id_as_sentry_does(receiver: Receiver) -> None:
    """The SDK's answer is the event's id; the item's own id wins over the envelope's."""
    body = envelope(("event", {"event_id": "f" * 32, "message": "hey", "timestamp": 1700000000}))
    assert post(receiver, SENTRY, body).json() == {"id": "e" * 32}
    (error,) = receiver.signals()
    assert (error["id"], error["name"], error["time"]) == ("f" * 32, "hey", "2023-11-14T22:13:20.000000Z")


def test_envelope_without_ids_is_stored_once(receiver: Receiver) -> None:
    """What has no id gets one from its content, so that delivering it twice shows one row."""
    for _ in range(2):
        assert post(receiver, SENTRY, envelope(("event", {"level": "error"}), header={})).json() == {}
    (error,) = receiver.signals()
    assert error["name"] == "error"


def test_envelope_item_without_length_ends_with_its_line(receiver: Receiver) -> None:
    """By Sentry's format an item without a length reaches to the next line feed; blank lines separate nothing."""
    event, attachment = b'{"type":"event"}\n{"message":"a"}\n', b'{"type":"attachment"}\nsome bytes\n'
    body = b"{}\n\n" + event + attachment + b'{"type":"session","length":2}\n{}\n'
    assert post(receiver, SENTRY, body).status_code == 200
    assert [each["name"] for each in receiver.signals()] == ["a"]
    assert receiver.get("/api/health").json()["others"] == {"attachment": 1, "session": 1}


def test_envelope_fields_are_read_from_all_the_places_where_sentry_takes_them(receiver: Receiver) -> None:
    """Tags as pairs, exceptions as a plain list, the workspace from its context."""
    event = {
        "tags": [["request_id", "r1"], ["broken"], None],
        "contexts": {"workspace": {"id": "w1"}, "trace": {"trace_id": "t1", "parent_span_id": "p1"}},
        "exception": [{"type": "KeyError"}, {"type": "ValueError", "value": "bad"}],
        "user": {"id": 7},
    }
    post(receiver, SENTRY, envelope(("event", event)))
    (error,) = receiver.signals()
    fields = {name: error[name] for name in ("name", "request_id", "workspace_id", "trace_id", "parent_id", "user_id")}
    assert fields == {
        "name": "ValueError: bad",
        "request_id": "r1",
        "workspace_id": "w1",
        "trace_id": "t1",
        "parent_id": "p1",
        "user_id": "7",
    }


def test_log_records_carry_their_attributes(receiver: Receiver) -> None:
    """A log item holds many records; user, request and workspace stand in their attributes."""
    record = {
        "timestamp": 1700000000.5,
        "body": "hello",
        "trace_id": "t1",
        "attributes": {"user.id": {"value": "u1"}, "request_id": {"value": "r1"}, "workspace_id": {"value": "w1"}},
    }
    post(receiver, SENTRY, envelope(("log", {"items": [record, {**record, "body": "again"}]})))
    again, hello = sorted(receiver.signals(kind="log"), key=lambda each: each["name"])
    assert (hello["name"], hello["user_id"], hello["request_id"], hello["workspace_id"]) == ("hello", "u1", "r1", "w1")
    assert again["trace_id"] == "t1"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "header is not valid JSON"),
        (b"[]", "header is not a JSON object"),
        (b"{}\nnot json", "item's header is not valid JSON"),
        (envelope(("event", {"a": 1}))[:-3], "truncated"),
        (b'{}\n{"type":"event","length":-1}\n{}', "truncated"),
        (b'{}\n{"type":"event","length":"2"}\n{}', "truncated"),
        (b'{}\n{"type":"event","length":2}\n{}{}', "longer than its length"),
        (b'{}\n{"type":"event"}\n[1]', "event is not a JSON object"),
        (b'{}\n{"type":"log"}\n{"items":{}}', "items is not a JSON array"),
        (b'{}\n{"type":"event"}\n{"a":NaN}', "not valid JSON"),
        (b'{}\n{"type":"event"}\n' + b'{"a":' * 300 + b"1" + b"}" * 300, "nested"),
    ],
)
def test_bad_envelopes_are_refused_with_the_reason(receiver: Receiver, body: bytes, reason: str) -> None:
    """A malformed or truncated envelope gets a 400 that says what is wrong, and stores nothing."""
    assert reason in refusal(post(receiver, SENTRY, body), 400)
    assert receiver.signals() == []
