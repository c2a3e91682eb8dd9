"""The outbox in SQLite: a file that the processes of a service share, or memory.

Rows belong to a stream and a stream to an owner, so that counting, taking over a dead process's rows and giving them
another destination touch a few streams, however many rows there are. Triggers keep the counts right whoever deletes.
"""

from __future__ import annotations

import heapq
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from .channel import Limits
from .outbox import Depth, Row, Stream
from .sqlite_file import DEAD, SqliteFile

DROP_ROWS = 100
"""Rows of one stream that go before the next is looked at, when streams that matter alike are too large."""


class _Filled(NamedTuple):
    """A stream with something in it, as it is stored."""

    id: int
    owner: int
    stream: Stream
    messages: int
    size: int
    oldest_at: float


class SqliteOutbox(SqliteFile):
    """An `Outbox` in the file at `path`; in memory when that is None. Opens on first use."""

    def __init__(self, path: str | None, fell_back: Callable[[str], None] | None = None) -> None:
        super().__init__(path, fell_back)
        self._wall_at_zero = time.time() - time.monotonic()

    def _now(self) -> float:
        """Wall clock as this process started with it: a jump of it ages no row."""
        return self._wall_at_zero + time.monotonic()

    def add(self, chunks: Iterable[tuple[Stream, list[bytes]]]) -> None:
        now = self._now()
        with self.session(write=True) as connection:
            for stream, payloads in chunks:
                _insert(connection, _number(connection, self.owner, stream), now, payloads)

    def take(
        self, destination: str, *, max_messages: int, max_bytes: int, skip: Container[int], without: Container[str]
    ) -> tuple[list[Row], bool]:
        rows: list[Row] = []
        messages = size = 0
        with self.session() as connection:
            kinds = {
                filled.id: filled.stream.kind
                for filled in _filled(connection)
                if (filled.owner, filled.stream.destination) == (self.owner, destination)
                and filled.stream.kind not in without
            }
            columns = "SELECT at, id, stream, messages, data FROM row WHERE stream = ? ORDER BY at, id"
            cursors = [connection.execute(columns, (number,)) for number in kinds]
            try:
                for at, row_id, number, count, data in heapq.merge(*cursors):  # IN would sort all there are
                    if row_id in skip:
                        continue
                    messages, size = messages + count, size + len(data)
                    if rows and (messages > max_messages or size > max_bytes):
                        return rows, True
                    rows.append(Row(row_id, kinds[number], at, _unpacked(data)))
            finally:
                for cursor in cursors:
                    cursor.close()
        return rows, False

    def remove(self, rows: Sequence[Row]) -> None:
        with self.session(write=True) as connection:
            connection.executemany("DELETE FROM row WHERE id = ?", [(row.id,) for row in rows])

    def split(self, row: Row) -> list[Row]:
        with self.session(write=True) as connection:
            found = connection.execute("DELETE FROM row WHERE id = ? RETURNING stream", (row.id,)).fetchall()
            return [
                row._replace(id=_insert(connection, number, row.at, [payload]), payloads=[payload])
                for (number,) in found
                for payload in row.payloads
            ]

    def bury(self, row: Row, status: int, reason: str) -> None:
        with self.session(write=True) as connection:
            self._move(connection, row, DEAD, status=status, reason=reason)

    def revive(self, letters: Iterable[Row], destination: str | None = None) -> int:
        with self.session(write=True) as connection:
            return sum(self._move(connection, letter, self.owner, destination) for letter in letters)

    def _move(
        self, connection: sqlite3.Connection, row: Row, owner: int, destination: str | None = None, **answer: Any
    ) -> int:
        """Give a row to another owner, if it is still there. Returns how many messages."""
        for (number,) in connection.execute("DELETE FROM row WHERE id = ? RETURNING stream", (row.id,)).fetchall():
            stream = Stream(*connection.execute(f"SELECT {_STREAM} FROM stream WHERE id = ?", (number,)).fetchone())
            stream = stream._replace(destination=destination or stream.destination)
            _insert(connection, _number(connection, owner, stream), self._now(), row.payloads, **answer)
            return len(row.payloads)
        return 0

    def trim(self, limits: Limits, local: Container[str]) -> Counter[tuple[Stream, str]]:
        dropped: Counter[tuple[Stream, str]] = Counter()
        with self.session(write=True) as connection:
            for each in _filled(connection):
                age = limits.local_max_age_s if each.stream.destination in local else limits.max_age_s
                found = connection.execute(
                    "DELETE FROM row WHERE stream = ? AND at < ? RETURNING messages", (each.id, self._now() - age)
                ).fetchall()
                if each.owner != DEAD:  # those were counted when they died
                    dropped[each.stream, "age"] += sum(messages for (messages,) in found)
            near = {each.id for each in _filled(connection) if each.stream.destination in local}
            _shrink(connection, near, limits.local_rows, limits.outbox_bytes, dropped)
            _shrink(connection, None, limits.outbox_rows, limits.outbox_bytes, dropped)
        return +dropped

    def adopt(self, destinations: Sequence[str]) -> int:
        adopted = 0
        marks = ",".join("?" * len(destinations))
        for owner, lock in self.dead_owners():
            with self.session(write=True) as connection:
                # Only the streams of our destinations: the rest waits for a process that serves them.
                found = connection.execute(
                    f"UPDATE stream SET owner = ? WHERE owner = ? AND messages > 0 AND destination IN ({marks})"
                    " RETURNING messages",
                    (self.owner, owner, *destinations),
                ).fetchall()
                adopted += sum(messages for (messages,) in found)
                self.sign_off(connection, owner, lock)
        return adopted

    def redirect(self, vendor: str, old: str, new: str) -> int:
        redirected = 0
        for owner, _ in self.dead_owners():
            with self.session(write=True) as connection:
                found = connection.execute(
                    "UPDATE stream SET destination = ? WHERE owner = ? AND vendor = ? AND destination = ?"
                    " RETURNING messages",
                    (new, owner, vendor, old),
                ).fetchall()
            redirected += sum(messages for (messages,) in found)
        return redirected

    def depths(self) -> list[tuple[Stream, Depth]]:
        now = self._now()
        with self.session() as connection:
            return [
                (
                    each.stream,
                    Depth(each.messages, each.size, max(0.0, now - each.oldest_at), each.owner == self.owner),
                )
                for each in _filled(connection)
                if each.owner != DEAD
            ]

    def dead_count(self) -> dict[str, int]:
        dead: Counter[str] = Counter()
        with self.session() as connection:
            for each in _filled(connection):
                if each.owner == DEAD:
                    dead[each.stream.vendor] += each.messages
        return dict(dead)

    def scan(self, vendor: str | None = None, *, dead: bool = False) -> Iterator[tuple[Stream, Row]]:
        with self.session() as connection:
            found = [each for each in _filled(connection) if vendor in (None, each.stream.vendor)]
        columns = "SELECT id, at, data, status, reason FROM row WHERE stream = ?"
        for number, stream in [(each.id, each.stream) for each in found if (each.owner == DEAD) == dead]:
            last: tuple[float, int] = (0.0, 0)
            while True:  # a hundred at a time: nothing is locked while the caller looks at them
                with self.session() as connection:
                    page = connection.execute(
                        f"{columns} AND (at, id) > (?, ?) ORDER BY at, id LIMIT 100", (number, *last)
                    ).fetchall()
                for row_id, at, data, status, reason in page:
                    yield stream, Row(row_id, stream.kind, at, _unpacked(data), status, reason)
                    last = (at, row_id)
                if not page:
                    break


