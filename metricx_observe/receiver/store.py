"""The receiver's rows: one SQLite file with bounds on rows, bytes and age."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from metricx_observe.private_file import secure_database

from .signals import Decoded, Signal, parse_time, scrubbed

SCHEMA = Path(__file__).with_name("schema.sql").read_text()
_COLUMNS = (*Signal._fields, "received", "size")
_UPSERT = (
    f"INSERT INTO signals ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
    f" ON CONFLICT (key) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _COLUMNS[1:])}"
)
_SHARED = ("request_id", "request_trace_id", "user_id", "workspace_id")
_INHERIT = f"""
UPDATE signals SET {", ".join(f"{name} = coalesce(signals.{name}, whole.{name})" for name in _SHARED)}
FROM (SELECT {", ".join(f"max({name}) AS {name}" for name in _SHARED)} FROM signals
      WHERE trace_id = :trace AND vendor = 'langfuse') AS whole
WHERE trace_id = :trace AND vendor = 'langfuse' AND (
    signals.request_id IS NULL AND whole.request_id IS NOT NULL OR signals.user_id IS NULL AND whole.user_id IS NOT NULL
)
"""
"""A score, or a span of the application's own Langfuse code, learns its request and user from the rest of its trace."""
_FILTERS = {
    "user": "user_id = :user",
    "workspace": "workspace_id = :workspace",
    "request_id": "request_id = :request_id",
    "trace_id": "(trace_id = :trace_id OR request_trace_id = :trace_id)",
    "since": "time >= :since",
}
_AGE_EVERY_S = 60.0
"""Looking for rows over their age reads the whole table."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the receiver: sizes in bytes, ages in seconds."""

    body_bytes: int = 16 << 20
    """One post as it arrives. A full batch of 512 Langfuse spans of 50 KB is 25 MB before gzip."""
    decoded_bytes: int = 28 << 20
    """One post after decompression. Decoding holds up to eight times as much: four bytes a character, and copies."""
    rows: int = 10_000
    rows_per_s: int = 20_000
    """More are refused with 429, which a courier repeats later; more in one post with 413, which it halves."""
    stored_bytes: int = 256 << 20
    max_age_s: float = 7 * 86_400.0


class Row(NamedTuple):
    """A stored signal: when it arrived (epoch seconds) and as which in order."""

    signal: Signal
    received: float
    seq: int


