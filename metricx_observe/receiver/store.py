"""The receiver's rows: one SQLite file with bounds on rows, bytes and age."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from .limits import Limits
from .signals import Decoded, Signal, parse_time

SCHEMA = """
CREATE TABLE IF NOT EXISTS signals (
    seq INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    vendor TEXT NOT NULL,
    id TEXT NOT NULL,
    time REAL NOT NULL,
    name TEXT NOT NULL,
    trace_id TEXT, request_trace_id TEXT, parent_id TEXT, request_id TEXT, user_id TEXT, workspace_id TEXT,
    received REAL NOT NULL,
    size INTEGER NOT NULL,
    payload BLOB NOT NULL -- last, so that a scan of the columns before it reads no overflow pages
);
CREATE INDEX IF NOT EXISTS by_time ON signals (time, seq);
CREATE INDEX IF NOT EXISTS by_request ON signals (request_id) WHERE request_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_trace ON signals (trace_id) WHERE trace_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_request_trace ON signals (request_trace_id) WHERE request_trace_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_user ON signals (user_id, time) WHERE user_id IS NOT NULL;
"""
_WRITTEN = (*Signal._fields, "received", "size")
_UPSERT = (
    f"INSERT INTO signals ({', '.join(_WRITTEN)}) VALUES ({', '.join('?' * len(_WRITTEN))})"
    f" ON CONFLICT (key) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _WRITTEN if name != 'key')}"
)
_SHARED = ("request_id", "request_trace_id", "user_id", "workspace_id")
_INHERIT = f"""
UPDATE signals SET {", ".join(f"{name} = coalesce(signals.{name}, whole.{name})" for name in _SHARED)}
FROM (SELECT {", ".join(f"max({name}) AS {name}" for name in _SHARED)} FROM signals
      WHERE trace_id = ? AND vendor = 'langfuse') AS whole
WHERE trace_id = ? AND vendor = 'langfuse' AND (
    signals.request_id IS NULL AND whole.request_id IS NOT NULL OR signals.user_id IS NULL AND whole.user_id IS NOT NULL
)
"""
_COLUMNS = "seq, " + ", ".join(_WRITTEN[1:-1])
_FILTERS = {
    "user": "user_id = :user",
    "workspace": "workspace_id = :workspace",
    "request_id": "request_id = :request_id",
    "trace_id": "(trace_id = :trace_id OR request_trace_id = :trace_id)",
    "since": "time >= :since",
}
_AGE_EVERY_S = 60.0
"""Looking for rows over their age reads the whole table."""


class Row(NamedTuple):
    """A stored signal as it is read back: see `Signal`."""

    seq: int
    kind: str
    vendor: str
    id: str
    time: float
    name: str
    payload: bytes
    trace_id: str | None
    request_trace_id: str | None
    parent_id: str | None
    request_id: str | None
    user_id: str | None
    workspace_id: str | None
    received: float


def default_store_path() -> Path:
    """Where `metricx-observe dev` keeps its rows: beside other programs' state, not among the project's files."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "metricx-observe" / "receiver.db"


