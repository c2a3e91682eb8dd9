"""Looking after an outbox from outside, also while processes use it: what the command line does with it.

Shows of a message's content only what its channel describes; `export` is the exception, and says so.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any

from metricx_observe.delivery.channel import Channel, Described

from . import Outbox, Row, Stream, outbox_path


@contextmanager
def opened(url: str) -> Iterator[Outbox]:
    """The outbox at `url` for a block. Raises OutboxError where a service would go on in memory."""
    from .sqlite import SqliteOutbox

    outbox = SqliteOutbox(outbox_path(url))
    try:
        yield outbox
    finally:
        outbox.close()


def listed(
    outbox: Outbox, channels: Sequence[Channel], vendor: str | None = None
) -> Iterator[tuple[Stream, Row, Described]]:
    """The dead letters, then what waits, and what may be shown of it; the row's reason and payload may not."""
    for stream, row in _everything(outbox, vendor):
        yield stream, row, _described(channels, stream, row)


def retry(
    outbox: Outbox, channels: Sequence[Channel], vendor: str | None = None, letters: Collection[int] = (), *,
    to_current: bool = False,
) -> int:  # fmt: skip
    """Put dead letters back (all, or these ids). `to_current`: to today's destination, with the rows of a former one.

    Rows are redirected only where the process that put them has ended. Returns how many messages will be tried.
    """
    chosen = [found for found in outbox.scan(vendor, dead=True) if not letters or found[1].id in letters]
    if not to_current:
        return outbox.requeue([row for _, row in chosen])
    retried = 0
    for channel in (channel for channel in channels if vendor in (None, channel.vendor)):
        mine = [row for stream, row in chosen if stream.vendor == channel.vendor]
        retried += outbox.requeue(mine, channel.destination)
        gone = {stream.destination for stream, _ in outbox.depths() if stream.vendor == channel.vendor}
        for destination in gone - {channel.destination}:
            retried += outbox.redirect(channel.vendor, destination, channel.destination)
    return retried


def purge(outbox: Outbox, vendor: str | None = None, *, pending: bool = False) -> int:
    """Delete the dead letters; with `pending` also what waits. Returns how many messages."""
    return _remove(outbox, _everything(outbox, vendor) if pending else outbox.scan(vendor, dead=True))


def forget(outbox: Outbox, channels: Sequence[Channel], user_id: str) -> int:
    """Delete every message of a user, and what is left of those that were delivered. Returns how many messages."""
    removed = _remove(outbox, (each for each in _everything(outbox) if _described(channels, *each).user_id == user_id))
    outbox.wipe()
    return removed


def export(outbox: Outbox, vendor: str | None = None) -> Iterator[dict[str, Any]]:
    """Every message with its whole content, ready for JSON: `payload` is base64. Holds personal data."""
    for stream, row in _everything(outbox, vendor):
        payload = base64.b64encode(row.payload).decode()
        yield {**stream._asdict(), **row._asdict(), "dead": row.status is not None, "payload": payload}


def _everything(outbox: Outbox, vendor: str | None = None) -> Iterator[tuple[Stream, Row]]:
    return chain(outbox.scan(vendor, dead=True), outbox.scan(vendor))


def _remove(outbox: Outbox, found: Iterable[tuple[Stream, Row]]) -> int:
    removed = 0
    for _, row in found:
        outbox.remove([row])
        removed += 1
    return removed


def _described(channels: Sequence[Channel], stream: Stream, row: Row) -> Described:
    """What its channel says of a message; nothing for one that it cannot read."""
    with suppress(Exception):
        return next(each for each in channels if each.vendor == stream.vendor).describe(row.kind, row.payload)
    return Described("", row.kind, None)
