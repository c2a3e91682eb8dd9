"""Read what Langfuse's SDK sends: observations as OTLP spans, scores, and the older ingestion batches."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson

from .otlp import Span, read_json, read_protobuf
from .signals import (
    Decoded,
    Refused,
    Signal,
    content_id,
    dump_json,
    epoch,
    expect_list,
    expect_object,
    first,
    load_json,
    load_object,
    mapping,
    text,
)

GENERATION_TYPES = frozenset({"generation", "embedding"})
"""What Langfuse treats as a model call: these have a model and a usage."""

_METADATA = "langfuse.trace.metadata."


def decode_traces(body: bytes, content_type: str) -> Decoded:
    """The spans of an OTLP export as traces, generations and observations.

    Raises:
        Refused: 400 for a body that is not what its type says, 415 for another type than protobuf or JSON.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "application/x-protobuf":
        spans = read_protobuf(body)
    elif media_type == "application/json":
        spans = read_json(body)
    else:
        raise Refused(415, "Content-Type must be application/x-protobuf or application/json")
    return Decoded([_observation(span) for span in spans], Counter())


def _observation(span: Span) -> Signal:
    attributes = span["attributes"]
    return Signal(
        key=f"langfuse:{span['traceId']}:{span['spanId']}",
        kind=_kind(span),
        vendor="langfuse",
        id=span["spanId"],
        time=epoch(span["startTimeUnixNano"] / 1e9),
        name=text(span["name"]) or "span",
        payload=dump_json(span),
        trace_id=span["traceId"],
        request_trace_id=_metadata(attributes, "request_trace_id"),
        parent_id=span["parentSpanId"],
        request_id=_metadata(attributes, "request_id"),
        user_id=text(attributes.get("user.id")),
        workspace_id=_metadata(attributes, "workspace_id"),
    )


def _kind(span: Span) -> str:
    """A model call is a generation, also where it is a trace by itself: then it is what somebody looks for."""
    attributes = span["attributes"]
    if attributes.get("langfuse.observation.type") in GENERATION_TYPES:
        return "generation"
    root = span["parentSpanId"] is None or attributes.get("langfuse.internal.as_root") is True
    return "trace" if root else "observation"


def _metadata(attributes: dict[str, Any], key: str) -> str | None:
    """A value of the trace's metadata. Version 5 of the SDK writes each as JSON, strings included."""
    value = attributes.get(_METADATA + key)
    if isinstance(value, str) and value.startswith('"'):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            pass
    return text(value)


def decode_scores(body: bytes) -> tuple[list[str], bool, Decoded]:
    """The ids of the scores, whether they came as a batch, and the scores. A single object is the older form."""
    value = load_json(body, "the body")
    batch = isinstance(value, list)
    scores = [_score(expect_object(item, "a score"), None) for item in (value if batch else [value])]
    return [score.id for score in scores], batch, Decoded(scores, Counter())


def decode_ingestion(body: bytes) -> tuple[dict[str, Any], Decoded]:
    """What the older `/api/public/ingestion` answers (207: successes and errors by event id), and the signals.

    Updates are refused one by one: they hold a part of an observation, which would replace the whole.
    """
    batch = expect_list(load_object(body, "the body").get("batch"), "batch")
    answer: dict[str, Any] = {"successes": [], "errors": []}
    signals: list[Signal] = []
    for item in batch:
        event = expect_object(item, "an event of the batch")
        event_id, event_type = text(event.get("id")) or "", text(event.get("type")) or ""
        try:
            signals.append(_ingested(event_type, expect_object(event.get("body"), "the body of an event"), event))
            answer["successes"].append({"id": event_id, "status": 201})
        except Refused as refused:
            answer["errors"].append({"id": event_id, "status": refused.status, "message": refused.reason})
    return answer, Decoded(signals, Counter())


_INGESTED_KINDS = {
    "trace-create": "trace",
    "generation-create": "generation",
    "span-create": "observation",
    "event-create": "observation",
}


def _ingested(event_type: str, body: dict[str, Any], event: dict[str, Any]) -> Signal:
    if event_type == "score-create":
        return _score(body, event.get("timestamp"))
    if event_type not in _INGESTED_KINDS:
        raise Refused(400, "the local receiver takes score-create, trace-create and create events of observations only")
    payload = dump_json(body)
    body_id = first(body.get("id")) or content_id(payload)
    kind = _INGESTED_KINDS[event_type]
    metadata = mapping(body.get("metadata"))
    trace_id = body_id if kind == "trace" else text(body.get("traceId"))
    return Signal(
        key=f"langfuse:{trace_id}:{event_type}:{body_id}",
        kind=kind,
        vendor="langfuse",
        id=body_id,
        time=epoch(body.get("startTime") or body.get("timestamp") or event.get("timestamp")),
        name=text(body.get("name")) or kind,
        payload=payload,
        trace_id=trace_id,
        request_trace_id=text(metadata.get("request_trace_id")),
        parent_id=text(body.get("parentObservationId")),
        request_id=text(metadata.get("request_id")),
        user_id=text(body.get("userId")),
        workspace_id=text(metadata.get("workspace_id")),
    )


def _score(body: dict[str, Any], sent_at: object) -> Signal:
    if text(body.get("name")) is None or not isinstance(body.get("value"), str | int | float):
        raise Refused(400, "a score needs a name, and a value that is text or a number")
    payload = dump_json(body)
    score_id = first(body.get("id")) or content_id(payload)
    metadata = mapping(body.get("metadata"))
    return Signal(
        key=f"langfuse:score:{score_id}",
        kind="score",
        vendor="langfuse",
        id=score_id,
        time=epoch(body.get("timestamp") or sent_at),
        name=text(body["name"]) or "score",
        payload=payload,
        trace_id=text(body.get("traceId")),
        request_trace_id=text(metadata.get("request_trace_id")),
        parent_id=text(body.get("observationId")),
        request_id=text(metadata.get("request_id")),
        workspace_id=text(metadata.get("workspace_id")),
    )
