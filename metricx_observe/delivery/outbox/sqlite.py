"""The outbox in SQLite: a file that the processes of a service share, or memory.

Rows belong to a stream and a stream to an owner, so that counting, taking over a dead process's rows and giving them
another destination touch a few streams, however many rows there are.
"""

from __future__ import annotations

import heapq
import json
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import chain

from metricx_observe.delivery.channel import Limits

from . import Depth, Row, Stream
from .database import DEAD, STREAM, Database
from .recovery import RecoveringDatabase, refuse

JOIN_BYTES = 16
"""What joining a payload to others may add to a post."""
TOGETHER = 100
"""Rows of a statement. sqlite3 lets go of the GIL at each, and a busy event loop takes its time to give it back."""


class SqliteOutbox(RecoveringDatabase):
    """An `Outbox` in the file at `path`; in memory when that is None."""

    def __init__(self, path: str | None, fell_back: Callable[[str], None] = refuse, *, shared: bool = False) -> None:
        super().__init__(path, fell_back, shared=shared)
        self._wall_at_zero = time.time() - time.monotonic()

    def _now(self) -> float:
        """Wall clock as this process started with it: a jump of it ages no row."""
        return self._wall_at_zero + time.monotonic()

    def add(self, messages: Iterable[tuple[Stream, bytes]]) -> None:
        payloads: dict[Stream, list[bytes]] = {}
        for stream, payload in messages:
            payloads.setdefault(stream, []).append(payload)
        with self.session(write=True) as database:
            now = self._now()
            for stream, each in payloads.items():
                number = database.stream(database.owner, stream)
                for begin in range(0, len(each), TOGETHER):
                    part = each[begin : begin + TOGETHER]
                    places = ", ".join(["(?, ?, ?)"] * len(part))
                    values = chain.from_iterable((number, now, payload) for payload in part)
                    database.execute(f"INSERT INTO row (stream, at, payload) VALUES {places}", [*values])

    def take(
        self, destination: str, *, max_messages: int, max_bytes: int, skip: Container[int], without: Container[str]
    ) -> tuple[list[Row], bool]:
        rows: list[Row] = []
        size = 0
        with self.session() as database:
            streams = "SELECT id, kind FROM stream WHERE owner = ? AND destination = ? AND messages > 0"
            kinds = dict(database.execute(streams, (database.owner, destination)).fetchall())
            query = "SELECT at, id, stream, payload FROM row WHERE stream = ? ORDER BY at, id"
            cursors = [database.execute(query, (number,)) for number, kind in kinds.items() if kind not in without]
            try:
                for at, row_id, number, payload in heapq.merge(*cursors):
                    if row_id in skip:
                        continue
                    size += len(payload) + JOIN_BYTES
                    if rows and (len(rows) == max_messages or size > max_bytes):
                        return rows, True
                    rows.append(Row(row_id, kinds[number], at, payload))
            finally:
                for cursor in cursors:
                    cursor.close()
        return rows, False

    def remove(self, rows: Sequence[Row]) -> None:
        with self.session(write=True) as database:
            _delete(database, [row.id for row in rows])

    def reject(self, row: Row, status: int, reason: str) -> None:
        with self.session(write=True) as database:
            self._move(database, row, DEAD, None, status, reason)

    def requeue(self, letters: Iterable[Row], destination: str | None = None) -> int:
        with self.session(write=True) as database:
            return sum(self._move(database, letter, database.owner, destination) for letter in letters)

    def _move(
        self, database: Database, row: Row, owner: str, destination: str | None, status: int | None = None,
        reason: str | None = None,
    ) -> bool:  # fmt: skip
        """Give a row that waits to the dead letters, or a dead letter to this process. False: it is gone."""
        query = f"SELECT {STREAM} FROM stream JOIN row ON row.stream = stream.id WHERE row.id = ? AND (owner = ?) = ?"
        found = database.execute(query, (row.id, DEAD, owner != DEAD)).fetchone()
        if found:
            stream = Stream(*found)
            number = database.stream(owner, stream._replace(destination=destination or stream.destination))
            change = "UPDATE row SET stream = ?, at = ?, status = ?, reason = ? WHERE id = ?"
            database.execute(change, (number, self._now(), status, reason, row.id))
        return found is not None

    def trim(self, limits: Limits, local: Container[str]) -> Counter[tuple[Stream, str]]:
        dropped: Counter[tuple[Stream, str]] = Counter()
        with self.session(write=True) as database:
            for number, stream, depth in self._filled(database):
                before = self._now() - (limits.local_max_age_s if stream.destination in local else limits.max_age_s)
                gone = database.execute("DELETE FROM row WHERE stream = ? AND at < ?", (number, before)).rowcount
                dropped[stream, "age"] += gone * (not depth.dead)  # those were counted before
            self._shrink(database, limits.local_rows, limits.outbox_bytes, dropped, local)
            self._shrink(database, limits.outbox_rows, limits.outbox_bytes, dropped)
        return +dropped

    def _shrink(
        self, database: Database, max_messages: int, max_size: int, dropped: Counter[tuple[Stream, str]],
        only: Container[str] | None = None,
    ) -> None:  # fmt: skip
        """Drop rows until there are no more than this, or no more `only` for these destinations."""
        while True:
            filled = [each for each in self._filled(database) if only is None or each[1].destination in only]
            messages = sum(depth.messages for *_, depth in filled) - max_messages
            size = sum(depth.size for *_, depth in filled) - max_size
            if not filled or (messages <= 0 and size <= 0):
                return
            number, stream, depth = filled[0]
            query = f"SELECT id, size FROM row WHERE stream = ? ORDER BY at, id LIMIT {TOGETHER}"
            oldest: list[int] = []
            for row_id, length in database.execute(query, (number,)):
                if messages > 0 or size > 0:
                    oldest.append(row_id)
                    messages, size = messages - 1, size - length
            if not oldest:  # the counters of a file that was damaged
                return
            _delete(database, oldest)
            dropped[stream, "full"] += len(oldest) * (not depth.dead)

    def claim(self, destinations: Sequence[str]) -> int:
        change = "owner = :me WHERE destination IN (SELECT value FROM json_each(:destinations))"
        return self._of_the_dead(change, destinations=json.dumps(destinations))

    def redirect(self, vendor: str, old: str, new: str) -> int:
        change = "destination = :new WHERE vendor = :vendor AND destination = :old"
        return self._of_the_dead(change, vendor=vendor, old=old, new=new)

    def _of_the_dead(self, change: str, **values: str) -> int:
        """Change streams that dead processes left. Returns how many messages are in them."""
        query, changed = f"UPDATE stream SET {change} AND owner = :dead AND messages > 0 RETURNING messages", 0
        with self.session() as database:
            dead = database.dead_owners()
        for owner in dead:
            with self.session(write=True) as database:
                found = database.execute(query, {"me": database.owner, "dead": owner, **values}).fetchall()
                database.sign_off(owner)
            changed += sum(messages for (messages,) in found)
        return changed

    def depths(self) -> list[tuple[Stream, Depth]]:
        with self.session() as database:
            return [(stream, depth) for _, stream, depth in self._filled(database)]

    def scan(self, vendor: str | None = None, *, dead: bool = False) -> Iterator[tuple[Stream, Row]]:
        columns, place = "id, at, payload, status, reason", "stream = ? AND (at, id) > (?, ?)"
        query = f"SELECT {columns} FROM row WHERE {place} ORDER BY at, id LIMIT {TOGETHER}"
        with self.session() as database:
            streams = self._filled(database)
        for number, stream, depth in streams:
            last: tuple[float, int] = 0.0, 0
            more = depth.dead == dead and vendor in (None, stream.vendor)
            while more:  # a hundred at a time: nothing is locked while the caller looks at them
                with self.session() as database:
                    rows = database.execute(query, (number, *last)).fetchall()
                for row_id, at, *values in rows:
                    yield stream, Row(row_id, stream.kind, at, *values)
                    last = at, row_id
                more = bool(rows)

    def _filled(self, database: Database) -> list[tuple[int, Stream, Depth]]:
        """Number, stream and depth, those first that go first: dead letters, then by importance and age."""
        first = "(SELECT min(at) FROM row WHERE row.stream = stream.id)"
        found = database.execute(
            f"SELECT id, owner, messages, size, {first} AS oldest, {STREAM} FROM stream WHERE messages > 0"
            " ORDER BY owner != ?, importance, oldest",
            (DEAD,),
        )
        now = self._now()
        return [
            (number, Stream(*stream), Depth(messages, size, max(0.0, now - at), owner == database.owner, owner == DEAD))
            for number, owner, messages, size, at, *stream in found
        ]

    def idle_since(self) -> float | None:
        with self.session() as database:
            return database.idle_since()

    def wipe(self) -> None:
        """Write the file anew: what was deleted is in its free pages, and in the log."""
        with self.session() as database:
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _delete(database: Database, row_ids: Sequence[int]) -> None:
    """Those that are gone already are no error."""
    database.execute("DELETE FROM row WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(row_ids),))
