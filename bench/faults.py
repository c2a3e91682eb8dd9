"""Delivery under faults: `python -m bench.faults [--quick]` prints issue 3's table of figures, all on loopback.

The vendors are `tests.faults.FaultyVendor`s; their channels have the batch sizes and concurrency of the real ones.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from fastapi import FastAPI

from bench.faults_processes import process_cases
from metricx_observe.delivery import Delivery, Importance, Limits, Message
from metricx_observe.delivery.outbox import Stream
from metricx_observe.delivery.outbox.sqlite import SqliteOutbox
from tests.faults import OUTAGES, FaultyVendor, LineChannel, until

QUICK = "--quick" in sys.argv
OUTAGE_S = 8.0 if QUICK else 60.0
RATE = 40
BATCHES = {"sentry": (1, 20), "rudderstack": (100, 1), "langfuse": (200, 1)}
"""Messages a post and posts at once. 20 Sentry posts: at 80 ms a round trip 8 cannot make 200 errors a second."""

Figure = tuple[str, str, str, bool]
"""Case, what must be, what was, whether that is enough."""


class Bytes(LineChannel):
    """Records are encoded already."""

    def encode(self, record: bytes) -> list[Message]:
        return [Message("error" if self.vendor == "sentry" else "track", record)]


def channel(vendor: FaultyVendor, name: str) -> LineChannel:
    messages, concurrency = BATCHES[name]
    return Bytes(
        vendor.url, vendor=name, destination=name, max_messages=messages, concurrency=concurrency,
        importances={"error": Importance.ERROR},
    )  # fmt: skip


@contextmanager
def service(retry_after: str = "3") -> Iterator[tuple[Delivery, dict[str, FaultyVendor], str]]:
    """A delivery to three vendors, with an outbox of its own."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite://{folder}/state/outbox.db"
        vendors = {name: FaultyVendor(retry_after=retry_after) for name in BATCHES}
        delivery = open_delivery(vendors, url)
        try:
            yield delivery, vendors, url
        finally:
            delivery.close(0.5)
            for vendor in vendors.values():
                vendor.close()


def open_delivery(vendors: dict[str, FaultyVendor], url: str) -> Delivery:
    return Delivery([channel(vendor, name) for name, vendor in vendors.items()], url=url)


def record(n: int, size: int = 0) -> bytes:
    return json.dumps({"n": n, "at": time.monotonic()}).encode().ljust(size)


def counts(vendor: FaultyVendor) -> Counter[int]:
    return Counter(json.loads(message)["n"] for message in list(vendor.accepted))


def outage(mode: str) -> list[Figure]:
    """40 signals a second to each vendor, before, in and after an outage."""
    with service() as (delivery, vendors, _):
        number, ends = 0, time.monotonic() + 3.0 + OUTAGE_S
        down = False
        while (now := time.monotonic()) < ends:
            if not down and now > ends - OUTAGE_S:
                down = True
                for vendor in vendors.values():
                    vendor.mode = mode
            for name in BATCHES:
                delivery.put(name, record(number), size=100)
            number += 1
            time.sleep(1 / RATE)
        recovered = time.monotonic()
        for vendor in vendors.values():
            vendor.mode = "ok"
        # By length only: reading all that arrived again and again would take the processor from the couriers.
        until(lambda: all(len(vendor.accepted) >= number for vendor in vendors.values()), 60, "the drain", 0.05)
        delivery.flush(10)
        took = max(max(vendor.times) for vendor in vendors.values()) - recovered
        lost = sum(number - len(counts(vendor)) for vendor in vendors.values())
        twice = {name: sum(n > 1 for n in counts(vendor).values()) for name, vendor in vendors.items()}
        allowed = {name: max(BATCHES[name]) if mode == "reset" else 0 for name in BATCHES}
        after = 3.0 if mode in ("429", "503") else 0.0
        ok = lost == 0 and took < 10 + after and all(twice[name] <= allowed[name] for name in BATCHES)
        must = f"0 lost, {'<= 1 batch' if mode == 'reset' else '0'} doubled, drained in 10 s{' + 3' if after else ''}"
        return [(f"{OUTAGE_S:.0f} s outage: {mode}", must, f"{lost} lost, {twice}, {took:.1f} s", ok)]


