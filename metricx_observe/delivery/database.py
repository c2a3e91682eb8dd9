"""The SQLite database of the outbox: its tables, its files, and which process owns which rows.

An owner is a process. It is alive while it holds its lock file: no clock and no renewal can be wrong about that.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from metricx_observe.private_file import secure_database

from .outbox import OutboxError, Stream
from .owner_lock import OtherLocks, OwnerLock

DEAD = "dead letters"
"""The owner of the dead letters, which is no process."""
STREAM = ", ".join(Stream._fields)
_SIDES = ("", "-wal", "-shm")
_VERSION = 3
# Ids start anywhere: a row of a file that failed must not be one of what takes its place.
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS owner (token TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS stream (
    id INTEGER PRIMARY KEY, owner TEXT NOT NULL, vendor TEXT NOT NULL, destination TEXT NOT NULL, kind TEXT NOT NULL,
    importance INTEGER NOT NULL, messages INTEGER NOT NULL DEFAULT 0, size INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS row (
    id INTEGER PRIMARY KEY AUTOINCREMENT, stream INTEGER NOT NULL, at REAL NOT NULL,
    size INTEGER GENERATED ALWAYS AS (length(payload)) STORED, payload BLOB NOT NULL, status INTEGER, reason TEXT
);
CREATE INDEX IF NOT EXISTS row_order ON row (stream, at);
CREATE TRIGGER IF NOT EXISTS row_added AFTER INSERT ON row BEGIN
    UPDATE stream SET messages = messages + 1, size = size + NEW.size WHERE id = NEW.stream;
END;
CREATE TRIGGER IF NOT EXISTS row_removed AFTER DELETE ON row BEGIN
    UPDATE stream SET messages = messages - 1, size = size - OLD.size WHERE id = OLD.stream;
END;
CREATE TRIGGER IF NOT EXISTS row_moved AFTER UPDATE OF stream ON row BEGIN
    UPDATE stream SET messages = messages - 1, size = size - OLD.size WHERE id = OLD.stream;
    UPDATE stream SET messages = messages + 1, size = size + NEW.size WHERE id = NEW.stream;
END;
INSERT INTO sqlite_sequence (name, seq)
    SELECT 'row', abs(random() >> 12) WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'row');
PRAGMA user_version = {_VERSION};
COMMIT;
"""
# NORMAL survives kill -9 of the process; only a crash of the machine may take the last commits.
# Some builds of SQLite overwrite what is deleted: see `SqliteOutbox.wipe`.
_SETTINGS = """
PRAGMA synchronous = NORMAL;
PRAGMA secure_delete = OFF;
PRAGMA journal_size_limit = 16777216;
"""


class UnreadableError(OutboxError):
    """The file is an outbox of an earlier version, which is not read any more."""


