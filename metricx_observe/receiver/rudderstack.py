"""Read a RudderStack batch: https://www.rudderstack.com/docs/api/http-api/#batch"""

from __future__ import annotations

from collections import Counter

from .signals import Decoded, Signal, content_id, dump_json, epoch, expect_list, expect_object, first, load_object, mapping

MESSAGE_KINDS = frozenset({"track", "identify", "group", "alias", "page"})


def decode_batch(body: bytes) -> Decoded:
    """The messages of a batch. Types that a backend does not send (screen) are counted.

    Raises:
        Refused: 400 for what is not `{"batch": [{...}, ...]}` in strict JSON.
    """
    batch = expect_list(load_object(body, "the body").get("batch"), "batch")
    signals: list[Signal] = []
    others: Counter[str] = Counter()
    for item in batch:
        message = expect_object(item, "a message")
        kind = first(message.get("type")) or "unknown"
        if kind in MESSAGE_KINDS:
            signals.append(_message(kind, message))
        else:
            others[kind[:50]] += 1
    return Decoded(signals, others)


def _message(kind: str, message: dict[str, object]) -> Signal:
    payload = dump_json(message)
    message_id = first(message.get("messageId")) or content_id(payload)
    context = mapping(message.get("context"))
    return Signal(
        key=f"rudderstack:{message_id}",
        kind=kind,
        vendor="rudderstack",
        id=message_id,
        time=epoch(message.get("originalTimestamp") or message.get("timestamp") or message.get("sentAt")),
        name=first(message.get("event"), message.get("name"), message.get("groupId"), message.get("previousId")) or kind,
        payload=payload,
        trace_id=first(context.get("trace_id")),
        request_id=first(context.get("request_id")),
        user_id=first(message.get("userId")),
        workspace_id=first(context.get("workspace_id")),
    )
