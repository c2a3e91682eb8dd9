"""METRICX_DELIVERY=external and `metricx-observe deliver`: some processes put, one delivers."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from metricx_observe import ConfigurationError, Observability, cli
from metricx_observe.settings import load_settings
from metricx_observe.telemetry import init_observability

from .faults import FaultyVendor, until
from .processes import CHECKOUT, Python

ENVIRONMENT = {
    "ENVIRONMENT": "production",
    "METRICX_DELIVERY": "external",
    "METRICX_SERVICE": "shop",
    "RUDDERSTACK_WRITE_KEY": "write-key",
}
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def vendor() -> Iterator[FaultyVendor]:
    vendor = FaultyVendor()
    yield vendor
    vendor.close()


@pytest.fixture
def outbox(vendor: FaultyVendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file, in an environment like the application's."""
    path = tmp_path / "state" / "outbox.db"
    variables = {
        "RUDDERSTACK_DATA_PLANE_URL": f"http://127.0.0.1:{vendor.port}",
        "METRICX_OUTBOX_URL": f"sqlite://{path}",
    }
    for name, value in (ENVIRONMENT | variables).items():
        monkeypatch.setenv(name, value)
    return path


@pytest.fixture
def start(outbox: Path) -> Iterator[Start]:
    """Starts `metricx-observe deliver` in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start_one(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from metricx_observe.cli import main; main()", "deliver", *options]
        streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        started.append(Python(command, cwd=CHECKOUT, env=dict(os.environ), text=True, **streams))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def service(outbox: Path) -> Iterator[Observability]:
    """An application's process."""
    service = Observability.from_env()
    service.start()
    yield service
    service.close()


def put(service: Observability, first: int, count: int) -> None:
    for n in range(first, first + count):
        assert service.tracker.track("counted", {"n": n}, user_id="user-1")
    assert service.flush(5)  # there is nobody to wait for but the disk


def waits(service: Observability) -> int:
    """How many messages are in the outbox."""
    found: int = service.status()["rudderstack"]["pending"]
    return found


def arrived(vendor: FaultyVendor) -> Counter[int]:
    """How often each number came."""
    found = (json.loads(line) for line in vendor.accepted)
    return Counter(message["properties"]["n"] for body in found for message in body["batch"])


def run(*arguments: str) -> tuple[int, str]:
    """Exit status and output of `deliver` in this process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        result = CliRunner().invoke(cli.app, ["deliver", *arguments])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return result.exit_code, result.output


def test_a_service_stores_and_never_posts_and_once_delivers_all(service: Observability, vendor: FaultyVendor) -> None:
    """Nothing leaves the service's process; `--once` posts each message once, and its exit status says that it did."""
    put(service, 0, 50)
    service.close()
    assert not vendor.requests
    assert run("--once") == (0, "rudderstack: 50 delivered, 0 wait\n")
    assert arrived(vendor) == Counter(range(50))


def test_rows_of_a_service_that_runs_are_delivered_as_they_come(
    service: Observability, vendor: FaultyVendor, start: Start
) -> None:
    """The rows belong to the file: nobody waits for the end of the process that put them. SIGTERM ends it in time."""
    process = start()
    for first in range(0, 30, 10):
        put(service, first, 10)
        until(partial(lambda most: len(arrived(vendor)) == most, first + 10))
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")
    assert "30 delivered" in output
    assert arrived(vendor) == Counter(range(30))


def test_a_second_one_waits_and_takes_over_from_one_that_was_killed(
    service: Observability, vendor: FaultyVendor, start: Start
) -> None:
    """Nothing is lost, and nothing goes out twice that was not on its way."""
    first = start()
    put(service, 0, 10)
    until(lambda: len(arrived(vendor)) == 10)
    second = start()
    assert second.stderr is not None
    assert "another process delivers" in second.stderr.readline()
    put(service, 10, 10)
    until(lambda: len(arrived(vendor)) == 20)
    until(lambda: waits(service) == 0)  # a post whose rows are not deleted yet would be one on its way
    first.kill()
    first.wait()
    put(service, 20, 10)
    until(lambda: len(arrived(vendor)) == 30)
    assert arrived(vendor) == Counter(range(30))


def test_sigterm_loses_nothing_of_what_hangs(service: Observability, vendor: FaultyVendor, start: Start) -> None:
    """It ends although the vendor does not answer, and what had no answer is delivered by the next one."""
    vendor.mode = "hang"
    process = start()
    put(service, 0, 10)
    until(lambda: vendor.requests)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 0
    vendor.mode = "ok"
    assert run("--once")[0] == 0
    assert set(arrived(vendor)) == set(range(10))


def test_what_is_removed_while_it_delivers_is_made_again(
    service: Observability, vendor: FaultyVendor, start: Start, outbox: Path
) -> None:
    """A cleaner of temporary files takes the lock, then the file: the next messages arrive all the same."""
    start()
    put(service, 0, 10)
    until(lambda: len(arrived(vendor)) == 10)
    lock = outbox.with_name("outbox.db.shared.lock")
    lock.unlink()
    until(lock.exists)
    put(service, 10, 10)
    until(lambda: len(arrived(vendor)) == 20)
    outbox.parent.rename(outbox.parent.with_name("gone"))
    put(service, 20, 10)
    until(lambda: set(arrived(vendor)) == set(range(30)))


