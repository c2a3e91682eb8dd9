"""Take rows from one outbox database to another, under the same ids: couriers are posting some of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

DEAD = 0
"""The owner of the dead letters, which is no process."""
ROW_BITS = 36
"""A row's id is its stream's number, then this many bits of its own. `given` counts them: an id is never used again."""
_COLUMNS = "vendor, destination, kind, importance, given"
_COUNT = """
UPDATE stream SET (messages, size) = (
    SELECT count(*), coalesce(sum(length(payload)), 0) FROM row WHERE row.id BETWEEN :first AND :last
) WHERE id = :number
"""


def carry(old: sqlite3.Connection, owners: Sequence[int], new: sqlite3.Connection, me: int) -> None:
    """Move the rows of `owners`, of which the first is this process, and the dead letters. Raises the errors of `new`.

    What the others left is moved by the first process that gets the old database for itself. What cannot be read there
    is left.
    """
    alone = False
    with suppress(sqlite3.Error):
        old.execute("BEGIN IMMEDIATE")
        alone = True
    with new:
        new.execute("BEGIN IMMEDIATE")
        for owner in (*owners, DEAD) if alone else owners[:1]:
            for stream in _read(old, f"SELECT id, {_COLUMNS} FROM stream WHERE owner = ? AND messages > 0", (owner,)):
                _carry_stream(old, stream, new, DEAD if owner == DEAD else me)
    with suppress(sqlite3.Error):
        if alone:
            old.executemany("UPDATE stream SET messages = 0 WHERE owner = ?", [(owner,) for owner in (*owners, DEAD)])
            old.execute("COMMIT")


def _carry_stream(old: sqlite3.Connection, stream: Sequence[object], new: sqlite3.Connection, owner: int) -> None:
    former, *columns = stream
    assert isinstance(former, int)
    taken = new.execute("SELECT 1 FROM stream WHERE id = ?", (former,)).fetchone()
    values = (None if taken else former, owner, *columns)
    begin = f"INSERT INTO stream (id, owner, {_COLUMNS}, messages, size) VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0)"
    number = new.execute(begin, values).lastrowid or 0
    bounds = former << ROW_BITS, (former + 1 << ROW_BITS) - 1
    rows = _read(old, "SELECT id, at, payload, status, reason FROM row WHERE id BETWEEN ? AND ? ORDER BY id", bounds)
    moved = ((row[0] - (former - number << ROW_BITS), *row[1:]) for row in rows)
    new.executemany("INSERT INTO row (id, at, payload, status, reason) VALUES (?, ?, ?, ?, ?)", moved)
    new.execute(_COUNT, {"first": number << ROW_BITS, "last": (number + 1 << ROW_BITS) - 1, "number": number})


def _read(old: sqlite3.Connection, query: str, values: Iterable[object]) -> Iterator[tuple[int, ...]]:
    """Rows, as far as they can be read."""
    with suppress(sqlite3.Error):
        yield from old.execute(query, tuple(values))
