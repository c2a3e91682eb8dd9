"""Looking after an outbox from outside: what the command line lists, retries, purges, exports and forgets.

Works on an outbox that processes use at the same time. Never shows a message's content, only what its channel
describes of it; `export` is the exception, and says so.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

from .channel import Channel, Described
from .outbox import Depth, Outbox, Row, Stream, outbox_path


class Listed(NamedTuple):
    """A message that waits (`status` None) or is dead, as it may be shown. `at` is when it was put, or died."""

    vendor: str
    kind: str
    at: float
    described: Described
    letter: int | None = None
    status: int | None = None
    reason: str = ""


@contextmanager
def opened(url: str) -> Iterator[Outbox]:
    """The outbox at `url` for a block. Raises OutboxError where a service would go on in memory."""
    from .sqlite import SqliteOutbox

    outbox = SqliteOutbox(outbox_path(url))
    try:
        yield outbox
    finally:
        outbox.close()


def overview(outbox: Outbox, channels: Sequence[Channel]) -> list[tuple[Stream, Depth, bool]]:
    """What waits by stream; the last value is False where no channel has the destination (any more)."""
    known = {channel.destination for channel in channels}
    return [(stream, depth, stream.destination in known) for stream, depth in outbox.depths()]


def listed(outbox: Outbox, channels: Sequence[Channel], vendor: str | None = None) -> Iterator[Listed]:
    """The dead letters, then what waits."""
    for dead in (True, False):
        for stream, row in outbox.scan(vendor, dead=dead):
            letter, status = (row.id, row.status) if dead else (None, None)
            shown = _described(channels, stream, row)
            yield Listed(stream.vendor, row.kind, row.at, shown, letter, status, row.reason)


def retry(
    outbox: Outbox,
    channels: Sequence[Channel],
    vendor: str | None = None,
    letters: Collection[int] = (),
    *,
    to_current: bool = False,
) -> int:
    """Put dead letters back (all, or these ids). `to_current`: to today's destination, with the rows of a former one.

    Rows are redirected only where the process that put them has ended. Returns how many messages will be tried.
    """
    chosen = [found for found in outbox.scan(vendor, dead=True) if not letters or found[1].id in letters]
    if not to_current:
        return outbox.revive([row for _, row in chosen])
    retried = 0
    for channel in (channel for channel in channels if vendor in (None, channel.vendor)):
        mine = [row for stream, row in chosen if stream.vendor == channel.vendor]
        retried += outbox.revive(mine, channel.destination)
        gone = {stream.destination for stream, _ in outbox.depths() if stream.vendor == channel.vendor}
        for destination in gone - {channel.destination}:
            retried += outbox.redirect(channel.vendor, destination, channel.destination)
    return retried


def purge(outbox: Outbox, vendor: str | None = None, *, waiting: bool = False) -> int:
    """Delete the dead letters; with `waiting` also what waits. Returns how many messages."""
    return _erase(outbox, chain(outbox.scan(vendor, dead=True), outbox.scan(vendor) if waiting else ()))


def forget(outbox: Outbox, channels: Sequence[Channel], user_id: str) -> int:
    """Delete every message of a user, dead or waiting. Returns how many."""
    everything = chain(outbox.scan(dead=True), outbox.scan())
    return _erase(outbox, (found for found in everything if _described(channels, *found).user_id == user_id))


def export(outbox: Outbox, vendor: str | None = None) -> Iterator[dict[str, Any]]:
    """Every message with its whole content, ready for JSON: `payload` is base64. Holds personal data."""
    for dead in (True, False):
        for stream, row in outbox.scan(vendor, dead=dead):
            yield {**stream._asdict(), **row._asdict(), "dead": dead, "payload": base64.b64encode(row.payload).decode()}


def _erase(outbox: Outbox, rows: Iterable[tuple[Stream, Row]]) -> int:
    erased = 0
    for _, row in rows:
        outbox.remove([row])
        erased += 1
    return erased


def _described(channels: Sequence[Channel], stream: Stream, row: Row) -> Described:
    """What its channel says of a message; nothing for one that it cannot read."""
    try:
        [channel] = [channel for channel in channels if channel.vendor == stream.vendor]
        return channel.describe(row.kind, row.payload)
    except Exception:
        return Described("", row.kind, None)
