"""Files that hold what users did: their owner's alone, also where somebody was there before."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metricx_observe.delivery import Delivery, Limits
from metricx_observe.exceptions import ConfigurationError
from metricx_observe.receiver import Store
from metricx_observe.receiver.signals import Decoded
from tests.faults import FaultyVendor, LineChannel
from tests.test_receiver_store import signal


@pytest.fixture
def vendor() -> Iterator[FaultyVendor]:
    vendor = FaultyVendor()
    yield vendor
    vendor.close()


def modes(directory: Path) -> set[int]:
    return {stat.S_IMODE(path.lstat().st_mode) for path in directory.iterdir()}


def open_to_all(path: Path) -> None:
    """A database with its side files, as an earlier version or another umask left them."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = WAL")
    for each in path.parent.iterdir():
        each.chmod(0o666)
    database.close()
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").touch()
        Path(f"{path}{suffix}").chmod(0o666)


def stored(vendor: FaultyVendor, path: Path) -> Delivery:
    """A delivery that has put and committed ten messages."""
    vendor.mode = "500"
    delivery = Delivery([LineChannel(vendor.url)], url=f"sqlite://{path}", limits=Limits(probe_every_s=0.3))
    for n in range(10):
        assert delivery.put("rudderstack", {"n": n}, size=50)
    assert delivery.commit(5)
    return delivery


def test_files_that_all_may_read_are_made_private(vendor: FaultyVendor, tmp_path: Path) -> None:
    """An outbox of mode 0666 with such side files is used, and 0600 with all of them from then on."""
    open_to_all(tmp_path / "outbox.db")
    delivery = stored(vendor, tmp_path / "outbox.db")
    assert delivery.status()["outbox"]["kind"] == "sqlite"
    assert modes(tmp_path) == {0o600}
    delivery.close(0)


def link(path: Path) -> None:
    path.symlink_to(path.parent / "elsewhere")


def link_to_nothing(path: Path) -> None:
    path.symlink_to(path.parent / "nothing" / "there")


def link_side_file(path: Path) -> None:
    Path(f"{path}-wal").symlink_to(path.parent / "elsewhere")


def link_shared_memory(path: Path) -> None:
    Path(f"{path}-shm").symlink_to(path.parent / "elsewhere")


def link_journal(path: Path) -> None:
    Path(f"{path}-journal").symlink_to(path.parent / "elsewhere")


def second_name(path: Path) -> None:
    os.link(path.parent / "elsewhere", path)


def second_name_of_side_file(path: Path) -> None:
    os.link(path.parent / "elsewhere", f"{path}-wal")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.mkdir()


def everybody_may_rename(path: Path) -> None:
    path.parent.chmod(0o777)


def of_another_user(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root gives files away")
    path.touch()
    os.chown(path, 12345, 12345)


def side_file_of_another_user(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root gives files away")
    Path(f"{path}-shm").touch()
    os.chown(f"{path}-shm", 12345, 12345)


UNSAFE: dict[Callable[[Path], None], str] = {
    link: "symbolic link",
    link_to_nothing: "symbolic link",
    link_side_file: "symbolic link",
    link_shared_memory: "symbolic link",
    link_journal: "symbolic link",
    second_name: "hard link",
    second_name_of_side_file: "hard link",
    pipe: "not a regular file",
    directory: "not a regular file",
    everybody_may_rename: "everybody may write",
    of_another_user: "another user",
    side_file_of_another_user: "another user",
}


@pytest.mark.parametrize("make", UNSAFE)
def test_a_file_that_somebody_laid_out_means_memory_and_says_why(
    make: Callable[[Path], None], vendor: FaultyVendor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is written to it nor where it leads, the reason is logged once, and what was put arrives."""
    place = tmp_path / "place"
    place.mkdir()
    (place / "elsewhere").touch()
    make(place / "outbox.db")
    delivery = stored(vendor, place / "outbox.db")
    shown = delivery.status()["outbox"]
    assert (shown["kind"], UNSAFE[make] in shown["fallback"]) == ("memory", True)
    assert len([record for record in caplog.records if UNSAFE[make] in record.getMessage()]) == 1
    vendor.mode = "ok"
    assert delivery.flush(10)
    delivery.close(1)
    assert len(vendor.accepted) == 10
    assert (place / "elsewhere").stat().st_size == 0


@pytest.mark.parametrize("make", UNSAFE)
def test_the_receiver_does_not_start_on_such_a_file(make: Callable[[Path], None], tmp_path: Path) -> None:
    """The receiver's own database follows the same rule; it says why and is not started."""
    place = tmp_path / "place"
    place.mkdir()
    (place / "elsewhere").touch()
    make(place / "receiver.db")
    with pytest.raises(ConfigurationError, match=UNSAFE[make]):
        Store(place / "receiver.db")


def test_the_receivers_files_are_made_private(tmp_path: Path) -> None:
    """Its database of mode 0666 and its side files are 0600 from the next start on."""
    open_to_all(tmp_path / "receiver.db")
    store = Store(tmp_path / "receiver.db")
    store.put(Decoded([signal(1)]))
    assert modes(tmp_path) == {0o600}
    store.close()


def test_a_directory_with_the_sticky_bit_is_good_enough(vendor: FaultyVendor, tmp_path: Path) -> None:
    """As in /tmp: all may write there, but nobody may rename another one's file."""
    tmp_path.chmod(0o1777)
    delivery = stored(vendor, tmp_path / "outbox.db")
    assert delivery.status()["outbox"]["kind"] == "sqlite"
    delivery.close(0)


def test_a_link_to_the_directory_is_its_users_own_affair(vendor: FaultyVendor, tmp_path: Path) -> None:
    """Only the last part of the path is looked at: a state directory may well be a link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    delivery = stored(vendor, tmp_path / "linked" / "outbox.db")
    assert delivery.status()["outbox"]["kind"] == "sqlite"
    delivery.close(0)
    assert modes(tmp_path / "real") == {0o600}
