"""METRICX_DELIVERY=process: another process delivers, and whichever of both dies, nothing is lost."""

from __future__ import annotations

import enum
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sentry_sdk
from fastapi import FastAPI

from metricx_observe import Observability, TrackerDep
from metricx_observe.boundary import Boundary
from metricx_observe.delivery import Limits
from metricx_observe.delivery.outbox import OutboxError
from metricx_observe.delivery_process import process as delivery_process
from metricx_observe.delivery_process.process import CannotRunError, Process
from metricx_observe.delivery_process.server import open_delivery
from metricx_observe.signals.tracker import Tracker

from .faults import until
from .processes import Python, environment
from .receiver_server import Receiver
from .support import call, keys_for, observed


@pytest.fixture
def user() -> str:
    """Another one in each test, by whom its signals are found."""
    return f"user-{uuid4().hex[:8]}"


@pytest.fixture
def remote(receiver: Receiver, tmp_path: Path) -> Iterator[Observability]:
    """An open Observability whose signals another process delivers to the receiver."""
    more = {**keys_for(receiver), "outbox_url": f"sqlite://{tmp_path}/outbox.db", "delivery": "process"}
    with observed(receiver, **more) as observability:
        observability.start()
        yield observability


def delivering(observability: Observability) -> int:
    """The process that delivers, once it runs."""
    until(lambda: observability.status()["outbox"]["kind"] == "sqlite")
    return int(observability.status()["outbox"]["process"])


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits only for its parent to ask."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def numbers(receiver: Receiver, user: str, at_least: int) -> list[int]:
    """What `track` sent as `n`, in order."""
    signals = receiver.wait_for(at_least, kind="track", user=user)
    return sorted(each["payload"]["properties"]["n"] for each in signals)


async def test_a_request_s_signals_of_all_vendors_arrive_by_the_other_process(
    remote: Observability, receiver: Receiver, user: str
) -> None:
    """Error, transaction, event, generation, score and a span of the application's own Langfuse code; and it ends."""
    app = FastAPI()
    remote.install(app)

    @app.get("/all")
    async def everything(tracker: TrackerDep) -> None:
        with remote.context(user_id=user):
            remote.tracker.track("thing_done", {"password": "hunter2-hunter2", "n": 1})
            with remote.llm.trace("ask", metadata={"plan": "pro"}) as trace:
                with trace.generation("answer", model="m", input="long text. " * 500) as generation:
                    generation.update(output="yes")
                with remote.llm.client.start_as_current_observation(name="their own"):
                    pass
                trace.score("helpful", 1.0)
            remote.errors.capture_exception(ValueError("no rows"))

    assert (await call(app, "/all")).status == 200
    assert remote.flush(20)
    (track,) = receiver.signals(kind="track", user=user)
    assert "hunter2" not in json.dumps(track)
    assert {each["kind"] for each in receiver.signals(user=user)} >= {"track", "error", "trace", "generation"}
    assert receiver.signals(kind="transaction")
    (trace_signal,) = receiver.signals(kind="trace", user=user)
    of_trace = receiver.signals(trace_id=trace_signal["trace_id"])
    assert {"their own", "answer"} <= {each["name"] for each in of_trace}
    status = remote.status()
    assert [status["rudderstack"][what] for what in ("put", "committed", "delivered")] == [1, 1, 1]
    assert status["sentry"]["dropped"] == status["langfuse"]["dropped"] == {}
    assert status["scrubbed"]["track"]["properties"] == {"name": 1}
    pid = delivering(remote)
    assert pid != os.getpid()
    remote.close()
    until(lambda: has_ended(pid))
    assert [remote.status()["rudderstack"][what] for what in ("put", "delivered")] == [1, 1]
    assert remote.status()["outbox"]["process"] is None


class Plan(enum.IntEnum):
    """The SDK leaves a number as it is."""

    PRO = 1