class Database:
    """An open outbox in the file at `path`, in memory when that is None, and one owner in it.

    Not for several threads at once. Raises sqlite3.Error, OSError, UnsafeFileError and OutboxError.
    """

    def __init__(self, path: str | None) -> None:
        self.path, self.owner = path, ""
        self._owner_lock: OwnerLock | None = None
        self._others = OtherLocks()
        self._files: list[object] = []
        """Which ones are open: others may take their names."""
        self._connection: sqlite3.Connection | None = self._connect()
        try:
            self.sign_on()
        except BaseException:
            self.disconnect()
            raise

    def _connect(self) -> sqlite3.Connection:
        if self.path is not None:
            secure_database(self.path)
        # Short: a status of the event loop waits for the lock that is held meanwhile. The writer tries again.
        path = self.path or ":memory:"
        connection = sqlite3.connect(path, timeout=0.25, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection)
            if self.path is not None:
                secure_database(self.path)  # again: whoever may write in the directory was there before SQLite
                self._files = _files_at(self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    def execute(self, statement: str, values: Sequence[object] | dict[str, object] = ()) -> sqlite3.Cursor:
        """Execute one statement, outside of `transaction` in a transaction of its own."""
        if self._connection is None:  # it was closed for a fork
            self._connection = self._connect()
        return self._connection.execute(statement, values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing of what is executed in the block. Others may read meanwhile, but not write."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # some failures have rolled back already
                self.execute("ROLLBACK")
            raise

    def stream(self, owner: str, stream: Stream) -> int:
        """The number of an owner's stream, which is made if it is not there."""
        values = (owner, *stream)
        query = f"SELECT id FROM stream WHERE (owner, {STREAM}) = (?, ?, ?, ?, ?)"
        found = self.execute(query, values).fetchone()
        begin = f"INSERT INTO stream (owner, {STREAM}) VALUES (?, ?, ?, ?, ?)"
        return int(found[0]) if found else self.execute(begin, values).lastrowid or 0

    def sign_on(self) -> None:
        """Become an owner, in the place of the one that this process was."""
        token = f"{os.getpid()}-{os.urandom(6).hex()}"
        # Before others can see the owner in the file.
        lock = OwnerLock(self._lock_path(token)) if self.path is not None else None
        try:
            with self.transaction():
                self.execute("INSERT INTO owner (token) VALUES (?)", (token,))
                self.execute("UPDATE stream SET owner = ? WHERE owner = ?", (token, self.owner))
                self.execute("DELETE FROM owner WHERE token = ?", (self.owner,))
        except BaseException:
            if lock is not None:
                lock.close(remove=True)
            raise
        if self._owner_lock is not None:
            self._owner_lock.close(remove=True)
        self.owner, self._owner_lock = token, lock

    def sign_off(self, owner: str) -> None:
        """Remove an owner that has nothing left."""
        self.execute("DELETE FROM stream WHERE owner = ? AND messages = 0", (owner,))
        if not self.execute("SELECT 1 FROM stream WHERE owner = ?", (owner,)).fetchone():
            self.execute("DELETE FROM owner WHERE token = ?", (owner,))
            with suppress(FileNotFoundError):
                os.unlink(self._lock_path(owner))

    def dead_owners(self) -> list[str]:
        """Owners whose processes have ended. One that somebody took for dead may have put rows since."""
        others = self.execute(
            "SELECT token FROM owner UNION SELECT owner FROM stream EXCEPT VALUES (?), (?)", (self.owner, DEAD)
        ).fetchall()
        return [token for (token,) in others if self._others.is_free(self._lock_path(token))]

    def _lock_path(self, owner: str) -> str:
        return f"{self.path}.{owner}.lock"

    def is_locked(self) -> bool:
        """Whether others can see that this owner lives."""
        return self._owner_lock is None or self._owner_lock.stands()

    def is_in_place(self) -> bool:
        """Whether the open files are still what others find: nobody has removed, replaced or emptied them."""
        return self.path is None or (_files_at(self.path) == self._files and os.path.getsize(self.path) > 0)

    def set_aside(self) -> str:
        """Move what is still there of the open files out of the way; what others put there stays."""
        assert self.path is not None
        return set_aside(self.path, self._files)

    def take_from(self, old: Database) -> None:
        """Move rows here: the other owner's, the dead letters, and what ended processes left there.

        They keep their ids: couriers are posting some of them. What cannot be read any more is left. What is not the
        owner's own is moved by the first process that gets the old database for itself.
        """
        owners = [old.owner]
        with suppress(sqlite3.Error, OSError):
            old.execute("BEGIN IMMEDIATE")
            owners += [DEAD, *old.dead_owners()]
        with self.transaction():
            for owner in owners:
                for number, *stream in old._readable(f"SELECT id, {STREAM} FROM stream WHERE owner = ?", (owner,)):
                    mine = self.stream(DEAD if owner == DEAD else self.owner, Stream(*stream))
                    rows = old._readable("SELECT id, at, payload, status, reason FROM row WHERE stream = ?", (number,))
                    for row in rows:
                        columns = "stream, id, at, payload, status, reason"
                        self.execute(f"INSERT INTO row ({columns}) VALUES (?, ?, ?, ?, ?, ?)", (mine, *row))
        with suppress(sqlite3.Error):
            if len(owners) > 1:
                for owner in owners:
                    old.execute("UPDATE stream SET owner = 'moved' WHERE owner = ?", (owner,))
                old.execute("COMMIT")

    def _readable(self, query: str, values: Sequence[object]) -> Iterator[tuple[Any, ...]]:
        with suppress(sqlite3.Error):
            yield from self.execute(query, values)

    def disconnect(self) -> None:
        """Close the file until it is used again, and stay an owner."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def close(self, *, moved: bool = False) -> None:
        """Let go of the file and of the lock: what is left is another process's from now on; with `moved` nothing is.

        In a forked child, where the connection is closed already, this leaves the parent's lock as it is.
        """
        if self._connection is not None and not moved:
            with suppress(sqlite3.Error, OSError):
                self.sign_off(self.owner)
        self.disconnect()
        if self._owner_lock is not None:
            self._owner_lock.close(remove=moved)
            self._owner_lock = None


def set_aside(path: str, ours: Sequence[object] | None = None) -> str:
    """Rename a damaged database, never delete what may still be rescued. Returns its new name; "": it was gone.

    With `ours` only those files, as they were when they were opened.
    """
    aside = f"{path}.damaged-{time.time_ns()}"
    found = _files_at(path)
    moved = [side for side, now, known in zip(_SIDES, found, ours or found, strict=True) if now and now == known]
    for side in moved:
        with suppress(OSError):  # side files alone are good for nothing
            os.replace(path + side, aside + side) if "" in moved else os.unlink(path + side)
    return os.path.basename(aside) if "" in moved else ""


def _files_at(path: str) -> list[object]:
    """Which files are the database's, by device and inode; None for one that is not there. Links are not followed."""
    found: list[object] = []
    for side in _SIDES:
        try:
            file = os.lstat(path + side)
            found.append((file.st_dev, file.st_ino))
        except OSError:
            found.append(None)
    return found


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the tables in a new file. Raises OutboxError: the file is not an outbox, or not of this version."""
    # In one statement: another process may be making the tables between two.
    version, tables = connection.execute(
        "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
    ).fetchone()
    if version > _VERSION:
        raise OutboxError(f"METRICX_OUTBOX_URL: move that file away; its schema version is {version}, ours {_VERSION}")
    if 0 < version < _VERSION:
        raise UnreadableError(f"the file's schema version is {version}, ours {_VERSION}")
    if version == 0 and tables:
        raise OutboxError("the file is another application's database")
    connection.execute("PRAGMA page_size = 16384")  # of a new file: rows of 4 KB fill pages of 8 KB by half
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] not in ("wal", "memory"):
        raise OutboxError("the file system does not support SQLite's write-ahead log")
    connection.executescript(_SETTINGS if version else _SETTINGS + _SCHEMA)
