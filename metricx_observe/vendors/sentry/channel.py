"""Sentry's envelopes: as the SDK hands them over, as the writer scrubs them, as they are posted, and what is answered.

Each is frozen on the caller's thread, so that nothing which changes later is in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any

import orjson
import sentry_sdk
from sentry_sdk.consts import EndpointType
from sentry_sdk.envelope import Envelope, Item, PayloadRef
from sentry_sdk.transport import Transport
from sentry_sdk.utils import Dsn

from metricx_observe.delivery.answer import Answer, seconds_asked
from metricx_observe.delivery.channel import Described, Importance, Message, Post
from metricx_observe.scrubber import Scrubber, one_signal
from metricx_observe.vendors.vendor import Target

from .rules import NO_RULES, Rules, take_rules
from .scrub import scrub_event, scrub_headers, scrub_item
from .size import MAX_EVENT, to_json, within_bounds

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


class SentryChannel:
    """Sentry's envelopes for delivery: one a post, several posts at once."""

    vendor = "sentry"
    max_messages = 1
    max_bytes = 20 << 20
    """An event may be 1 MB, with attachments 20 MB compressed (Sentry's size limits)."""
    concurrency = 20
    """Posts hold one event each: at 80 ms a round trip 8 at once make 95 errors a second, 20 make 241."""

    def __init__(self, target: Target, scrubber: Scrubber, note: Callable[[str, list[str]], None]) -> None:
        dsn = Dsn(target.url)
        auth = dsn.to_auth(f"sentry.python/{sentry_sdk.VERSION}")
        self.local, self.away_hint = target.state == "local", target.away_hint
        self.destination = f"{dsn.netloc}{dsn.path}{dsn.project_id}#{sha256(dsn.public_key.encode()).hexdigest()[:12]}"
        self._url = auth.get_api_url(EndpointType.ENVELOPE)
        self._headers = {
            "User-Agent": str(auth.client),
            "X-Sentry-Auth": auth.to_header(),
            "Content-Type": "application/x-sentry-envelope",
        }
        self._scrubber = scrubber
        self._note = note

    @one_signal()
    def encode(self, record: bytes) -> Sequence[Message]:
        """A frozen envelope as the message that is stored."""
        headers, items = thaw(record)
        rules = next((take_rules(content) for _, content in items if isinstance(content, dict)), NO_RULES)
        # all headers before a body, which may take all of the scrubber's time: without its type an item is lost
        headers = scrub_headers(headers, self._scrubber, rules)
        clean = [scrub_headers(header, self._scrubber, rules) for header, _ in items]
        categories = [str(Item(b"", headers=header).data_category) for header, _ in items]
        bodies = [
            content if isinstance(content, bytes) else self._item(content, category, rules)
            for (_, content), category in zip(items, categories, strict=True)
        ]
        return [Message(categories[0] if categories else "default", joined(headers, zip(clean, bodies, strict=True)))]

    def _item(self, content: Any, category: str, rules: Rules) -> bytes:
        if isinstance(content, dict) and isinstance(content.get("items"), list):
            items = [self._bounded(scrub_item(each, category, self._scrubber), category) for each in content["items"]]
            return orjson.dumps({**content, "items": [*map(orjson.Fragment, items)]})
        if isinstance(content, dict):
            return self._bounded(scrub_event(content, category, self._scrubber, rules), category)
        return to_json(self._scrubber.scrub(content, category, "item"))

    def _bounded(self, content: Any, category: str) -> bytes:
        """An event, or one of several items, as JSON of at most 1 MB."""
        data = to_json(content)
        if len(data) > MAX_EVENT and isinstance(content, dict):
            self._note(category, ["too large"])
            data = within_bounds(content)
        return data

    def post(self, payloads: Sequence[bytes]) -> Post:
        return Post(self._url, self._headers, payloads[0])

    def importance(self, kind: str) -> Importance:
        if kind == "error":
            return Importance.ERROR
        return Importance.TRANSACTION if kind in ("transaction", "session", "profile") else Importance.SIGNAL

    def rate_limits(self, status: int, headers: Mapping[str, str]) -> Mapping[str, float]:
        """`X-Sentry-Rate-Limits: 60:error;transaction:scope, …`, else `Retry-After` for every kind.

        After a 429 without a number to read Sentry's SDKs wait a minute (Sentry's SDK documentation, "Rate Limiting").
        """
        limits: dict[str, float] = {}
        numbers = False
        for part in headers.get("x-sentry-rate-limits", "").split(","):
            number, _, kinds_and_scope = part.partition(":")
            if (seconds := seconds_asked(number)) is not None:
                numbers = True
                kinds = [kind.strip() for kind in kinds_and_scope.partition(":")[0].split(";")]
                for kind in filter(None, kinds) if any(kinds) else ("",):
                    limits[kind] = max(seconds, limits.get(kind, 0.0))
        if not numbers and status == 429:
            after = Answer(status, headers).retry_after_s
            limits[""] = 60.0 if after is None else after
        return {kind: seconds for kind, seconds in limits.items() if seconds}

    def describe(self, kind: str, payload: bytes) -> Described:
        """Event id, exception type or transaction, and user, from a stored envelope."""
        header, event = {}, None
        with suppress(ValueError):  # an envelope without items, or a first item that is no JSON
            header, _, event = map(orjson.loads, payload.split(b"\n", 3)[:3])
        event = event if isinstance(event, dict) else {}
        values = (event.get("exception") or {}).get("values") or [{}]
        name = values[-1].get("type") or event.get("transaction") or kind
        return Described(str(header.get("event_id", "")), str(name), (event.get("user") or {}).get("id"))


def freeze(envelope: Envelope) -> bytes:
    """An envelope as Sentry takes it, but for the scrubbing."""
    items = [({**item.headers, _JSON: item.payload.json is not None}, _body(item)) for item in envelope.items]
    return joined(envelope.headers, items)


def joined(headers: dict[str, Any], items: Iterable[tuple[dict[str, Any], bytes]]) -> bytes:
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
