"""The outbox in SQLite: a file that the processes of a service share, or memory.

Rows belong to a stream and a stream to an owner, so that counting, taking over a dead process's rows and giving them
another destination touch a few streams, however many rows there are. Triggers keep the counts right whoever deletes.
An owner is alive while it holds its lock file: no clock and no renewal can be wrong about that.
"""

from __future__ import annotations

import heapq
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, takewhile

from .channel import Limits
from .lockfile import LockFile
from .outbox import DeadLetter, Depth, OutboxError, Row, Stream

VERSION = 1
DEAD_LETTERS = 10_000
"""Kept at most; the oldest go first."""

_SCHEMA = f"""
CREATE TABLE owner (id INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL);
CREATE TABLE stream (
    id INTEGER PRIMARY KEY AUTOINCREMENT, owner INTEGER NOT NULL, vendor TEXT NOT NULL, destination TEXT NOT NULL,
    kind TEXT NOT NULL, importance INTEGER NOT NULL,
    messages INTEGER NOT NULL DEFAULT 0, size INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE row (
    id INTEGER PRIMARY KEY AUTOINCREMENT, stream INTEGER NOT NULL, put_at REAL NOT NULL, messages INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE INDEX row_stream ON row (stream);
CREATE TRIGGER row_added AFTER INSERT ON row BEGIN
    UPDATE stream SET messages = messages + new.messages, size = size + length(new.data) WHERE id = new.stream;
END;
CREATE TRIGGER row_gone AFTER DELETE ON row BEGIN
    UPDATE stream SET messages = messages - old.messages, size = size - length(old.data) WHERE id = old.stream;
END;
CREATE TABLE dead (
    id INTEGER PRIMARY KEY AUTOINCREMENT, vendor TEXT NOT NULL, destination TEXT NOT NULL, kind TEXT NOT NULL,
    importance INTEGER NOT NULL, status INTEGER NOT NULL, reason TEXT NOT NULL, died_at REAL NOT NULL,
    payload BLOB NOT NULL
);
PRAGMA user_version = {VERSION};
"""

_INSERT = "INSERT INTO row (stream, put_at, messages, data) VALUES (?, ?, ?, ?)"


