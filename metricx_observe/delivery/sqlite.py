"""The outbox in SQLite: a file that the processes of a service share, or memory.

Rows belong to a stream and a stream to an owner, so that counting, taking over a dead process's rows and giving them
another destination touch a few streams, however many rows there are.
"""

from __future__ import annotations

import heapq
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any

from .channel import Limits
from .outbox import Depth, Row, Stream
from .sqlite_file import DEAD, SqliteFile

JOIN_BYTES = 16
"""What joining a payload to others may add to a post."""
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
        numbers: dict[Stream, int] = {}
        rows: list[tuple[int, bytes]] = []
        with self.session(write=True) as connection:
            for stream, payload in messages:
                if stream not in numbers:
                    numbers[stream] = _number(connection, self.owner, stream)
                rows.append((numbers[stream], payload))
            _insert(connection, self._now(), rows)

    def take(
        self, destination: str, *, max_messages: int, max_bytes: int, skip: Container[int], without: Container[str]
    ) -> tuple[list[Row], bool]:
        rows: list[Row] = []
        size = 0
        with self.session() as connection:
            kinds = {
                number: stream.kind
                for number, _, stream, depth in self._filled(connection)
                if depth.mine and stream.destination == destination and stream.kind not in without
            }
            columns = "SELECT at, id, stream, payload FROM row WHERE stream = ? ORDER BY at, id"
            cursors = [connection.execute(columns, (number,)) for number in kinds]
            try:
                for at, row_id, number, payload in heapq.merge(*cursors):  # IN would sort all there are
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
        with self.session(write=True) as connection:
            _delete(connection, [row.id for row in rows])

    def bury(self, row: Row, status: int, reason: str) -> None:
        with self.session(write=True) as connection:
            self._move(connection, row, DEAD, status=status, reason=reason)

    def revive(self, letters: Iterable[Row], destination: str | None = None) -> int:
        with self.session(write=True) as connection:
            return sum(self._move(connection, letter, self.owner, destination) for letter in letters)

    def _move(
        self, connection: sqlite3.Connection, row: Row, owner: int, destination: str | None = None, **answer: Any
    ) -> bool:
        """Give a row to another owner. False: it is gone."""
        query = f"SELECT {_STREAM} FROM stream WHERE id = (SELECT stream FROM row WHERE id = ?)"
        found = connection.execute(query, (row.id,)).fetchone()
        if found is None:
            return False
        _delete(connection, [row.id])
        stream = Stream(*found)._replace(destination=destination or found[1])
        _insert(connection, self._now(), [(_number(connection, owner, stream), row.payload)], **answer)
        return True

    def trim(self, limits: Limits, local: Container[str]) -> Counter[tuple[Stream, str]]:
        dropped: Counter[tuple[Stream, str]] = Counter()
        with self.session(write=True) as connection:
            for number, owner, stream, _ in self._filled(connection):
                age = limits.local_max_age_s if stream.destination in local else limits.max_age_s
                query = "SELECT id FROM row WHERE stream = ? AND at < ?"
                old = [row_id for (row_id,) in connection.execute(query, (number, self._now() - age))]
                _delete(connection, old)
                if owner != DEAD:  # those were counted when they died
                    dropped[stream, "age"] += len(old)
            self._shrink(connection, limits.local_rows, limits.outbox_bytes, dropped, local)
            self._shrink(connection, limits.outbox_rows, limits.outbox_bytes, dropped)
        return +dropped

    def _shrink(
        self, connection: sqlite3.Connection, max_messages: int, max_size: int,
        dropped: Counter[tuple[Stream, str]], only: Container[str] | None = None,
    ) -> None:  # fmt: skip
        """Drop rows until there are no more than this, or no more `only` for these destinations."""
        while True:
            filled = [each for each in self._filled(connection) if only is None or each[2].destination in only]
            messages = sum(depth.messages for *_, depth in filled) - max_messages
            size = sum(depth.size for *_, depth in filled) - max_size
            if not filled or (messages <= 0 and size <= 0):
                return
            number, owner, stream, _ = filled[0]
            victims: list[int] = []
            query = "SELECT id, length(payload) FROM row WHERE stream = ? ORDER BY at, id LIMIT ?"
            for row_id, length in connection.execute(query, (number, DROP_ROWS)):
                if messages > 0 or size > 0:
                    victims.append(row_id)
                    messages, size = messages - 1, size - length
            _delete(connection, victims)
            if owner != DEAD:
                dropped[stream, "full"] += len(victims)

    def adopt(self, destinations: Sequence[str]) -> int:
        # Only the streams of our destinations: the rest waits for a process that serves them.
        ours = "destination IN (SELECT value FROM json_each(:destinations))"
        return self._of_the_dead(f"owner = :me WHERE {ours}", destinations=json.dumps(destinations))

    def redirect(self, vendor: str, old: str, new: str) -> int:
        change = "destination = :new WHERE vendor = :vendor AND destination = :old"
        return self._of_the_dead(change, vendor=vendor, old=old, new=new)

    def _of_the_dead(self, change: str, **values: str) -> int:
        """Change streams that dead processes left. Returns how many messages are in them."""
        changed = 0
        for owner, lock in self.dead_owners():
            with self.session(write=True) as connection:
                found = connection.execute(
                    f"UPDATE stream SET {change} AND owner = :dead AND messages > 0 RETURNING messages",
                    {"me": self.owner, "dead": owner, **values},
                ).fetchall()
                self.sign_off(connection, owner, lock)
            changed += sum(messages for (messages,) in found)
        return changed

    def depths(self) -> list[tuple[Stream, Depth]]:
        with self.session() as connection:
            return [(stream, depth) for _, owner, stream, depth in self._filled(connection) if owner != DEAD]

    def dead_count(self) -> dict[str, int]:
        dead: Counter[str] = Counter()
        with self.session() as connection:
            for _, owner, stream, depth in self._filled(connection):
                dead[stream.vendor] += depth.messages if owner == DEAD else 0
        return dict(+dead)

    def scan(self, vendor: str | None = None, *, dead: bool = False) -> Iterator[tuple[Stream, Row]]:
        query = "SELECT id, at, payload, status, reason FROM row WHERE stream = ? AND (at, id) > (?, ?)"
        with self.session() as connection:
            found = self._filled(connection)
        for number, owner, stream, _ in found:
            more, last = (owner == DEAD) == dead and vendor in (None, stream.vendor), (0.0, 0)
            while more:  # a hundred at a time: nothing is locked while the caller looks at them
                with self.session() as connection:
                    rows = connection.execute(f"{query} ORDER BY at, id LIMIT 100", (number, *last)).fetchall()
                for row_id, at, payload, status, reason in rows:
                    yield stream, Row(row_id, stream.kind, at, payload, status, reason)
                    last = (at, row_id)
                more = bool(rows)

    def _filled(self, connection: sqlite3.Connection) -> list[tuple[int, int, Stream, Depth]]:
        """Id, owner, stream and depth, those first that go first: dead letters, then by importance and age."""
        found = connection.execute(
            f"SELECT id, owner, messages, size, (SELECT min(at) FROM row WHERE stream = stream.id) AS oldest, {_STREAM}"
            f" FROM stream WHERE messages > 0 ORDER BY owner != {DEAD}, importance, oldest"
        )
        now = self._now()
        return [
            (number, owner, Stream(*stream), Depth(messages, size, max(0.0, now - at), owner == self.owner))
            for number, owner, messages, size, at, *stream in found
        ]


