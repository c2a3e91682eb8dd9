"""Read a Sentry envelope: https://develop.sentry.dev/sdk/data-model/envelopes/"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from .signals import (
    Decoded,
    Refused,
    Signal,
    content_id,
    dump_json,
    epoch,
    expect_list,
    first,
    load_object,
    mapping,
    text,
)


def decode_envelope(body: bytes) -> tuple[str | None, Decoded]:
    """The event id of the envelope, and its signals: an event, a transaction, log records. Other items are counted.

    Raises:
        Refused: 400 for a truncated envelope or one that is not JSON where it must be.
    """
    line, _, rest = body.partition(b"\n")
    event_id = text(load_object(line, "the envelope's header").get("event_id"))
    signals: list[Signal] = []
    others: Counter[str] = Counter()
    for item_type, payload in _items(rest):
        if item_type in ("event", "transaction"):
            signals.append(_event(item_type, payload, event_id))
        elif item_type == "log":
            items = load_object(payload, "a log item").get("items")
            signals += [_log(mapping(record)) for record in expect_list(items, "a log item's items")]
        else:
            others[item_type] += 1
    return event_id, Decoded(signals, others)


def _items(rest: bytes) -> Iterator[tuple[str, bytes]]:
    position = 0
    while position < len(rest):
        line, position = _line(rest, position)
        if not line.strip():
            continue
        header = load_object(line, "an item's header")
        length = header.get("length")
        if length is None:
            payload, position = _line(rest, position)
        else:
            if not isinstance(length, int) or not 0 <= length <= len(rest) - position:
                raise Refused(400, "an item is shorter than its length: the envelope is truncated")
            payload = rest[position : position + length]
            position += length
            if rest[position : position + 1] not in (b"\n", b""):
                raise Refused(400, "an item is longer than its length")
            position += 1
        yield (text(header.get("type")) or "unknown")[:50], payload


def _line(data: bytes, position: int) -> tuple[bytes, int]:
    end = data.find(b"\n", position)
    return (data[position:], len(data)) if end < 0 else (data[position:end], end + 1)


def _event(item_type: str, raw: bytes, envelope_id: str | None) -> Signal:
    event = load_object(raw, f"the {item_type} item")
    payload = dump_json(event)
    event_id = first(event.get("event_id"), envelope_id) or content_id(payload)
    tags = _tags(event.get("tags"))
    contexts = mapping(event.get("contexts"))
    trace = mapping(contexts.get("trace"))
    starts = event.get("start_timestamp") if item_type == "transaction" else None
    return Signal(
        key=f"sentry:{event_id}",
        kind="transaction" if item_type == "transaction" else "error",
        vendor="sentry",
        id=event_id,
        time=epoch(event.get("timestamp") if starts is None else starts),
        name=first(event.get("transaction"), "transaction") or "" if item_type == "transaction" else _title(event),
        payload=payload,
        trace_id=text(trace.get("trace_id")),
        parent_id=text(trace.get("parent_span_id")),
        request_id=text(tags.get("request_id")),
        user_id=text(mapping(event.get("user")).get("id")),
        workspace_id=first(tags.get("workspace_id"), mapping(contexts.get("workspace")).get("id")),
    )


def _tags(tags: object) -> dict[str, Any]:
    """Sentry takes tags as an object and as a list of pairs."""
    if isinstance(tags, list):
        return {pair[0]: pair[1] for pair in tags if isinstance(pair, list) and len(pair) == 2 and text(pair[0])}
    return dict(mapping(tags))


def exceptions(event: object) -> list[dict[str, Any]]:
    """The exceptions of an event, the outermost last."""
    found = mapping(event).get("exception")
    values = found if isinstance(found, list) else mapping(found).get("values")
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _title(event: dict[str, Any]) -> str:
    raised = exceptions(event)
    if raised:
        parts = (text(raised[-1].get("type")), text(raised[-1].get("value")))
        return ": ".join(part for part in parts if part) or "exception"
    logged = mapping(event.get("logentry"))
    return first(logged.get("formatted"), logged.get("message"), event.get("message")) or "message"


def _log(record: Any) -> Signal:
    payload = dump_json(record)
    attributes = {key: mapping(value).get("value") for key, value in mapping(record.get("attributes")).items()}
    record_id = content_id(payload)
    return Signal(
        key=f"sentry:{record_id}",
        kind="log",
        vendor="sentry",
        id=record_id,
        time=epoch(record.get("timestamp")),
        name=text(record.get("body")) or "log",
        payload=payload,
        trace_id=text(record.get("trace_id")),
        request_id=text(attributes.get("request_id")),
        user_id=text(attributes.get("user.id")),
        workspace_id=text(attributes.get("workspace_id")),
    )