def shutdown(mode: str) -> list[Figure]:
    """50 queued for each vendor, which is dead, at close."""
    with service() as (delivery, vendors, url):
        for vendor in vendors.values():
            vendor.mode = mode
        for n in range(50):
            for name in BATCHES:
                delivery.put(name, record(n), size=100)
        began = time.monotonic()
        delivery.close(2.0)
        took = time.monotonic() - began
        for vendor in vendors.values():
            vendor.mode = "ok"
        following = open_delivery(vendors, url)
        following.flush(20)
        following.close(1)
        lost = sum(50 - len(counts(vendor)) for vendor in vendors.values())
        got = f"{took:.2f} s, {lost} lost"
        return [(f"shutdown, vendor dead: {mode}", "2 + 0.5 s, 0 lost", got, took < 2.5 and not lost)]


def latency(hanging: str | None) -> list[Figure]:
    """From put to accepted at 100 signals a second and vendor, while another vendor hangs or not."""
    bounds = {"sentry": 1.0, "langfuse": 5.0, "rudderstack": 10.0}
    with service() as (delivery, vendors, _):
        if hanging:
            vendors[hanging].mode = "hang"
        for n in range(300 if QUICK else 1500):
            for name in BATCHES:
                delivery.put(name, record(n), size=100)
            time.sleep(0.01)
        healthy = [name for name in BATCHES if name != hanging]
        until(lambda: all(len(vendors[name].accepted) >= n + 1 for name in healthy), 20)
        figures = []
        for name in healthy:
            vendor = vendors[name]
            waits = [at - json.loads(message)["at"] for message, at in zip(vendor.accepted, vendor.times, strict=True)]
            p99 = statistics.quantiles(waits, n=100)[98]
            case = f"put to accepted, p99, {name}" + (f", {hanging} hangs" if hanging else "")
            figures.append((case, f"<= {bounds[name]:.0f} s", f"{p99:.2f} s", p99 <= bounds[name]))
        return figures


def throughput() -> list[Figure]:
    """A sink with 80 ms round trip."""
    figures = []
    for name, kind, count, must in (("sentry", "errors", 2_000, 200), ("langfuse", "events", 20_000, 2_000)):
        with service() as (delivery, vendors, _):
            vendors[name].delay_s = 0.08
            began = time.monotonic()
            for n in range(count):
                delivery.put(name, record(n, 240), size=300)
            delivery.flush(60)
            rate = count / (time.monotonic() - began)
            figures.append((f"80 ms round trip, {kind}", f">= {must}/s", f"{rate:.0f}/s", rate >= must))
    return figures


def burst() -> list[Figure]:
    """In a process of its own, since memory that was used once stays."""
    command = [sys.executable, "-c", "from bench.faults import burst_here; burst_here()"]
    grown, lost = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    case, must = "burst: 50,000 events, 20,000 spans, 5,000 errors", "< 60 MB, 0 lost"
    return [(case, must, f"{grown} MB, {lost} lost", float(grown) < 60 and lost == "0")]


def burst_here() -> None:
    with service() as (delivery, vendors, _):
        for name, vendor in vendors.items():
            vendor.mode = "500"
            delivery.put(name, record(0))
        until(lambda: all(vendor.requests for vendor in vendors.values()))
        before = _peak_mb()
        for n in range(50_000):
            delivery.put("rudderstack", record(n, 240), size=300)
            if n < 20_000:
                delivery.put("langfuse", record(n, 700), size=760)
            if n < 5_000:
                delivery.put("sentry", record(n, 3_000), size=3_060)
        delivery.commit(60)
        status = delivery.status()
        stored = sum(status[name]["pending"] for name in BATCHES)
        print(f"{_peak_mb() - before:.0f} {75_003 - stored}")


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def poison() -> list[Figure]:
    """One message that the vendor refuses among 499 good ones, for each vendor."""
    with service() as (delivery, vendors, _):
        for vendor in vendors.values():
            vendor.poison = b'"n": 250,'
        for n in range(500):
            for name in BATCHES:
                delivery.put(name, record(n), size=100)
        delivery.flush(30)
        status = delivery.status()
        got = {name: (len(counts(vendors[name])), status[name]["dead"]) for name in BATCHES}
        return [("one poison message among 499", "499 arrive, 1 dead", str(got), set(got.values()) == {(499, 1)})]


def slow_vendor() -> list[Figure]:
    """A FastAPI route at 500 requests a second, three signals each: no vendor, and vendors that take 10 s."""
    none, slow = (asyncio.run(_requests(delay_s)) for delay_s in (None, 10.0))
    p50, p99 = slow[0] / none[0], slow[1] / none[1]
    got = f"p50 x {p50:.2f}, p99 x {p99:.2f}, {slow[2]:.0f} MB"
    must = "p50, p99 <= 1.5 x; flat"
    return [("slow vendors (10 s) at 500 requests/s", must, got, p50 <= 1.5 and p99 <= 1.5 and slow[2] < 10)]