def default_store_path() -> Path:
    """Where `metricx-observe dev` keeps its rows: with other programs' state, not among the project's files."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "metricx-observe" / "receiver.db"


class Store:
    """Rows by the vendors' idempotency keys. Safe to call from any thread; never call it on the event loop."""

    def __init__(self, path: str | Path = ":memory:", limits: Limits | None = None) -> None:
        """Open or create the file (0600, a new directory 0700). `:memory:` keeps nothing after `close`.

        Raises ConfigurationError for a link, a second name, another user's file, or a directory where all may write.
        """
        self.limits = limits or Limits()
        self.version = 0
        """Goes up with each change, so that a page can ask whether there is anything new."""
        self.others: Counter[str] = Counter()
        """Items that are not shown (sessions, attachments, ...), by type."""
        self._lock = threading.Lock()
        self._aged_at = 0.0
        self._second, self._in_second = 0, 0
        if str(path) != ":memory:":
            secure_database(str(path))
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.executescript(SCHEMA)
        if str(path) != ":memory:":
            secure_database(str(path))  # again: whoever may write in the directory was there before SQLite
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
            for item_type, count in decoded.others.items():
                known = item_type in self.others or len(self.others) < 50
                self.others[item_type if known else "other"] += count
            if decoded.signals:
                self._write(decoded.signals)
                self.version += 1
        return True

    def _admit(self, rows: int) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._in_second = second, 0
        if self._in_second + rows > self.limits.rows_per_s:
            return False
        self._in_second += rows
        return True

    def _write(self, signals: Sequence[Signal]) -> None:
        received = time.time()
        traces = {signal.trace_id for signal in signals if signal.vendor == "langfuse" and signal.trace_id}
        with self._database:  # commits, or rolls back on an error
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(_UPSERT, [(*signal, received, len(signal.payload)) for signal in signals])
            self._database.executemany(_INHERIT, [{"trace": trace} for trace in traces])
            self._bytes += sum(len(signal.payload) for signal in signals)
            self._prune()

    def _prune(self) -> None:
        """Delete what is over the bounds, the oldest arrivals first."""
        now, limits, execute = time.time(), self.limits, self._database.execute
        if now - self._aged_at > _AGE_EVERY_S:
            self._aged_at = now
            execute("DELETE FROM signals WHERE received < ?", (now - limits.max_age_s,))
        # Arrivals are numbered without gaps and deleted from the oldest on, so no more are kept than the numbers span.
        execute("DELETE FROM signals WHERE seq <= (SELECT max(seq) FROM signals) - ?", (limits.rows,))
        if self._bytes > limits.stored_bytes and self._sum() > limits.stored_bytes:
            # A tenth more than needed, so that this, which reads all sizes, is rare.
            execute(
                "DELETE FROM signals WHERE seq <= (SELECT max(seq) FROM ("
                "  SELECT seq, sum(size) OVER (ORDER BY seq DESC) AS total FROM signals) WHERE total > ?)",
                (limits.stored_bytes * 9 // 10,),
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
            self._bytes = 0
            self.others.clear()
            self.version += 1

    def forget(self, user_id: str) -> int:
        """Delete a user's rows, from the disk too. Returns how many."""
        with self._lock:
            deleted = self._database.execute("DELETE FROM signals WHERE user_id = ?", (user_id,)).rowcount
            self._database.executescript("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")
            self._sum()
            self.version += 1
        return deleted

    def scrubbed(self) -> dict[str, dict[str, dict[str, int]]]:
        """By kind, place and rule, how many markers of the application's scrubber stand in the newest 1,000 signals."""
        counts: dict[str, dict[str, dict[str, int]]] = {}
        marked = "instr(payload, '[scrubbed ') OR instr(payload, '[dropped ')"
        for row in self._rows(f"{marked} ORDER BY seq DESC", {}, 1_000):
            for (place, rule), count in scrubbed(row.signal.payload).items():
                rules = counts.setdefault(row.signal.kind, {}).setdefault(place, {})
                rules[rule] = rules.get(rule, 0) + count
        return counts

    def count(self) -> int:
        """How many rows there are."""
        with self._lock:
            return int(self._database.execute("SELECT count(*) FROM signals").fetchone()[0])

    def newest(
        self, filters: Mapping[str, Any], kinds: Sequence[str] = (), limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Row], str | None]:
        """Rows by time, newest first, and the cursor of the next ones (None: there are no more).

        Args:
            filters: user, workspace, request_id, trace_id (the LLM trace's or the request's), since (epoch seconds).

        Raises:
            ValueError: the cursor is not one that this method gave.
        """
        where = ["1", *(_FILTERS[name] for name in filters)]
        values = dict(filters) | {f"kind{n}": kind for n, kind in enumerate(kinds)}
        if kinds:
            where.append(f"kind IN ({', '.join(f':kind{n}' for n in range(len(kinds)))})")
        if cursor is not None:
            where.append("(time, seq) < (:before, :before_seq)")
            values |= _read_cursor(cursor)
        rows = self._rows(f"{' AND '.join(where)} ORDER BY time DESC, seq DESC", values, limit + 1)
        more = len(rows) > limit
        return rows[:limit], f"{rows[limit - 1].signal.time!r}_{rows[limit - 1].seq}" if more else None

    def of_request(self, request_id: str, limit: int = 1_000) -> list[Row]:
        """Everything of one request in the order in which it happened, at most `limit` rows."""
        return self._rows("request_id = :request_id ORDER BY time, seq", {"request_id": request_id}, limit)

    def _rows(self, condition: str, values: Mapping[str, Any], limit: int) -> list[Row]:
        query = f"SELECT received, seq, {', '.join(Signal._fields)} FROM signals WHERE {condition} LIMIT {limit}"
        with self._lock:
            found = self._database.execute(query, values).fetchall()
        return [Row(Signal(*signal), received, seq) for received, seq, *signal in found]


def _read_cursor(cursor: str) -> dict[str, Any]:
    moment, _, seq = cursor.partition("_")
    when = parse_time(float(moment))
    if when is None or not seq.isdecimal() or len(seq) > 18:
        raise ValueError("not a cursor")
    return {"before": when, "before_seq": int(seq)}
