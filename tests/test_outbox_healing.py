"""What becomes of an outbox that somebody removes, empties or replaces while processes use it."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metricx_observe.delivery import Delivery, Limits
from tests.faults import FaultyVendor, LineChannel, until
from tests.test_delivery_processes import Run, collect, run, url, vendor

__all__ = ["run", "url", "vendor"]

Harm = Callable[[Path], None]


@pytest.fixture
def file(url: str) -> Path:
    return Path(url.removeprefix("sqlite://"))


@pytest.fixture
def delivery(url: str, vendor: FaultyVendor) -> Iterator[Delivery]:
    """With twenty messages that wait."""
    vendor.mode = "500"
    limits = Limits(post_deadline_s=1.0, probe_every_s=0.3)
    delivery = Delivery([LineChannel(vendor.url)], url=url, limits=limits)
    put(delivery, 0)
    yield delivery
    delivery.close(0)


def put(delivery: Delivery, first: int) -> None:
    for n in range(first, first + 20):
        assert delivery.put("rudderstack", {"n": n}, size=50)
    assert delivery.commit(10)


def arrived(vendor: FaultyVendor) -> Counter[int]:
    return Counter(json.loads(message)["n"] for message in vendor.accepted)


def directory_removed(file: Path) -> None:
    shutil.rmtree(file.parent)


def file_removed(file: Path) -> None:
    file.unlink()


def all_files_removed(file: Path) -> None:
    for each in file.parent.iterdir():
        each.unlink()


def write_ahead_log_removed(file: Path) -> None:
    Path(f"{file}-wal").unlink()


def shared_memory_removed(file: Path) -> None:
    Path(f"{file}-shm").unlink()


def replaced_by_an_empty_one(file: Path) -> None:
    (file.parent / "new").touch()
    os.replace(file.parent / "new", file)


def moved_away(file: Path) -> None:
    file.rename(file.parent / "elsewhere.db")


def directory_moved_away(file: Path) -> None:
    file.parent.rename(file.parent.parent / "elsewhere")


def emptied(file: Path) -> None:
    os.truncate(file, 0)


HARMS: list[Harm] = [
    directory_removed, file_removed, all_files_removed, write_ahead_log_removed, shared_memory_removed,
    replaced_by_an_empty_one, moved_away, directory_moved_away, emptied,
]  # fmt: skip


@pytest.mark.parametrize("harm", HARMS)
def test_a_file_that_is_gone_is_made_again_with_all_that_was_in_it(
    harm: Harm, delivery: Delivery, vendor: FaultyVendor, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Within a tick there is a file again, status and one line of the log say so, and each message arrives once."""
    harm(file)
    until(lambda: delivery.status()["outbox"]["healed"] != "", 10)
    put(delivery, 20)
    assert delivery.status()["outbox"]["kind"] == "sqlite"
    assert file.stat().st_mode & 0o777 == 0o600
    assert len([each for each in caplog.records if "put right" in each.getMessage()]) == 1
    vendor.mode = "ok"
    assert delivery.flush(10)
    assert arrived(vendor) == Counter(range(40))


@pytest.mark.parametrize("harm", HARMS)
def test_an_end_right_after_it_keeps_what_waits_for_the_next_start(
    harm: Harm, delivery: Delivery, vendor: FaultyVendor, url: str, file: Path
) -> None:
    """No tick comes any more: the rows are in a file all the same when the process has ended."""
    harm(file)
    delivery.close(0)
    assert collect(url, vendor) == Counter(range(20))


def test_a_place_that_cannot_be_made_again_means_memory(delivery: Delivery, vendor: FaultyVendor, file: Path) -> None:
    """A file stands where the directory was: what waited goes on in memory, and comes back when there is room."""
    shutil.rmtree(file.parent)
    file.parent.touch()
    until(lambda: delivery.status()["outbox"]["kind"] == "memory", 10)
    assert "removed" in delivery.status()["outbox"]["fallback"]
    put(delivery, 20)
    file.parent.unlink()
    until(lambda: delivery.status()["outbox"]["kind"] == "sqlite", 20)
    assert delivery.status()["outbox"]["fallback"] == ""
    vendor.mode = "ok"
    assert delivery.flush(10)
    assert arrived(vendor) == Counter(range(40))


def test_a_link_in_the_place_of_the_file_is_not_followed(delivery: Delivery, vendor: FaultyVendor, file: Path) -> None:
    """Whoever can replace the file gets nothing: memory, and the reason in status()."""
    file.unlink()
    file.symlink_to(file.parent / "theirs")
    until(lambda: delivery.status()["outbox"]["kind"] == "memory", 10)
    assert "symbolic link" in delivery.status()["outbox"]["fallback"]
    assert not (file.parent / "theirs").exists()
    vendor.mode = "ok"
    assert delivery.flush(10)
    assert arrived(vendor) == Counter(range(20))


FILL = """
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    delivery.start()
    put(20)
    assert delivery.commit(5)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, most))
    put(20, 20)
    assert delivery.commit(10)
    assert delivery.status()["outbox"]["kind"] == "memory", delivery.status()
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    while delivery.status()["outbox"]["kind"] == "memory":
        time.sleep(0.05)
    put(20, 40)
    assert delivery.commit(5)
    delivery.close(0)
    """


