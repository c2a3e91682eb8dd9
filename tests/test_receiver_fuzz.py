"""Anything posted to any path: a 2xx or a 4xx that says why, and pages that still render."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metricx_observe.receiver import Limits
from tests.receiver_server import Receiver, running_receiver
from tests.receiver_wire import (
    INGESTION,
    JSON,
    MEDIA,
    OTLP,
    PROTOBUF,
    RUDDERSTACK,
    SCORES,
    SENTRY,
    envelope,
    export,
    protobuf,
    span,
)

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ROWS = 20

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


def shaped(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with any of these fields, each of its own shape or of any."""
    return st.fixed_dictionaries({}, optional={name: shape | values for name, shape in fields.items()})


short = st.text(max_size=20)
ids = st.sampled_from(["a" * 32, "b" * 16, "c" * 16, "", "A" * 32])
numbers = st.integers() | st.integers(0, 1 << 64).map(str) | st.floats()
trace = shaped(trace_id=short, parent_span_id=short, status=short)
exception = shaped(values=st.lists(shaped(type=short, value=short), max_size=2))
events = shaped(
    event_id=short,
    timestamp=numbers | short,
    start_timestamp=numbers,
    level=short,
    user=shaped(id=short),
    tags=shaped(request_id=st.just("r"), workspace_id=short) | st.lists(st.tuples(short, short), max_size=2),
    contexts=shaped(trace=trace, workspace=shaped(id=short)),
    exception=exception,
    logentry=shaped(formatted=short),
    request=shaped(method=short),
)
logs = shaped(items=st.lists(shaped(body=short, timestamp=numbers, attributes=shaped(request_id=values)), max_size=3))
items = st.tuples(st.sampled_from(["event", "transaction", "log", "session"]) | short, events | logs | values)
messages = shaped(
    type=st.sampled_from(["track", "identify", "group", "alias", "page", "screen"]),
    event=short,
    messageId=short,
    userId=short,
    originalTimestamp=short | numbers,
    properties=values,
    context=shaped(request_id=st.just("r"), trace_id=short, page=shaped(path=short)),
)
any_values = st.recursive(
    shaped(stringValue=short, intValue=numbers, doubleValue=st.floats(), boolValue=st.booleans(), bytesValue=short),
    lambda inner: st.fixed_dictionaries({"arrayValue": shaped(values=st.lists(inner, max_size=2))}),
    max_leaves=4,
)
attribute_names = st.sampled_from(
    ["user.id", "langfuse.trace.metadata.request_id", "langfuse.observation.type", "langfuse.observation.usage_details"]
)
attributes = st.lists(shaped(key=attribute_names, value=any_values), max_size=4)
spans = shaped(
    traceId=ids,
    spanId=ids,
    parentSpanId=ids,
    name=short,
    startTimeUnixNano=numbers,
    endTimeUnixNano=numbers,
    attributes=attributes,
    status=shaped(code=st.integers(), message=short),
)
exports = shaped(
    resourceSpans=st.lists(
        shaped(
            resource=shaped(attributes=attributes),
            scopeSpans=st.lists(shaped(scope=shaped(name=short), spans=st.lists(spans, max_size=3)), max_size=2),
        ),
        max_size=2,
    )
)
scores = shaped(id=short, name=short, value=numbers | short, traceId=ids, timestamp=short, metadata=values)
ingested = shaped(
    batch=st.lists(shaped(id=short, type=st.sampled_from(["score-create", "trace-create"]), body=scores), max_size=3)
)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with running_receiver(limits=Limits(rows=ROWS, rows_per_s=1_000_000)) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def client(receiver: Receiver) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=receiver.url, timeout=30, trust_env=False) as client:
        yield client


def as_json(body: object) -> bytes:
    return json.dumps(body).encode()


def check(client: httpx.Client, path: str, body: bytes, **headers: str) -> None:
    """The post is answered, with a reason where it is refused, and everything can still be shown."""
    answer = client.post(path, content=body, headers=headers)
    assert 200 <= answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.json()["message"]
    for page in ("/", "/requests/r", "/api/signals"):
        assert client.get(page).status_code in (200, 404)
    assert client.get("/api/health").json()["signals"] <= ROWS


@given(st.lists(items, max_size=3), st.dictionaries(short, values, max_size=2))
@FUZZ
def test_any_envelope(client: httpx.Client, parts: list[tuple[str, Any]], header: dict[str, Any]) -> None:
    """Envelopes with items of any shape."""
    check(client, SENTRY, envelope(*parts, header=header))


@given(shaped(batch=st.lists(messages, max_size=3)) | values)
@FUZZ
def test_any_batch(client: httpx.Client, body: object) -> None:
    """Batches with messages of any shape."""
    check(client, RUDDERSTACK, as_json(body))


@given(exports | values)
@FUZZ
def test_any_otlp_json(client: httpx.Client, body: object) -> None:
    """OTLP/JSON exports with spans of any shape."""
    check(client, OTLP, as_json(body), **JSON)


@given(scores | st.lists(scores, max_size=3) | values, st.sampled_from([SCORES, MEDIA]))
@FUZZ
def test_any_score_and_media(client: httpx.Client, body: object, path: str) -> None:
    """Scores and media of any shape."""
    check(client, path, as_json(body))


@given(ingested | values)
@FUZZ
def test_any_ingestion(client: httpx.Client, body: object) -> None:
    """Ingestion batches of any shape."""
    check(client, INGESTION, as_json(body))


WHOLE = protobuf(export(span(), span(spanId="c" * 16, parentSpanId="b" * 16, name="a longer name")))


@given(st.data())
@FUZZ
def test_damaged_protobuf(client: httpx.Client, data: st.DataObject) -> None:
    """A valid export with bytes changed, cut off or repeated."""
    body = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(0, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.integers(0, len(body)))] * data.draw(st.integers(1, 2))
    check(client, OTLP, bytes(body), **PROTOBUF)


@given(
    st.binary(max_size=300),
    st.sampled_from([SENTRY, RUDDERSTACK, OTLP, SCORES, INGESTION, MEDIA]),
    st.sampled_from(["", "gzip", "deflate", "identity", "br", "x"]),
    st.sampled_from([*JSON.values(), *PROTOBUF.values(), "text/plain", ""]),
    st.booleans(),
)
@FUZZ
def test_any_bytes(client: httpx.Client, body: bytes, path: str, coding: str, media_type: str, zipped: bool) -> None:
    """Any bytes under any encoding and type."""
    body = gzip.compress(body) if zipped else body
    check(client, path, body, **{"Content-Encoding": coding, "Content-Type": media_type})


@given(st.dictionaries(st.sampled_from(["kind", "user", "since", "limit", "cursor", "version", "request_id"]), short))
@FUZZ
def test_any_query(client: httpx.Client, query: dict[str, str]) -> None:
    """Any query string of the API and the pages."""
    for path in ("/api/signals", "/", "/signals"):
        assert client.get(path, params=query).status_code < 500
    for value in query.values():
        assert client.get(f"/requests/{quote(value, safe='')}").status_code < 500
