"""What becomes of the outbox when its file fails, is removed or replaced, or the process forks: no row is lost."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress

from metricx_observe.private_file import UnsafeFileError

from . import OutboxError
from .database import Database, is_damage

RETURN_S = 5.0
"""How often a process in memory looks whether its file can be used again: a full disk was made free."""
_FAILURES = (sqlite3.Error, OSError, UnsafeFileError, OutboxError)


def refuse(why: str) -> None:
    """Where memory is no use: for the command line."""
    raise OutboxError(why)


class RecoveringDatabase:
    """The database at `path`, in memory when that is None, for the threads of a process. Opens on first use.

    When the file fails, `fell_back` is told why and the operation raises; the next one works in memory, until `check`
    goes back to the file. Where `fell_back` raises, as it does unless it is given, each operation tries the file again.
    """

    def __init__(self, path: str | None, fell_back: Callable[[str], None] = refuse, *, shared: bool = False) -> None:
        """`shared`: its rows belong to the file, and to no process."""
        self._shared = shared
        self.kind = "memory" if path is None else "sqlite"
        self._path, self._fell_back = path, fell_back
        self._lock = threading.RLock()  # one thread at a time: waiting here is cheaper than in SQLite
        self._database: Database | None = None
        self._closed = False
        self._healed = ""
        self._return_at = 0.0

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
        old, new = self._database, Database(path, shared=self._shared)
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


def _reason(error: Exception) -> str:
    """Without the path that an OSError names."""
    return f"{type(error).__name__}: {os.strerror(error.errno or 0)}" if isinstance(error, OSError) else str(error)
