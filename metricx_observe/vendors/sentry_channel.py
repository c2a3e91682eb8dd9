"""Sentry's transport and channel: envelopes are handed over as they are, scrubbed and encoded on the writer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from hashlib import sha256
from typing import Any, NamedTuple, Protocol, cast

import orjson
import sentry_sdk
from sentry_sdk.consts import EndpointType
from sentry_sdk.envelope import Envelope, Item, PayloadRef
from sentry_sdk.transport import Transport
from sentry_sdk.utils import Dsn

from metricx_observe.delivery.answer import Answer, seconds_asked
from metricx_observe.delivery.channel import Described, Importance, Message, Post
from metricx_observe.normalise import plain
from metricx_observe.privacy import Scrubber, one_signal

from .burst import Burst
from .sentry_events import scrub_event
from .sentry_headers import header_scrubber
from .sentry_logs import scrub_items
from .sentry_rules import NO_RULES, Rules, RulesById
from .sentry_size import MAX_EVENT, within_bounds
from .vendor import Target

Put = Callable[[object, int], bool]
"""Hands a record and its approximate size in bytes to delivery."""


class Sent(NamedTuple):
    """An envelope, and what it is to be scrubbed by."""

    envelope: Envelope
    rules: Rules = NO_RULES


EVENT_BYTES, TRANSACTION_BYTES = 30_000, 7_500
"""What a usual error event, and anything else, holds in memory until it is encoded."""

MAX_ATTACHMENT = 20 << 20
"""Bytes; Sentry takes no larger attachments together (its size limits)."""

_collected: ContextVar[list[Envelope] | None] = ContextVar("metricx_observe_collected", default=None)
"""Where the writer gathers what it makes itself, which must not go round through the queue again."""


class Ended(Protocol):
    """A transaction that ended, for the writer to build."""

    def envelopes(self) -> list[Sent]: ...


@contextmanager
def collecting() -> Iterator[list[Envelope]]:
    """A block whose envelopes are gathered, and not handed over."""
    envelopes: list[Envelope] = []
    token = _collected.set(envelopes)
    try:
        yield envelopes
    finally:
        _collected.reset(token)


class EnvelopeTransport(Transport):
    """Hands every envelope over, whatever its items are. `sentry_sdk.flush()` waits until they are committed."""

    def __init__(self, put: Put, commit: Callable[[float], bool], errors_per_second: float) -> None:
        super().__init__()
        self.put = put
        self._commit = commit
        self.rules = RulesById()
        self.burst = Burst[Sent](errors_per_second, self._send_for_others)

    def capture_envelope(self, envelope: Envelope) -> None:
        if (collected := _collected.get()) is not None:
            collected.append(envelope)
            return
        attached = sum(map(_read_now, envelope.items))
        event_id = envelope.headers.get("event_id")
        sent = Sent(envelope, self.rules.take(event_id))
        if envelope.get_event() is None:
            self.put(sent, _held(envelope, TRANSACTION_BYTES) + attached)
        elif not self.burst.hold(str(event_id), sent):
            self.put(sent, _held(envelope, EVENT_BYTES) + attached)

    def _send_for_others(self, sent: Sent, more: int) -> None:
        event = sent.envelope.get_event()
        if event is not None and more:
            event["extra"] = {**(event.get("extra") or {}), "metricx.more_in_this_second": more}
        self.put(sent, _held(sent.envelope, EVENT_BYTES) + sum(map(_read_now, sent.envelope.items)))

    def flush(self, timeout: float, callback: Any | None = None) -> None:  # noqa: ARG002
        self.burst.turn()
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

    def encode(self, record: Any) -> Sequence[Message]:
        """An envelope that was sent, or a transaction that `Ended`, as messages."""
        return [self._message(*sent) for sent in self.portable(record)]

    def portable(self, record: Any) -> Sequence[Sent]:
        """Envelopes: the client that makes them of a transaction is this process's."""
        return [record] if isinstance(record, Sent) else cast(Ended, record).envelopes()

    @one_signal()
    def _message(self, envelope: Envelope, rules: Rules) -> Message:
        clean = header_scrubber(self._scrubber, rules)
        lines = [_json(clean(envelope.headers))]
        # all headers before a body, which may take all of the scrubber's time: without its type an item is lost
        for item, headers in [(item, clean(item.headers)) for item in envelope.items]:
            body = self._item(item, rules)
            lines += [_json({**headers, "length": len(body)}), body]
        kind = envelope.items[0].data_category if envelope.items else "default"
        return Message(kind, b"\n".join(lines) + b"\n")

    def _item(self, item: Item, rules: Rules) -> bytes:
        content: Any = item.payload.json
        if content is None:
            return item.get_bytes()  # an attachment: the application chose its bytes
        if isinstance(content, dict) and isinstance(content.get("items"), list):
            content = scrub_items(content, str(item.data_category), self._scrubber)
            content["items"] = [orjson.Fragment(self._bounded(each, item)) for each in content["items"]]
        elif isinstance(content, dict):
            return self._bounded(scrub_event(content, str(item.data_category), self._scrubber, rules), item)
        else:
            content = self._scrubber.scrub(content, str(item.data_category), "item")
        return _json(content)

    def _bounded(self, content: Any, item: Item) -> bytes:
        """An event, or one of several items, as JSON of at most 1 MB."""
        data = _json(content)
        if len(data) > MAX_EVENT and isinstance(content, dict):
            self._note(str(item.data_category), ["too large"])
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
            number, _, rest = part.partition(":")
            if (seconds := seconds_asked(number)) is not None:
                numbers = True
                kinds = [kind.strip() for kind in rest.partition(":")[0].split(";")]
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


def _held(envelope: Envelope, usual: int) -> int:
    """About how many bytes an envelope holds until it is encoded, attachments apart: no less than what is usual."""
    size = 0
    for item in envelope.items:
        with suppress(TypeError, ValueError, RecursionError):  # what JSON does not know: the usual size stands for it
            size += len(orjson.dumps(item.payload.json)) if item.payload.json is not None else 0
    return max(usual, size)


def _read_now(item: Item) -> int:
    """Read the file that is attached: what it holds later is not what it held at the call. Returns its bytes.

    Of a larger one than Sentry takes only that it was there.
    """
    if item.type != "attachment":
        return 0
    if isinstance(item.payload, PayloadRef) and item.payload.bytes is None and item.payload.path is not None:
        with suppress(OSError):  # where there is none the SDK sends an empty one
            size = os.path.getsize(item.payload.path)
            if size > MAX_ATTACHMENT:
                item.payload.bytes = b"[file of %d bytes, too large to be sent]" % size
    return len(item.get_bytes())


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(plain(value))
