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

from .outbox import OutboxError

try:
    import fcntl
except ImportError:  # Windows: the outbox runs in memory
    fcntl = None  # type: ignore[assignment]

VERSION = 2
DEAD = 0
"""The owner of the dead letters, which is no process."""
ROW_BITS = 36
"""A row's id is its stream's number, then this many bits of its own. `given` counts them: an id is never used again."""

# The streams' numbers start anywhere: a row of the file that failed must not be one of the memory that takes its place.
# NORMAL survives kill -9 of the process; only a crash of the machine may take the last commits.
# Some builds of SQLite overwrite what is deleted: see `wipe`.
_SETTINGS = """
PRAGMA synchronous = NORMAL;
PRAGMA secure_delete = OFF;
PRAGMA journal_size_limit = 16777216;
"""
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS owner (id INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS stream (
    id INTEGER PRIMARY KEY AUTOINCREMENT, owner INTEGER NOT NULL, vendor TEXT NOT NULL, destination TEXT NOT NULL,
    kind TEXT NOT NULL, importance INTEGER NOT NULL,
    given INTEGER NOT NULL, messages INTEGER NOT NULL, size INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS row (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, payload BLOB NOT NULL, status INTEGER, reason TEXT
);
INSERT INTO sqlite_sequence (name, seq)
    SELECT 'stream', abs(random() >> 39) WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'stream');
PRAGMA user_version = {VERSION};
COMMIT;
"""


class SqliteFile:
    """A connection that the threads of a process share, in the file at `path`; in memory when that is None.

    When the file fails, the operation raises and the next one works in memory; `fell_back` is told why. Without it
    every operation raises.
    """

    def __init__(self, path: str | None, fell_back: Callable[[str], None] | None = None) -> None:
        self.kind = "memory" if path is None else "sqlite"
        self.owner = 0
        self._path, self._fell_back = path, fell_back
        self._token = f"{os.getpid()}-{os.urandom(6).hex()}"
        self._owner_lock: int | None = None
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
            except (sqlite3.Error, OSError, OutboxError) as error:
                raise self._failed(error) from None

    def _failed(self, error: Exception) -> OutboxError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return OutboxError("the file is locked by another process", busy=True)
        why = str(error)
        if isinstance(error, OSError):
            why = f"{type(error).__name__}: {os.strerror(error.errno or 0)}"
        elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            why = f"{error}; moved to {self._set_aside()}"
        if self._path is not None and self._fell_back is not None and not self._closed:
            self._let_go()
            self._path, self.owner, self.kind = None, 0, "memory"
            self._fell_back(why)
        return OutboxError(why)

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
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            # Before SQLite does it, for the mode. Never open it again: closing would drop SQLite's own locks.
            with suppress(FileExistsError):
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        # Short: a status of the event loop waits for the lock that is held meanwhile. The writer tries again.
        path = self._path or ":memory:"
        connection = sqlite3.connect(path, timeout=0.25, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection)
            if not self.owner:
                if self._path is not None and self._owner_lock is None:  # before others can see the owner in the file
                    self._owner_lock = _locked(self._lock_path(self._token))
                signed_on = connection.execute("INSERT INTO owner (token) VALUES (?)", (self._token,))
                self.owner = signed_on.lastrowid or 0
        except BaseException:
            connection.close()
            raise
        return connection

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
            others = connection.execute("SELECT id, token FROM owner WHERE id != ?", (self.owner,)).fetchall()
            for owner, token in others:
                if (lock := _locked(self._lock_path(token))) is not None:
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
            self._closed = True
            with suppress(sqlite3.Error, OSError):
                if self._connection is not None:
                    self.sign_off(self._connection, self.owner, self._token)
            self._let_go()

    def _let_go(self) -> None:
        self._disconnect()
        if self._owner_lock is not None:  # in a forked child a copy, which leaves the parent's lock as it is
            os.close(self._owner_lock)
            self._owner_lock = None

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _locked(path: str) -> int | None:
    """A descriptor that holds the lock on a file; None: a living process holds it. OSError where there are no locks.

    The kernel frees it when the process ends, however it ends.
    """
    if fcntl is None:
        raise OSError(95, "no file locks")
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


def _prepare(connection: sqlite3.Connection) -> None:
    # In one statement: another process may be making the tables between two.
    version, tables = connection.execute(
        "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
    ).fetchone()
    if version not in (0, VERSION):
        raise OutboxError(f"METRICX_OUTBOX_URL: move that file away; its schema version is {version}, ours {VERSION}")
    if version == 0 and tables:
        raise OutboxError("the file is another application's database")
    connection.execute("PRAGMA page_size = 16384")  # of a new file: rows of 4 KB fill pages of 8 KB by half
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] not in ("wal", "memory"):
        raise OutboxError("the file system does not support SQLite's write-ahead log")
    connection.executescript(_SETTINGS if version else _SETTINGS + _SCHEMA)
