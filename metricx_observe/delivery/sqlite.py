"""The outbox in SQLite: a file that the processes of a service share, or memory.

Rows belong to a stream and a stream to an owner, so that counting, taking over a dead process's rows and giving them
another destination touch a few streams, however many rows there are. A row's id begins with its stream's number: the
rows of a stream lie together, oldest first, without an index (which cost as much as the rows: 25 us a message of 3.5 KB
to store, read and delete, now 8).
"""

from __future__ import annotations

import heapq
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import chain, groupby, repeat

from .channel import Limits
from .outbox import Depth, Row, Stream
from .sqlite_carry import DEAD, ROW_BITS
from .sqlite_file import SqliteFile

JOIN_BYTES = 16
"""What joining a payload to others may add to a post."""
TOGETHER = 100
"""Rows of a statement. sqlite3 lets go of the GIL at each, and a busy event loop takes its time to give it back: a row
costs 2.3 us and 0.17 ms of waiting, one by one 3.2 us and 0.6 ms."""
DROP_ROWS = 100
"""Rows of one stream that go before the next is looked at, when streams that matter alike are too large."""


class SqliteOutbox(SqliteFile):
    """An `Outbox` in the file at `path`; in memory when that is None. Opens on first use."""

    def __init__(self, path: str | None, fell_back: Callable[[str], None] | None = None) -> None:
        super().__init__(path, fell_back)
        self._wall_at_zero = time.time() - time.monotonic()

    def _now(self) -> float:
        """Wall clock as this process started with it: a jump of it ages no row."""
        return self._wall_at_zero + time.monotonic()

    def add(self, messages: Iterable[tuple[Stream, bytes]]) -> None:
        payloads: dict[Stream, list[bytes]] = {}
        for stream, payload in messages:
            payloads.setdefault(stream, []).append(payload)
        with self.session(write=True) as connection:
            for stream, each in payloads.items():
                _insert(connection, self.owner, stream, self._now(), each)

    def take(
        self, destination: str, *, max_messages: int, max_bytes: int, skip: Container[int], without: Container[str]
    ) -> tuple[list[Row], bool]:
        rows: list[Row] = []
        size = 0
        with self.session() as connection:
            streams = "SELECT id, kind FROM stream WHERE owner = ? AND destination = ? AND messages > 0"
            kinds = dict(connection.execute(streams, (self.owner, destination)).fetchall())
            kinds = {number: kind for number, kind in kinds.items() if kind not in without}
            columns = "SELECT at, id, payload FROM row WHERE id BETWEEN ? AND ? ORDER BY id"
            cursors = [connection.execute(columns, _ids(number)) for number in kinds]
            try:
                for at, row_id, payload in heapq.merge(*cursors):
                    if row_id in skip:
                        continue
                    size += len(payload) + JOIN_BYTES
                    if rows and (len(rows) == max_messages or size > max_bytes):
                        return rows, True
                    rows.append(Row(row_id, kinds[row_id >> ROW_BITS], at, payload))
            finally:
                for cursor in cursors:
                    cursor.close()
        return rows, False

    def remove(self, rows: Sequence[Row]) -> None:
        with self.session(write=True) as connection:
            _delete(connection, [(row.id, len(row.payload)) for row in rows])

    def bury(self, row: Row, status: int, reason: str) -> None:
        with self.session(write=True) as connection:
            if letter := self._move(connection, row, DEAD):
                connection.execute("UPDATE row SET status = ?, reason = ? WHERE id = ?", (status, reason, letter))

    def revive(self, letters: Iterable[Row], destination: str | None = None) -> int:
        with self.session(write=True) as connection:
            return sum(bool(self._move(connection, letter, self.owner, destination)) for letter in letters)

    def _move(self, connection: sqlite3.Connection, row: Row, owner: int, destination: str | None = None) -> int:
        """Give a row to another owner. Returns its new id; 0: it is gone."""
        if not _delete(connection, [(row.id, len(row.payload))]):
            return 0
        query = f"SELECT {_STREAM} FROM stream WHERE id = ?"
        stream = Stream(*connection.execute(query, (row.id >> ROW_BITS,)).fetchone())
        stream = stream._replace(destination=destination or stream.destination)
        return _insert(connection, owner, stream, self._now(), [row.payload])

    def trim(self, limits: Limits, local: Container[str]) -> Counter[tuple[Stream, str]]:
        dropped: Counter[tuple[Stream, str]] = Counter()
        with self.session(write=True) as connection:
            for number, stream, depth in self._filled(connection):
                before = self._now() - (limits.local_max_age_s if stream.destination in local else limits.max_age_s)
                oldest: list[tuple[int, int]] = []
                for row_id, size, at in connection.execute(_OLDEST, _ids(number)):
                    if at >= before:
                        break
                    oldest.append((row_id, size))
                dropped[stream, "age"] += _delete(connection, oldest) * (not depth.dead)  # those were counted before
            self._shrink(connection, limits.local_rows, limits.outbox_bytes, dropped, local)
            self._shrink(connection, limits.outbox_rows, limits.outbox_bytes, dropped)
        return +dropped

    def _shrink(
        self, connection: sqlite3.Connection, max_messages: int, max_size: int,
        dropped: Counter[tuple[Stream, str]], only: Container[str] | None = None,
    ) -> None:  # fmt: skip
        """Drop rows until there are no more than this, or no more `only` for these destinations."""
        while True:
            filled = [each for each in self._filled(connection) if only is None or each[1].destination in only]
            messages = sum(depth.messages for *_, depth in filled) - max_messages
            size = sum(depth.size for *_, depth in filled) - max_size
            if not filled or (messages <= 0 and size <= 0):
                return
            number, stream, depth = filled[0]
            oldest: list[tuple[int, int]] = []
            for row_id, length, _ in connection.execute(f"{_OLDEST} LIMIT {DROP_ROWS}", _ids(number)):
                if messages > 0 or size > 0:
                    oldest.append((row_id, length))
                    messages, size = messages - 1, size - length
            dropped[stream, "full"] += _delete(connection, oldest) * (not depth.dead)

    def adopt(self, destinations: Sequence[str]) -> int:
        ours = "destination IN (SELECT value FROM json_each(:destinations))"
        return self._of_the_dead(f"owner = :me WHERE {ours}", destinations=json.dumps(destinations))

    def redirect(self, vendor: str, old: str, new: str) -> int:
        change = "destination = :new WHERE vendor = :vendor AND destination = :old"
        return self._of_the_dead(change, vendor=vendor, old=old, new=new)

    def _of_the_dead(self, change: str, **values: str) -> int:
        """Change streams that dead processes left. Returns how many messages are in them."""
        query, changed = f"UPDATE stream SET {change} AND owner = :dead AND messages > 0 RETURNING messages", 0
        for owner, token in self.dead_owners():
            with self.session(write=True) as connection:
                found = connection.execute(query, {"me": self.owner, "dead": owner, **values}).fetchall()
                self.sign_off(connection, owner, token)
            changed += sum(messages for (messages,) in found)
        return changed

    def depths(self) -> list[tuple[Stream, Depth]]:
        with self.session() as connection:
            return [(stream, depth) for _, stream, depth in self._filled(connection)]

    def scan(self, vendor: str | None = None, *, dead: bool = False) -> Iterator[tuple[Stream, Row]]:
        columns = "SELECT id, at, payload, status, reason FROM row WHERE id BETWEEN ? AND ? ORDER BY id LIMIT 100"
        with self.session() as connection:
            found = self._filled(connection)
        for number, stream, depth in found:
            after, last = _ids(number)
            more = depth.dead == dead and vendor in (None, stream.vendor)
            while more:  # a hundred at a time: nothing is locked while the caller looks at them
                with self.session() as connection:
                    rows = connection.execute(columns, (after, last)).fetchall()
                for row_id, *values in rows:
                    yield stream, Row(row_id, stream.kind, *values)
                    after = row_id + 1
                more = bool(rows)

    def _filled(self, connection: sqlite3.Connection) -> list[tuple[int, Stream, Depth]]:
        """Number, stream and depth, those first that go first: dead letters, then by importance and age."""
        first = f"(SELECT at FROM row WHERE id >= stream.id << {ROW_BITS} ORDER BY id LIMIT 1)"
        found = connection.execute(
            f"SELECT id, owner, messages, size, {first} AS oldest, {_STREAM} FROM stream WHERE messages > 0"
            f" ORDER BY owner != {DEAD}, importance, oldest"
        )
        now = self._now()
        return [
            (number, Stream(*stream), Depth(messages, size, max(0.0, now - at), owner == self.owner, owner == DEAD))
            for number, owner, messages, size, at, *stream in found
        ]