def test_once_says_what_is_left_and_why(
    service: Observability, vendor: FaultyVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vendor that refuses the key keeps its rows, and so does a destination that is gone."""
    put(service, 0, 3)
    service.close()
    vendor.mode = "403"
    code, output = run("--once")
    assert code == 1
    assert "rudderstack: 0 delivered, 3 wait (HTTP 403: the credentials are refused)" in output
    vendor.mode = "ok"
    monkeypatch.setenv("RUDDERSTACK_WRITE_KEY", "another-key")
    code, output = run("--once")
    assert code == 1
    assert "rudderstack: 3 wait (of another key: metricx-observe outbox retry --to-current)" in output


def test_an_outbox_that_is_busy_or_cannot_be_locked_ends_in_no_traceback(
    service: Observability, outbox: Path, vendor: FaultyVendor
) -> None:
    """Another process holds the file at the start: it waits. What stands in the lock's place is named by what to do."""
    put(service, 0, 3)
    service.close()
    blocker = sqlite3.connect(outbox, isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(1.5, blocker.rollback)
    timer.start()
    assert run("--once")[0] == 0
    timer.join()
    assert arrived(vendor) == Counter(range(3))
    lock = outbox.with_name("outbox.db.shared.lock")
    lock.unlink()
    lock.symlink_to(outbox)
    result = CliRunner().invoke(cli.app, ["deliver", "--once"])
    assert "cannot be locked" in str(result.exception)
    assert isinstance(result.exception, ConfigurationError)


def test_json_is_a_line_for_programs(service: Observability) -> None:
    """One at once, then one each minute, and one at the end."""
    put(service, 0, 4)
    service.close()
    code, output = run("--once", "--json")
    lines = [json.loads(line) for line in output.splitlines()]
    assert code == 0
    assert lines[-1]["rudderstack"] == lines[-1]["rudderstack"] | {"delivered": 4, "pending": 0, "breaker": "closed"}
    assert lines[-1]["outbox"]["kind"] == "sqlite"


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("METRICX_OUTBOX_URL", "memory://", "METRICX_OUTBOX_URL"),
        ("METRICX_OUTBOX_URL", "sqlite:////nowhere/outbox.db", "no outbox at "),
        ("RUDDERSTACK_WRITE_KEY", "", "RUDDERSTACK_WRITE_KEY"),
        ("RUDDERSTACK_WRITE_KEY", "xxx", "placeholder"),
    ],
)
def test_without_an_outbox_or_keys_there_is_nothing_to_do(
    service: Observability, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    """Exit status 2, and what to type."""
    put(service, 0, 1)
    service.close()
    monkeypatch.setenv(variable, value)
    code, output = run("--once")
    assert (code, told in output) == (2, True), output


def test_while_nobody_delivers_it_is_said_everywhere(
    service: Observability, vendor: FaultyVendor, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """`status()`, `outbox status` and the log say since when, until somebody does, and again when he is gone."""

    def since() -> str:
        found: str = service.status()["outbox"]["nobody_delivers_since"]
        return found

    put(service, 0, 1)
    until(since)
    assert datetime.fromisoformat(since())
    assert "metricx-observe deliver" in caplog.text
    assert "nobody delivers these rows and never did" in CliRunner().invoke(cli.app, ["outbox", "status"]).output
    process = start()
    until(lambda: not since())
    assert "nobody" not in CliRunner().invoke(cli.app, ["outbox", "status"]).output
    process.kill()
    process.wait()
    until(since)
    assert "nobody delivers these rows since 2" in CliRunner().invoke(cli.app, ["outbox", "status"]).output
    assert len(arrived(vendor)) == 1


def test_rows_are_taken_over_either_way_when_the_setting_changes(
    service: Observability, vendor: FaultyVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was put for nobody in particular is delivered by a service that delivers itself, when nobody else does."""
    put(service, 0, 5)
    service.close()
    monkeypatch.setenv("METRICX_DELIVERY", "thread")
    threads = Observability.from_env()
    threads.start()
    until(lambda: arrived(vendor) == Counter(range(5)))
    vendor.mode = "500"
    threads.tracker.track("counted", {"n": 5}, user_id="user-1")
    threads.close(0.2)
    vendor.mode = "ok"
    assert run("--once")[0] == 0
    assert arrived(vendor) == Counter(range(6))


def test_external_needs_a_file(monkeypatch: pytest.MonkeyPatch, outbox: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In memory nobody else could read the rows: an error that says what to type, or threads and a line in the log."""
    monkeypatch.setenv("METRICX_OUTBOX_URL", "memory://")
    with pytest.raises(ConfigurationError, match="type METRICX_OUTBOX_URL=sqlite:///absolute/path"):
        Observability(load_settings({}))
    assert init_observability()["analytics"]
    assert "METRICX_DELIVERY=external needs a file" in caplog.text
    assert Observability.default is not None
    Observability.default.close()