_STREAM = ", ".join(Stream._fields)


def _filled(connection: sqlite3.Connection) -> list[_Filled]:
    """Streams that are not empty, those first that go first: dead letters, then by importance and age."""
    found = connection.execute(
        f"SELECT id, owner, messages, size, (SELECT min(at) FROM row WHERE stream = stream.id) AS oldest, {_STREAM}"
        f" FROM stream WHERE messages > 0 ORDER BY owner != {DEAD}, importance, oldest"
    )
    return [
        _Filled(number, owner, Stream(*stream), messages, size, oldest)
        for number, owner, messages, size, oldest, *stream in found
    ]


def _number(connection: sqlite3.Connection, owner: int, stream: Stream) -> int:
    """The stored stream of an owner, made if it is not there."""
    found = connection.execute(
        "SELECT id FROM stream WHERE owner = ? AND vendor = ? AND destination = ? AND kind = ? AND importance = ?",
        (owner, *stream),
    ).fetchone()
    if found is not None:
        return int(found[0])
    marks = "(?, ?, ?, ?, ?)"
    return connection.execute(f"INSERT INTO stream (owner, {_STREAM}) VALUES {marks}", (owner, *stream)).lastrowid or 0


def _insert(
    connection: sqlite3.Connection, stream: int, at: float, payloads: list[bytes], status: int = 0, reason: str = ""
) -> int:
    # Each payload behind its length: an envelope may hold any byte, so no separator would do.
    data = b"".join(part for payload in payloads for part in (len(payload).to_bytes(4, "big"), payload))
    return connection.execute(
        "INSERT INTO row (stream, at, messages, data, status, reason) VALUES (?, ?, ?, ?, ?, ?)",
        (stream, at, len(payloads), data, status, reason),
    ).lastrowid or 0


def _unpacked(data: bytes) -> list[bytes]:
    payloads, start = [], 0
    while start < len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4], "big")
        payloads.append(data[start + 4 : end])
        start = end
    return payloads


def _shrink(
    connection: sqlite3.Connection, only: Container[int] | None, max_messages: int, max_size: int,
    dropped: Counter[tuple[Stream, str]],
) -> None:  # fmt: skip
    """Drop rows until these streams hold no more than this: the oldest of the least important."""
    while True:
        filled = [each for each in _filled(connection) if only is None or each.id in only]
        messages = sum(each.messages for each in filled) - max_messages
        size = sum(each.size for each in filled) - max_size
        if not filled or (messages <= 0 and size <= 0):
            return
        rows = connection.execute(
            "SELECT id, messages, length(data) FROM row WHERE stream = ? ORDER BY at, id LIMIT ?",
            (filled[0].id, DROP_ROWS),
        ).fetchall()
        for row_id, count, length in rows:
            if messages > 0 or size > 0:
                connection.execute("DELETE FROM row WHERE id = ?", (row_id,))
                messages, size = messages - count, size - length
                if filled[0].owner != DEAD:
                    dropped[filled[0].stream, "full"] += count