class SqliteOutbox:
    """An `Outbox` in the file at `path`; in memory when that is None. Opens on first use."""

    def __init__(self, path: str | None) -> None:
        self.kind = "memory" if path is None else "sqlite"
        self._path = path
        self._lock = threading.RLock()  # one writer at a time in the process: waiting here is cheaper than in SQLite
        self._connection: sqlite3.Connection | None = None
        self._owner = 0
        self._owner_lock: LockFile | None = None
        self._streams: dict[Stream, int] = {}
        self._closed = False
        self._wall_at_zero = time.time() - time.monotonic()

    def _now(self) -> float:
        """Wall clock as this process started with it: a jump of it ages no row."""
        return self._wall_at_zero + time.monotonic()

    @contextmanager
    def _session(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                connection = self._connection
                if not write:
                    yield connection
                    return
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    self._streams.clear()  # it may name streams that are rolled back
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise self._outbox_error(error) from error
            except OSError as error:
                raise OutboxError(f"{type(error).__name__}: {os.strerror(error.errno or 0)}") from error

    def _outbox_error(self, error: sqlite3.Error) -> OutboxError:
        code = getattr(error, "sqlite_errorcode", None)
        primary = -1 if code is None else code & 0xFF
        if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return OutboxError("the file is locked by another process", busy=True)
        if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return OutboxError(f"{error}; moved to {self._set_aside()}")
        return OutboxError(str(error))

    def _set_aside(self) -> str:
        """Move the damaged file out of the way of the next start; never delete what may still be rescued."""
        self._disconnect()
        aside = f"{self._path}.damaged-{time.time_ns()}"
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(f"{self._path}{suffix}"):
                os.replace(f"{self._path}{suffix}", f"{aside}{suffix}")
        return os.path.basename(aside)

    def _open(self) -> sqlite3.Connection:
        if self._closed:
            raise OutboxError("closed")
        if self._path is None:
            return self._connect(":memory:")
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        with LockFile(f"{self._path}.lock").held(10.0):
            if not os.path.exists(self._path):
                # Before SQLite does it, for the mode. Never open it again: closing would drop SQLite's own locks.
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            return self._connect(self._path)

    def _connect(self, path: str) -> sqlite3.Connection:
        # Short: a status of the event loop waits for the lock that is held meanwhile. The writer tries again.
        connection = sqlite3.connect(path, timeout=0.25, isolation_level=None, check_same_thread=False)
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise OutboxError(f"the file has schema version {version}, newer than this package's {VERSION}")
            if version == 0:
                if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise OutboxError("the file is another application's database")
                connection.execute("PRAGMA page_size = 16384")  # 8 us a row instead of 25 (measured)
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode not in ("wal", "memory"):
                raise OutboxError("the file system does not support SQLite's write-ahead log")
            # NORMAL survives kill -9 of the process; only a crash of the machine may take the last commits.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA wal_autocheckpoint = 256")
            connection.execute("PRAGMA journal_size_limit = 16777216")
            if version == 0:
                connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            self._sign_on(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _sign_on(self, connection: sqlite3.Connection) -> None:
        """Become an owner. The lock file is locked before others can see the owner in the file."""
        if self._owner:
            return
        token = f"{os.getpid()}-{os.urandom(6).hex()}"
        if self._path is not None:
            self._owner_lock = LockFile(self._lock_path(token))
            self._owner_lock.acquire()
        self._owner = connection.execute("INSERT INTO owner (token) VALUES (?)", (token,)).lastrowid or 0

    def _lock_path(self, token: str) -> str:
        return f"{self._path}.{token}.lock"

    def _stream(self, connection: sqlite3.Connection, stream: Stream) -> int:
        number = self._streams.get(stream)
        if number is None:
            number = connection.execute(
                "INSERT INTO stream (owner, vendor, destination, kind, importance) VALUES (?, ?, ?, ?, ?)",
                (self._owner, *stream),
            ).lastrowid
            assert number is not None
            self._streams[stream] = number
        return number

    def add(self, chunks: Iterable[tuple[Stream, list[bytes]]]) -> None:
        now = self._now()
        with self._session(write=True) as connection:
            connection.executemany(
                _INSERT,
                [(self._stream(connection, stream), now, len(some), _packed(some)) for stream, some in chunks],
            )

    def take(
        self, destination: str, *, max_messages: int, max_bytes: int, skip: Container[int], without: Container[str]
    ) -> tuple[list[Row], bool]:
        rows: list[Row] = []
        messages = size = 0
        with self._session() as connection:
            found = connection.execute(
                "SELECT id, kind FROM stream WHERE owner = ? AND destination = ? AND messages > 0",
                (self._owner, destination),
            ).fetchall()
            kinds = {number: kind for number, kind in found if kind not in without}
            for row_id, stream in _oldest(connection, kinds):
                if row_id in skip:
                    continue
                count, data, put_at = connection.execute(
                    "SELECT messages, data, put_at FROM row WHERE id = ?", (row_id,)
                ).fetchone()
                messages, size = messages + count, size + len(data)
                if rows and (messages > max_messages or size > max_bytes):
                    return rows, True
                rows.append(Row(row_id, kinds[stream], put_at, _unpacked(data)))
        return rows, False

    def remove(self, rows: Sequence[Row]) -> None:
        with self._session(write=True) as connection:
            connection.executemany("DELETE FROM row WHERE id = ?", [(row.id,) for row in rows])

    def split(self, row: Row) -> list[Row]:
        with self._session(write=True) as connection:
            found = connection.execute("DELETE FROM row WHERE id = ? RETURNING stream", (row.id,)).fetchall()
            ids = [
                connection.execute(_INSERT, (stream, row.put_at, 1, _packed([payload]))).lastrowid or 0
                for (stream,) in found
                for payload in row.payloads
            ]
        return [Row(new, row.kind, row.put_at, [payload]) for new, payload in zip(ids, row.payloads, strict=False)]

    def bury(self, row: Row, status: int, reason: str) -> None:
        with self._session(write=True) as connection:
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
        with self._session() as connection:
            victims = list(_expired(connection, self._now(), limits, local))
            near = [found for found in _waiting(connection) if found[1].destination in local]
            victims += _surplus(connection, near, limits.local_rows, limits.outbox_bytes)
            victims += _surplus(connection, _waiting(connection), limits.outbox_rows, limits.outbox_bytes)
            oldest = connection.execute("SELECT died_at FROM dead ORDER BY id LIMIT 1").fetchone()
            too_old = self._now() - limits.max_age_s
            if not victims and (oldest is None or oldest[0] >= too_old):
                return dropped
        with self._session(write=True) as connection:
            connection.execute("DELETE FROM dead WHERE died_at < ?", (too_old,))
            for row_id, stream, reason in victims:
                for (messages,) in connection.execute(
                    "DELETE FROM row WHERE id = ? RETURNING messages", (row_id,)
                ).fetchall():
                    dropped[stream, reason] += messages
        return dropped

    def _dead_owners(self) -> Iterator[tuple[int, LockFile]]:
        """Owners whose processes have ended, each while its lock is held."""
        with self._session() as connection:
            others = connection.execute("SELECT id, token FROM owner WHERE id != ?", (self._owner,)).fetchall()
        for owner, token in others:
            lock = LockFile(self._lock_path(token))
            if lock.acquire():
                try:
                    yield owner, lock
                finally:
                    lock.release()

    def adopt(self, destinations: Sequence[str]) -> int:
        adopted = 0
        marks = ",".join("?" * len(destinations))
        for owner, lock in self._dead_owners():
            with self._session(write=True) as connection:
                # Only the streams of our destinations: the rest waits for a process that serves them.
                found = connection.execute(
                    f"UPDATE stream SET owner = ? WHERE owner = ? AND messages > 0 AND destination IN ({marks})"
                    " RETURNING messages",
                    (self._owner, owner, *destinations),
                ).fetchall()
                adopted += sum(messages for (messages,) in found)
                self._sign_off(connection, owner, lock)
        return adopted

    def redirect(self, vendor: str, old: str, new: str) -> int:
        redirected = 0
        for owner, _ in self._dead_owners():
            with self._session(write=True) as connection:
                found = connection.execute(
                    "UPDATE stream SET destination = ? WHERE owner = ? AND vendor = ? AND destination = ?"
                    " RETURNING messages",
                    (new, owner, vendor, old),
                ).fetchall()
            redirected += sum(messages for (messages,) in found)
        return redirected

    def depths(self, destination: str | None = None) -> list[tuple[Stream, Depth]]:
        now = self._now()
        with self._session() as connection:
            found = connection.execute(
                "SELECT vendor, destination, kind, importance, messages, size, owner = ?,"
                " (SELECT put_at FROM row WHERE stream = stream.id ORDER BY row.id LIMIT 1)"
                " FROM stream WHERE messages > 0 AND (? IS NULL OR destination = ?)",
                (self._owner, destination, destination),
            ).fetchall()
        return [
            (Stream(*key), Depth(messages, size, max(0.0, now - put_at), bool(mine)))
            for *key, messages, size, mine, put_at in found
        ]

    def scan(self, vendor: str | None = None) -> Iterator[tuple[Stream, Row]]:
        with self._session() as connection:
            found = [each for each in _waiting(connection) if vendor in (None, each[1].vendor)]
        for number, stream, *_ in found:
            last = 0
            while True:
                with self._session() as connection:
                    rows = connection.execute(
                        "SELECT id, put_at, data FROM row WHERE stream = ? AND id > ? ORDER BY id LIMIT 100",
                        (number, last),
                    ).fetchall()
                if not rows:
                    break
                last = rows[-1][0]
                yield from ((stream, Row(row_id, stream.kind, at, _unpacked(data))) for row_id, at, data in rows)

    def dead_letters(self, vendor: str | None = None) -> Iterator[DeadLetter]:
        last = 0
        while True:
            with self._session() as connection:
                rows = connection.execute(
                    "SELECT id, vendor, kind, status, reason, died_at, payload FROM dead"
                    " WHERE id > ? AND (? IS NULL OR vendor = ?) ORDER BY id LIMIT 100",
                    (last, vendor, vendor),
                ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            yield from (DeadLetter(*row) for row in rows)

    def dead_count(self) -> dict[str, int]:
        with self._session() as connection:
            return dict(connection.execute("SELECT vendor, count(*) FROM dead GROUP BY vendor"))

    def revive(self, letters: Iterable[DeadLetter], destination: str | None = None) -> int:
        revived = 0
        with self._session(write=True) as connection:
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
        with self._session(write=True) as connection:
            connection.executemany("DELETE FROM dead WHERE id = ?", [(letter.id,) for letter in letters])

    def before_fork(self) -> None:
        self._lock.acquire()
        if self._path is not None:
            self._disconnect()  # SQLite keeps its file locks in process memory: a copy of that would lie to the child

    def after_fork(self, *, child: bool) -> None:
        self._lock.release()
        if child:
            self._closed = True
            if self._owner_lock is not None:
                self._owner_lock.release()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            try:
                if self._connection is not None:
                    self._sign_off(self._connection, self._owner, self._owner_lock)
                self._disconnect()
            except sqlite3.Error:
                pass  # what is left is taken over by the next process
            if self._owner_lock is not None:
                self._owner_lock.release()

    def _sign_off(self, connection: sqlite3.Connection, owner: int, lock: LockFile | None) -> None:
        """Remove an owner that has nothing left."""
        connection.execute("DELETE FROM stream WHERE owner = ? AND messages = 0", (owner,))
        if not connection.execute("SELECT 1 FROM stream WHERE owner = ?", (owner,)).fetchone():
            connection.execute("DELETE FROM owner WHERE id = ?", (owner,))
            if lock is not None:
                lock.unlink()


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
) -> Iterator[tuple[int, Stream, str]]:
    for number, stream, *_ in _waiting(connection):
        bound = now - (limits.local_max_age_s if stream.destination in local else limits.max_age_s)
        rows = connection.execute("SELECT id, put_at FROM row WHERE stream = ? ORDER BY id", (number,))
        for row_id, _ in takewhile(lambda row, bound=bound: row[1] < bound, rows):  # type: ignore[misc]
            yield row_id, stream, "age"
        rows.close()


def _surplus(
    connection: sqlite3.Connection, waiting: list[tuple[int, Stream, int, int]], max_messages: int, max_size: int
) -> list[tuple[int, Stream, str]]:
    """Rows to drop so that these streams hold no more than this: the oldest of the least important."""
    messages = sum(each[2] for each in waiting) - max_messages
    size = sum(each[3] for each in waiting) - max_size
    if messages <= 0 and size <= 0:
        return []
    # A hundredth more than must be, so that a full outbox is not trimmed at each commit.
    messages, size = messages + max_messages // 100, size + max_size // 100
    victims: list[tuple[int, Stream, str]] = []
    for _, group in groupby(waiting, key=lambda each: each[1].importance):
        streams = {number: stream for number, stream, *_ in group}
        for row_id, number in _oldest(connection, streams):
            if messages <= 0 and size <= 0:
                return victims
            row_messages, row_size = connection.execute(
                "SELECT messages, length(data) FROM row WHERE id = ?", (row_id,)
            ).fetchone()
            messages, size = messages - row_messages, size - row_size
            victims.append((row_id, streams[number], "full"))
    return victims
