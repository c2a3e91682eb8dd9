"""What the receiver makes of OTLP traces and of Langfuse's scores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.receiver_server import Receiver, running_receiver
from tests.receiver_wire import (
    INGESTION,
    JSON,
    MEDIA,
    OTLP,
    PROTOBUF,
    SCORES,
    attribute,
    export,
    post,
    protobuf,
    refusal,
    span,
)


@pytest.fixture(scope="module")
def server() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


@pytest.fixture
def receiver(server: Receiver) -> Receiver:
    server.clear()
    return server


def test_otlp_json_and_protobuf_store_the_same(receiver: Receiver) -> None:
    """The two forms of one span give one row, equal in every field, whatever types its attributes have."""
    pairs = [attribute("k", intValue="1")]
    attributes = [
        attribute("user.id", stringValue="u1"),
        attribute("langfuse.trace.metadata.request_id", stringValue='"r1"'),
        attribute("langfuse.trace.metadata.workspace_id", stringValue="w1"),
        attribute("count", intValue="-9007199254740993"),
        attribute("ratio", doubleValue=0.5),
        attribute("flag", boolValue=True),
        attribute("list", arrayValue={"values": [{"stringValue": "a"}, {"kvlistValue": {"values": pairs}}]}),
        attribute("raw", bytesValue="AAE="),
        attribute("nothing"),
    ]
    one = span(parentSpanId="c" * 16, attributes=attributes, status={"code": 2}, events=[{"name": "e"}])
    scoped = {"scope": {"name": "lib"}, "spans": [one]}
    group = {"resource": {"attributes": [attribute("service.name", stringValue="shop")]}, "scopeSpans": [scoped]}
    whole = {"resourceSpans": [group]}
    stored = []
    for body, headers in ((json.dumps(whole).encode(), JSON), (protobuf(whole), PROTOBUF)):
        receiver.clear()
        response = httpx.post(receiver.url + OTLP, content=body, headers=headers)
        assert (response.status_code, response.headers["content-type"]) == (200, headers["Content-Type"])
        (row,) = receiver.signals()
        stored.append({name: value for name, value in row.items() if name != "received"})
    assert stored[0] == stored[1]
    row = stored[0]
    assert (row["kind"], row["user_id"], row["request_id"], row["workspace_id"]) == ("observation", "u1", "r1", "w1")
    assert row["payload"]["attributes"]["count"] == -9007199254740993
    assert row["payload"]["attributes"]["list"] == ["a", {"k": 1}]
    assert (row["payload"]["resource"], row["payload"]["scope"]) == ({"service.name": "shop"}, "lib")


def test_kinds_of_langfuse_spans(receiver: Receiver) -> None:
    """Model calls are generations, roots are traces (also those that Langfuse marks as one), the rest observations."""

    def typed(name: str, value: str) -> dict[str, Any]:
        attributes = [attribute("langfuse.observation.type", stringValue=value)]
        return span(spanId=f"{len(spans)}" * 16, parentSpanId="a" * 16, name=name, attributes=attributes)

    as_root = [attribute("langfuse.internal.as_root", boolValue=True)]
    spans = [span(name="trace"), span(spanId="c" * 16, name="trace", parentSpanId="d" * 16, attributes=as_root)]
    for name, value in (("generation", "generation"), ("generation", "embedding"), ("observation", "agent")):
        spans.append(typed(name, value))
    spans.append(typed("generation", "generation") | {"parentSpanId": ""})
    assert post(receiver, OTLP, export(*spans), **JSON).json() == {}
    assert len(receiver.signals()) == 6
    assert all(each["kind"] == each["name"] for each in receiver.signals())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ([], "not a JSON object"),
        ({"resourceSpans": {}}, "not a JSON array"),
        ({"resourceSpans": [1]}, "not a JSON object"),
        ({"resourceSpans": [{"scopeSpans": [{"scope": [1], "spans": []}]}]}, "scope is not a JSON object"),
        (export(span(traceId="zz")), "traceId is not 32 hex digits"),
        (export(span(spanId=None)), "spanId is not 16 hex digits"),
        (export(span(parentSpanId="abc")), "parentSpanId is not 16 hex digits"),
        (export(span(startTimeUnixNano="tomorrow")), "64-bit integer"),
        (export(span(startTimeUnixNano="9" * 5000)), "64-bit integer"),
        (export(span(attributes=[attribute("a", intValue=str(1 << 64))])), "64-bit integer"),
        (export(span(attributes=[attribute("a", arrayValue=3)])), "arrayValue is not a JSON object"),
        (export(span(attributes=[{"key": "a", "value": 3}])), "attribute's value is not a JSON object"),
    ],
)
def test_bad_otlp_json_is_refused_with_the_reason(receiver: Receiver, body: Any, reason: str) -> None:
    """Each fault in an OTLP/JSON export is a 400 that names the field, never a 500."""
    assert reason in refusal(post(receiver, OTLP, body, **JSON), 400)


@pytest.mark.parametrize(
    ("before", "after", "levels", "status"),
    [
        ('{"arrayValue":{"values":[', "]}}", 335, 400),
        ('{"kvlistValue":{"values":[{"key":"k","value":', "}]}}", 245, 200),
        ('{"kvlistValue":{"values":[{"key":"k","value":', "}]}}", 400, 400),
    ],
)
def test_deeply_nested_attributes(receiver: Receiver, before: str, after: str, levels: int, status: int) -> None:
    """An attribute nested up to the parser's own limit, and beyond, is shown or a 400; the stack never ends."""
    nested = before * levels + '{"intValue":"1"}' + after * levels
    deep = json.dumps(span())[:-1] + ', "attributes":[{"key":"a","value":' + nested + "}]}"
    body = '{"resourceSpans":[{"scopeSpans":[{"spans":[' + deep + "]}]}]}"
    assert post(receiver, OTLP, body.encode(), **JSON).status_code == status
    assert receiver.get("/").text
    assert len(receiver.signals()) == (status == 200)


