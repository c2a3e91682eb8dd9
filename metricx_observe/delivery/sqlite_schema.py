"""The tables of the outbox in SQLite, and whether a file has them."""

from __future__ import annotations

import sqlite3

from .outbox import OutboxError

VERSION = 2
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


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables in a new file. Raises OutboxError: the file is not an outbox, or not of this version."""
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