_STREAM = ", ".join(Stream._fields)


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
    connection: sqlite3.Connection, at: float, rows: list[tuple[int, bytes]], status: int = 0, reason: str = ""
) -> None:
    connection.executemany(
        "INSERT INTO row (stream, at, payload, status, reason) VALUES (?, ?, ?, ?, ?)",
        [(stream, at, payload, status, reason) for stream, payload in rows],
    )
    _count(connection, [(stream, len(payload)) for stream, payload in rows], +1)


def _delete(connection: sqlite3.Connection, ids: list[int]) -> None:
    """Delete rows; those that are gone already are no error."""
    gone: list[tuple[int, int]] = []
    for row_id in ids:
        query = "DELETE FROM row WHERE id = ? RETURNING stream, length(payload)"
        gone += connection.execute(query, (row_id,)).fetchall()
    _count(connection, gone, -1)


def _count(connection: sqlite3.Connection, rows: list[tuple[int, int]], sign: int) -> None:
    """Keep what a stream says of its rows right: a trigger would cost as much again as the rows (measured)."""
    messages, sizes = Counter[int](), Counter[int]()
    for stream, size in rows:
        messages[stream] += sign
        sizes[stream] += sign * size
    connection.executemany(
        "UPDATE stream SET messages = messages + ?, size = size + ? WHERE id = ?",
        [(messages[stream], sizes[stream], stream) for stream in messages],
    )
