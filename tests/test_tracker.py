"""Tracker: what it makes of a call and of the context, before any vendor sees it."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from metricx_observe.boundary import Boundary
from metricx_observe.context import Context, RequestContext, detached, use_cell
from metricx_observe.events import CopilotQuerySent, UserSignedUp
from metricx_observe.exceptions import InputError
from metricx_observe.signals.tracker import Tracker


class Puts(list[Any]):
    """Where records go."""

    taken = True

    def __call__(self, record: bytes, size: int) -> bool:
        self.append(SimpleNamespace(**orjson.loads(record)))
        return self.taken and size > 0


@pytest.fixture
def puts() -> Puts:
    """What was put."""
    return Puts()


@pytest.fixture
def boundary() -> Boundary:
    """What was counted."""
    return Boundary()


@pytest.fixture
def tracker(puts: Puts, boundary: Boundary) -> Tracker:
    """Outside any request."""
    return Tracker(puts, boundary)


def request_of(user: str | None = "ann", **more: Any) -> Context:
    """A request's cell."""
    cell = Context(RequestContext("r1", "a" * 32))
    cell.bind_user(user, **more)
    return cell


def body(record: Any) -> Any:
    """Properties or traits."""
    return record.values


def test_the_id_that_is_returned_is_the_records(tracker: Tracker, puts: Puts) -> None:
    """Each call gives the id of its own message."""
    with use_cell(request_of(workspace_id="w")):
        ids = [tracker.track("e"), tracker.identify(), tracker.group(), tracker.alias("before"), tracker.page("p")]
    assert ids == [record.id for record in puts]
    assert [record.type for record in puts] == ["track", "identify", "group", "alias", "page"]
    assert [(record.name, record.target) for record in puts] == [
        ("e", None), (None, None), (None, "w"), (None, "before"), ("p", None),
    ]  # fmt: skip


def test_what_is_not_sent_has_no_id(puts: Puts, boundary: Boundary) -> None:
    """Off, without consent, without a name or id, or with a full memory: None."""
    assert Tracker(None, boundary).track("e") is None
    cell = request_of(None)
    tracker = Tracker(puts, boundary, cell)
    assert tracker.track("") is None
    assert tracker.group() is None
    assert tracker.alias("before") is None
    assert tracker.alias(None, "ann") is None
    assert sorted(boundary.counts.values()) == [1, 1, 2]
    cell.set_consent(analytics=False)
    assert tracker.track("e") is None
    assert puts == []
    cell.set_consent(analytics=True)
    puts.taken = False
    assert tracker.track("e") is None
    assert not cell.put
    puts.taken = True
    assert tracker.track("e") is not None
    assert cell.put


def test_a_bound_tracker_is_right_in_any_thread(puts: Puts, boundary: Boundary) -> None:
    """The injected tracker holds the request's cell: a raw thread has no ContextVar."""
    tracker = Tracker(puts, boundary).bound(request_of("bob"))
    thread = threading.Thread(target=tracker.track, args=("e",))
    thread.start()
    thread.join()
    assert puts[0].user_id == "bob"
    assert puts[0].context["request_id"] == "r1"


def test_outside_a_request_nothing_is_made_up(tracker: Tracker, puts: Puts) -> None:
    """No cell, or one that is detached: no user and no request."""
    tracker.track("e")
    with use_cell(request_of()), detached():
        tracker.track("e", user_id="given")
    assert [(record.user_id, record.context) for record in puts] == [(None, None), ("given", None)]


def test_a_user_that_is_given_holds_for_that_call(tracker: Tracker, puts: Puts) -> None:
    """`user_id=` wins over the bound one, and an id of any type is text; one that is none is counted."""
    with use_cell(request_of("ann")):
        tracker.track("e", user_id=7, anonymous_id=b"anon")
        tracker.track("e")
        tracker.track("e", user_id="  ")
    assert [(record.user_id, record.anonymous_id) for record in puts] == [("7", "anon"), ("ann", None), ("ann", None)]
    assert tracker._boundary.counts == {"track e: unusable id": 1}