def test_a_signal_that_holds_a_class_of_the_application_s_is_encoded_here(
    remote: Observability, receiver: Receiver, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process imports no code of the application's, whose path may shadow the standard library."""
    remote.close()
    for name in ("logging", "typing"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit")
    monkeypatch.setattr(sys, "path", [str(tmp_path), tmp_path, *sys.path])  # gunicorn does so; a Path is ignored
    remote.start()
    with remote.context(user_id=user):
        sentry_sdk.set_extra("plan", Plan.PRO)
        remote.errors.capture_exception(ValueError("no rows"))
    remote.tracker.track("thing_done", {"n": 1}, user_id=user)
    assert remote.flush(20)
    assert delivering(remote) != os.getpid()
    assert receiver.signals(kind="error", user=user)[0]["payload"]["extra"]["plan"] == 1
    assert numbers(receiver, user, 1) == [1]


def test_a_delivery_process_that_is_killed_costs_nothing(
    remote: Observability, receiver: Receiver, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The next one gets what it had not stored, and what it had stored is taken over. SIGTERM alone does nothing."""
    until(lambda: remote.status()["outbox"]["process"])
    os.kill(remote.status()["outbox"]["process"], signal.SIGTERM)  # while it loads
    first = delivering(remote)
    for n in range(600):
        remote.tracker.track("thing_done", {"n": n}, user_id=user)
        if n == 300:
            os.kill(first, signal.SIGKILL)
    assert remote.flush(20)
    assert set(numbers(receiver, user, 600)) == set(range(600))
    assert delivering(remote) != first
    assert remote.status()["rudderstack"]["put"] == 600
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


def test_a_delivery_process_that_hangs_does_not_hold_up_the_application(
    remote: Observability, receiver: Receiver, user: str
) -> None:
    """`status` says what this end knows; `close` keeps its deadline, and delivers what the other one did not take."""
    pid = delivering(remote)
    os.kill(pid, signal.SIGSTOP)
    try:
        remote.tracker.track("thing_done", {"n": 1}, user_id=user)
        began = time.monotonic()
        assert remote.status()["rudderstack"]["put"] == 1
        assert not remote.flush(0.2)
        before_close = time.monotonic()
        remote.close(3.0)
        assert time.monotonic() - before_close < 4
        assert time.monotonic() - began < 20
        assert numbers(receiver, user, 1) == [1]
    finally:
        with suppress(ProcessLookupError):  # it is not let go on: what it holds is delivered by this process
            os.kill(pid, signal.SIGCONT)
    until(lambda: not Path(f"/proc/{pid}").exists())  # nor a zombie


def test_what_the_other_process_logs_and_counts_is_the_application_s(
    tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """A vendor that is down, and a fault that is found while a record is encoded."""
    nobody = {"rudderstack_data_plane_url": "http://127.0.0.1:9"}
    more = {**keys_for(receiver), **nobody, "outbox_url": f"sqlite://{tmp_path}/outbox.db", "delivery": "process"}
    with observed(receiver, **more) as remote:
        remote.tracker.track("thing_done", {f"p{n}": n for n in range(30)}, user_id="u")
        remote.llm.trace("ask").end()
        until(lambda: remote.status()["rudderstack"].get("breaker") == "open", 20)
        until(lambda: "cannot be reached" in caplog.text)
        assert remote.status()["faults"] == {"track thing_done: GA4 takes 25 parameters an event": 1}
        assert remote.status()["rudderstack"]["pending"] == 1


def test_a_process_that_does_not_begin_leaves_the_work_to_the_application_s(
    remote: Observability, receiver: Receiver, user: str, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Where there is no interpreter to start, as in an application frozen into one file."""
    remote.close()
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    remote.start()
    remote.tracker.track("thing_done", {"n": 1, "password": "hunter2-hunter2"}, user_id=user)
    with remote.llm.trace("ask", metadata={"plan": "pro"}):
        pass
    assert remote.flush(20)
    assert numbers(receiver, user, 1) == [1]
    assert delivering(remote) == os.getpid()
    assert "this process delivers itself" in caplog.text
    assert remote.status()["scrubbed"]["track"]["properties"] == {"name": 1}
    remote.close()


SCRIPT = """
import os, signal, sys, time
from metricx_observe import Observability
remote = Observability.from_env(delivery="process")
def put(first, count=100):
    for n in range(first, first + count):
        remote.tracker.track("thing_done", {"n": n}, user_id=os.environ["USER_ID"])
"""
Run = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def run(receiver: Receiver, tmp_path: Path, user: str) -> Iterator[Run]:
    """Starts a script that has `remote` and `put`."""
    keys = {name.upper(): str(value) for name, value in keys_for(receiver).items() if name != "traces_sample_rate"}
    variables = {**keys, "METRICX_OUTBOX_URL": f"sqlite://{tmp_path}/outbox.db", "USER_ID": user}
    started: list[subprocess.Popen[str]] = []

    def run_one(code: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-c", SCRIPT + textwrap.dedent(code)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(Python(command, cwd=tmp_path, env=environment(tmp_path, **variables), **pipes))
        return started[-1]

    yield run_one
    for process in started:
        process.kill()
        process.communicate()


def test_a_script_that_ends_at_once_loses_nothing(run: Run, receiver: Receiver, user: str) -> None:
    """Its end waits until the other process has begun and has everything, not until that has delivered it."""
    process = run("put(0, 2_000)")
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert "Warning" not in said
    assert numbers(receiver, user, 2_000) == list(range(2_000))


def test_an_application_that_is_killed_loses_only_what_was_not_handed_over(
    run: Run, receiver: Receiver, user: str
) -> None:
    """The other process delivers what it was given, and ends."""
    process = run("""
        put(0)
        assert remote.flush(20)
        put(100)
        time.sleep(0.5)
        print(remote.status()["outbox"]["process"], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    pid = int(process.communicate(timeout=30)[0])
    assert numbers(receiver, user, 200) == list(range(200))
    until(lambda: has_ended(pid), 20)


def test_a_forked_child_has_a_delivery_process_of_its_own(run: Run, receiver: Receiver, user: str) -> None:
    """What the parent had put before is the parent's; each signal arrives once."""
    process = run("""
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: of forking beside threads
        put(0)
        mine = os.fork()
        put(100 if mine else 200)
        assert remote.flush(30)
        print(remote.status()["outbox"]["process"], flush=True)
        remote.close()
        if not mine:
            os._exit(0)
        assert os.waitpid(mine, 0)[1] == 0
    """)
    said, failed = process.communicate(timeout=60)
    assert process.returncode == 0, failed
    assert len(set(said.split())) == 2
    assert numbers(receiver, user, 300) == list(range(300))


def test_a_process_of_multiprocessing_loses_nothing_at_its_end(run: Run, receiver: Receiver, user: str) -> None:
    """It ends without `atexit`, and before another process can have begun."""
    process = run("""
        import multiprocessing
        import warnings
        warnings.simplefilter("ignore")  # of forking beside threads (Python 3.12), and of coverage in the child
        child = multiprocessing.get_context("fork").Process(target=put, args=(0,))
        child.start()
        child.join()
        assert child.exitcode == 0, child.exitcode
    """)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert numbers(receiver, user, 100) == list(range(100))


def process() -> Process:
    return Process({}, {})


def test_a_module_that_cannot_run_is_tried_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try is an error that the writer repeats after; then there is no other process any more."""
    monkeypatch.setattr(delivery_process, "_CODE", "import metricx_observe.no_such_module")
    other = process()
    with pytest.raises(OutboxError, match="does not run"):
        other.call("status")
    for _ in range(2):
        with pytest.raises(OutboxError, match="does not begin") as raised:
            other.call("status", wait=True)
        assert raised.value.busy
    with pytest.raises(CannotRunError, match="does not begin"):
        other.call("status", wait=True)
    other.close(0.1)


def test_a_call_that_is_interrupted_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C may have cut a message: the next answer could not be read, and would be waited for without end."""

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    other = process()
    other._connection, theirs = Pipe()
    monkeypatch.setattr(other._connection, "send", interrupt)
    with theirs, subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as started:
        other._process = started
        with pytest.raises(KeyboardInterrupt):
            other.call("status")
        assert started.wait(10) == -signal.SIGKILL
    assert other.pid is None


def test_nobody_forks_while_both_ends_are_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child would keep the other one's end open, and that one's death would not be seen here."""
    other = process()
    held: list[bool] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: held.append(other.spawning.locked()))
    with pytest.raises(OutboxError, match="does not begin"):
        other.call("status", wait=True)
    assert held == [True]
    assert not other.spawning.locked()


def test_a_process_that_is_too_late_is_not_waited_for() -> None:
    """Neither when it is still to begin, nor by whom a signal's handler interrupted while it had the connection."""
    other = process()
    other.kill()
    with pytest.raises(CannotRunError, match="too late"):
        other.call("status", wait=True)
    began = time.monotonic()
    with other._lock, pytest.raises(OutboxError, match="at work"):
        other.call("status")
    assert time.monotonic() - began < 0.5
    other.close(0.1)


def test_an_answer_that_comes_too_late_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call gets its own; and a log handler of the application's that raises costs no answer."""

    def listen(values: object) -> None:
        raise ValueError(values)

    monkeypatch.setattr(delivery_process, "ANSWER_S", 0.05)
    other = Process({}, {"log": listen})
    other._connection, theirs = Pipe()
    with theirs:
        with pytest.raises(OutboxError, match="not answer in time"):
            other.call("status")
        theirs.send(("late", "", [("log", 1)]))
        theirs.send((None, "ValueError", []))
        with pytest.raises(OutboxError, match="ValueError"):
            other.call("status")
        theirs.send(("in time", "", []))
        assert other.call("status") == "in time"
    other.close(0.1)


def test_settings_become_the_other_process_s(receiver: Receiver, tmp_path: Path, user: str) -> None:
    """Also those that only a keyword gave: where a record goes, and which names are secret."""
    events: list[tuple[Any, ...]] = []
    with observed(receiver, **keys_for(receiver), outbox_url=f"sqlite://{tmp_path}/outbox.db") as local:
        other = open_delivery(
            lambda *event: events.append(event), local.settings, local.vendors, {"names": ("kennwort",)}, Limits()
        )
        assert set(other.status()) >= {"sentry", "rudderstack", "langfuse", "outbox"}
        records: list[bytes] = []

        def put(record: bytes, size: int) -> bool:
            records.append(record)
            return size > 0

        Tracker(put, Boundary()).track("thing_done", {"kennwort": "hunter2-hunter2", "n": 1}, user_id=user)
        other.add([("rudderstack", records[0])])
        other.wake(claim=False)
        assert numbers(receiver, user, 1) == [1]
        assert "hunter2" not in json.dumps(receiver.signals(user=user))
        assert ("scrubbed", "track", "properties", {"name": 1}) in events
        until(lambda: other.drained(closing=False))
        assert other.status()["rudderstack"]["pending"] == 0
        other.close(0.1)
