"""The face of delivery: put, commit, flush, close, status, in one process."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing.util import _finalizer_registry  # type: ignore[attr-defined]
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from metricx_observe.delivery import Delivery, Limits, Message
from metricx_observe.exceptions import ConfigurationError
from tests.faults import FaultyVendor, LineChannel, until

Open = Callable[..., Delivery]


@pytest.fixture
def vendor() -> Iterator[FaultyVendor]:
    vendor = FaultyVendor()
    yield vendor
    vendor.close()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/state/outbox.db"


@pytest.fixture
def open_delivery(vendor: FaultyVendor, url: str) -> Iterator[Open]:
    """Opens a delivery on one file to one vendor; closes it after the test."""
    opened: list[Delivery] = []

    def open_one(**options: Any) -> Delivery:
        options = {"url": url, "limits": Limits(post_deadline_s=1.0, probe_every_s=0.3), **options}
        channels = options.pop("channels", [LineChannel(vendor.url)])
        opened.append(Delivery(channels, **options))
        return opened[-1]

    yield open_one
    for delivery in opened:
        delivery.close(0.0)


def numbers(vendor: FaultyVendor) -> list[int]:
    return sorted(json.loads(message)["n"] for message in vendor.accepted)


def put(delivery: Delivery, count: int, first: int = 0) -> None:
    for n in range(first, first + count):
        assert delivery.put("rudderstack", {"n": n}, size=50)


def threads_of_delivery() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("metricx-observe")]


def test_nothing_is_opened_or_started_before_the_first_put(open_delivery: Open, tmp_path: Path) -> None:
    """An import, a constructor and a status cost no thread and no file: a process without signals has none."""
    until(lambda: not threads_of_delivery())
    delivery = open_delivery()
    assert delivery.status()["outbox"]["kind"] == "not opened"
    assert threads_of_delivery() == []
    assert list(tmp_path.iterdir()) == []
    put(delivery, 1)
    assert threads_of_delivery() == ["metricx-observe-writer"]


def test_the_file_is_private(open_delivery: Open, tmp_path: Path) -> None:
    """Directory 0700, every file in it 0600: nobody else on the machine reads what users did."""
    delivery = open_delivery(deliver=False)
    put(delivery, 1)
    assert delivery.commit(5)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()} == {0o600}


def test_an_outbox_url_that_says_nothing_is_a_configuration_error() -> None:
    """The text names the variable and what to type, at start-up."""
    for bad in ("redis://x", "sqlite://relative.db", "outbox.db", ""):
        with pytest.raises(ConfigurationError, match="METRICX_OUTBOX_URL"):
            Delivery([], url=bad)


def test_in_test_mode_rows_stay_and_can_be_read(open_delivery: Open, vendor: FaultyVendor) -> None:
    """`deliver=False`: nothing leaves the process, and a test sees the exact bytes."""
    delivery = open_delivery(deliver=False, url="memory://")
    put(delivery, 3)
    assert delivery.rows("rudderstack") == [Message("track", json.dumps({"n": n}).encode()) for n in range(3)]
    assert delivery.rows("sentry") == []
    assert delivery.flush(1)
    delivery.close(1)
    assert vendor.requests == []


def test_status_shows_counters_without_secrets(open_delivery: Open, vendor: FaultyVendor) -> None:
    """By vendor what was put, committed, delivered, dropped by reason, what waits and for how long."""
    delivery = open_delivery()
    put(delivery, 5)
    delivery.put("rudderstack", "unencodable")
    delivery.count("rudderstack", "dropped", "consent", 2)
    delivery.count("rudderstack", "merged", n=3)
    assert delivery.flush(5)
    shown = delivery.status()
    assert shown["rudderstack"] == {
        "put": 6,
        "committed": 5,
        "delivered": 5,
        "retried": 0,
        "dropped": {"encode": 1, "consent": 2},
        "merged": 3,
        "dead": 0,
        "pending": 0,
        "oldest_s": 0.0,
        "breaker": "closed",
        "last_error": None,
    }
    assert shown["outbox"] == {
        "kind": "sqlite", "fallback": "", "healed": "", "would_lose": {}, "stranded": {}, "unacknowledged": 0,
        "nobody_delivers_since": "",
    }  # fmt: skip
    assert "secret" not in json.dumps(shown)


def test_a_record_that_cannot_be_encoded_costs_itself_only(
    open_delivery: Open, vendor: FaultyVendor, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted and said once by the exception's kind, never with its content; its neighbours arrive."""
    delivery = open_delivery()
    for n in range(6):
        delivery.put("rudderstack", {"n": n} if n % 2 else "unencodable")
    assert delivery.flush(5)
    assert numbers(vendor) == [1, 3, 5]
    assert delivery.status()["rudderstack"]["dropped"] == {"encode": 3}
    assert [record.getMessage() for record in caplog.records] == [
        "rudderstack: a record could not be encoded: ValueError"
    ]