def test_typed_events(tracker: Tracker, puts: Puts) -> None:
    """Fields are the properties, more may be added, and personal fields are marked, by name too."""
    tracker.track(UserSignedUp(email="a@b", workspace_id="w"))
    tracker.track(CopilotQuerySent(question_length=3, workspace_id="w"), {"extra": 1})
    tracker.track("user_logged_in", {"email": "a@b", "workspace_id": "w"})
    assert [record.name for record in puts] == ["user_signed_up", "copilot_query_sent", "user_logged_in"]
    assert [body(record) for record in puts] == [
        {"email": "a@b", "workspace_id": "w"},
        {"question_length": 3, "workspace_id": "w", "extra": 1},
        {"email": "a@b", "workspace_id": "w"},
    ]
    assert [record.personal for record in puts] == [["email"], [], ["email"]]


def test_properties_are_read_when_they_are_given(tracker: Tracker, puts: Puts) -> None:
    """A later change of the caller's dict changes nothing; what is no dict is one value, a model its fields."""
    properties: dict[str, Any] = {"a": [1]}
    tracker.track("e", properties)
    properties["a"].append(2)
    odd: Any = [1, 2]
    tracker.track("e", odd)
    model: Any = CopilotQuerySent(question_length=3, workspace_id="w")
    tracker.track("e", model)
    assert [body(record) for record in puts] == [
        {"a": [1]}, {"value": [1, 2]}, {"question_length": 3, "workspace_id": "w"},
    ]  # fmt: skip


def test_identify_knows_the_bound_user(tracker: Tracker, puts: Puts) -> None:
    """E-mail address and traits of the bound user go along; what is given wins; another's are never taken."""
    with use_cell(request_of("ann", email="ann@x", traits={"plan": "pro", "seats": 1})):
        tracker.identify(traits={"seats": 2}, workspace_id="w2")
        tracker.identify("ann", email="new@x")
        tracker.identify("bob", email="bob@x")
    assert [body(record) for record in puts] == [
        {"plan": "pro", "seats": 2, "email": "ann@x", "workspace_id": "w2"},
        {"plan": "pro", "seats": 1, "email": "new@x"},
        {"email": "bob@x"},
    ]
    assert [record.personal for record in puts] == [["email"]] * 3


def test_a_name_that_ga4_drops_is_counted_and_sent(tracker: Tracker, puts: Puts, boundary: Boundary) -> None:
    """RudderStack has other destinations: the event goes, and status() says what GA4 has against its name."""
    tracker.track("google-ads", {"a": 1})
    assert [record.name for record in puts] == ["google-ads"]
    assert len(boundary.counts) == 1


def test_strict_mode_raises_for_what_ga4_drops() -> None:
    """METRICX_STRICT says it where the call stands, of names and of properties."""
    strict = Tracker(lambda record, size: True, Boundary(strict=True))
    for name, properties in (("google-ads", {}), ("opened", {"ga_x": 1}), ("opened", {"a": "v" * 101})):
        with pytest.raises(InputError, match="GA4"):
            strict.track(name, properties)


def test_times(tracker: Tracker, puts: Puts, boundary: Boundary) -> None:
    """A naive time means UTC, and what is no time is now, and counted."""
    odd: Any = "yesterday"
    tracker.track("e", timestamp=datetime(2026, 1, 1))
    tracker.track("e", timestamp=odd)
    assert puts[0].timestamp == datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert puts[1].timestamp > puts[0].timestamp
    assert boundary.counts == {"track e: unusable time": 1}


def test_key_events_are_logged_without_personal_data(tracker: Tracker, caplog: pytest.LogCaptureFixture) -> None:
    """INFO says which event with which id; no property, user or previous id."""
    with caplog.at_level(logging.INFO, "metricx_observe"):
        event_id = tracker.track("feature_used", {"note": "PERSONAL"}, user_id="PERSONAL")
        tracker.alias("PERSONAL", "PERSONAL")
        tracker.group("PERSONAL", traits={"a": "PERSONAL"})
    assert f"track feature_used id={event_id}" in caplog.text
    assert "PERSONAL" not in caplog.text
