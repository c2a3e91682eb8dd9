"""The receiver's SQLite file: its place and mode, its bounds, its life."""

from __future__ import annotations

import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from metricx_observe.receiver import Limits, Store, default_store_path
from metricx_observe.receiver.signals import Decoded, Signal


def signal(n: int, payload: bytes = b"{}") -> Signal:
    return Signal(f"k{n}", "track", "rudderstack", f"m{n}", float(n), f"e{n}", payload)


def kept(store: Store) -> list[str]:
    return [row.signal.name for row in store.newest({}, limit=1000)[0]]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_default_path_is_in_the_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_STATE_HOME where it is set, else ~/.local/state."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_store_path() == tmp_path / "metricx-observe" / "receiver.db"
    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_store_path() == tmp_path / ".local" / "state" / "metricx-observe" / "receiver.db"


def test_files_are_private_and_outlive_the_process(tmp_path: Path) -> None:
    """Database and side files are 0600 also where the file existed with more, a new directory is 0700."""
    path = tmp_path / "new" / "receiver.db"
    store = Store(path)
    store.put(Decoded([signal(1)]))
    files = list(path.parent.iterdir())
    assert len(files) == 3
    assert {mode(file) for file in files} == {0o600}
    assert mode(path.parent) == 0o700
    store.close()
    path.chmod(0o644)
    store = Store(path)
    assert mode(path) == 0o600
    assert kept(store) == ["e1"]
    store.close()
    with pytest.raises(sqlite3.ProgrammingError):
        store.count()


def test_stored_bytes_are_bounded(tmp_path: Path) -> None:
    """Payloads beyond the bound push out the oldest arrivals, and the file does not grow for ever."""
    path = tmp_path / "receiver.db"
    store = Store(path, Limits(stored_bytes=1_000_000))
    for n in range(200):
        store.put(Decoded([signal(n, b"x" * 20_000)]))
    names = kept(store)
    assert names[0] == "e199"
    assert 40 <= len(names) <= 50
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 10_000_000
    store.close()


def test_replacing_a_row_does_not_count_it_twice() -> None:
    """The same signal over and over stays one row and pushes nothing out."""
    store = Store(limits=Limits(stored_bytes=100_000))
    store.put(Decoded([signal(0, b"x" * 50_000)]))
    for _ in range(20):
        store.put(Decoded([signal(1, b"x" * 40_000)]))
    assert kept(store) == ["e1", "e0"]
    store.close()


def test_old_arrivals_go_when_the_store_opens(tmp_path: Path) -> None:
    """What arrived longer ago than the bound is gone, whatever time it carries."""
    path = tmp_path / "receiver.db"
    store = Store(path)
    store.put(Decoded([signal(1), signal(2)]))
    store.close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE signals SET received = received - 8 * 86400 WHERE id = 'm1'")
    database.close()
    store = Store(path)
    assert kept(store) == ["e2"]
    store.close()


def test_a_failed_batch_stores_nothing_of_it() -> None:
    """One transaction a post: what SQLite refuses takes back the whole, and the next post is taken."""
    store = Store()
    broken = signal(2)._replace(time=None)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        store.put(Decoded([signal(1), broken]))
    store.put(Decoded([signal(3)]))
    assert kept(store) == ["e3"]
    store.close()


def test_threads_may_write_and_read_at_once(tmp_path: Path) -> None:
    """Posts are stored by a pool of threads: each row arrives, and reads in between never fail."""
    store = Store(tmp_path / "receiver.db")

    def write(start: int) -> None:
        for n in range(start, start + 50):
            store.put(Decoded([signal(n)]))
            kept(store)

    threads = [threading.Thread(target=write, args=(start,)) for start in range(0, 400, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.count() == 400
    store.close()
