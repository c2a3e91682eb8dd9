"""The outbox in SQLite: a file that the processes of a service share, or memory.

Rows belong to a stream and a stream to an owner, so that counting, taking over a dead process's rows and giving them
another destination touch a few streams, however many rows there are. Triggers keep the counts right whoever deletes.
"""

from __future__ import annotations

import heapq
import sqlite3
import time
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import groupby, takewhile
from typing import Any

from .channel import Limits
from .outbox import DeadLetter, Depth, Row, Stream
from .sqlite_file import SqliteFile

DEAD_LETTERS = 10_000
"""Kept at most; the oldest go first."""
SPARE_PAGES = 512
"""Free pages, of 16 KiB, that the file keeps; what is above goes back to the disk little by little."""
Victim = tuple[int, Stream, str]
"""A row to drop, whose it is, and why."""

_INSERT = "INSERT INTO row (stream, put_at, messages, data) VALUES (?, ?, ?, ?)"


class SqliteOutbox(SqliteFile):
    """An `Outbox` in the file at `path`; in memory when that is None. Opens on first use."""

    def __init__(self, path: str | None) -> None:
        super().__init__(path)
        self._wall_at_zero = time.time() - time.monotonic()

    def _now(self) -> float:
        """Wall clock as this process started with it: a jump of it ages no row."""
        return self._wall_at_zero + time.monotonic()

    def _stream(self, connection: sqlite3.Connection, stream: Stream) -> int:
        number = self.streams.get(stream)
        if number is None:
            number = connection.execute(
                "INSERT INTO stream (owner, vendor, destination, kind, importance) VALUES (?, ?, ?, ?, ?)",
                (self.owner, *stream),
            ).lastrowid
            assert number is not None
            self.streams[stream] = number
        return number

    def add(self, chunks: Iterable[tuple[Stream, list[bytes]]]) -> None:
        now = self._now()
        with self.session(write=True) as connection:
            connection.executemany(
                _INSERT,
                [(self._stream(connection, stream), now, len(some), _packed(some)) for stream, some in chunks],
            )

    def take(
        self, destination: str, *, max_messages: int, max_bytes: int, skip: Container[int], without: Container[str]
    ) -> tuple[list[Row], bool]:
        rows: list[Row] = []
        messages = size = 0
        with self.session() as connection:
            streams = connection.execute(
                "SELECT id, kind FROM stream WHERE owner = ? AND destination = ? AND messages > 0",
                (self.owner, destination),
            ).fetchall()
            kinds = {number: kind for number, kind in streams if kind not in without}
            for row_id, stream in _oldest(connection, kinds):
                if row_id in skip:
                    continue
                found = connection.execute("SELECT messages, data, put_at FROM row WHERE id = ?", (row_id,)).fetchone()
                if found is None:
                    continue  # another process trimmed it just now
                count, data, put_at = found
                messages, size = messages + count, size + len(data)
                if rows and (messages > max_messages or size > max_bytes):
                    return rows, True
                rows.append(Row(row_id, kinds[stream], put_at, _unpacked(data)))
        return rows, False

    def remove(self, rows: Sequence[Row]) -> None:
        with self.session(write=True) as connection:
            connection.executemany("DELETE FROM row WHERE id = ?", [(row.id,) for row in rows])

    def split(self, row: Row) -> list[Row]:
        with self.session(write=True) as connection:
            found = connection.execute("DELETE FROM row WHERE id = ? RETURNING stream", (row.id,)).fetchall()
            ids = [
                connection.execute(_INSERT, (stream, row.put_at, 1, _packed([payload]))).lastrowid or 0
                for (stream,) in found
                for payload in row.payloads
            ]
        return [Row(new, row.kind, row.put_at, [payload]) for new, payload in zip(ids, row.payloads, strict=False)]

    def bury(self, row: Row, status: int, reason: str) -> None:
        with self.session(write=True) as connection:
            found = connection.execute(
                "SELECT vendor, destination, kind, importance FROM stream JOIN row ON row.stream = stream.id"
                " WHERE row.id = ?",
                (row.id,),
            ).fetchone()
            if found is None:
                return
            connection.execute("DELETE FROM row WHERE id = ?", (row.id,))
            connection.executemany(
                "INSERT INTO dead (vendor, destination, kind, importance, status, reason, died_at, payload)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [(*found, status, reason, self._now(), payload) for payload in row.payloads],
            )
            connection.execute(
                "DELETE FROM dead WHERE id <= (SELECT id FROM dead ORDER BY id DESC LIMIT 1 OFFSET ?)", (DEAD_LETTERS,)
            )

    def trim(self, limits: Limits, local: Container[str]) -> Counter[tuple[Stream, str]]:
        dropped: Counter[tuple[Stream, str]] = Counter()
        with self.session() as connection:
            victims = list(_expired(connection, self._now(), limits, local))
            near = [found for found in _waiting(connection) if found[1].destination in local]
            victims += _surplus(connection, near, limits.local_rows, limits.outbox_bytes)
            victims += _surplus(connection, _waiting(connection), limits.outbox_rows, limits.outbox_bytes)
            oldest = connection.execute("SELECT died_at FROM dead ORDER BY id LIMIT 1").fetchone()
            too_old = self._now() - limits.max_age_s
            if connection.execute("PRAGMA freelist_count").fetchone()[0] > SPARE_PAGES:
                connection.executescript(f"PRAGMA incremental_vacuum({SPARE_PAGES // 8})")  # `execute` frees one page
            if not victims and (oldest is None or oldest[0] >= too_old):
                return dropped
        with self.session(write=True) as connection:
            connection.execute("DELETE FROM dead WHERE died_at < ?", (too_old,))
            for row_id, stream, reason in victims:
                for (messages,) in connection.execute(
                    "DELETE FROM row WHERE id = ? RETURNING messages", (row_id,)
                ).fetchall():
                    dropped[stream, reason] += messages
        return dropped

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

    def depths(self, destination: str | None = None) -> list[tuple[Stream, Depth]]:
        now = self._now()
        with self.session() as connection:
            found = connection.execute(
                "SELECT vendor, destination, kind, importance, messages, size, owner = ?,"
                " (SELECT put_at FROM row WHERE stream = stream.id ORDER BY row.id LIMIT 1)"
                " FROM stream WHERE messages > 0 AND (? IS NULL OR destination = ?)",
                (self.owner, destination, destination),
            ).fetchall()
        return [
            (Stream(*key), Depth(messages, size, max(0.0, now - put_at), bool(mine)))
            for *key, messages, size, mine, put_at in found
        ]

    def _pages(self, sql: str, *values: object) -> Iterator[Any]:
        """Rows of a query with an `id`, a hundred at a time: nothing is locked while the caller looks at them."""
        last = 0
        while True:
            with self.session() as connection:
                rows = connection.execute(f"{sql} AND id > ? ORDER BY id LIMIT 100", (*values, last)).fetchall()
            yield from rows
            if not rows:
                return
            last = rows[-1][0]

    def scan(self, vendor: str | None = None) -> Iterator[tuple[Stream, Row]]:
        with self.session() as connection:
            found = _waiting(connection)
        for number, stream, *_ in found:
            if vendor in (None, stream.vendor):
                for row_id, put_at, data in self._pages("SELECT id, put_at, data FROM row WHERE stream = ?", number):
                    yield stream, Row(row_id, stream.kind, put_at, _unpacked(data))

    def dead_letters(self, vendor: str | None = None) -> Iterator[DeadLetter]:
        columns = ", ".join(DeadLetter._fields)
        yield from map(
            DeadLetter._make,
            self._pages(f"SELECT {columns} FROM dead WHERE (? IS NULL OR vendor = ?)", vendor, vendor),
        )

    def dead_count(self) -> dict[str, int]:
        with self.session() as connection:
            return dict(connection.execute("SELECT vendor, count(*) FROM dead GROUP BY vendor"))

    def revive(self, letters: Iterable[DeadLetter], destination: str | None = None) -> int:
        revived = 0
        with self.session(write=True) as connection:
            for letter in letters:
                for vendor, home, kind, importance, payload in connection.execute(
                    "DELETE FROM dead WHERE id = ? RETURNING vendor, destination, kind, importance, payload",
                    (letter.id,),
                ).fetchall():
                    stream = self._stream(connection, Stream(vendor, destination or home, kind, importance))
                    connection.execute(_INSERT, (stream, self._now(), 1, _packed([payload])))
                    revived += 1
        return revived

    def discard(self, letters: Iterable[DeadLetter]) -> None:
        with self.session(write=True) as connection:
            connection.executemany("DELETE FROM dead WHERE id = ?", [(letter.id,) for letter in letters])