_STREAM = ", ".join(Stream._fields)
_GROW = (
    "UPDATE stream SET given = given + ?, messages = messages + ?, size = size + ? WHERE id = (SELECT id FROM stream"
    f" WHERE owner = ? AND ({_STREAM}) = (?, ?, ?, ?)) RETURNING id, given"
)
_BEGIN = f"INSERT INTO stream (given, messages, size, owner, {_STREAM}) VALUES (?,?,?,?,?,?,?,?) RETURNING id, given"
_OLDEST = "SELECT id, length(payload), at FROM row WHERE id BETWEEN ? AND ? ORDER BY id"


def _ids(number: int) -> tuple[int, int]:
    """The first and the last id that a row of this stream may have."""
    return number << ROW_BITS, (number + 1 << ROW_BITS) - 1


def _insert(connection: sqlite3.Connection, owner: int, stream: Stream, at: float, payloads: list[bytes]) -> int:
    """Add rows to the stream of an owner, which is made if it is not there. Returns the id of the first."""
    n = len(payloads)
    values = n, n, sum(map(len, payloads)), owner, *stream
    found = connection.execute(_GROW, values).fetchone() or connection.execute(_BEGIN, values).fetchone()
    first = _ids(found[0])[0] + int(found[1]) - n
    for begin in range(0, n, TOGETHER):
        part = payloads[begin : begin + TOGETHER]
        rows = zip(range(first + begin, first + n), repeat(at), part)
        places = ", ".join(["(?, ?, ?)"] * len(part))
        connection.execute(f"INSERT INTO row (id, at, payload) VALUES {places}", [*chain.from_iterable(rows)])
    return first


def _delete(connection: sqlite3.Connection, rows: list[tuple[int, int]]) -> int:
    """Delete rows, given by id and size. Returns how many there were: those that are gone already are no error."""
    deleted = 0
    for _, ids in groupby(enumerate(sorted(rows)), lambda each: each[1][0] - each[0]):  # which follow one another
        run = [row for _, row in ids]
        first, number = run[0][0], run[0][0] >> ROW_BITS
        gone = connection.execute("DELETE FROM row WHERE id BETWEEN ? AND ?", (first, run[-1][0])).rowcount
        if gone == len(run):
            change = "messages = messages - ?, size = size - ?"
            values: tuple[int, ...] = gone, sum(size for _, size in run)
        else:  # somebody else has deleted and counted some of them
            change = "(messages, size) = (SELECT count(*), total(length(payload)) FROM row WHERE id BETWEEN ? AND ?)"
            values = _ids(number)
        connection.execute(f"UPDATE stream SET {change} WHERE id = ?", (*values, number))
        deleted += gone
    return deleted
