"""The receiver's JSON API: filters, paging, one request, health."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from metricx_observe.receiver import Limits
from tests.receiver_server import Receiver, running_receiver
from tests.receiver_wire import RUDDERSTACK, SENTRY, envelope, post, refusal
from tests.support import observed

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC).timestamp()


def message(n: int, kind: str = "track", **fields: Any) -> dict[str, Any]:
    """The n-th message: n seconds after noon, of user n % 2 in workspace n % 3 and request n % 5."""
    moment = datetime.fromtimestamp(NOON + n, UTC).isoformat()
    context = {"request_id": f"r{n % 5}", "workspace_id": f"w{n % 3}", "trace_id": f"t{n % 5}"}
    fields = {"userId": f"u{n % 2}", "originalTimestamp": moment, "context": context, **fields}
    return {"type": kind, "event": f"e{n}", "messageId": f"m{n}", **fields}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """Thirty messages, delivered in three batches in another order than they happened."""
    with running_receiver() as receiver:
        for part in (range(20, 30), range(10), range(10, 20)):
            batch = [message(n, "page" if n % 10 == 0 else "track") for n in part]
            assert post(receiver, RUDDERSTACK, {"batch": batch}).status_code == 200
        yield receiver


def names(signals: list[dict[str, Any]]) -> list[str]:
    return [each["name"] for each in signals]


def test_signals_come_newest_first_by_their_own_time(receiver: Receiver) -> None:
    """A late delivery stands where it happened, not where it arrived."""
    assert names(receiver.signals()) == [f"e{n}" for n in range(29, -1, -1)]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"kind": "page"}, [20, 10, 0]),
        ({"kind": "page,error"}, [20, 10, 0]),
        ({"kind": "page,page"}, [20, 10, 0]),
        ({"kind": "page", "user": "u1"}, []),
        ({"user": "u1", "workspace": "w2", "request_id": "r0"}, [5]),
        ({"trace_id": "t4", "user": "u0"}, [24, 14, 4]),
        ({"request_id": "r3", "workspace": "w1"}, [28, 13]),
        ({"since": NOON + 28}, [29, 28]),
        ({"since": "2026-01-02T12:00:28Z"}, [29, 28]),
        ({"since": "2026-01-02T13:00:28.000001+01:00"}, [29]),
        ({"since": "2026-01-02T12:00:29"}, [29]),
        ({"user": "", "kind": "", "request_id": "r4", "workspace": "w0"}, [24, 9]),
        ({"user": "' OR 1=1 --"}, []),
    ],
)
def test_filters_narrow_the_list(receiver: Receiver, filters: dict[str, Any], expected: list[int]) -> None:
    """Filters hold together; an empty one is none; times are ISO or epoch seconds."""
    assert names(receiver.signals(**filters)) == [f"e{n}" for n in expected]


def test_a_plus_sign_that_became_a_space_is_understood(receiver: Receiver) -> None:
    """`?since=...+01:00` typed into an address line means a space there."""
    found = httpx.get(f"{receiver.url}/api/signals?since=2026-01-02T13:00:28+01:00").json()
    assert names(found["signals"]) == ["e29", "e28"]


@pytest.mark.parametrize("limit", [1, 7, 30])
def test_cursor_pages_give_every_signal_once(receiver: Receiver, limit: int) -> None:
    """Following `next` to its end gives each signal once, whatever the size of a page; the last page has none."""
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = receiver.get("/api/signals", {"limit": limit, "cursor": cursor}).json()
        assert len(page["signals"]) <= limit
        found += names(page["signals"])
        cursor = page["next"]
    assert found == names(receiver.signals())


def test_a_cursor_holds_while_more_arrives() -> None:
    """What arrives between two pages moves nothing, also for signals of the same instant."""
    with running_receiver() as receiver:
        moment = datetime.fromtimestamp(NOON, UTC).isoformat()
        batch = [message(n, originalTimestamp=moment) for n in range(4)]
        post(receiver, RUDDERSTACK, {"batch": batch})
        first = receiver.get("/api/signals", {"limit": 2}).json()
        post(receiver, RUDDERSTACK, {"batch": [message(9, originalTimestamp=moment), message(50)]})
        second = receiver.get("/api/signals", {"limit": 2, "cursor": first["next"]}).json()
        assert names(first["signals"]) + names(second["signals"]) == ["e3", "e2", "e1", "e0"]
        assert second["next"] is None


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("kind=errors", "kind must be one of error"),
        ("user_id=u1", "unknown parameter; these are known: cursor, kind"),
        ("limit=0", "limit must be 1 to 1000"),
        ("limit=1001", "limit must be"),
        ("limit=ten", "limit must be"),
        ("limit=%C2%B2", "limit must be"),
        ("since=yesterday", "since must be"),
        ("since=-1", "since must be"),
        ("since=nan", "since must be"),
        ("since=1e300", "since must be"),
        ("cursor=x", "cursor is not one"),
        ("cursor=1_", "cursor is not one"),
        ("cursor=inf_1", "cursor is not one"),
        (f"cursor=1_{'9' * 30}", "cursor is not one"),
    ],
)
def test_bad_queries_are_refused_with_the_reason(receiver: Receiver, query: str, reason: str) -> None:
    """A misspelt filter would otherwise look like one that matches everything."""
    assert reason in refusal(httpx.get(f"{receiver.url}/api/signals?{query}"), 400)


def test_one_request_is_told_in_order(receiver: Receiver) -> None:
    """Everything of one request, as it happened; nothing stored is a 404."""
    answer = receiver.get("/api/requests/r3").json()
    assert answer["request_id"] == "r3"
    assert names(answer["signals"]) == ["e3", "e8", "e13", "e18", "e23", "e28"]
    assert refusal(httpx.get(receiver.url + "/api/requests/none"), 404)


def test_a_signal_shows_its_fields_and_its_whole_payload(receiver: Receiver) -> None:
    """The fields of a row are those of the surface, the payload is what was sent."""
    (signal,) = receiver.signals(since=NOON + 29)
    received = datetime.fromisoformat(signal.pop("received"))
    assert abs(datetime.now(UTC) - received).total_seconds() < 600
    assert signal == {
        "kind": "track",
        "vendor": "rudderstack",
        "id": "m29",
        "time": "2026-01-02T12:00:29.000000Z",
        "name": "e29",
        "payload": message(29),
        "trace_id": "t4",
        "request_trace_id": None,
        "parent_id": None,
        "request_id": "r4",
        "user_id": "u1",
        "workspace_id": "w2",
    }


def test_ids_of_any_characters_are_found() -> None:
    """A request id that somebody else chose may hold anything but a slash, and is still one path segment."""
    odd = "a b%?#&ü<script>"
    with running_receiver() as receiver:
        post(receiver, RUDDERSTACK, {"batch": [message(0, context={"request_id": odd})]})
        assert len(receiver.get(f"/api/requests/{quote(odd, safe='')}").json()["signals"]) == 1


def test_clear_and_health() -> None:
    """DELETE forgets all signals and counts; health says how many there are and what else came by."""
    with running_receiver() as receiver:
        post(receiver, SENTRY, envelope(("event", {}), *((f"type{n}", {}) for n in range(60))))
        health = receiver.get("/api/health").json()
        assert (health["status"], health["signals"]) == ("ok", 1)
        assert (len(health["others"]), health["others"]["other"]) == (51, 10)
        receiver.clear()
        assert receiver.get("/api/health").json() == {"status": "ok", "signals": 0, "others": {}}


def test_what_is_over_the_bounds_goes_oldest_first() -> None:
    """The newest arrivals stay; the list never holds more rows than the limit."""
    with running_receiver(limits=Limits(rows=10)) as receiver:
        for start in range(0, 30, 6):
            post(receiver, RUDDERSTACK, {"batch": [message(n) for n in range(start, start + 6)]})
            assert len(receiver.signals()) <= 10
        assert names(receiver.signals()) == [f"e{n}" for n in range(29, 19, -1)]


def test_the_scrub_report_counts_markers_by_kind_place_and_rule() -> None:
    """What the application's scrubber took is counted where it stood, in the report and on the request's page."""
    by_name, card = "[scrubbed name str len=20 #a1b2]", "[scrubbed card str len=16 #a1b2]"
    message = {
        "type": "track", "event": "e", "messageId": "m",
        "properties": {"a": by_name, "b": [card, f"{card} and {card}"], "email": "[dropped email]", "c": "[scrubbed "},
        "context": {"request_id": "scrubbed-one", "token": by_name},
    }  # fmt: skip
    with running_receiver() as receiver:
        httpx.post(f"{receiver.url}/v1/batch", json={"batch": [message]}).raise_for_status()
        assert receiver.get("/api/scrubbed").json() == {
            "track": {"properties": {"name": 1, "card": 3, "email": 1}, "context": {"name": 1}}
        }
        page = receiver.get("/requests/scrubbed-one").text
        assert "properties card 3, properties name 1, properties email 1, context name 1" in page


def test_the_scrub_report_of_a_real_application() -> None:
    """What the application counted by signal, place and rule, the receiver counts in what arrived."""
    with running_receiver() as receiver, observed(receiver) as observability:
        observability.tracker.track("signed_up", {"password": "hunter22", "note": "card 4111 1111 1111 1111"})
        with observability.llm.trace("ask", metadata={"api_key": "hunter22"}) as trace:
            trace.update(input="Authorization: Bearer abcdef123456", output={"pin": 1234})
        observability.flush()
        counted = observability.status()["scrubbed"]
        report = receiver.get("/api/scrubbed").json()
    assert counted["track"]["properties"] == report["track"]["properties"] == {"name": 1, "card": 1}
    assert counted["span"]["input"] == report["trace"]["input"] == {"name": 1}
    assert counted["span"]["output"] == report["trace"]["output"] == {"name": 1}
    assert counted["trace"]["metadata"] == report["trace"]["metadata"] == {"name": 1}
