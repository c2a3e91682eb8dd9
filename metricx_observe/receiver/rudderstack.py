"""Read a RudderStack batch: https://www.rudderstack.com/docs/api/http-api/"""

from __future__ import annotations

from collections import Counter
from typing import Any

from .signals import Decoded, Signal, at_most, content_id, dump, epoch, expect, load, mapping, text

MESSAGE_TYPES = frozenset({"track", "identify", "group", "alias", "page"})


def decode_batch(body: bytes, rows: int) -> Decoded:
    """At most `rows` messages of a batch; types that a backend does not send (screen) are counted. Raises Refused."""
    batch = expect(expect(load(body, "the body"), dict, "the body").get("batch"), list, "batch")
    messages = [expect(message, dict, "a message") for message in at_most(batch, rows)]
    types = [text(message.get("type")) or "unknown" for message in messages]
    signals = [_message(kind, each) for kind, each in zip(types, messages, strict=True) if kind in MESSAGE_TYPES]
    return Decoded(signals, "OK", Counter(kind for kind in types if kind not in MESSAGE_TYPES))


def _message(kind: str, message: dict[str, Any]) -> Signal:
    payload = dump(message)
    message_id = text(message.get("messageId")) or content_id(payload)
    context = mapping(message.get("context"))
    names = (message.get(field) for field in ("event", "name", "groupId", "previousId"))
    return Signal(
        key=f"rudderstack:{message_id}",
        kind=kind,
        vendor="rudderstack",
        id=message_id,
        time=epoch(message.get("originalTimestamp"), message.get("timestamp")),
        name=text(*names) or kind,
        payload=payload,
        trace_id=text(context.get("trace_id")),
        request_id=text(context.get("request_id")),
        user_id=text(message.get("userId")),
        workspace_id=text(context.get("workspace_id")),
    )
