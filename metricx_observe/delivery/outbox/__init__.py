"""Where messages wait until their vendor has them: what every outbox can do.

An outbox holds rows, each a message of a stream (one vendor, destination and kind). A dead letter is a row that its
vendor refused; it is no longer sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from metricx_observe.delivery.channel import Limits
from metricx_observe.exceptions import ConfigurationError


class Stream(NamedTuple):
    """What a row's messages have in common."""

    vendor: str
    destination: str
    kind: str
    importance: int


class Row(NamedTuple):
    """One message. `at` is when it was put, or died: seconds since 1970. An `id` is never used again.

    `status` and `reason` are the vendor's answer to a dead letter; the reason may quote the message: never log it.
    """

    id: int
    kind: str
    at: float
    payload: bytes
    status: int | None = None
    reason: str | None = None


class Depth(NamedTuple):
    """What is in one stream. `oldest_s` is the oldest row's age; `mine` says whether this process delivers it."""

    messages: int
    size: int
    oldest_s: float
    mine: bool
    dead: bool = False


class OutboxError(Exception):
    """The outbox cannot do its work. `busy`: not now, another process holds it; try again."""

    def __init__(self, reason: str, *, busy: bool = False) -> None:
        super().__init__(reason)
        self.busy = busy


def outbox_path(url: str) -> str | None:
    """The file that METRICX_OUTBOX_URL names; None for memory. Raises ConfigurationError."""
    scheme, _, path = url.partition("://")
    if scheme not in ("sqlite", "memory") or (scheme == "sqlite" and not path.startswith("/")):
        raise ConfigurationError("METRICX_OUTBOX_URL: expected sqlite:///absolute/path or memory://")
    return path if scheme == "sqlite" else None


class Store(Protocol):
    """What the writer needs of an outbox."""

    def add(self, messages: Iterable[tuple[Stream, bytes]]) -> None:
        """Store messages, safe from the end of this process. Raises OutboxError: give all of them again."""


class Outbox(Store, Protocol):
    """Durable rows, owned by the process that put them until it dies. For any thread; all may raise OutboxError."""

    kind: str

    def take(
        self, destination: str, *, max_messages: int, max_bytes: int, skip: Container[int], without: Container[str]
    ) -> tuple[list[Row], bool]:
        """The oldest own rows of a destination, to post together, and whether there are more; they stay.

        None of `skip`, nor of the kinds in `without`; the first also when it is over the bounds alone.
        """
        ...

    def remove(self, rows: Sequence[Row]) -> None:
        """Forget rows or dead letters. Those that are gone already are no error."""

    def reject(self, row: Row, status: int, reason: str) -> None:
        """Make a row a dead letter."""

    def requeue(self, letters: Iterable[Row], destination: str | None = None) -> int:
        """Put dead letters back, to their own destination or to another. Returns how many."""
        ...

    def trim(self, limits: Limits, local: Container[str]) -> Counter[tuple[Stream, str]]:
        """Hold the bounds; `local` are the destinations with the shorter ones. Returns messages dropped, by reason.

        Dead letters count like what waits, and go first.
        """
        ...

    def claim(self, destinations: Sequence[str]) -> int:
        """Take over the rows that dead processes left for these destinations. Returns how many messages."""
        ...

    def redirect(self, vendor: str, old: str, new: str) -> int:
        """Give the rows that dead processes left for one destination to another. Returns how many messages."""
        ...

    def depths(self) -> list[tuple[Stream, Depth]]:
        """What waits and what is dead, of all processes that share this outbox."""
        ...

    def scan(self, vendor: str | None = None, *, dead: bool = False) -> Iterator[tuple[Stream, Row]]:
        """Every waiting row of all processes, or every dead letter; oldest first within a stream."""
        ...

    def idle_since(self) -> float | None:
        """Since when nobody delivers the rows that belong to no process, in seconds since 1970; 0.0: nobody ever did.
        None: somebody does."""
        ...

    def wipe(self) -> None:
        """Leave nothing of removed rows in what stores them."""

    def check(self) -> str:
        """Put right what somebody did to what the outbox stands on; called at each tick. Returns what it was, once."""
        ...

    def before_fork(self) -> None:
        """Bring the outbox to rest: nothing of it may be open or locked while the process forks."""

    def after_fork(self, *, child: bool) -> None:
        """Go on in the parent; in the child let go of everything: the rows are the parent's."""

    def close(self) -> None:
        """Let go of the outbox. What is left in it may be taken over by another process from now on."""
