"""Events that Sentry would refuse for their size: what matters least is cut, and the rest arrives."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest

from metricx_observe.vendors.sentry.size import MAX_EVENT, within_bounds

from .receiver_server import Receiver
from .support import observed

FRAME = {"function": "f", "filename": "a.py", "lineno": 1, "in_app": True}


def event(**more: Any) -> dict[str, Any]:
    return {"event_id": "a" * 32, "exception": {"values": [{"type": "ValueError", "value": "no"}]}, **more}


def with_frames(n: int, size: int) -> dict[str, Any]:
    frames = [{**FRAME, "lineno": at, "vars": {"x": ["y" * 500] * (size // 500)}} for at in range(n)]
    return {"event_id": "a" * 32, "exception": {"values": [
        {"type": "ValueError", "value": "no", "stacktrace": {"frames": frames}}
    ]}}  # fmt: skip


LARGE: dict[str, dict[str, Any]] = {
    "a text": event(extra={"a": "x" * 3_000_000}),
    "a text of control characters": event(extra={"a": "\x01" * 900_000}),
    "breadcrumbs": event(breadcrumbs={"values": [{"message": "m" * 900, "n": at} for at in range(2_000)]}),
    "locals": with_frames(100, 50_000),
    "frames": with_frames(20_000, 0),
    "extra of many": event(extra={str(at): "x" * 500 for at in range(4_000)}),
    "causes": {"event_id": "a" * 32, "exception": {"values": [{"type": "E", "value": "v" * 900}] * 3_000}},
    "spans": event(type="transaction", spans=[{"description": "d" * 500, "n": at} for at in range(5_000)]),
    "contexts": event(
        message="low",
        contexts={"trace": {"trace_id": "t" * 32}, **{f"c{n}": {"a": ["x" * 900] * 300} for n in range(9)}},
    ),
    "not of JSON": event(extra={"a": {1, 2}, "b": "x" * 2_000_000}),
}


@pytest.mark.parametrize("name", LARGE)
def test_no_event_is_over_the_limit(name: str) -> None:
    """Type, message, id and the innermost frame are there, whatever is large."""
    given = LARGE[name]
    data = within_bounds(copy.deepcopy(given))
    found = orjson.loads(data)
    assert 1_000 < len(data) <= MAX_EVENT
    assert found["event_id"] == "a" * 32
    last, before = found["exception"]["values"][-1], given["exception"]["values"][-1]
    assert (last["type"], last["value"]) == (before["type"], before["value"])
    if name == "contexts":
        assert (found["message"], found["contexts"]["trace"]) == ("low", {"trace_id": "t" * 32})
    if "stacktrace" in before:
        assert last["stacktrace"]["frames"][-1] == before["stacktrace"]["frames"][-1]


def test_the_oldest_breadcrumbs_go_first() -> None:
    """And no more of them than must."""
    found = orjson.loads(within_bounds(copy.deepcopy(LARGE["breadcrumbs"])))
    kept = [crumb["n"] for crumb in found["breadcrumbs"]["values"]]
    assert kept == list(range(2_000 - len(kept), 2_000))
    assert len(kept) > 900


def test_what_fits_stays_as_it_is() -> None:
    """To the byte."""
    given = event(extra={"a": "x" * 400_000})
    assert within_bounds(copy.deepcopy(given)) == orjson.dumps(given)


def test_a_large_error_arrives(receiver: Receiver) -> None:
    """150 KB of text handed down eight frames, after 20 breadcrumbs of 72 KB; and it counts as what it holds."""

    def down(depth: int, text: str) -> None:
        if depth:
            down(depth - 1, text + "x")
        raise ValueError("deep")

    event_id = None
    with observed(receiver) as observability:
        for n in range(20):
            observability.errors.add_breadcrumb(f"{n}" + "b" * 72_000)
        try:
            down(8, "t" * 150_000)
        except ValueError as error:
            event_id = observability.errors.capture_exception(error, extra={"list": ["e" * 900] * 200})
        assert observability.flush(10)
        assert observability.status()["sentry"]["dead"] == 0
    (found,) = [each for each in receiver.signals(kind="error") if each["id"] == event_id]
    assert found["payload"]["exception"]["values"][-1]["value"] == "deep"


def tree(depth: int) -> Any:
    """Two members at each level, so that no list or object is long and no text is."""
    return {"a": tree(depth - 1), "b": tree(depth - 1)} if depth else "leaf of it"


@pytest.mark.parametrize("place", ["contexts", "extra", "trace"])
def test_what_no_cut_makes_small_goes_as_a_whole(place: str) -> None:
    """Ids and the trace arrive, without which Sentry takes nothing."""
    trace, whole = {"trace_id": "t" * 32, "span_id": "s" * 16, "op": "http.server"}, tree(16)
    given = event(type="transaction", contexts={"trace": dict(trace)})
    if place == "extra":
        given["extra"] = whole
    else:
        given["contexts"] |= {"mine": whole} if place == "contexts" else {"trace": {**trace, "data": whole}}
    data = within_bounds(given)
    found = orjson.loads(data)
    assert len(data) <= MAX_EVENT
    assert (found["event_id"], found["type"], found["contexts"]["trace"]) == ("a" * 32, "transaction", trace)
