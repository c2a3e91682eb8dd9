"""Read a Sentry envelope: https://develop.sentry.dev/sdk/data-model/envelopes/"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from .signals import Decoded, Refused, Signal, at_most, content_id, dump, epoch, expect, load, mapping, text

_SPACE = re.compile(rb"\s*")
"""Lines without content may stand between items."""


def decode_envelope(body: bytes, rows: int) -> Decoded:
    """An envelope's event, transaction or log records; items of other types are counted.

    Raises:
        Refused: 400 for a truncated envelope, and for one that is not JSON where it must be; 413 for more than `rows`.
    """
    header_bytes, begin = _until_newline(body, 0)
    event_id = text(expect(load(header_bytes, "the envelope's header"), dict, "the envelope's header").get("event_id"))
    others: Counter[str] = Counter()
    signals = list(at_most(_signals(at_most(_items(body, begin), rows), event_id, others), rows))
    return Decoded(signals, {"id": event_id} if event_id else {}, others)


def _signals(items: Iterator[tuple[str, bytes]], event_id: str | None, others: Counter[str]) -> Iterator[Signal]:
    for item_type, payload in items:
        if item_type in ("event", "transaction"):
            yield _event(item_type, expect(load(payload, "the event"), dict, "the event"), event_id)
        elif item_type == "log":
            logs = expect(load(payload, "the log item"), dict, "the log item")
            yield from (_log(mapping(log)) for log in expect(logs.get("items"), list, "the log item's items"))
        else:
            others[item_type] += 1


def _items(body: bytes, position: int) -> Iterator[tuple[str, bytes]]:
    """Type and payload of each item: a line of JSON, then `length` bytes, or the next line where it has no length."""
    while (position := _after_space(body, position)) < len(body):
        header_bytes, position = _until_newline(body, position)
        header = expect(load(header_bytes, "an item's header"), dict, "an item's header")
        length = header.get("length")
        if length is None:
            payload, position = _until_newline(body, position)
        else:
            if not isinstance(length, int) or not 0 <= length <= len(body) - position:
                raise Refused(400, "an item is shorter than its length: the envelope is truncated")
            payload, position = body[position : position + length], position + length + 1
            if body[position - 1 : position] not in (b"\n", b""):
                raise Refused(400, "an item is longer than its length")
        yield text(header.get("type")) or "unknown", payload


def _until_newline(data: bytes, position: int) -> tuple[bytes, int]:
    end = data.find(b"\n", position)
    return (data[position:], len(data)) if end < 0 else (data[position:end], end + 1)


def _after_space(data: bytes, position: int) -> int:
    found = _SPACE.match(data, position)
    return found.end() if found else position


def _event(item_type: str, event: dict[str, Any], envelope_id: str | None) -> Signal:
    payload = dump(event)
    event_id = text(event.get("event_id"), envelope_id) or content_id(payload)
    tags, contexts = _tags(event.get("tags")), mapping(event.get("contexts"))
    trace = mapping(contexts.get("trace"))
    is_error = item_type == "event"
    return Signal(
        key=f"sentry:{event_id}",
        kind="error" if is_error else "transaction",
        vendor="sentry",
        id=event_id,
        time=epoch(None if is_error else event.get("start_timestamp"), event.get("timestamp")),
        name=_title(event) if is_error else text(event.get("transaction")) or "transaction",
        payload=payload,
        trace_id=text(trace.get("trace_id")),
        parent_id=text(trace.get("parent_span_id")),
        request_id=text(tags.get("request_id")),
        user_id=text(mapping(event.get("user")).get("id")),
        workspace_id=text(tags.get("workspace_id"), mapping(contexts.get("workspace")).get("id")),
    )


def _tags(tags: object) -> dict[str, Any]:
    """Sentry takes tags as an object and as a list of pairs."""
    if isinstance(tags, list):
        return {str(pair[0]): pair[1] for pair in tags if isinstance(pair, list) and len(pair) == 2}
    return dict(mapping(tags))


def raised(event: object) -> tuple[str | None, str | None]:
    """Type and text of the exception that an event reports: the last, the others are what it came from."""
    found = mapping(event).get("exception")
    values = found if isinstance(found, list) else mapping(found).get("values")
    last = mapping(values[-1]) if isinstance(values, list) and values else {}
    return text(last.get("type")), text(last.get("value"))


def _title(event: dict[str, Any]) -> str:
    logged = mapping(event.get("logentry"))
    title = ": ".join(part for part in raised(event) if part)
    return text(title, logged.get("formatted"), logged.get("message"), event.get("message")) or "error"


def _log(log: Any) -> Signal:
    payload = dump(log)
    attributes = {key: mapping(value).get("value") for key, value in mapping(log.get("attributes")).items()}
    return Signal(
        key=f"sentry:log:{content_id(payload)}",
        kind="log",
        vendor="sentry",
        id=content_id(payload),
        time=epoch(log.get("timestamp")),
        name=text(log.get("body")) or "log",
        payload=payload,
        trace_id=text(log.get("trace_id")),
        request_id=text(attributes.get("request_id")),
        user_id=text(attributes.get("user.id")),
        workspace_id=text(attributes.get("workspace_id")),
    )