def test_what_does_not_fit_into_memory_is_refused_and_counted(open_delivery: Open) -> None:
    """The bound of memory is bytes; when there is room again, it goes on."""
    delivery = open_delivery(limits=Limits(memory_bytes=1000, commit_every_s=5.0), deliver=False)
    assert delivery.put("rudderstack", {"n": 1}, size=900)
    assert not delivery.put("rudderstack", {"n": 2}, size=200)
    assert delivery.commit(5)
    assert delivery.put("rudderstack", {"n": 3}, size=200)
    assert delivery.status()["rudderstack"]["dropped"] == {"memory": 1}
    assert [json.loads(message.payload)["n"] for message in delivery.rows("rudderstack")] == [1, 3]


def test_put_to_nowhere_is_refused(open_delivery: Open) -> None:
    """A vendor that is not configured and a closed delivery refuse, and never raise."""
    delivery = open_delivery()
    assert not delivery.put("unknown", {})
    delivery.close(1)
    assert not delivery.put("rudderstack", {})
    assert delivery.status()["rudderstack"]["dropped"] == {"closed": 1}


def test_rows_dropped_at_a_bound_are_counted_and_said_once(
    open_delivery: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """A full outbox says so once a minute and counts each message by kind and reason."""
    delivery = open_delivery(limits=Limits(outbox_rows=10), deliver=False)
    for first in range(0, 50, 5):
        put(delivery, 5, first)
        assert delivery.commit(5)
    dropped = {"full track": 40}
    until(lambda: delivery.status()["rudderstack"]["dropped"] == dropped)  # the rows are gone before they are counted,
    until(lambda: caplog.records)  # and counted before the line is logged
    assert delivery.status()["rudderstack"]["pending"] == 10
    assert len([record for record in caplog.records if "dropped" in record.getMessage()]) == 1


def test_rows_of_an_unknown_destination_are_shown_as_stranded(open_delivery: Open, vendor: FaultyVendor) -> None:
    """Rows for a key that was rotated wait, are not sent with the new key, and can be seen."""
    first = open_delivery(channels=[LineChannel(vendor.url, destination="old key")], deliver=False)
    put(first, 3)
    first.close(1)
    second = open_delivery()
    put(second, 1, first=10)
    assert second.flush(5)
    assert numbers(vendor) == [10]
    assert second.status()["outbox"]["stranded"] == {"rudderstack": 3}


def test_two_services_on_one_file_send_nothing_of_each_other(open_delivery: Open, vendor: FaultyVendor) -> None:
    """Different keys, one file, both running: 0 rows cross."""
    other = FaultyVendor()
    one = open_delivery()
    two = open_delivery(channels=[LineChannel(other.url, destination="elsewhere")])
    put(one, 50)
    put(two, 50, first=100)
    assert one.flush(5)
    assert two.flush(5)
    assert numbers(vendor) == list(range(50))
    assert numbers(other) == list(range(100, 150))
    other.close()


def test_rows_left_by_an_earlier_process_go_out_at_start(open_delivery: Open, vendor: FaultyVendor) -> None:
    """The next start delivers what the last one left, although nothing is put."""
    first = open_delivery(deliver=False)
    put(first, 20)
    first.close(1)
    second = open_delivery()
    second.start()
    until(lambda: len(vendor.accepted) == 20)
    assert second.flush(5)
    assert numbers(vendor) == list(range(20))


@pytest.mark.parametrize("mode", ["ok", "refused", "500", "429", "hang", "trickle", "reset", "401"])
def test_close_returns_in_time_and_loses_nothing(open_delivery: Open, vendor: FaultyVendor, mode: str) -> None:
    """Whatever the vendor does: back within the deadline, and the rest goes out at the next start."""
    vendor.mode = mode
    delivery = open_delivery(limits=Limits())
    put(delivery, 50)
    began = time.monotonic()
    delivery.close(1.0)
    assert time.monotonic() - began < 1.5
    vendor.mode = "ok"
    assert open_delivery().flush(5)
    assert set(numbers(vendor)) == set(range(50))
    if mode != "reset":
        assert len(vendor.accepted) == 50


def test_close_of_an_ephemeral_outbox_uses_its_deadline(open_delivery: Open, vendor: FaultyVendor) -> None:
    """A vendor that comes back while it closes gets all, and until then the status says what would be lost."""
    vendor.mode = "500"
    delivery = open_delivery(limits=Limits(ephemeral=True, backoff_s=0.2))
    put(delivery, 30)
    until(lambda: delivery.status()["rudderstack"]["breaker"] == "open")
    assert delivery.status()["outbox"]["would_lose"] == {"rudderstack": 30}
    back = threading.Timer(0.5, setattr, (vendor, "mode", "ok"))
    back.start()
    delivery.close(10.0)
    assert back.finished.is_set()
    assert numbers(vendor) == list(range(30))


def test_a_flush_that_is_not_patient_waits_only_for_who_answers(open_delivery: Open, vendor: FaultyVendor) -> None:
    """A vendor that is away holds it up for none of the minute that it has."""
    vendor.mode = "500"
    delivery = open_delivery()
    put(delivery, 5)
    until(lambda: delivery.status()["rudderstack"]["breaker"] == "open")
    assert delivery.flush(600.0, patient=False)
    assert delivery.status()["rudderstack"]["pending"] == 5


def test_a_local_receiver_that_answers_has_it_when_close_returns(open_delivery: Open, vendor: FaultyVendor) -> None:
    """Who runs a script looks at its page next."""
    delivery = open_delivery(channels=[LineChannel(vendor.url, local=True)])
    put(delivery, 5)
    delivery.close(60.0)
    assert numbers(vendor) == list(range(5))


def test_the_status_of_what_is_closed_says_what_is_left(open_delivery: Open, vendor: FaultyVendor) -> None:
    """What waits in the file is not gone."""
    vendor.mode = "500"
    delivery = open_delivery()
    put(delivery, 5)
    delivery.close(1.0)
    assert delivery.status()["rudderstack"]["pending"] == 5


def test_what_a_restart_would_lose(open_delivery: Open, vendor: FaultyVendor) -> None:
    """Nothing where the outbox is a file that stays; all of it where it is in memory."""
    vendor.mode = "500"
    for url, lost in ((None, {}), ("memory://", {"rudderstack": 3})):
        delivery = open_delivery(**({"url": url} if url else {}))
        put(delivery, 3)
        assert delivery.commit(5)
        assert delivery.status()["outbox"]["would_lose"] == lost


def test_close_does_not_wait_for_who_does_not_answer(open_delivery: Open, vendor: FaultyVendor) -> None:
    """An open breaker or a local destination holds up no shutdown."""
    vendor.mode = "500"
    for channel in (LineChannel(vendor.url), LineChannel(vendor.url, local=True)):
        delivery = open_delivery(channels=[channel], limits=Limits())
        put(delivery, 10)
        assert delivery.commit(5)
        if not channel.local:
            until(lambda delivery=delivery: delivery.status()["rudderstack"]["breaker"] == "open")  # type: ignore[misc]
        put(delivery, 10)
        began = time.monotonic()
        delivery.close(5.0)
        assert time.monotonic() - began < 1.0


def test_close_again_does_nothing(open_delivery: Open) -> None:
    """Lifespan, atexit and the user may all close."""
    delivery = open_delivery()
    put(delivery, 1)
    for _ in range(3):
        delivery.close(1)
    open_delivery().close(1)


async def test_acknowledged_waits_share_a_commit(open_delivery: Open) -> None:
    """Requests that wait are released together, by the next group commit, which does not linger for more."""
    delivery = open_delivery(limits=Limits(commit_every_s=10.0), deliver=False)
    put(delivery, 1)
    assert await asyncio.to_thread(delivery.commit, 10)  # opening the file may take longer than a request waits

    async def request(n: int) -> None:
        delivery.put("rudderstack", {"n": n})
        await delivery.committed()

    await asyncio.wait_for(asyncio.gather(*(request(n) for n in range(100))), 5)
    await delivery.committed()
    assert delivery.status()["rudderstack"]["committed"] == 101
    assert delivery.status()["outbox"]["unacknowledged"] == 0


async def test_a_slow_commit_lets_the_response_go(open_delivery: Open, url: str, tmp_path: Path) -> None:
    """After 250 ms a request no longer waits for the disk; that is counted, and the record is stored later."""
    delivery = open_delivery(deliver=False)
    put(delivery, 1)
    assert await asyncio.to_thread(delivery.commit, 5)
    blocker = sqlite3.connect(tmp_path / "state/outbox.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    put(delivery, 1, first=1)
    await delivery.committed()
    blocker.execute("ROLLBACK")
    blocker.close()
    assert await asyncio.to_thread(delivery.commit, 5)
    assert delivery.status()["outbox"]["unacknowledged"] == 1
    assert delivery.status()["rudderstack"]["pending"] == 2


def test_the_status_can_be_had_while_the_disk_is_stuck(open_delivery: Open, tmp_path: Path) -> None:
    """The writer's tries leave the outbox to others in between: few who ask wait as long as a try takes."""
    delivery = open_delivery(deliver=False)
    put(delivery, 1)
    assert delivery.commit(5)
    with closing(sqlite3.connect(tmp_path / "state/outbox.db", isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        put(delivery, 1, first=1)
        assert not delivery.commit(0.1)
        took: list[float] = []
        for _ in range(40):
            assert not delivery.commit(0.01)  # it goes on trying
            began = time.monotonic()
            assert delivery.status()["rudderstack"]["pending"] == 1
            took.append(time.monotonic() - began)
    assert median(took) < max(took) / 5
    assert delivery.commit(10)


def test_a_file_that_another_process_holds_is_waited_for(open_delivery: Open, tmp_path: Path) -> None:
    """A locked file is no broken one: nothing is lost, and nothing falls back to memory."""
    delivery = open_delivery(deliver=False)
    put(delivery, 1)
    assert delivery.commit(5)
    blocker = sqlite3.connect(tmp_path / "state/outbox.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    put(delivery, 1, first=1)
    assert not delivery.commit(0.1)
    until(lambda: delivery.status()["outbox"]["fallback"] == "", 1)
    blocker.execute("ROLLBACK")
    blocker.close()
    assert delivery.commit(10)
    assert len(delivery.rows("rudderstack")) == 2


def damage(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b"this is no database, and was never one" * 100)


def make_newer(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def make_older(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 1")
    connection.close()


def make_foreign(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE customer (id INTEGER)")
    connection.close()


def make_directory(path: Path) -> None:
    path.mkdir(parents=True)


def block_parent(path: Path) -> None:
    path.parent.write_text("a file where the directory should be")


@pytest.mark.parametrize("fault", [damage, make_newer, make_older, make_foreign, make_directory, block_parent])
def test_an_unusable_file_means_memory_and_one_line(
    open_delivery: Open,
    vendor: FaultyVendor,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    fault: Callable[[Path], None],
) -> None:
    """Corrupt, newer, older, foreign, not to be opened: delivery goes on in memory, says so once, deletes nothing."""
    path = tmp_path / "state/outbox.db"
    fault(path)
    before = path.read_bytes() if path.is_file() else b""
    delivery = open_delivery()
    put(delivery, 30)
    assert delivery.flush(5)
    assert numbers(vendor) == list(range(30))
    shown = delivery.status()["outbox"]
    assert (shown["kind"], bool(shown["fallback"])) == ("memory", True)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    kept = [each for each in path.parent.iterdir() if each.name.startswith("outbox.db")] if path.parent.is_dir() else []
    if before:
        assert before in [each.read_bytes() for each in kept if each.is_file()]
    if fault in (damage, make_older):
        assert not path.exists()


def no_locks(*_: object) -> None:
    raise OSError(37, "No locks available")


def test_a_file_system_without_locks_means_memory(
    open_delivery: Open, vendor: FaultyVendor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """NFS without locks, or a platform without them: owners cannot be told apart, so nothing is shared."""
    monkeypatch.setattr("fcntl.flock", no_locks)
    delivery = open_delivery()
    put(delivery, 5)
    assert delivery.flush(5)
    monkeypatch.setattr("metricx_observe.delivery.outbox.owner_lock.fcntl", None)
    other = open_delivery()
    put(other, 5, first=5)
    assert other.flush(5)
    assert numbers(vendor) == list(range(10))
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "No locks available" in caplog.text


def test_a_directory_that_cannot_be_written_means_memory(open_delivery: Open, vendor: FaultyVendor) -> None:
    """No place for the file is no reason to lose anything while the process lives."""
    delivery = open_delivery(url="sqlite:///proc/metricx/outbox.db")
    put(delivery, 5)
    assert delivery.flush(5)
    assert numbers(vendor) == list(range(5))


def test_a_full_disk_means_memory(
    open_delivery: Open, vendor: FaultyVendor, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What no longer fits goes on in memory; what is on disk waits for the next start. One line says so."""
    vendor.mode = "500"
    delivery = open_delivery()
    put(delivery, 10)
    assert delivery.commit(5)
    with delivery._outbox.session() as connection:  # type: ignore[attr-defined]
        connection.execute("PRAGMA max_page_count = 1")
    for n in range(10, 1000):
        delivery.put("rudderstack", {"n": n, "text": "x" * 100}, size=200)
    assert delivery.commit(5)
    assert delivery.status()["outbox"]["kind"] == "memory"
    vendor.mode = "ok"
    assert delivery.flush(10)
    delivery.close(1)
    assert open_delivery().flush(5)
    assert set(numbers(vendor)) == set(range(1000))
    assert sum(record.levelno == logging.ERROR for record in caplog.records) == 1


def test_memory_holds_no_more_than_memory_may(open_delivery: Open) -> None:
    """The outbox in memory has the bound of memory, not that of the disk."""
    delivery = open_delivery(url="memory://", deliver=False, limits=Limits(memory_bytes=20_000))
    for n in range(20):
        delivery.put("rudderstack", {"n": n, "text": "x" * 5_000}, size=1)
        assert delivery.commit(5)
    until(lambda: delivery.status()["rudderstack"]["dropped"].get("full track", 0) >= 16)
    assert json.loads(delivery.rows("rudderstack")[-1].payload)["n"] == 19


def test_without_threads_the_exit_hook_commits(open_delivery: Open, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the interpreter starts no thread any more, what is put is kept until its end and stored there."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    delivery = open_delivery()
    with monkeypatch.context() as patched:
        patched.setattr("metricx_observe.delivery.writer.start_thread", refuse)
        put(delivery, 5)
    delivery.at_exit()
    assert len(open_delivery(deliver=False, channels=[LineChannel("")]).rows("rudderstack")) == 5


def test_a_thread_that_cannot_start_now_starts_later(
    open_delivery: Open, vendor: FaultyVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's bound of threads may be reached for a moment: the next put tries again."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    delivery = open_delivery()
    with monkeypatch.context() as patched:
        patched.setattr("metricx_observe.delivery.writer.start_thread", refuse)
        put(delivery, 2)
    put(delivery, 1, 2)
    until(lambda: numbers(vendor) == [0, 1, 2])


def test_a_closed_one_leaves_no_hook(open_delivery: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of multiprocessing that opens and closes again and again would keep each writer until its end."""
    monkeypatch.setattr("multiprocessing.process.parent_process", lambda: "a parent")
    before = set(_finalizer_registry)
    delivery = open_delivery()
    put(delivery, 1)
    assert set(_finalizer_registry) > before
    delivery.close(5)
    assert set(_finalizer_registry) == before


def test_a_channel_that_breaks_the_writer_ends_nothing(open_delivery: Open, vendor: FaultyVendor) -> None:
    """An exception where none is expected is tried again with the same group, and said once."""
    fails = [True, True]

    class Buggy(LineChannel):
        def importance(self, kind: str) -> Any:
            if fails:
                fails.pop()
                raise KeyError(kind)
            return super().importance(kind)

    delivery = open_delivery(channels=[Buggy(vendor.url)])
    put(delivery, 3)
    assert delivery.flush(10)
    assert numbers(vendor) == [0, 1, 2]


def test_a_file_that_breaks_while_it_is_used_loses_nothing_that_is_put(
    open_delivery: Open, vendor: FaultyVendor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Damage under way: the group that could not be stored goes on in memory and arrives."""
    delivery = open_delivery()
    put(delivery, 10)
    assert delivery.flush(5)
    path = tmp_path / "state/outbox.db"
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE row")
    connection.close()
    put(delivery, 10, first=10)
    assert delivery.flush(5)
    assert numbers(vendor) == list(range(20))
    assert delivery.status()["outbox"]["kind"] == "memory"
    assert sum(record.levelno == logging.ERROR for record in caplog.records) == 1


def test_put_is_quick_and_reentrant(open_delivery: Open) -> None:
    """A finaliser that puts while its thread puts does not deadlock."""
    delivery = open_delivery(deliver=False)

    class Noisy:
        def __del__(self) -> None:
            delivery.put("rudderstack", {"n": -1})

    with delivery._stats.lock:
        noisy = Noisy()
        del noisy
        put(delivery, 1)
    assert delivery.commit(5)
    assert delivery.status()["rudderstack"]["put"] == 2


def test_threads_that_put_at_once_lose_nothing(open_delivery: Open, vendor: FaultyVendor) -> None:
    """Many request threads, one writer."""
    delivery = open_delivery()
    threads = [threading.Thread(target=put, args=(delivery, 500, 500 * n)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert delivery.flush(20)
    assert numbers(vendor) == list(range(4000))


def test_a_burst_holds_little_memory(open_delivery: Open) -> None:
    """50,000 records of 250 bytes take no more than twice their size while they wait."""
    delivery = open_delivery(deliver=False)
    tracemalloc.start()
    try:
        for n in range(50_000):
            delivery.put("rudderstack", b"%-250d" % n, size=300)
        assert delivery.commit(30)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 << 20
    assert delivery.status()["rudderstack"]["pending"] == 50_000
