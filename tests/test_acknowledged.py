"""METRICX_DURABILITY=acknowledged in a whole application: an answer means that its signals are on disk."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi import FastAPI

from metricx_observe import Observability, TrackerDep
from metricx_observe.delivery.outbox.upkeep import opened
from metricx_observe.settings import load_settings

from .faults import FaultyVendor, until
from .served import served
from .support import call

REQUESTS = 50


@pytest.mark.slow
def test_kill_9_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    """Killed in the middle of many requests: the events and errors of each answered one arrive after the next start."""
    command = ("uvicorn", "served:app", "--port", "{port}", "--log-level", "critical")
    with served(tmp_path, *command, mode="refused", METRICX_DURABILITY="acknowledged") as running:
        answered: list[int] = []

        def ask(n: int) -> None:
            if running.get(n):
                answered.append(n)
            if len(answered) == 150:
                running.process.kill()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(400)))
        running.end(signal.SIGKILL)
        events, errors = running.collect()
    assert 150 <= len(answered) < 400
    assert set(answered) <= set(events)
    assert {n for n in answered if n % 10 == 0} <= set(errors)
    assert {*events.values(), *errors.values()} == {1}


@pytest.fixture
def observability(tmp_path: Path) -> Iterator[Observability]:
    """With analytics only, and its vendor down: what was committed stays where a test can count it."""
    vendor = FaultyVendor()
    vendor.mode = "refused"
    settings = load_settings(
        {
            "environment": "production",
            "rudderstack_write_key": "write",
            "rudderstack_data_plane_url": f"http://127.0.0.1:{vendor.port}",
            "durability": "acknowledged",
            "outbox_url": f"sqlite://{tmp_path}/outbox.db",
        }
    )
    observability = Observability(settings)
    yield observability
    observability.close()
    vendor.close()


def app_of(observability: Observability) -> FastAPI:
    app = FastAPI()
    observability.install(app)
    arrived: list[int] = []
    all_here = asyncio.Event()

    @app.get("/together")
    async def together(tracker: TrackerDep) -> None:
        arrived.append(1)
        if len(arrived) == REQUESTS:
            all_here.set()
        await all_here.wait()
        tracker.track("counted", user_id="user-1")

    @app.get("/alone")
    def alone(tracker: TrackerDep) -> None:
        tracker.track("counted", user_id="user-1")

    @app.get("/nothing")
    def nothing() -> None: ...

    return app


async def test_one_commit_serves_many_requests(observability: Observability, tmp_path: Path) -> None:
    """Requests that wait at the same time are let go by the same commit, whose rows have one time."""
    app = app_of(observability)
    answers = await asyncio.gather(*(call(app, "/together") for _ in range(REQUESTS)))
    assert {answer.status for answer in answers} == {200}
    with opened(f"sqlite://{tmp_path}/outbox.db") as outbox:
        commits = Counter(row.at for _, row in outbox.scan())
    assert commits.total() == REQUESTS
    assert len(commits) <= REQUESTS / 5


async def test_a_slow_commit_lets_the_response_go(observability: Observability, tmp_path: Path) -> None:
    """While the disk is stuck, a request that put something is answered after 250 ms and counted; one that put nothing
    does not wait at all. What was put is stored later."""

    def committed(count: int) -> None:
        until(lambda: observability.status()["rudderstack"]["committed"] == count)

    def unacknowledged() -> int:  # of a busy machine's requests, some may be before the disk is stuck
        return int(observability.status()["outbox"]["unacknowledged"])

    app = app_of(observability)
    assert (await call(app, "/alone")).status == 200
    await asyncio.to_thread(committed, 1)
    blocker = sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    before = unacknowledged()
    assert (await call(app, "/nothing")).status == 200
    assert unacknowledged() == before
    assert (await call(app, "/alone")).status == 200
    assert unacknowledged() == before + 1
    assert observability.status()["rudderstack"]["committed"] == 1
    blocker.execute("ROLLBACK")
    blocker.close()
    await asyncio.to_thread(committed, 2)
