"""A wall clock that is wrong at the start: which rows of an earlier process are too old."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from metricx_observe.delivery import Delivery, Limits
from tests.faults import FaultyVendor, LineChannel, until

DAYS = 4 * 86_400.0
FAST = Limits(post_deadline_s=2.0, probe_every_s=0.2, backoff_s=0.1)
Process = Callable[..., Delivery]


@pytest.fixture
def vendor() -> Iterator[FaultyVendor]:
    vendor = FaultyVendor(retry_after="")
    yield vendor
    vendor.close()


@pytest.fixture
def process(vendor: FaultyVendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """A delivery on one file, as of a process whose wall clock is `ahead_s` of the right time."""
    opened: list[Delivery] = []
    now = time.time

    def start(ahead_s: float = 0.0, *, local: bool = False, **options: Any) -> Delivery:
        options = {"url": f"sqlite://{tmp_path}/outbox.db", "limits": FAST, **options}
        with monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda: now() + ahead_s)
            opened.append(Delivery([LineChannel(vendor.url, local=local)], **options))
        opened[-1].start()
        return opened[-1]

    yield start
    for delivery in opened:
        delivery.close(0.0)


def leave_rows(delivery: Delivery) -> None:
    """Put 20 rows and end without delivering them."""
    for n in range(20):
        assert delivery.put("rudderstack", {"n": n}, size=50)
    delivery.close(1.0)


def arrived(vendor: FaultyVendor) -> list[int]:
    return sorted(json.loads(message)["n"] for message in vendor.accepted)


def shown(delivery: Delivery) -> dict[str, Any]:
    return delivery.status()["rudderstack"]


@pytest.mark.parametrize("before_s", [0.0, -DAYS])
def test_a_clock_that_is_ahead_at_the_start_drops_nothing(
    vendor: FaultyVendor, process: Process, before_s: float
) -> None:
    """Four days ahead, or at last right after four days behind: what an earlier process left arrives."""
    leave_rows(process(before_s, deliver=False))
    delivery = process(before_s + DAYS)
    until(lambda: len(vendor.accepted) == 20)
    assert arrived(vendor) == list(range(20))
    assert shown(delivery)["dropped"] == {}


def test_a_vendors_date_corrects_an_age(vendor: FaultyVendor, process: Process) -> None:
    """Known to be four days ahead, the clock makes no row too old however long the vendor is down."""
    leave_rows(process(deliver=False))
    vendor.mode, vendor.answer_headers = "500", {"Date": formatdate(usegmt=True)}
    delivery = process(DAYS)
    until(lambda: len(vendor.requests) >= 8)
    assert (shown(delivery)["pending"], shown(delivery)["dropped"]) == (20, {})
    vendor.mode = "ok"
    until(lambda: arrived(vendor) == list(range(20)))


def test_what_is_too_old_goes_when_a_vendor_has_confirmed_the_clock(vendor: FaultyVendor, process: Process) -> None:
    """Rows of four days ago are too old as soon as a `Date` header says that it is today."""
    leave_rows(process(-DAYS, deliver=False))
    vendor.mode = "500"
    delivery = process()
    until(lambda: len(vendor.requests) >= 5)
    assert shown(delivery)["pending"] == 20
    vendor.answer_headers = {"Date": formatdate(usegmt=True)}
    until(lambda: shown(delivery)["dropped"] == {"age track": 20})


def test_a_local_receivers_date_confirms_nothing(vendor: FaultyVendor, process: Process) -> None:
    """It reads the same clock as this process."""
    leave_rows(process(deliver=False))
    vendor.mode, vendor.answer_headers = "500", {"Date": formatdate(time.time() + DAYS, usegmt=True)}
    delivery = process(DAYS, local=True)
    until(lambda: len(vendor.requests) >= 8)
    assert (shown(delivery)["pending"], shown(delivery)["dropped"]) == (20, {})


def test_without_a_date_time_itself_decides(vendor: FaultyVendor, process: Process) -> None:
    """Offline, rows go when the process has seen them for as long as they may wait."""
    leave_rows(process(deliver=False))
    vendor.mode = "refused"
    delivery = process(DAYS, limits=replace(FAST, max_age_s=2.0))
    assert shown(delivery)["dropped"] == {}
    until(lambda: shown(delivery)["dropped"] == {"age track": 20})
