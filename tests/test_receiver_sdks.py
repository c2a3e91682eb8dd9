"""The vendors' unmodified SDKs post to the real receiver."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from .processes import run_python
from .receiver_server import Receiver, running_receiver

CLIENTS = Path(__file__).with_name("receiver_clients.py")


def run_client(name: str, receiver: Receiver) -> list[dict[str, Any]]:
    done = run_python(str(CLIENTS), name, receiver.url, folder=CLIENTS.parent)
    assert done.returncode == 0, done.stderr
    return receiver.signals()


def only(signals: list[dict[str, Any]], kind: str, name: str | None = None) -> dict[str, Any]:
    (found,) = [each for each in signals if each["kind"] == kind and name in (None, each["name"])]
    return found


def test_sentry_sdk_shows_errors_transactions_and_logs_with_their_user() -> None:
    """Each of Sentry's items is one signal with user, workspace and request id; a session is counted."""
    with running_receiver() as receiver:
        signals = run_client("sentry", receiver)
        assert Counter(each["kind"] for each in signals) == {"error": 2, "transaction": 1, "log": 1}
        error = only(signals, "error", "ZeroDivisionError: division by zero")
        transaction = only(signals, "transaction", "/api/things/{id}")
        for each in (error, transaction, only(signals, "error", "only a message")):
            assert (each["user_id"], each["workspace_id"], each["request_id"]) == ("u1", "w1", "r1")
            assert each["trace_id"] == transaction["payload"]["contexts"]["trace"]["trace_id"]
            assert each["id"] == each["payload"]["event_id"]
        assert only(signals, "log", "a log record")["trace_id"] == transaction["trace_id"]
        assert receiver.get("/api/health").json()["others"]["session"] == 1


def test_rudderstack_sdk_shows_each_message_type() -> None:
    """A gzip batch of the SDK is one signal a message, with what stands in its context; screen is counted."""
    with running_receiver() as receiver:
        signals = run_client("rudderstack", receiver)
        assert [(each["kind"], each["name"]) for each in reversed(signals)] == [
            ("track", "Thing Bought"),
            ("identify", "identify"),
            ("group", "w1"),
            ("alias", "anon"),
            ("page", "Pricing"),
        ]
        for each in signals:
            found = (each["user_id"], each["workspace_id"], each["request_id"], each["trace_id"], each["id"])
            assert found == ("u1", "w1", "r1", "a" * 32, each["payload"]["messageId"])
        assert receiver.get("/api/health").json()["others"] == {"screen": 1}


def test_langfuse_sdk_shows_trace_observations_and_score() -> None:
    """Observations over OTLP/protobuf and a score are one request's, found by either trace id."""
    with running_receiver() as receiver:
        signals = run_client("langfuse", receiver)
        trace, generation = only(signals, "trace", "answer"), only(signals, "generation", "write")
        assert only(signals, "observation", "search")["parent_id"] == generation["parent_id"] == trace["id"]
        attributes = generation["payload"]["attributes"]
        assert attributes["langfuse.observation.model.name"] == "model-1"
        score = only(signals, "score", "helpful")
        assert (score["id"], score["payload"]["value"], score["trace_id"]) == ("score-1", 0.9, trace["trace_id"])
        for each in signals:
            assert (each["user_id"], each["workspace_id"], each["request_id"]) == ("u1", "w1", "r1")
        assert receiver.signals(trace_id=trace["trace_id"]) == receiver.signals(trace_id="a" * 32) == signals


@pytest.mark.parametrize("name", ["sentry", "rudderstack", "langfuse"])
def test_sdk_authenticates_with_the_token_as_its_key(name: str) -> None:
    """Where the receiver demands a token, each SDK presents it in the place of its own key."""
    key = {"sentry": "public", "rudderstack": "write-key", "langfuse": "sk-lf-x"}[name]
    with running_receiver(token=key) as receiver:
        assert run_client(name, receiver)
