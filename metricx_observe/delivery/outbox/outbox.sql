-- The outbox: see sqlite.py. A process is an owner; a stream without messages says that its owner is there.
CREATE TABLE IF NOT EXISTS stream (
    id INTEGER PRIMARY KEY,
    owner TEXT NOT NULL,
    vendor TEXT NOT NULL,
    destination TEXT NOT NULL,
    kind TEXT NOT NULL,
    importance INTEGER NOT NULL,
    messages INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS row (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stream INTEGER NOT NULL,
    at REAL NOT NULL,
    size INTEGER GENERATED ALWAYS AS (length(payload)) STORED,
    payload BLOB NOT NULL,
    status INTEGER,
    reason TEXT
);
CREATE INDEX IF NOT EXISTS row_order ON row (stream, at);

-- To count the rows themselves would take longer the more there are.
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

-- Ids start anywhere: a row of a file that failed must not be one of the file, or memory, that takes its place.
INSERT INTO sqlite_sequence (name, seq)
    SELECT 'row', abs(random() >> 12) WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'row');
