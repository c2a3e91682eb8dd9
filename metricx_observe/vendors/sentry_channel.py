"""Sentry's transport and channel: envelopes are handed over as they are, scrubbed and encoded on the writer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from hashlib import sha256
from typing import Any, Protocol, cast

import orjson
import sentry_sdk
from sentry_sdk.consts import EndpointType
from sentry_sdk.envelope import Envelope, Item
from sentry_sdk.transport import Transport
from sentry_sdk.utils import Dsn

from metricx_observe.delivery.channel import Described, Importance, Message, Post
from metricx_observe.normalise import plain
from metricx_observe.privacy import Scrubber, one_signal
from metricx_observe.settings import Vendor

from .burst import Burst
from .sentry_events import scrub_event

Put = Callable[[object, int], bool]
"""Hands a record and its approximate size in bytes to delivery."""

EVENT_BYTES, TRANSACTION_BYTES = 30_000, 7_500
"""What a usual error event, and anything else, holds in memory until it is encoded."""

_collected: ContextVar[list[Envelope] | None] = ContextVar("metricx_observe_collected", default=None)
"""Where the writer gathers what it makes itself, which must not go round through the queue again."""


class Ended(Protocol):
    """A transaction that ended, for the writer to build."""

    def envelopes(self) -> list[Envelope]: ...


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
        self.burst = Burst[Envelope](errors_per_second, self._send_for_others)

    def capture_envelope(self, envelope: Envelope) -> None:
        if (collected := _collected.get()) is not None:
            collected.append(envelope)
        elif (event := envelope.get_event()) is None:
            self.put(envelope, TRANSACTION_BYTES)
        elif not self.burst.hold(str(event.get("event_id")), envelope):
            self.put(envelope, EVENT_BYTES)

    def _send_for_others(self, envelope: Envelope, more: int) -> None:
        event = envelope.get_event()
        if event is not None and more:
            event["extra"] = {**(event.get("extra") or {}), "metricx.more_in_this_second": more}
        self.put(envelope, EVENT_BYTES)

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

    def __init__(self, target: Vendor, scrubber: Scrubber) -> None:
        dsn = Dsn(target.url)
        auth = dsn.to_auth(f"sentry.python/{sentry_sdk.VERSION}")
        self.local = target.state == "local"
        self.destination = f"{dsn.netloc}{dsn.path}{dsn.project_id}#{sha256(dsn.public_key.encode()).hexdigest()[:12]}"
        self._url = auth.get_api_url(EndpointType.ENVELOPE)
        self._headers = {
            "User-Agent": str(auth.client),
            "X-Sentry-Auth": auth.to_header(),
            "Content-Type": "application/x-sentry-envelope",
        }
        self._scrubber = scrubber

    def encode(self, record: Any) -> Sequence[Message]:
        """An envelope, or a transaction that `Ended`, as messages."""
        return [self._message(envelope) for envelope in self.portable(record)]

    def portable(self, record: Any) -> Sequence[Envelope]:
        """Envelopes: the client that makes them of a transaction is this process's."""
        return [record] if isinstance(record, Envelope) else cast(Ended, record).envelopes()

    @one_signal()
    def _message(self, envelope: Envelope) -> Message:
        lines = [_json(envelope.headers)]
        for item in envelope.items:
            body = self._item(item)
            lines += [_json({**item.headers, "length": len(body)}), body]
        kind = envelope.items[0].data_category if envelope.items else "default"
        return Message(kind, b"\n".join(lines) + b"\n")

    def _item(self, item: Item) -> bytes:
        content: Any = item.payload.json
        if content is None:
            return item.get_bytes()  # an attachment: the application chose its bytes
        if isinstance(content, dict):
            content = scrub_event(content, str(item.data_category), self._scrubber)
        else:
            content = self._scrubber.scrub(content, str(item.data_category), "item")
        return _json(content)

    def post(self, payloads: Sequence[bytes]) -> Post:
        return Post(self._url, self._headers, payloads[0])

    def importance(self, kind: str) -> Importance:
        if kind == "error":
            return Importance.ERROR
        return Importance.TRANSACTION if kind in ("transaction", "session", "profile") else Importance.SIGNAL

    def rate_limits(self, status: int, headers: Mapping[str, str]) -> Mapping[str, float]:
        """`X-Sentry-Rate-Limits: 60:error;transaction:scope, …`, else `Retry-After` for every kind."""
        limits: dict[str, float] = {}
        for part in headers.get("x-sentry-rate-limits", "").split(","):
            seconds, _, rest = part.strip().partition(":")
            if seconds.replace(".", "", 1).isdecimal():
                limits |= dict.fromkeys(rest.partition(":")[0].split(";"), float(seconds))
        if not limits and status == 429:
            after = headers.get("retry-after", "")
            limits[""] = float(after) if after.isdecimal() else 60.0  # Sentry's SDKs wait a minute without the header
        return limits

    def describe(self, kind: str, payload: bytes) -> Described:
        """Event id, exception type or transaction, and user, from a stored envelope."""
        header, event = {}, None
        with suppress(ValueError):  # an envelope without items, or a first item that is no JSON
            header, _, event = map(orjson.loads, payload.split(b"\n", 3)[:3])
        event = event if isinstance(event, dict) else {}
        values = (event.get("exception") or {}).get("values") or [{}]
        name = values[-1].get("type") or event.get("transaction") or kind
        return Described(str(header.get("event_id", "")), str(name), (event.get("user") or {}).get("id"))


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(plain(value))