class Store:
    """Rows by the vendors' idempotency keys. Safe to call from any thread; never call it on the event loop."""

    def __init__(self, path: str | Path = ":memory:", limits: Limits | None = None) -> None:
        """Open or create the file (0600, its directory 0700). `:memory:` keeps nothing after `close`."""
        self.limits = limits or Limits()
        self.version = 0
        """Goes up with each change, so that a page can ask whether there is anything new."""
        self.others: Counter[str] = Counter()
        """Items that are not shown (sessions, attachments, ...), by type; the rarest types only as `other`."""
        self._lock = threading.Lock()
        self._aged_at = 0.0
        self._second, self._in_second = 0, 0
        if str(path) != ":memory:":
            _make_private(Path(path))
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA journal_size_limit=16777216;" + SCHEMA
        )
        self._sum()
        self._prune()

    def close(self) -> None:
        """Close the file. Calls after it raise sqlite3.ProgrammingError."""
        with self._lock:
            self._database.close()

    def put(self, decoded: Decoded) -> bool:
        """Store one post's signals in one transaction. False: too many in this second, none was stored."""
        with self._lock:
            if not self._admit(len(decoded.signals)):
                return False
            self._count(decoded.others)
            if decoded.signals:
                self._write(decoded.signals)
                self.version += 1
        return True

    def _admit(self, rows: int) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._in_second = second, 0
        if self._in_second and self._in_second + rows > self.limits.rows_per_s:
            return False
        self._in_second += rows
        return True

    def _count(self, others: Counter[str]) -> None:
        for item_type, count in others.items():
            known = item_type in self.others or len(self.others) < 50
            self.others[item_type if known else "other"] += count

    def _write(self, signals: Sequence[Signal]) -> None:
        received = time.time()
        traces = {signal.trace_id for signal in signals if signal.vendor == "langfuse" and signal.trace_id}
        with _transaction(self._database):
            self._database.executemany(_UPSERT, [(*signal, received, len(signal.payload)) for signal in signals])
            # A score, and a span of the application's own Langfuse code, learns its request from the rest of its trace.
            self._database.executemany(_INHERIT, [(trace, trace) for trace in traces])
            self._bytes += sum(len(signal.payload) for signal in signals)
            self._prune()

    def _prune(self) -> None:
        """Delete what is over the bounds, the oldest arrivals first."""
        now = time.time()
        if now - self._aged_at > _AGE_EVERY_S:
            self._aged_at = now
            self._database.execute("DELETE FROM signals WHERE received < ?", (now - self.limits.max_age_s,))
        # Rows go in order and only the oldest are deleted, so there are never more than their numbers span.
        self._database.execute("DELETE FROM signals WHERE seq <= (SELECT max(seq) FROM signals) - ?", (self.limits.rows,))
        if self._bytes > self.limits.stored_bytes and self._sum() > self.limits.stored_bytes:
            # A tenth more than needed, so that this, which reads all sizes, is rare.
            self._database.execute(
                "DELETE FROM signals WHERE seq <= (SELECT max(seq) FROM ("
                "  SELECT seq, sum(size) OVER (ORDER BY seq DESC) AS total FROM signals) WHERE total > ?)",
                (self.limits.stored_bytes * 9 // 10,),
            )
            self._sum()

    def _sum(self) -> int:
        """The exact size of what is stored: between two sums a replaced row counts twice."""
        self._bytes = int(self._database.execute("SELECT coalesce(sum(size), 0) FROM signals").fetchone()[0])
        return self._bytes

    def clear(self) -> None:
        """Delete everything, and give the disk space back."""
        with self._lock:
            self._database.executescript("DELETE FROM signals; VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")
            self.others.clear()
            self._bytes = 0
            self.version += 1

    def count(self) -> int:
        """How many rows there are."""
        return int(self._read("SELECT count(*) FROM signals", {})[0][0])

    def newest(
        self, filters: Mapping[str, Any], kinds: Sequence[str] = (), limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Row], str | None]:
        """Rows by time, newest first, and the cursor of the next ones (None: there are no more).

        Args:
            filters: user, workspace, request_id, trace_id (the LLM trace's or the request's), since (epoch seconds).

        Raises:
            ValueError: the cursor is not one that this method gave.
        """
        where = [_FILTERS[name] for name in filters]
        values = dict(filters)
        if kinds:
            where.append(f"kind IN ({', '.join(f':kind{n}' for n in range(len(kinds)))})")
            values |= {f"kind{n}": kind for n, kind in enumerate(kinds)}
        if cursor is not None:
            where.append("(time, seq) < (:time, :seq)")
            values |= _read_cursor(cursor)
        condition = f"WHERE {' AND '.join(where)}" if where else ""
        query = f"SELECT {_COLUMNS} FROM signals {condition} ORDER BY time DESC, seq DESC LIMIT :limit"
        rows = [Row(*row) for row in self._read(query, values | {"limit": limit + 1})]
        last = rows[limit - 1] if len(rows) > limit else None
        return rows[:limit], f"{last.time!r}_{last.seq}" if last else None

    def of_request(self, request_id: str, limit: int = 2_000) -> list[Row]:
        """Everything of one request in the order in which it happened, at most `limit` rows."""
        query = f"SELECT {_COLUMNS} FROM signals WHERE request_id = :id ORDER BY time, seq LIMIT :limit"
        return [Row(*row) for row in self._read(query, {"id": request_id, "limit": limit})]

    def _read(self, query: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        with self._lock, closing(self._database.execute(query, values)) as found:
            return found.fetchall()


class _transaction:
    """BEGIN IMMEDIATE ... COMMIT, or ROLLBACK on an error: sqlite3's own begins too late and depends on the version."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __enter__(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")

    def __exit__(self, error_type: object, *_: object) -> None:
        self._database.execute("COMMIT" if error_type is None else "ROLLBACK")


def _read_cursor(cursor: str) -> dict[str, Any]:
    moment, _, seq = cursor.partition("_")
    when = parse_time(float(moment))
    if when is None or not seq.isascii() or not seq.isdigit() or len(seq) > 18:
        raise ValueError("not a cursor")
    return {"time": when, "seq": int(seq)}


def _make_private(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in (path, *_side_files(path)):
        # SQLite gives its side files the mode of the database.
        if name == path or name.exists():
            os.close(os.open(name, os.O_CREAT | os.O_RDWR, 0o600))
            name.chmod(0o600)


def _side_files(path: Path) -> Iterable[Path]:
    return (path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm"))
