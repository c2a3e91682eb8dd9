"""Read what Langfuse's SDK sends: observations as OTLP spans, and scores."""

from __future__ import annotations

from typing import Any

import orjson

from .otlp import read_spans
from .signals import Decoded, Refused, Signal, at_most, content_id, dump, epoch, expect, load, mapping, text, within

PAYLOAD_BYTES = 64 << 20
"""Of the observations of one post: each repeats its resource, which stands in the post once."""
GENERATION_TYPES = frozenset({"generation", "embedding"})
"""What Langfuse treats as a model call: these have a model and a usage."""


def decode_traces(body: bytes, rows: int, content_type: str) -> Decoded:
    """At most `rows` spans of an OTLP export as traces, generations and observations. Raises Refused."""
    spans = read_spans(body, content_type.partition(";")[0].strip().lower())
    return Decoded(list(within(map(_observation, at_most(spans, rows)), PAYLOAD_BYTES)))


def _observation(span: dict[str, Any]) -> Signal:
    attributes = span["attributes"]
    root = span["parentSpanId"] is None or attributes.get("langfuse.internal.as_root") is True
    # A model call that is a trace by itself is a generation: that is what somebody looks for.
    is_generation = text(attributes.get("langfuse.observation.type")) in GENERATION_TYPES
    return Signal(
        key=f"langfuse:{span['traceId']}:{span['spanId']}",
        kind="generation" if is_generation else "trace" if root else "observation",
        vendor="langfuse",
        id=span["spanId"],
        time=epoch(span["startTimeUnixNano"] / 1e9 or None),
        name=text(span.get("name")) or "span",
        payload=dump(span),
        trace_id=span["traceId"],
        request_trace_id=_metadata(attributes, "request_trace_id"),
        parent_id=span["parentSpanId"],
        request_id=_metadata(attributes, "request_id"),
        user_id=text(attributes.get("user.id")),
        workspace_id=_metadata(attributes, "workspace_id"),
    )


def _metadata(attributes: dict[str, Any], key: str) -> str | None:
    """A value of the trace's metadata. Version 5 of the SDK writes each as JSON, strings included."""
    value = attributes.get(f"langfuse.trace.metadata.{key}")
    if isinstance(value, str) and value.startswith('"'):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            pass
    return text(value)


def decode_scores(body: bytes, rows: int) -> Decoded:
    """At most `rows` scores: a list from SDK 5, one object from those before it. Raises Refused."""
    posted = load(body, "the body")
    if isinstance(posted, list):
        return Decoded([_score(score) for score in at_most(posted, rows)], {"message": "Accepted"})
    score = _score(posted)
    return Decoded([score], {"id": score.id})


def decode_ingestion(body: bytes, rows: int) -> Decoded:
    """The scores of a batch of SDKs before 5. The answer names successes and errors by event; the rest are errors.

    Raises Refused: 400, and 413 for more than `rows` events.
    """
    batch = expect(expect(load(body, "the body"), dict, "the body").get("batch"), list, "batch")
    signals: list[Signal] = []
    answer: dict[str, list[dict[str, Any]]] = {"successes": [], "errors": []}
    for event in (expect(item, dict, "an event of the batch") for item in at_most(batch, rows)):
        outcome: dict[str, Any] = {"id": text(event.get("id")), "status": 201}
        try:
            if event.get("type") != "score-create":
                raise Refused(400, "the local receiver takes score-create here; SDK 5 sends observations as OTLP")
            signals.append(_score(event.get("body"), event.get("timestamp")))
            answer["successes"].append(outcome)
        except Refused as refused:
            answer["errors"].append(outcome | {"status": refused.status_code, "message": refused.detail})
    return Decoded(signals, answer)


def _score(posted: object, sent_at: object = None) -> Signal:
    score = expect(posted, dict, "a score")
    name, value = text(score.get("name")), score.get("value")
    if name is None or not isinstance(value, str | int | float):
        raise Refused(400, "a score needs a name, and a value that is text or a number")
    payload = dump(score)
    score_id = text(score.get("id")) or content_id(payload)
    metadata = mapping(score.get("metadata"))
    return Signal(
        key=f"langfuse:score:{score_id}",
        kind="score",
        vendor="langfuse",
        id=score_id,
        time=epoch(score.get("timestamp"), sent_at),
        name=name,
        payload=payload,
        trace_id=text(score.get("traceId")),
        request_trace_id=text(metadata.get("request_trace_id")),
        parent_id=text(score.get("observationId")),
        request_id=text(metadata.get("request_id")),
        workspace_id=text(metadata.get("workspace_id")),
    )
