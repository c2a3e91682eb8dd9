"""Delivery when processes end, die, fork and share a file: nothing is lost, nothing goes out twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metricx_observe.delivery import Delivery, Limits
from tests.faults import FaultyVendor, LineChannel, until
from tests.processes import Python

ROOT = Path(__file__).absolute().parents[1]

PRELUDE = """
import asyncio, os, sys, time
from metricx_observe.delivery import Delivery, Limits
from tests.faults import LineChannel
url, vendor_url = sys.argv[1:3]
delivery = Delivery([LineChannel(vendor_url)], url=url, limits=Limits(post_deadline_s=2.0, probe_every_s=0.3))
def put(count, first=0):
    for n in range(first, first + count):
        assert delivery.put("rudderstack", {"n": n}, size=50)
"""

Run = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def vendor() -> Iterator[FaultyVendor]:
    vendor = FaultyVendor()
    yield vendor
    vendor.close()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/state/outbox.db"


@pytest.fixture
def run(url: str, vendor: FaultyVendor) -> Iterator[Run]:
    """Starts a Python process that has `delivery` and `put`, and runs some code in it."""
    started: list[subprocess.Popen[str]] = []

    def run_one(code: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PRELUDE + textwrap.dedent(code), url, vendor.url]
        started.append(Python(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield run_one
    for process in started:
        process.kill()
        process.communicate()


def collect(url: str, vendor: FaultyVendor) -> Counter[int]:
    """How often each number arrived, after the next start has delivered what was left."""
    vendor.mode = "ok"
    delivery = Delivery([LineChannel(vendor.url)], url=url, limits=Limits(probe_every_s=0.3))
    assert delivery.flush(20)
    delivery.close(1)
    return Counter(json.loads(message)["n"] for message in vendor.accepted)


def once(numbers: range) -> Counter[int]:
    return Counter(numbers)


@pytest.mark.parametrize("mode", ["ok", "refused", "hang"])
@pytest.mark.parametrize("end", ["pass", "raise RuntimeError('uncaught')", "sys.exit(3)"])
def test_a_script_that_just_ends_loses_nothing(run: Run, url: str, vendor: FaultyVendor, mode: str, end: str) -> None:
    """Without close(), also by an uncaught exception, and whatever the vendor does: the end only commits, briefly."""
    vendor.mode = mode
    process = run(f"put(200)\n{end}")
    process.communicate(timeout=10)
    counts = collect(url, vendor)
    assert set(counts) == set(range(200))
    if mode != "ok":  # a daemon may have had its last answer on the way when the interpreter ended
        assert counts == once(range(200))


def test_a_signal_put_while_the_interpreter_ends_is_kept(run: Run, url: str, vendor: FaultyVendor) -> None:
    """What other exit hooks put is committed although no thread can be started any more."""
    process = run("import atexit\natexit.register(put, 5)")
    process.communicate(timeout=10)
    assert collect(url, vendor) == once(range(5))


def test_the_end_waits_for_a_stuck_disk_only_briefly(run: Run, url: str, vendor: FaultyVendor) -> None:
    """No exit hook blocks: half a second without progress and the interpreter ends."""
    process = run("""
        import sqlite3
        put(1)
        delivery.commit(5)
        blocker = sqlite3.connect(url.removeprefix("sqlite://"), isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        put(1, 1)
        print(time.monotonic(), flush=True)
        import atexit
        atexit.register(lambda: None)
        """)
    assert process.stdout is not None
    assert process.stdout.readline()  # how long a process takes to begin is not what is asked
    process.communicate(timeout=5)
    assert process.returncode == 0


def test_kill_9_loses_at_most_the_last_commit(run: Run, url: str, vendor: FaultyVendor) -> None:
    """What was put more than 50 ms before is on disk; nothing is sent twice for it."""
    vendor.mode = "refused"
    process = run("""
        n = 0
        while True:
            put(1, n)
            n += 1
            print(n - 1, time.monotonic(), flush=True)
            time.sleep(0.001)
        """)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(500)]
    process.kill()
    rest, _ = process.communicate()
    put = [line.split() for line in lines + rest.splitlines() if len(line.split()) == 2]
    counts = collect(url, vendor)
    last = float(put[-1][1])
    safe = {int(n) for n, at in put if float(at) < last - 0.05}
    assert safe <= set(counts)
    assert set(counts.values()) == {1}


def test_kill_9_loses_nothing_acknowledged(run: Run, url: str, vendor: FaultyVendor) -> None:
    """After `await committed()` a record survives anything but the machine."""
    vendor.mode = "refused"
    process = run("""
        async def request(n):
            put(1, n)
            await delivery.committed()
            print(n, flush=True)
        async def main():
            for first in range(0, 100_000, 8):
                await asyncio.gather(*(request(first + n) for n in range(8)))
        asyncio.run(main())
        """)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(200)]
    process.kill()
    rest, _ = process.communicate()
    acknowledged = {int(line) for line in lines + rest.splitlines(keepends=True) if line.endswith("\n")}
    assert acknowledged <= set(collect(url, vendor))


def test_forks_under_load_lose_and_double_nothing(run: Run, url: str, vendor: FaultyVendor) -> None:
    """20 forks while threads put: each process delivers its own, none the parent's, and the file stays whole."""
    process = run("""
        import threading
        putting = threading.Thread(target=lambda: [(put(1, n), time.sleep(0.001)) for n in range(1000)])
        putting.start()
        children = []
        for fork in range(20):
            pid = os.fork()
            if not pid:
                try:
                    put(50, 10_000 + 100 * fork)
                    delivery.close(5)
                finally:
                    os._exit(0)
            children.append(pid)
            time.sleep(0.02)
        for pid in children:
            os.waitpid(pid, 0)
        putting.join()
        delivery.close(10)
        """)
    _, errors = process.communicate(timeout=60)
    assert "rudderstack" not in errors
    expected = list(range(1000)) + [10_000 + 100 * fork + n for fork in range(20) for n in range(50)]
    assert collect(url, vendor) == Counter(expected)


def test_a_child_that_ends_without_hooks_loses_nothing(run: Run, url: str, vendor: FaultyVendor) -> None:
    """multiprocessing ends its processes without `atexit`; a plain fork that returns ends with it."""
    process = run("""
        import multiprocessing
        put(10)
        child = multiprocessing.get_context("fork").Process(target=put, args=(50, 100))
        child.start()
        child.join()
        if not os.fork():
            put(50, 200)
            sys.exit(0)
        os.wait()
        """)
    assert "Traceback" not in process.communicate(timeout=20)[1]
    counts = collect(url, vendor)
    assert set(counts) == {*range(10), *range(100, 150), *range(200, 250)}


def test_three_processes_on_one_file_lose_and_double_nothing(run: Run, url: str, vendor: FaultyVendor) -> None:
    """Each delivers its own rows while all write, with a vendor that fails in between."""
    code = """
        for burst in range(20):
            put(100, {first} + burst * 100)
            time.sleep(0.02)
        assert delivery.flush(30)
        delivery.close(5)
        """
    processes = [run(code.format(first=first)) for first in (0, 10_000, 20_000)]
    until(lambda: len(vendor.accepted) > 500)
    vendor.mode = "500"
    until(lambda: len(vendor.requests) > 30)
    vendor.mode = "ok"
    for process in processes:
        assert "Traceback" not in process.communicate(timeout=60)[1]
    expected = [first + n for first in (0, 10_000, 20_000) for n in range(2000)]
    assert collect(url, vendor) == Counter(expected)


def test_a_dead_process_is_taken_over_while_others_run(run: Run, url: str, vendor: FaultyVendor) -> None:
    """No restart is needed: a living process delivers what one that was killed left."""
    vendor.mode = "refused"
    victim = run("put(100)\nassert delivery.commit(5)\nprint('ready', flush=True)\ntime.sleep(60)")
    survivor = run("put(1, 1000)\nassert delivery.commit(5)\nprint('ready', flush=True)\ntime.sleep(60)")
    for process in (victim, survivor):
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    vendor.mode = "ok"
    until(lambda: len(vendor.accepted) == 101)
    vendor.mode = "refused"
    again = run("put(100, 100)\nassert delivery.commit(5)\nprint('ready', flush=True)\ntime.sleep(60)")
    assert again.stdout is not None
    again.stdout.readline()
    os.kill(again.pid, signal.SIGKILL)
    again.wait()
    vendor.mode = "ok"
    until(lambda: len(vendor.accepted) == 201)
    assert collect(url, vendor) == Counter([*range(200), 1000])


def test_a_fork_before_anything_was_put_costs_nothing(run: Run, url: str, vendor: FaultyVendor) -> None:
    """`gunicorn --preload`: built in the master, used in the workers."""
    process = run("""
        for worker in range(2):
            if not os.fork():
                put(100, worker * 100)
                assert delivery.flush(10)
                delivery.close(1)
                os._exit(0)
        os.wait(), os.wait()
        print(delivery.status()["outbox"]["kind"])
        """)
    assert process.communicate(timeout=20)[0] == "not opened\n"
    assert collect(url, vendor) == once(range(200))
