"""Sentry's transport: each envelope is frozen on the caller's thread, so that nothing which changes later is in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson
from sentry_sdk.envelope import Envelope, Item, PayloadRef
from sentry_sdk.transport import Transport

from .size import to_json

Put = Callable[[bytes, int], bool]
"""Hands a frozen envelope and its size in bytes to delivery."""
_MAX_ATTACHMENT = 20 << 20
"""Bytes; Sentry takes no larger attachments together (its size limits)."""
_JSON = "metricx_json"
"""The header of an item that is JSON, in a frozen envelope only."""


class EnvelopeTransport(Transport):
    """Hands every envelope over, whatever its items are. `sentry_sdk.flush()` waits until they are committed."""

    def __init__(self, put: Put, commit: Callable[[float], bool]) -> None:
        super().__init__()
        self.put = put
        self._commit = commit

    def capture_envelope(self, envelope: Envelope) -> None:
        frozen = freeze(envelope)
        self.put(frozen, len(frozen))

    def flush(self, timeout: float, callback: Any | None = None) -> None:  # noqa: ARG002
        self._commit(timeout)


def freeze(envelope: Envelope) -> bytes:
    """An envelope as Sentry takes it, but for the scrubbing."""
    items = [({**item.headers, _JSON: item.payload.json is not None}, _body(item)) for item in envelope.items]
    return joined(envelope.headers, items)


def joined(headers: dict[str, Any], items: list[tuple[dict[str, Any], bytes]]) -> bytes:
    """An envelope of these headers and items (headers and body), in Sentry's format."""
    lines = [to_json(headers)]
    for header, body in items:
        lines += [to_json({**header, "length": len(body)}), body]
    return b"\n".join(lines) + b"\n"


def thaw(frozen: bytes) -> tuple[dict[str, Any], list[tuple[dict[str, Any], Any]]]:
    """The headers and the items of a frozen envelope; what is JSON is read."""
    end = frozen.index(b"\n")
    headers, items = orjson.loads(frozen[:end]), []
    while end + 1 < len(frozen):
        begin, end = end + 1, frozen.index(b"\n", end + 1)
        header = orjson.loads(frozen[begin:end])
        body = frozen[end + 1 : end + 1 + header["length"]]
        items.append((header, orjson.loads(body) if header.pop(_JSON) else body))
        end += 1 + header["length"]
    return headers, items


def _body(item: Item) -> bytes:
    """What an item holds now: a file that is attached may hold something else later.

    Of a file that is larger than Sentry takes, only that it was there.
    """
    payload = item.payload
    if payload.json is not None:
        return to_json(payload.json)
    if isinstance(payload, PayloadRef) and payload.bytes is None and payload.path is not None:
        with suppress(OSError):  # where there is none the SDK sends an empty one
            if (size := os.path.getsize(payload.path)) > _MAX_ATTACHMENT:
                return b"[file of %d bytes, too large to be sent]" % size
    return item.get_bytes()
