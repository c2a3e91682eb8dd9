"""Looking after an outbox from outside: what the command line lists, retries, purges, exports and forgets.

Works on an outbox that processes use at the same time. Never shows a message's content, only what its channel
describes of it; `export` is the exception, and says so.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from .channel import Channel, Described
from .outbox import Depth, Outbox, Row, Stream
from .spool import Spool
from .tally import Tally


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
    spool = Spool(url, Tally())
    try:
        yield spool.outbox
    finally:
        spool.close()


def overview(outbox: Outbox, channels: Sequence[Channel]) -> list[tuple[Stream, Depth, bool]]:
    """What waits by stream; the last value is False where no channel has the destination (any more)."""
    known = {channel.destination for channel in channels}
    return [(stream, depth, stream.destination in known) for stream, depth in outbox.depths()]


def listed(outbox: Outbox, channels: Sequence[Channel], vendor: str | None = None) -> Iterator[Listed]:
    """The dead letters, then what waits."""
    by_vendor = {channel.vendor: channel for channel in channels}
    for letter in outbox.dead_letters(vendor):
        shown = _described(by_vendor, letter.vendor, letter.kind, letter.payload)
        yield Listed(letter.vendor, letter.kind, letter.died_at, shown, letter.id, letter.status, letter.reason)
    for stream, row in outbox.scan(vendor):
        for payload in row.payloads:
            shown = _described(by_vendor, stream.vendor, row.kind, payload)
            yield Listed(stream.vendor, row.kind, row.put_at, shown)


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
    chosen = [letter for letter in outbox.dead_letters(vendor) if not letters or letter.id in letters]
    if not to_current:
        return outbox.revive(chosen)
    retried = 0
    for channel in (channel for channel in channels if vendor in (None, channel.vendor)):
        mine = [letter for letter in chosen if letter.vendor == channel.vendor]
        retried += outbox.revive(mine, channel.destination)
        gone = {stream.destination for stream, _ in outbox.depths() if stream.vendor == channel.vendor}
        for destination in gone - {channel.destination}:
            retried += outbox.redirect(channel.vendor, destination, channel.destination)
    return retried


def purge(outbox: Outbox, vendor: str | None = None, *, waiting: bool = False) -> int:
    """Delete the dead letters; with `waiting` also what waits. Returns how many messages."""
    return _erase(outbox, vendor, lambda *_: True, waiting=waiting)


def forget(outbox: Outbox, channels: Sequence[Channel], user_id: str) -> int:
    """Delete every message of a user, dead or waiting. Returns how many."""
    by_vendor = {channel.vendor: channel for channel in channels}

    def of_user(vendor: str, kind: str, payload: bytes) -> bool:
        return _described(by_vendor, vendor, kind, payload).user_id == user_id

    return _erase(outbox, None, of_user, waiting=True)


def export(outbox: Outbox, vendor: str | None = None) -> Iterator[dict[str, Any]]:
    """Every message with its whole content, ready for JSON: `payload` is base64. Holds personal data."""
    for letter in outbox.dead_letters(vendor):
        yield {**letter._asdict(), "payload": base64.b64encode(letter.payload).decode()}
    for stream, row in outbox.scan(vendor):
        for payload in row.payloads:
            yield {**stream._asdict(), "put_at": row.put_at, "payload": base64.b64encode(payload).decode()}


def _erase(
    outbox: Outbox, vendor: str | None, wanted: Callable[[str, str, bytes], bool], *, waiting: bool
) -> int:
    letters = [each for each in outbox.dead_letters(vendor) if wanted(each.vendor, each.kind, each.payload)]
    outbox.discard(letters)
    erased = len(letters)
    for stream, row in outbox.scan(vendor) if waiting else ():
        hits = [wanted(stream.vendor, row.kind, payload) for payload in row.payloads]
        rows: list[Row] = [row] if all(hits) else outbox.split(row) if any(hits) else []
        outbox.remove(rows if all(hits) else [single for single, hit in zip(rows, hits, strict=False) if hit])
        erased += sum(hits)
    return erased


def _described(channels: Mapping[str, Channel], vendor: str, kind: str, payload: bytes) -> Described:
    """What its channel says of a message; nothing for one that it cannot read."""
    try:
        return channels[vendor].describe(kind, payload)
    except Exception:
        return Described("", kind, None)