def test_bad_protobuf_and_other_types_are_refused(receiver: Receiver) -> None:
    """Truncated protobuf is a 400, another Content-Type a 415 that names the two that are read."""
    whole = export(span(parentSpanId="c" * 16))
    assert "truncated" in refusal(post(receiver, OTLP, protobuf(whole)[:-5], **PROTOBUF), 400)
    assert "protobuf or application/json" in refusal(post(receiver, OTLP, b"", **{"Content-Type": "text/plain"}), 415)


def test_two_concatenated_protobuf_exports_are_one(receiver: Receiver) -> None:
    """A courier may join stored exports byte by byte: protobuf reads them as one message."""
    one = protobuf(export(span()))
    two = protobuf(export(span(spanId="d" * 16)))
    assert post(receiver, OTLP, one + two, **PROTOBUF).status_code == 200
    assert len(receiver.signals(trace_id="a" * 32)) == 2


def test_scores_come_as_a_list_and_as_one_object(receiver: Receiver) -> None:
    """SDK 5 posts lists and reads 202; those before it post an object and read its id. The id replaces."""
    score = {"id": "s1", "name": "helpful", "value": 1, "traceId": "a" * 32, "observationId": "b" * 16}
    accepted = post(receiver, SCORES, [score, {**score, "id": "s2"}])
    assert (accepted.status_code, accepted.json()) == (202, {"message": "Accepted"})
    one = post(receiver, SCORES, {**score, "value": 0})
    assert (one.status_code, one.json()) == (200, {"id": "s1"})
    assert {each["id"]: each["payload"]["value"] for each in receiver.signals(kind="score")} == {"s1": 0, "s2": 1}
    assert "name" in refusal(post(receiver, SCORES, [{"value": 1}]), 400)
    assert "not a JSON object" in refusal(post(receiver, SCORES, [1]), 400)


def test_ingestion_answers_for_each_event(receiver: Receiver) -> None:
    """The older batch is a 207: a score is taken, what the receiver does not read is an error with a reason."""
    batch = [
        {"id": "1", "type": "score-create", "timestamp": "2026-01-02T03:04:05Z", "body": {"name": "n", "value": "x"}},
        {"id": "2", "type": "span-update", "body": {}},
        {"id": "3", "type": "score-create", "body": {}},
    ]
    answer = post(receiver, INGESTION, {"batch": batch})
    assert answer.status_code == 207
    assert answer.json()["successes"] == [{"id": "1", "status": 201}]
    assert [(each["id"], each["status"]) for each in answer.json()["errors"]] == [("2", 400), ("3", 400)]
    (score,) = receiver.signals()
    assert (score["name"], score["time"]) == ("n", "2026-01-02T03:04:05.000000Z")


def test_media_is_said_to_be_there_already(receiver: Receiver) -> None:
    """The SDK then uploads nothing; the id is the one that it computed itself from the digest."""
    answer = post(receiver, MEDIA, {"sha256Hash": "ab+/cdefghijklmnopqrstuvwxyz="})
    assert answer.json() == {"mediaId": "ab-_cdefghijklmnopqrst", "uploadUrl": None}


def test_a_score_that_comes_before_its_trace_learns_its_user_from_it(receiver: Receiver) -> None:
    """Whichever arrives first, a score is found under its trace's request and user."""
    post(receiver, SCORES, [{"id": "s1", "name": "n", "value": 1, "traceId": "a" * 32}])
    known = [
        attribute("user.id", stringValue="u1"),
        attribute("langfuse.trace.metadata.request_id", stringValue="r1"),
        attribute("langfuse.trace.metadata.request_trace_id", stringValue="t" * 32),
    ]
    post(receiver, OTLP, export(span(attributes=known)), **JSON)
    post(receiver, SCORES, [{"id": "s2", "name": "n", "value": 1, "traceId": "a" * 32}])
    assert {each["id"] for each in receiver.signals(kind="score", request_id="r1", user="u1")} == {"s1", "s2"}
    assert len(receiver.signals(trace_id="t" * 32)) == 3
