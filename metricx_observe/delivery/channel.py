"""What a vendor tells the delivery: how to encode, where to post, how to batch, how to read an answer.

`vendors/` implements `Channel`; `delivery/` knows nothing else of a vendor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, Protocol


class Importance(IntEnum):
    """At a bound the oldest of the least important goes first. Where a vendor limits a kind, its transactions are
    dropped and counted (Sentry asks for that); the rest waits."""

    TRANSACTION = 0
    SIGNAL = 1
    ERROR = 2


class Message(NamedTuple):
    """One signal in the exact bytes that its vendor accepts."""

    kind: str
    """What it is, in the vendor's word for its rate-limit category: error, transaction, event, trace, …"""
    payload: bytes


class Post(NamedTuple):
    """One HTTP POST to a vendor. `body` is not compressed yet; `headers` hold credentials: never log them."""

    url: str
    headers: Mapping[str, str]
    body: bytes


class Described(NamedTuple):
    """What may be shown of a stored message: its id on the wire, its name, whose it is. Never its content."""

    id: str
    name: str
    user_id: str | None


class Channel(Protocol):
    """How one vendor's records become messages, and how these are posted. Called on delivery's threads, never on the
    application's event loop."""

    vendor: str
    """sentry, rudderstack or langfuse."""
    destination: str
    """Fingerprint of where the rows go: host and a hash of the public key id; another for each channel. Never a key."""
    local: bool
    """True for the local receiver, whose rows have shorter bounds and for which shutdown never waits."""
    away_hint: str
    """What to do while its address cannot be reached, for the log; empty where there is nothing but to wait."""
    max_messages: int
    """Messages a post: 1 for Sentry's envelopes."""
    max_bytes: int
    """Bytes a post, before compression."""
    concurrency: int
    """Posts in flight at once."""

    def encode(self, record: Any) -> Sequence[Message]:
        """Scrub and encode what a facade put. On the writer thread. An exception costs this record only."""
        ...

    def importance(self, kind: str) -> Importance:
        """How much a message of this kind matters at a bound."""
        ...

    def post(self, payloads: Sequence[bytes]) -> Post:
        """Join stored payloads into one request."""
        ...

    def rate_limits(self, status: int, headers: Mapping[str, str]) -> Mapping[str, float]:
        """Seconds to wait by kind, "" for every kind, as the answer's headers (lower-case names) ask for.

        What is not a positive number asks for nothing: the courier then backs off as if nothing had been asked.
        """
        ...

    def describe(self, kind: str, payload: bytes) -> Described:
        """What may be shown of one stored message, and whose it is (for `forget`)."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the delivery: sizes in bytes, ages in seconds."""

    memory_bytes: int = 64 << 20
    outbox_bytes: int = 256 << 20
    outbox_rows: int = 2_000_000
    max_age_s: float = 72 * 3600.0
    """GA4 refuses events that are older."""
    ephemeral: bool = False
    """What waits in the outbox is lost with this process: closing tries to deliver for its whole deadline."""
    local_rows: int = 10_000
    local_max_age_s: float = 3600.0
    post_deadline_s: float = 15.0
    """A vendor that takes 10 s to answer is slow, not down: giving up on it would post the same again and again."""
    backoff_cap_s: float = 30.0
    probe_every_s: float = 5.0
    backoff_s: float = 0.5
    """The first backoff is at most this; it doubles with each failure, up to `backoff_cap_s`."""
    max_retry_after_s: float = 3600.0
    stopped_probe_every_s: float = 300.0
    """From one probe to the next of a vendor that refuses everything: see `delivery/refusals.py`."""
    commit_every_s: float = 0.03
    """From one group commit to the next; kill -9 loses what was put in this time, and while the group is stored."""

    @property
    def longest_backoff_s(self) -> float:
        """Between two tries of what fails."""
        return min(self.backoff_cap_s, self.probe_every_s)