def test_a_full_disk_that_is_free_again_is_used_again(run: Run, url: str, vendor: FaultyVendor) -> None:
    """What was put meanwhile waits in memory and is on disk when there is room: a crash after that loses nothing."""
    vendor.mode = "500"
    assert "Error" not in run(FILL).communicate(timeout=60)[1]
    assert collect(url, vendor) == Counter(range(60))


HELD = """
    import pathlib
    delivery.start()
    put(50, {first})
    assert delivery.commit(5)
    print("ready", flush=True)
    def reached(step):
        while not pathlib.Path({steps!r}, step).exists():
            time.sleep(0.01)
    reached("harmed")
    put(50, {first} + 50)
    assert delivery.commit(10)
    print("ready", flush=True)
    reached("end")
    assert delivery.flush(30)
    delivery.close(5)
    """


def locks(file: Path) -> set[str]:
    return {each.name for each in file.parent.glob("*.lock")} if file.parent.exists() else set()


def locks_removed(file: Path) -> None:
    for name in locks(file):
        (file.parent / name).unlink()


def locks_replaced(file: Path) -> None:
    for name in locks(file):
        (file.parent / "new").touch()
        os.replace(file.parent / "new", file.parent / name)


def ready(process: object) -> None:
    assert process.stdout.readline() == "ready\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize("harm", [locks_removed, locks_replaced, *HARMS])
def test_two_processes_that_share_it_lose_and_double_nothing(
    harm: Harm, run: Run, url: str, vendor: FaultyVendor, file: Path, tmp_path: Path
) -> None:
    """A cleaner takes lock files, files or the directory from under two processes: each message arrives once."""
    vendor.mode = "500"
    processes = [run(HELD.format(first=first, steps=str(tmp_path))) for first in (0, 100)]
    for each in processes:
        ready(each)
    before = locks(file)
    assert len(before) == 2
    harm(file)
    (tmp_path / "harmed").touch()
    for each in processes:
        ready(each)
    if harm in (locks_removed, locks_replaced, directory_removed):
        until(lambda: len(locks(file) - before) == 2, 10)
    vendor.mode = "ok"
    (tmp_path / "end").touch()
    for each in processes:
        assert "Traceback" not in each.communicate(timeout=60)[1]
    assert collect(url, vendor) == Counter(range(200))


def test_what_a_process_puts_after_its_lock_file_went_has_an_owner(
    run: Run, url: str, vendor: FaultyVendor, file: Path, tmp_path: Path
) -> None:
    """It is killed afterwards, and the other one delivers all of it: nothing belongs to nobody."""
    vendor.mode = "500"
    victim, survivor = (run(HELD.format(first=first, steps=str(tmp_path))) for first in (0, 100))
    for each in (victim, survivor):
        ready(each)
    before = locks(file)
    locks_removed(file)
    until(lambda: len(locks(file) - before) == 2, 10)
    (tmp_path / "harmed").touch()
    for each in (victim, survivor):
        ready(each)
    victim.kill()
    victim.wait()
    vendor.mode = "ok"
    until(lambda: len(vendor.accepted) == 200, 20)
    assert arrived(vendor) == Counter(range(200))


def test_a_dead_process_whose_lock_file_went_too_is_taken_over(
    run: Run, url: str, vendor: FaultyVendor, file: Path
) -> None:
    """Without a lock file nobody knows whether it lives, so that takes a few seconds more, but not for ever."""
    vendor.mode = "500"
    run("put(50)\nassert delivery.commit(5)\ndelivery.close(0)").communicate(timeout=20)
    locks_removed(file)
    vendor.mode = "ok"
    run("delivery.start()\ntime.sleep(60)")
    until(lambda: len(vendor.accepted) == 50, 30)
    assert arrived(vendor) == Counter(range(50))


def test_a_fork_right_after_it_keeps_what_waits(run: Run, url: str, vendor: FaultyVendor, file: Path) -> None:
    """The file is closed for a fork, and what is in a removed one must be elsewhere by then."""
    vendor.mode = "500"
    code = f"""
        import shutil
        put(50)
        assert delivery.commit(5)
        shutil.rmtree({str(file.parent)!r})
        if not os.fork():
            os._exit(0)
        os.wait()
        put(50, 50)
        assert delivery.commit(5)
        delivery.close(0)
        """
    assert "Error" not in run(code).communicate(timeout=30)[1]
    assert collect(url, vendor) == Counter(range(100))


@pytest.mark.parametrize("harm", [locks_removed, file_removed, directory_removed, emptied])
def test_a_post_that_is_on_its_way_meanwhile_is_not_sent_again(
    harm: Harm, vendor: FaultyVendor, url: str, file: Path
) -> None:
    """Rows keep their ids when they move, so that an answer that comes later removes them."""
    vendor.delay_s = 2.0
    delivery = Delivery([LineChannel(vendor.url)], url=url)
    put(delivery, 0)
    until(lambda: len(vendor.requests) > 0)
    before = locks(file)
    harm(file)
    until(lambda: locks(file) > set() and not locks(file) & before, 10)
    vendor.delay_s = 0.0
    assert delivery.flush(10)
    delivery.close(1)
    assert collect(url, vendor) == Counter(range(20))