def _packed(payloads: Sequence[bytes]) -> bytes:
    """Payloads in one blob, each behind its length: an envelope may hold any byte, so no separator would do."""
    return b"".join(part for payload in payloads for part in (len(payload).to_bytes(4, "big"), payload))


def _unpacked(data: bytes) -> list[bytes]:
    payloads, start = [], 0
    while start < len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4], "big")
        payloads.append(data[start + 4 : end])
        start = end
    return payloads


def _oldest(connection: sqlite3.Connection, streams: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(row id, stream), oldest first, read as far as it is asked for: IN with ORDER BY would sort all of them."""
    cursors = [
        connection.execute("SELECT id, stream FROM row WHERE stream = ? ORDER BY id", (stream,)) for stream in streams
    ]
    try:
        yield from heapq.merge(*cursors)
    finally:
        for cursor in cursors:
            cursor.close()


def _waiting(connection: sqlite3.Connection) -> list[tuple[int, Stream, int, int]]:
    """(number, stream, messages, size) of every stream that is not empty, the least important first."""
    return [
        (number, Stream(*key), messages, size)
        for number, *key, messages, size in connection.execute(
            "SELECT id, vendor, destination, kind, importance, messages, size FROM stream WHERE messages > 0"
            " ORDER BY importance, id"
        )
    ]


def _expired(
    connection: sqlite3.Connection, now: float, limits: Limits, local: Container[str]
) -> Iterator[Victim]:
    for number, stream, *_ in _waiting(connection):
        bound = now - (limits.local_max_age_s if stream.destination in local else limits.max_age_s)
        rows = connection.execute("SELECT id, put_at FROM row WHERE stream = ? ORDER BY id", (number,))
        for row_id, _ in takewhile(lambda row, bound=bound: row[1] < bound, rows):  # type: ignore[misc]
            yield row_id, stream, "age"
        rows.close()


def _surplus(
    connection: sqlite3.Connection, waiting: list[tuple[int, Stream, int, int]], max_messages: int, max_size: int
) -> list[Victim]:
    """Rows to drop so that these streams hold no more than this: the oldest of the least important."""
    messages = sum(each[2] for each in waiting) - max_messages
    size = sum(each[3] for each in waiting) - max_size
    if messages <= 0 and size <= 0:
        return []
    # A hundredth more than must be, so that a full outbox is not trimmed at each commit.
    messages, size = messages + max_messages // 100, size + max_size // 100
    victims: list[Victim] = []
    for _, group in groupby(waiting, key=lambda each: each[1].importance):
        streams = {number: stream for number, stream, *_ in group}
        for row_id, number in _oldest(connection, streams):
            if messages <= 0 and size <= 0:
                return victims
            found = connection.execute("SELECT messages, length(data) FROM row WHERE id = ?", (row_id,)).fetchone()
            messages, size = (messages - found[0], size - found[1]) if found else (messages, size)
            victims.append((row_id, streams[number], "full"))
    return victims