async def _requests(delay_s: float | None) -> tuple[float, float, float]:
    """p50 and p99 of the requests, and the growth of memory in the second half."""
    app = FastAPI()
    with service() as (delivery, vendors, _):
        for vendor in vendors.values():
            vendor.delay_s = delay_s or 0.0

        @app.get("/items/{n}")
        async def item(n: int) -> dict[str, int]:
            if delay_s is not None:
                for name in BATCHES:
                    delivery.put(name, record(n), size=100)
            return {"n": n}

        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")
        took, count, half = list[float](), 2_000 if QUICK else 15_000, 0.0
        start = time.perf_counter()
        for n in range(count):
            half = half or (_peak_mb() if n > count / 2 else 0.0)
            await asyncio.sleep(max(0.0, start + n / 500 - time.perf_counter()))
            began = time.perf_counter()
            await client.get(f"/items/{n}")
            took.append(time.perf_counter() - began)
        quantiles = statistics.quantiles(took, n=100)
        return quantiles[49], quantiles[98], _peak_mb() - half


def backlog() -> list[Figure]:
    """Time to put and to drain a row with 10,000 and with a million rows waiting."""
    stream = Stream("rudderstack", "a", "track", 1)
    with tempfile.TemporaryDirectory() as folder:
        outbox = SqliteOutbox(f"{folder}/state/outbox.db")
        number = 0

        def fill(to: int) -> None:
            nonlocal number
            while number < to:
                outbox.add([(stream, b"%-239d" % (number + n)) for n in range(500)])
                number += 500

        def measure() -> tuple[float, float]:
            began = time.process_time()
            for _ in range(20):
                outbox.add([(stream, b"%-239d" % n) for n in range(100)])
                outbox.trim(Limits(outbox_bytes=1 << 40), set())
            between = time.process_time()
            for _ in range(20):
                rows, _ = outbox.take("a", max_messages=100, max_bytes=1 << 20, skip=set(), without=set())
                outbox.remove(rows)
            return (between - began) / 2000 * 1e6, (time.process_time() - between) / 2000 * 1e6

        medians = []
        for rows in (10_000, 200_000 if QUICK else 1_000_000):
            fill(rows)
            medians.append([statistics.median(each) for each in zip(*(measure() for _ in range(9)), strict=True)])
        outbox.close()
    put, drain = (big / small for small, big in zip(*medians, strict=True))
    got = f"put x {put:.2f} ({medians[1][0]:.0f} us), drain x {drain:.2f} ({medians[1][1]:.0f} us)"
    return [(f"backlog of {number:,} rows", "put, drain <= 1.3 x", got, put <= 1.3 and drain <= 1.3)]


def at_once(case: Callable[[str], list[Figure]], apart_s: float = 0.0) -> list[Figure]:
    """A case for every kind of outage, side by side: they wait more than they work. `apart_s`: one after another."""
    results: dict[str, list[Figure]] = {}

    def run(mode: str) -> None:
        time.sleep(OUTAGES.index(mode) * apart_s)
        try:
            results[mode] = case(mode)
        except Exception as error:
            results[mode] = [(f"{case.__name__}: {mode}", "", f"{type(error).__name__}: {error}", False)]

    threads = [threading.Thread(target=run, args=(mode,)) for mode in OUTAGES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [figure for mode in OUTAGES for figure in results[mode]]


def main() -> int:
    cases: list[Callable[[], list[Figure]]] = [
        lambda: at_once(outage, OUTAGE_S / 6), lambda: at_once(shutdown), process_cases, lambda: latency(None),
        lambda: latency("sentry"), lambda: latency("rudderstack"), throughput, burst, poison, slow_vendor, backlog,
    ]  # fmt: skip
    logging.getLogger("metricx_observe").setLevel(logging.CRITICAL)  # the vendors are down: that is the point
    print(f"| case | must be | {'quick' if QUICK else 'measured'} | |\n|---|---|---|---|")
    failed = 0
    for case in cases:
        for name, must, got, ok in case():
            failed += not ok
            print(f"| {name} | {must} | {got} | {'yes' if ok else '**no**'} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    assert Path("pyproject.toml").exists(), "run it in the repository"
    sys.exit(main())
