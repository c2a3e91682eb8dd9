"""The SQLite file under the outbox: opening it, who owns what in it, and what happens when it is damaged or forked.

An owner is a process. It is alive while it holds its lock file: no clock and no renewal can be wrong about that.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .lockfile import LockFile
from .outbox import OutboxError, Stream

VERSION = 1

_SCHEMA = f"""
BEGIN IMMEDIATE;
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
COMMIT;
"""


class SqliteFile:
    """A connection that the threads of a process share, in the file at `path`; in memory when that is None."""

    def __init__(self, path: str | None) -> None:
        self.kind = "memory" if path is None else "sqlite"
        self.owner = 0
        self.streams: dict[Stream, int] = {}  # of this owner, to add to
        self._path = path
        self._lock = threading.RLock()  # one thread at a time: waiting here is cheaper than in SQLite
        self._connection: sqlite3.Connection | None = None
        self._owner_lock: LockFile | None = None
        self._closed = ""  # why, once it is

    @contextmanager
    def session(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        """The connection for a block; with `write` in a transaction. Raises OutboxError for whatever goes wrong."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                if write:
                    with self._transaction(self._connection):
                        yield self._connection
                else:
                    yield self._connection
            except sqlite3.Error as error:
                raise self._outbox_error(error) from error
            except OSError as error:
                raise OutboxError(f"{type(error).__name__}: {os.strerror(error.errno or 0)}") from error

    @contextmanager
    def _transaction(self, connection: sqlite3.Connection) -> Iterator[None]:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            self.streams.clear()  # it may name streams that are rolled back
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _outbox_error(self, error: sqlite3.Error) -> OutboxError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return OutboxError("the file is locked by another process", busy=True)
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            self._closed = f"{error}; moved to {self._set_aside()}"
            return OutboxError(self._closed)
        return OutboxError(str(error))

    def _set_aside(self) -> str:
        """Move the damaged file out of the way of the next start; never delete what may still be rescued."""
        self._disconnect()
        aside = f"{self._path}.damaged-{time.time_ns()}"
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.replace(f"{self._path}{suffix}", f"{aside}{suffix}")
        return os.path.basename(aside)

    def _open(self) -> sqlite3.Connection:
        if self._closed:
            raise OutboxError(self._closed)
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
            self._prepare(connection)
            self._sign_on(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise OutboxError(f"the file has schema version {version}, newer than this package's {VERSION}")
        if version == 0:
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise OutboxError("the file is another application's database")
            connection.execute("PRAGMA page_size = 16384")  # 8 us a row instead of 25 (measured)
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # an outage's backlog need not stay on the disk
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] not in ("wal", "memory"):
            raise OutboxError("the file system does not support SQLite's write-ahead log")
        # NORMAL survives kill -9 of the process; only a crash of the machine may take the last commits.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 256")
        connection.execute("PRAGMA journal_size_limit = 16777216")
        if version == 0:
            connection.executescript(_SCHEMA)

    def _sign_on(self, connection: sqlite3.Connection) -> None:
        """Become an owner. The lock file is locked before others can see the owner in the file."""
        if self.owner:
            return
        token = f"{os.getpid()}-{os.urandom(6).hex()}"
        if self._path is not None:
            self._owner_lock = LockFile(self._lock_path(token))
            self._owner_lock.acquire()
        self.owner = connection.execute("INSERT INTO owner (token) VALUES (?)", (token,)).lastrowid or 0

    def _lock_path(self, token: str) -> str:
        return f"{self._path}.{token}.lock"

    def sign_off(self, connection: sqlite3.Connection, owner: int, lock: LockFile | None) -> None:
        """Remove an owner that has nothing left."""
        connection.execute("DELETE FROM stream WHERE owner = ? AND messages = 0", (owner,))
        if not connection.execute("SELECT 1 FROM stream WHERE owner = ?", (owner,)).fetchone():
            connection.execute("DELETE FROM owner WHERE id = ?", (owner,))
            if lock is not None:
                lock.unlink()

    def dead_owners(self) -> Iterator[tuple[int, LockFile]]:
        """Owners whose processes have ended, each while its lock is held (and no fork can take a copy of it along)."""
        with self.session() as connection:
            others = connection.execute("SELECT id, token FROM owner WHERE id != ?", (self.owner,)).fetchall()
            for owner, token in others:
                lock = LockFile(self._lock_path(token))
                if lock.acquire():
                    try:
                        yield owner, lock
                    finally:
                        lock.release()

    def before_fork(self) -> None:
        """Close the file: SQLite keeps its file locks in process memory, and a copy of that would lie to the child."""
        self._lock.acquire()
        if self._path is not None:
            self._disconnect()

    def after_fork(self, *, child: bool) -> None:
        """Go on in the parent; in the child nothing of it is used any more."""
        self._lock.release()
        if child:
            self._closed = self._closed or "closed"
            if self._owner_lock is not None:
                self._owner_lock.release()

    def close(self) -> None:
        """Close the file and let go of the owner's lock: what is left is another process's from now on."""
        with self._lock:
            self._closed = self._closed or "closed"
            with suppress(sqlite3.Error, OSError):
                if self._connection is not None:
                    self.sign_off(self._connection, self.owner, self._owner_lock)
                self._disconnect()
            if self._owner_lock is not None:
                self._owner_lock.release()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
