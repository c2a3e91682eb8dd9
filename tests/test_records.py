"""Records wait as bytes: nothing that the garbage collector would walk through, and all of it comes back."""

from __future__ import annotations

import gc
from typing import Any

import orjson
from starlette.routing import Route

from metricx_observe.boundary import Boundary
from metricx_observe.context import Context, RequestContext
from metricx_observe.normalise import freeze
from metricx_observe.request.facts import ANALYTICS_HEADERS, RequestFacts, RequestInfo, first_headers
from metricx_observe.request.inbound import new_cell
from metricx_observe.signals.llm import LLMTracer
from metricx_observe.signals.tracker import Tracker

ROUTED: dict[str, Any] = {"route": Route("/a/{id}", print), "endpoint": print, "path_params": {"id": 1}}
"""Of a scope whose route is known."""


class Text(str):
    """A text of a class of its own, as an enum's is."""


class Sink:
    """Keeps the records."""

    client = None

    def __init__(self) -> None:
        self.records: list[Any] = []

    def put(self, type: str, record: bytes) -> bool:
        """Keep it."""
        self.records.append(record)
        return bool(type)

    def put_event(self, record: bytes, size: int) -> bool:
        """Keep it."""
        self.records.append(record)
        return size > 0

    def samples(self, trace_id: str) -> bool:
        """All."""
        return bool(trace_id)

    def url(self, trace_id: str) -> str:
        """Anything."""
        return trace_id


def cell(**scope: Any) -> Context:
    """A request's, with all that may be bound."""
    given = {"method": "POST", "path": "/a/1", "query_string": b"q=1", "headers": [(b"host", b"shop.example")], **scope}
    found = Context(RequestContext("r1", "a" * 32), RequestInfo(given, first_headers(given["headers"])))
    found.bind_user("bob", email="bob@example.com", traits={"plan": {"pro"}}, workspace_id="w1")
    found.set_tag("page", "1")
    found.set_consent(analytics=True)
    return found


def test_an_event_waits_as_bytes() -> None:
    """It says whose request it was and which, as it was at the call; what the user has stays at home."""
    sink, request = Sink(), cell(**ROUTED, client=("10.0.0.1", 5), server=("shop.example", 443))
    Tracker(sink.put_event, Boundary(), request).track("bought", {"n": 1})
    request.bind_user("mallory")
    request.set_consent(analytics=False)
    (frozen,) = sink.records
    assert isinstance(frozen, bytes)
    record = orjson.loads(frozen)
    assert (record["name"], record["user_id"], record["values"]) == ("bought", "bob", {"n": 1})
    assert record["context"] == {
        "request_id": "r1", "trace_id": "a" * 32, "user_id": "bob", "workspace_id": "w1", "tags": {"page": "1"},
        "consent": {"analytics": True, "llm_content": None},
    }  # fmt: skip
    assert b"bob@example.com" not in frozen
    assert RequestFacts(**record["request"]).path(lambda _, text: text) == "/a/1"


def test_a_servers_own_types_are_no_loss() -> None:
    """What JSON does not know of a scope costs itself only."""
    sink = Sink()
    Tracker(sink.put_event, Boundary(), cell(**ROUTED, client=object())).track(Text("bought"), user_id=Text("u1"))
    (frozen,) = sink.records
    record = orjson.loads(frozen)
    assert (record["name"], record["user_id"], record["request"]["client"]) == ("bought", "u1", None)


def test_an_observation_waits_as_bytes() -> None:
    """Long texts too, and what all observations of a trace share."""
    sink, long = Sink(), [{"role": "user", "content": "why? " * 2_000}]
    tracer = LLMTracer(sink, Boundary(), cell())
    with tracer.trace("ask", metadata={"a": [1]}, tags=["x"]) as trace:
        trace.generation("answer", input=long).end()
    assert {type(each) for each in sink.records} == {bytes}
    first, second = map(orjson.loads, sink.records)
    assert (first["fields"], first["parent_id"]) == ({"input": long}, second["id"])
    for record in (first, second):
        assert record["trace"] == {
            "name": "ask", "user_id": "bob", "workspace_id": "w1", "session_id": None, "tags": ["x"],
            "metadata": {"a": [1]},
        }  # fmt: skip


def test_nothing_that_waits_is_walked_through() -> None:
    """Neither the bytes nor what stands around them in the queue, once a collection has seen it."""
    waiting = [("rudderstack", freeze({"a": {"b": [1.5, None]}}), 400) for _ in range(3)]
    gc.collect(0)
    assert not any(map(gc.is_tracked, waiting))


def test_events_take_the_headers_of_analytics_only() -> None:
    """As the client sent them; a transaction takes all headers."""
    pairs = [(b"cookie", b"_ga=1"), (b"x-other", b"1"), (b"cookie", b"rl_x=2"), (b"referer", b"a"), (b"referer", b"b")]
    _, info = new_cell({"method": "GET", "path": "/", "headers": pairs, **ROUTED})
    texts = [(name.decode(), value.decode()) for name, value in pairs]
    assert info.facts(ANALYTICS_HEADERS).headers == [pair for pair in texts if pair[0] != "x-other"]
    assert info.facts().headers == texts
