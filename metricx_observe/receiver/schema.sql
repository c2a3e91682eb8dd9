PRAGMA journal_mode=WAL;
PRAGMA synchronous=NORMAL;
PRAGMA journal_size_limit=16777216;
CREATE TABLE IF NOT EXISTS signals (
    seq INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL, vendor TEXT NOT NULL, id TEXT NOT NULL, time REAL NOT NULL, name TEXT NOT NULL,
    trace_id TEXT, request_trace_id TEXT, parent_id TEXT, request_id TEXT, user_id TEXT, workspace_id TEXT,
    received REAL NOT NULL,
    size INTEGER NOT NULL,
    payload BLOB NOT NULL -- last, so that reading the columns before it reads no overflow pages
);
CREATE INDEX IF NOT EXISTS by_time ON signals (time, seq);
CREATE INDEX IF NOT EXISTS by_request ON signals (request_id) WHERE request_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_trace ON signals (trace_id) WHERE trace_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_request_trace ON signals (request_trace_id) WHERE request_trace_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_user ON signals (user_id, time) WHERE user_id IS NOT NULL;
