"""The SQLite file under the outbox: opening it, who owns what in it, and what happens when it is damaged or forked.

An owner is a process. It is alive while it holds its lock file: no clock and no renewal can be wrong about that.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from metricx_observe.private_file import UnsafeFileError, identity, secure_database

from .outbox import OutboxError
from .owner_lock import OtherLocks, OwnerLock
from .sqlite_carry import DEAD, carry
from .sqlite_schema import prepare

RETURN_S = 5.0
"""How often a process in memory looks whether its file can be used again: a full disk was made free."""
_FAILURES = (sqlite3.Error, OSError, UnsafeFileError, OutboxError)
_SIDES = ("", "-wal", "-shm")


class SqliteFile:
    """A connection that the threads of a process share, in the file at `path`; in memory when that is None.

    When the file fails, the operation raises and the next one works in memory; `fell_back` is told why. Without it
    every operation raises. `check`, called at each tick, goes back to the file.
    """

    def __init__(self, path: str | None, fell_back: Callable[[str], None] | None = None) -> None:
        self.kind = "memory" if path is None else "sqlite"
        self.owner = 0
        self._home = self._path = path
        self._fell_back = fell_back
        self._owner_lock: OwnerLock | None = None
        self._others = OtherLocks()
        self._files: list[object] = []  # which ones are open: others may take their names
        self._token = self._healed = ""
        self._return_at = 0.0
        self._lock = threading.RLock()  # one thread at a time: waiting here is cheaper than in SQLite
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    @contextmanager
    def session(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        """The connection for a block; with `write` in a transaction. Raises OutboxError for whatever goes wrong."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                if not write:
                    yield self._connection
                    return
                with self._connection:  # commits, or rolls back
                    self._connection.execute("BEGIN IMMEDIATE")
                    yield self._connection
            except _FAILURES as error:
                raise self._failed(error) from None

    def _failed(self, error: Exception) -> OutboxError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return OutboxError("the file is locked by another process", busy=True)
        why = _reason(error)
        damaged = code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        falls_back = self._path is not None and self._fell_back is not None and not self._closed
        if damaged and falls_back and self._connection is not None:  # what can still be read is not lost
            self._replace(self._connection, None, str(error))
        else:
            if damaged:
                why = f"{error}; moved to {self._set_aside()}"
            if falls_back and self._fell_back is not None:
                self._let_go()
                self._use(None)
                self._fell_back(why)
        return OutboxError(why)

    def _use(self, path: str | None) -> None:
        self._path, self.owner, self.kind = path, 0, "memory" if path is None else "sqlite"
        self._return_at = time.monotonic() + RETURN_S

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
            raise OutboxError("closed")
        if self._path is not None:
            secure_database(self._path)
        # Short: a status of the event loop waits for the lock that is held meanwhile. The writer tries again.
        path = self._path or ":memory:"
        connection = sqlite3.connect(path, timeout=0.25, isolation_level=None, check_same_thread=False)
        try:
            prepare(connection)
            if not self.owner:
                self._sign_on(connection)
            if self._path is not None:
                secure_database(self._path)  # again: whoever may write in the directory was there before SQLite
                self._files = self._found()
        except BaseException:
            connection.close()
            raise
        return connection

    def _sign_on(self, connection: sqlite3.Connection) -> None:
        """Become an owner, in the place of the one that this process was."""
        token = f"{os.getpid()}-{os.urandom(6).hex()}"
        # Before others can see the owner in the file.
        lock = OwnerLock(self._lock_path(token)) if self._path is not None else None
        try:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                owner = connection.execute("INSERT INTO owner (token) VALUES (?)", (token,)).lastrowid or 0
                connection.execute("UPDATE stream SET owner = ? WHERE owner = ?", (owner, self.owner or -1))
                connection.execute("DELETE FROM owner WHERE id = ?", (self.owner,))
        except BaseException:
            if lock is not None:
                lock.close(remove=True)
            raise
        if self._owner_lock is not None:
            self._owner_lock.close(remove=True)
        self._token, self.owner, self._owner_lock = token, owner, lock

    def check(self) -> str:
        """Put right what somebody did to the file or to this process's lock. Returns what that was, once.

        Raises OutboxError: busy, try again.
        """
        with self._lock:
            with self.session() as connection:
                if self._path is not None and self._found() != self._files:
                    self._replace(connection, self._path, "the file was removed, replaced or emptied")
                elif self._owner_lock is not None and not self._owner_lock.stands():
                    self._sign_on(connection)
                    self._healed = "the lock file was removed"
                elif self._path != self._home and time.monotonic() > self._return_at:
                    self._return(connection)
            healed, self._healed = self._healed, ""
            return healed

    def _found(self) -> list[object]:
        return [identity(f"{self._path}{suffix}", empty=bool(suffix)) for suffix in _SIDES]

    def _replace(self, old: sqlite3.Connection, path: str | None, why: str) -> None:
        """Go on in a new file at `path`, or else in memory, with all that is still in this process.

        A file that was removed can be read as long as it is open, and each process that has it open does this.
        """
        before, lock, dead = self.owner, self._owner_lock, list[int]()
        with suppress(sqlite3.Error, OSError):
            dead = [owner for owner, _ in self._dead(old)]
        aside = self._move_leftovers()
        for place in dict.fromkeys((path, None)):
            self._connection = self._owner_lock = None
            self._use(place)
            try:
                self._connection = self._open()
                carry(old, [before, *dead], self._connection, self.owner)
                break
            except _FAILURES as error:
                why = f"{why}, and {_reason(error)}"
                self._let_go()
        if self._path is not None:
            self._healed = why
        elif self._fell_back is not None:
            self._fell_back(f"{why}; moved to {aside}" if aside else why)
        with suppress(sqlite3.Error):
            old.close()
        if lock is not None:
            lock.close(remove=True)

    def _return(self, memory: sqlite3.Connection) -> None:
        """Go on in the file again, if that is possible by now."""
        owner, self._connection = self.owner, None
        self._use(self._home)
        try:
            self._connection = self._open()
            carry(memory, [owner], self._connection, self.owner)
        except _FAILURES:
            self._let_go()
            self._use(None)
            self._connection, self.owner = memory, owner
        else:
            self._healed = "the file can be used again"
            memory.close()

    def _move_leftovers(self) -> str:
        """Move what is still there of the file that is open out of the way; what others put there stays.

        Its side files alone are good for nothing. Returns the name that it has now.
        """
        aside = f"{self._path}.damaged-{time.time_ns()}"
        ours = [
            suffix
            for suffix, known in zip(_SIDES, self._files, strict=True)
            if known is not None and identity(f"{self._path}{suffix}", empty=True) == known
        ]
        for suffix in ours:
            file = f"{self._path}{suffix}"
            with suppress(OSError):
                os.replace(file, f"{aside}{suffix}") if "" in ours else os.unlink(file)
        return os.path.basename(aside) if "" in ours else ""

    def _lock_path(self, token: str) -> str:
        return f"{self._path}.{token}.lock"

    def sign_off(self, connection: sqlite3.Connection, owner: int, token: str) -> None:
        """Remove an owner that has nothing left."""
        connection.execute("DELETE FROM stream WHERE owner = ? AND messages = 0", (owner,))
        if not connection.execute("SELECT 1 FROM stream WHERE owner = ?", (owner,)).fetchone():
            connection.execute("DELETE FROM owner WHERE id = ?", (owner,))
            with suppress(FileNotFoundError):
                os.unlink(self._lock_path(token))

    def dead_owners(self) -> Iterator[tuple[int, str]]:
        """Owners whose processes have ended, each while its lock is held (and no fork can take a copy of it along)."""
        with self.session() as connection:
            yield from self._dead(connection)

    def _dead(self, connection: sqlite3.Connection) -> Iterator[tuple[int, str]]:
        for owner, token in connection.execute(_OTHERS, {"me": self.owner}).fetchall():
            if (lock := self._others.take(self._lock_path(token))) is not None:
                try:
                    yield owner, token
                finally:
                    os.close(lock)

    def wipe(self) -> None:
        """Write the file anew: what was deleted is in its free pages, and in the log. Overwriting each row when it
        is deleted would cost every message a fifth of what SQLite costs it (measured)."""
        with self.session() as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def before_fork(self) -> None:
        """Close the file: SQLite keeps its file locks in process memory, and a copy of that would lie to the child."""
        self._lock.acquire()
        if self._connection is not None:
            with suppress(OutboxError):
                self._healed = self.check()  # closing a file that was removed loses what is in it
        if self._path is not None:
            self._disconnect()

    def after_fork(self, *, child: bool) -> None:
        """Go on in the parent; in the child nothing of it is used any more."""
        self._lock.release()
        if child:
            self._closed = True
            self._let_go()

    def close(self) -> None:
        """Close the file and let go of the owner's lock: what is left is another process's from now on."""
        with self._lock:
            if self._connection is not None and self._fell_back is not None:
                with suppress(OutboxError):
                    self.check()
            self._closed = True
            with suppress(sqlite3.Error, OSError):
                if self._connection is not None:
                    self.sign_off(self._connection, self.owner, self._token)
            self._let_go()

    def _let_go(self) -> None:
        self._disconnect()
        if self._owner_lock is not None:  # in a forked child a copy, which leaves the parent's lock as it is
            self._owner_lock.close()
            self._owner_lock = None

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _reason(error: Exception) -> str:
    """Without the path that an OSError names."""
    return f"{type(error).__name__}: {os.strerror(error.errno or 0)}" if isinstance(error, OSError) else str(error)


_OTHERS = f"""
SELECT id, token FROM owner WHERE id != :me
UNION SELECT owner, 'nobody-' || owner FROM stream
      WHERE owner NOT IN (SELECT id FROM owner) AND owner NOT IN (:me, {DEAD})
"""
"""Rows of an owner that is not known any more were put by a process that somebody took for dead."""
