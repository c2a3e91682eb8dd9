"""The outbox in SQLite: a file that the processes of a service share, or memory.

Rows belong to a stream and a stream to an owner, so that counting, taking over a dead process's rows and giving them
another destination touch a few streams, however many rows there are.
"""

from __future__ import annotations

import heapq
import json
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import chain

from metricx_observe.private_file import UnsafeFileError

from .channel import Limits
from .database import DEAD, STREAM, Database, is_damage
from .outbox import Depth, OutboxError, Row, Stream

JOIN_BYTES = 16
"""What joining a payload to others may add to a post."""
TOGETHER = 100
"""Rows of a statement. sqlite3 lets go of the GIL at each, and a busy event loop takes its time to give it back."""
RETURN_S = 5.0
"""How often a process in memory looks whether its file can be used again: a full disk was made free."""
_FAILURES = (sqlite3.Error, OSError, UnsafeFileError, OutboxError)


def _refuse(why: str) -> None:
    raise OutboxError(why)


class SqliteOutbox:
    """An `Outbox` in the file at `path`; in memory when that is None. Opens on first use.

    When the file fails, `fell_back` is told why and the operation raises; the next one works in memory, until `check`
    goes back to the file. Where `fell_back` raises, as it does unless it is given, each operation tries the file again.
    """

    def __init__(self, path: str | None, fell_back: Callable[[str], None] = _refuse) -> None:
        self.kind = "memory" if path is None else "sqlite"
        self._path, self._fell_back = path, fell_back
        self._lock = threading.RLock()  # one thread at a time: waiting here is cheaper than in SQLite
        self._database: Database | None = None
        self._closed = False
        self._healed = ""
        self._return_at = 0.0
        self._wall_at_zero = time.time() - time.monotonic()

    def _now(self) -> float:
        """Wall clock as this process started with it: a jump of it ages no row."""
        return self._wall_at_zero + time.monotonic()

    @contextmanager
    def session(self, *, write: bool = False) -> Iterator[Database]:
        """The database for a block; with `write` in a transaction. Raises OutboxError for whatever goes wrong."""
        with self._lock:
            try:
                if self._closed:
                    raise OutboxError("closed")
                database = self._database or self._go_on(self._path)
                database.connect()
                with database.transaction() if write else nullcontext():
                    yield database
            except _FAILURES as error:
                raise self._failed(error) from None

    def _failed(self, error: Exception) -> OutboxError:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return OutboxError("the file is locked by another process", busy=True)
        why = _reason(error)
        if self.kind == "sqlite" and not self._closed:
            damaged = is_damage(error)
            aside = self._database.set_aside() if damaged and self._database else ""
            self._fell_back(why + aside)
            self._go_on(None, take_along=damaged)  # else the rows are safe where they are
        return OutboxError(why)

    def _go_on(self, path: str | None, *, take_along: bool = True) -> Database:
        """Use another database from now on, with the rows of the present one that can be read."""
        old, new = self._database, Database(path)
        try:
            if old is not None and take_along:
                new.take_from(old)
        except BaseException:
            new.close()
            raise
        if old is not None:
            old.close(moved=take_along)
        self._database, self.kind = new, "memory" if path is None else "sqlite"
        self._return_at = time.monotonic() + RETURN_S
        return new

    def check(self) -> str:
        """Put right what somebody did to the file or to this process's lock. Returns what that was, once."""
        with self.session() as database:
            if self._path is not None and database.path is None:
                self._return()
            elif not database.is_in_place():
                self._restore(database)
            elif not database.is_locked():
                database.sign_on()
                self._healed = "the lock file was removed"
            healed, self._healed = self._healed, ""
            return healed

    def _return(self) -> None:
        if time.monotonic() > self._return_at:
            self._return_at = time.monotonic() + RETURN_S
            with suppress(*_FAILURES):
                self._go_on(self._path)
                self._healed = "the file can be used again"

    def _restore(self, database: Database) -> None:
        """A file that was removed can be read as long as it is open, and each process that has it open does this."""
        why = "the file was removed, replaced or emptied"
        aside = database.set_aside()
        try:
            self._go_on(self._path)
            self._healed = why
        except _FAILURES as error:
            self._go_on(None)
            self._fell_back(f"{why}, and {_reason(error)}{aside}")

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

    def bury(self, row: Row, status: int, reason: str) -> None:
        with self.session(write=True) as database:
            self._move(database, row, DEAD, None, status, reason)

    def revive(self, letters: Iterable[Row], destination: str | None = None) -> int:
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
            _delete(database, oldest)
            dropped[stream, "full"] += len(oldest) * (not depth.dead)

    def adopt(self, destinations: Sequence[str]) -> int:
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

    def wipe(self) -> None:
        """Write the file anew: what was deleted is in its free pages, and in the log."""
        with self.session() as database:
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def before_fork(self) -> None:
        """Close the file: SQLite keeps its file locks in process memory, and a copy of that would lie to the child."""
        self._lock.acquire()
        if self._database is not None:
            with suppress(OutboxError):
                self._healed = self.check()  # closing a file that was removed loses what is in it
            if self._database.path is not None:
                self._database.disconnect()

    def after_fork(self, *, child: bool) -> None:
        """Go on in the parent; in the child nothing of it is used any more."""
        self._lock.release()
        if child:
            self._closed = True
            if self._database is not None:
                self._database.close()

    def close(self) -> None:
        """Close the file: what is left in it is another process's from now on."""
        with self._lock:
            if self._database is not None:
                with suppress(OutboxError):
                    self.check()
                self._database.close()
            self._database, self._closed = None, True


def _delete(database: Database, row_ids: Sequence[int]) -> None:
    """Those that are gone already are no error."""
    database.execute("DELETE FROM row WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(row_ids),))


def _reason(error: Exception) -> str:
    """Without the path that an OSError names."""
    return f"{type(error).__name__}: {os.strerror(error.errno or 0)}" if isinstance(error, OSError) else str(error)
