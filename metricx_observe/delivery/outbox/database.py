"""An open SQLite database of the outbox: its tables, its files, and which process owns which rows.

An owner is a process. It is alive while it holds its lock file: no clock and no renewal can be wrong about that.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from metricx_observe.private_file import secure_database

from . import OutboxError, Stream
from .owner_lock import OwnerLock, free_since, is_free

DEAD = "dead letters"
"""The owner of the dead letters, which is no process."""
SHARED = "shared"
"""The owner of rows that belong to the file, and to no process. Whoever delivers them all holds its lock; while nobody
does, a process that delivers what it puts takes them over as those of a dead process."""
STREAM = ", ".join(Stream._fields)
_BUSY_S = 0.25
"""Short: a status of the event loop waits for the lock that is held meanwhile. The writer tries again."""
_SIDES = ("", "-wal", "-shm")
_VERSION = 3
_TABLES = Path(__file__).with_name("outbox.sql").read_text()
# NORMAL survives kill -9 of the process; only a crash of the machine may take the last commits.
# Some builds of SQLite overwrite what is deleted: see `SqliteOutbox.wipe`.
_SETTINGS = "PRAGMA synchronous = NORMAL; PRAGMA secure_delete = OFF; PRAGMA journal_size_limit = 16777216;"


class EarlierVersionError(sqlite3.DatabaseError):
    """The file is of an earlier version of this package, whose rows are not read any more."""

    sqlite_errorcode = sqlite3.SQLITE_NOTADB


def is_damage(error: Exception) -> bool:
    """Whether the file itself is at fault, so that it must make room for another one."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Database:
    """The outbox in the file at `path`, in memory when that is None, as one owner sees it.

    Not for several threads at once. Raises sqlite3.Error, OSError, UnsafeFileError and OutboxError.
    """

    def __init__(self, path: str | None, *, shared: bool = False) -> None:
        """`shared`: as `SHARED`."""
        self.path, self.owner, self._shared = path, "", shared
        self._owner_lock: OwnerLock | None = None
        self._missing_locks: dict[str, float] = {}
        self._files: Sequence[object] = ()
        """Which ones are open: others may take their names."""
        self._connection: sqlite3.Connection | None = None
        try:
            self.connect()
            self.sign_on()
        except BaseException:
            self.disconnect()
            raise

    def connect(self) -> None:
        """Open the file, unless it is open: it is closed for a fork."""
        if self._connection is not None:
            return
        self._secure_files()
        path = self.path or ":memory:"
        connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection)
            self._secure_files()  # again: whoever may write in the directory was there before SQLite
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error) and is_damage(error):
                raise OutboxError(f"{error}{self.set_aside()}") from None
            raise
        self._connection = connection

    def _secure_files(self) -> None:
        if self.path is not None:
            secure_database(self.path)
            self._files = self._found_files()

    def execute(self, statement: str, values: Sequence[object] | Mapping[str, object] = ()) -> sqlite3.Cursor:
        """Execute a statement, outside of `transaction` in a transaction of its own."""
        assert self._connection is not None
        return self._connection.execute(statement, values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing of what is executed in the block. Others may read meanwhile, but not write."""
        assert self._connection is not None
        with self._connection:  # commits, or rolls back
            self.execute("BEGIN IMMEDIATE")
            yield

    def stream(self, owner: str, stream: Stream) -> int:
        """The number of an owner's stream, which is made if it is not there."""
        query = f"SELECT id FROM stream WHERE (owner, {STREAM}) = (?, ?, ?, ?, ?)"
        found = self.execute(query, (owner, *stream)).fetchone()
        return int(found[0]) if found else self._new_stream(owner, stream)

    def _new_stream(self, owner: str, stream: Stream) -> int:
        statement = f"INSERT INTO stream (owner, {STREAM}) VALUES (?, ?, ?, ?, ?)"
        return self.execute(statement, (owner, *stream)).lastrowid or 0

    def sign_on(self) -> None:
        """Become an owner, in the place of the one that this process was."""
        if self._shared:
            self.owner = SHARED
            return
        owner = f"{os.getpid()}-{os.urandom(6).hex()}"
        # Before others can see the owner in the file.
        lock = OwnerLock(self._lock_path(owner)) if self.path is not None else None
        try:
            with self.transaction():
                self._new_stream(owner, Stream("", "", "", 0))
                self.execute("UPDATE stream SET owner = ? WHERE owner = ?", (owner, self.owner))
        except BaseException:
            if lock is not None:
                lock.close(remove=True)
            raise
        if self._owner_lock is not None:
            self._owner_lock.close(remove=True)
        self.owner, self._owner_lock = owner, lock

    def sign_off(self, owner: str) -> None:
        """Remove an owner that has nothing left."""
        if owner == SHARED:  # whose lock file says when it was last held
            return
        self.execute("DELETE FROM stream WHERE owner = ? AND messages = 0", (owner,))
        if not self.execute("SELECT 1 FROM stream WHERE owner = ?", (owner,)).fetchone():
            with suppress(FileNotFoundError):
                os.unlink(self._lock_path(owner))

    def dead_owners(self) -> list[str]:
        """Owners whose processes have ended."""
        query = "SELECT DISTINCT owner FROM stream WHERE owner NOT IN (?, ?)"
        others = [owner for (owner,) in self.execute(query, (self.owner, DEAD))]
        return [owner for owner in others if is_free(self._lock_path(owner), self._missing_locks)]

    def _lock_path(self, owner: str) -> str:
        return f"{self.path}.{owner}.lock"

    def is_locked(self) -> bool:
        """Whether others can see that this owner lives."""
        return self._owner_lock is None or self._owner_lock.stands()

    def idle_since(self) -> float | None:
        """See `Outbox.idle_since`."""
        return free_since(self._lock_path(SHARED))

    def is_in_place(self) -> bool:
        """Whether others find the open files: nobody has removed, replaced or emptied them."""
        with suppress(OSError):
            return self.path is None or (self._found_files() == self._files and os.path.getsize(self.path) > 0)
        return False

    def _found_files(self) -> list[object]:
        """Which files are there, by device and inode; None for one that is missing. Links are not followed."""
        found: list[object] = []
        for side in _SIDES:
            try:
                file = os.lstat(f"{self.path}{side}")
                found.append((file.st_dev, file.st_ino))
            except OSError:
                found.append(None)
        return found

    def set_aside(self) -> str:
        """Rename what is still there of the open files, which may still be rescued. Returns what to say of it."""
        aside = f"{self.path}.damaged-{time.time_ns()}"
        for side, now, opened in zip(_SIDES, self._found_files(), self._files, strict=True):
            if now and now == opened:  # else others have put it there
                os.replace(f"{self.path}{side}", f"{aside}{side}")
        return f"; moved to {os.path.basename(aside)}" if os.path.exists(aside) else ""

    def take_from(self, old: Database) -> None:
        """Move rows here: the other owner's, the dead letters, and what ended processes left there.

        They keep their ids: couriers are posting some of them. What cannot be read any more is left. What is not the
        process's own is moved by the first process that gets the old database for itself.
        """
        owners, others = ([], [DEAD, SHARED]) if self._shared else ([old.owner], [DEAD])
        with suppress(sqlite3.Error, OSError):
            old.execute("BEGIN IMMEDIATE")
            owners += [*others, *old.dead_owners()]
        columns = "id, at, payload, status, reason"
        with self.transaction():
            for owner in owners:
                for number, *stream in old._readable(f"SELECT id, {STREAM} FROM stream WHERE owner = ?", owner):
                    mine = self.stream(DEAD if owner == DEAD else self.owner, Stream(*stream))
                    for row in old._readable(f"SELECT {columns} FROM row WHERE stream = ?", number):
                        self.execute(f"INSERT INTO row (stream, {columns}) VALUES (?, ?, ?, ?, ?, ?)", (mine, *row))
        with suppress(sqlite3.Error):
            for owner in owners:
                old.execute("DELETE FROM stream WHERE owner = ?", (owner,))
            old.execute("COMMIT")

    def _readable(self, query: str, value: object) -> Iterator[tuple[Any, ...]]:
        with suppress(sqlite3.Error):
            yield from self.execute(query, (value,))

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


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the tables in a new file. Raises OutboxError: the file is not an outbox, or not of this version."""
    # In one statement: another process may be making the tables between two.
    version, tables = connection.execute(
        "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
    ).fetchone()
    if version > _VERSION:
        raise OutboxError(f"METRICX_OUTBOX_URL: move that file away; its schema version is {version}, ours {_VERSION}")
    if 0 < version < _VERSION:
        raise EarlierVersionError(f"the file's schema version is {version}, ours {_VERSION}")
    if version == 0 and tables:
        raise OutboxError("the file is another application's database")
    connection.execute("PRAGMA page_size = 16384")  # of a new file: rows of 4 KB fill pages of 8 KB by half
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] not in ("wal", "memory"):
        raise OutboxError("the file system does not support SQLite's write-ahead log")
    connection.executescript(_SETTINGS)
    if version == 0:
        connection.executescript(f"BEGIN IMMEDIATE; {_TABLES}; PRAGMA user_version = {_VERSION}; COMMIT;")
