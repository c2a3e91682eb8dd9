"""docs/how-to/jobs.md as it stands: a job's error, event and trace carry the request that enqueued it."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sentry_sdk
from fastapi import FastAPI

from metricx_observe import ContextDep, Observability
from metricx_observe import context as contexts
from metricx_observe.context import carry, current, current_cell
from metricx_observe.ids import new_id

from .doc_blocks import Block, blocks
from .faults import until
from .processes import Python, environment, run_python
from .receiver_server import Receiver
from .support import call, observed

REDIS = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(REDIS is None, reason="redis-server is not installed")
KINDS = ["error", "trace", "track"]
"""What each job sends."""


def documented(heading: str) -> Block:
    (block,) = [block for block in blocks("docs/how-to/jobs.md") if block.heading == heading]
    return block


@pytest.fixture
def settings(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(contexts.hooks, "carry_secret", None)
    given = {
        "ENVIRONMENT": "development",
        "METRICX_RECEIVER_URL": receiver.url,
        "METRICX_OUTBOX_URL": "memory://",
        "METRICX_CARRY_SECRET": "the same on both sides",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return given


@pytest.fixture
def load(settings: dict[str, str]) -> Iterator[Callable[[str], ModuleType]]:
    """Runs the block under a heading as a module; its Observability is closed at the end.

    Under a new name each time: Celery shares the tasks of all applications of a process.
    """
    modules: list[ModuleType] = []

    def run(heading: str) -> ModuleType:
        modules.append(documented(heading).run(f"jobs_{new_id()}"))
        return modules[-1]

    yield run
    for module in modules:
        module.observability.close()


def everything(observability: Observability, name: str) -> None:
    """What a job may send: an event, an LLM trace, and an error that nobody catches."""
    cell = current_cell()
    assert cell is None or cell.info is None, "this is the request's own context, and not the one that was carried"
    observability.tracker.track("job_ran")
    with observability.llm.trace("answer"):
        pass
    raise RuntimeError(name)


async def request(observability: Observability, enqueue: Callable[[], Awaitable[Any] | None]) -> str:
    """A request of a signed-in user that enqueues something. Gives the request id."""
    app = FastAPI()
    observability.install(app)

    @app.post("/")
    async def route(context: ContextDep) -> str:
        context.bind_user("alice", email="alice@example.com", workspace_id="acme")
        if (waiting := enqueue()) is not None:
            await waiting
        return context.request_id

    answer = await call(app, "/", method="POST")
    assert (answer.status, answer.error) == (200, None)
    return answer.headers["x-request-id"]


def assert_carried(receiver: Receiver, request_id: str, name: str, kinds: list[str] = KINDS) -> None:
    """Each signal of the job is there once, and says whose request it was; no error came without saying so."""
    found = [signal for signal in receiver.signals(request_id=request_id) if signal["kind"] in KINDS]
    assert sorted(signal["kind"] for signal in found) == kinds
    assert {(signal["user_id"], signal["workspace_id"]) for signal in found} == {("alice", "acme")}
    assert sum(name in signal["name"] for signal in receiver.signals(kind="error")) == kinds.count("error")


@pytest.fixture
def name() -> str:
    return f"job-{new_id()}"


async def test_celery_eager(load: Callable[[str], ModuleType], receiver: Receiver, name: str) -> None:
    """With `task_always_eager`, as applications test their tasks."""
    jobs = load("Celery")
    jobs.app.conf.task_always_eager = True

    def job() -> None:
        everything(jobs.observability, name)

    task = jobs.app.task(job, shared=False)
    request_id = await request(jobs.observability, lambda: task.delay() and None)
    assert await asyncio.to_thread(jobs.observability.flush, 10)
    assert_carried(receiver, request_id, name)
    assert current() is None


async def test_celery_in_another_thread(load: Callable[[str], ModuleType], receiver: Receiver, name: str) -> None:
    """A worker that reads a broker: the header survives the message, a retry is no error, and a chain carries on."""
    jobs = load("Celery")  # Sentry's SDK patches what the worker's modules import, so it comes first
    from celery import chain
    from celery.contrib.testing.worker import start_worker
    from celery.signals import setup_logging

    jobs.app.conf.update(broker_url="memory://", result_backend="cache+memory://")

    def job() -> None:
        everything(jobs.observability, name)

    def try_twice(self: Any) -> None:
        if not self.request.retries:
            raise self.retry(countdown=0)
        jobs.observability.tracker.track("second_try")

    flaky = jobs.app.task(try_twice, bind=True, max_retries=1, shared=False)
    last = jobs.app.task(job, shared=False)

    def enqueue() -> None:
        chain(flaky.si(), jobs.make_report.si("q3"), last.si()).apply_async()

    def leave_logging_alone(**_: Any) -> None: ...

    setup_logging.connect(leave_logging_alone)
    worker: Any = start_worker(jobs.app, perform_ping_check=False, pool="solo")
    with worker:
        request_id = await request(jobs.observability, enqueue)
        await receiver.await_for(1, kind="error", request_id=request_id)
    assert_carried(receiver, request_id, name, ["error", "trace", "track", "track", "track"])


def test_a_context_that_was_not_signed_binds_nobody(
    load: Callable[[str], ModuleType], receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Who can write to the queue, but has not METRICX_CARRY_SECRET, can name no user."""
    jobs = load("Celery")
    with jobs.observability.context(user_id="mallory"):
        forged = {**carry(), "user_id": "victim"}

    def seen() -> Any:
        state = current()
        return state and state.user

    assert jobs.app.task(seen, shared=False).apply(headers={"observe": forged}).get() is None
    assert "not signed with METRICX_CARRY_SECRET" in caplog.text


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """A Redis of this test's own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    folder = tmp_path / "redis"
    folder.mkdir()
    command = [str(REDIS), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def answers() -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    try:
        until(answers, what="redis-server")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(10)


PREFORK = """
import os
from tests.test_how_to_jobs import everything

folders = dict.fromkeys(("data_folder_in", "data_folder_out", "control_folder"), "queue")
app.conf.update(broker_url="filesystem://", broker_transport_options={**folders, "polling_interval": 0.05})

@app.task
def last(name):
    everything(observability, name)

if __name__ == "__main__":
    with observability.context(user_id="alice", workspace_id="acme") as context:
        for quarter in range(20):
            make_report.delay(quarter)
        last.delay(os.environ["NAME"])
    print(context.request_id)
"""


@pytest.mark.slow
def test_celerys_processes_lose_nothing(
    settings: dict[str, str], receiver: Receiver, tmp_path: Path, name: str
) -> None:
    """A real worker with two processes: what its jobs sent just before SIGTERM is there after the next start."""
    (tmp_path / "queue").mkdir()
    (tmp_path / "jobs.py").write_text(documented("Celery").code + PREFORK)
    variables = {**settings, "METRICX_OUTBOX_URL": f"sqlite://{tmp_path}/outbox.db", "NAME": name}
    enqueued = run_python("jobs.py", folder=tmp_path, **variables)
    assert enqueued.returncode == 0, enqueued.stderr
    request_id = enqueued.stdout.strip()
    worker = Python(
        [sys.executable, "-m", "celery", "-A", "jobs", "worker", "-c", "2", "--loglevel", "CRITICAL"],
        cwd=tmp_path,
        env=environment(tmp_path, **variables),
        stdout=subprocess.DEVNULL,
    )
    try:
        receiver.wait_for(1, kind="error", request_id=request_id, timeout_s=30)
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    following = run_python("-c", "import jobs; assert jobs.observability.flush(20)", folder=tmp_path, **variables)
    assert following.returncode == 0, following.stderr
    assert_carried(receiver, request_id, name, ["error", "trace", *["track"] * 21])


async def test_arq_without_redis(load: Callable[[str], ModuleType], receiver: Receiver) -> None:
    """The function that arq calls, called as arq does it: under a context in which nobody is signed in."""
    jobs = load("arq")
    carried: dict[str, str] = {}
    request_id = await request(jobs.observability, lambda: carried.update(carry()))
    await jobs.make_report({}, "q3", observe=carried)
    assert await asyncio.to_thread(jobs.observability.flush, 10)
    (event,) = receiver.signals(kind="track", request_id=request_id)
    assert (event["name"], event["user_id"], event["workspace_id"]) == ("report_made", "alice", "acme")


@needs_redis
@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # arq's own call
async def test_arq(load: Callable[[str], ModuleType], receiver: Receiver, redis_url: str, name: str) -> None:
    """arq's own worker, with its queue in Redis; a retry is no error."""
    jobs = load("arq")  # Sentry's SDK replaces `create_worker`, so it comes before whoever imports that name
    from arq import Retry, create_pool, func
    from arq.connections import RedisSettings
    from arq.worker import create_worker

    async def try_twice(ctx: dict[str, Any], name: str) -> None:
        if ctx["job_try"] == 1:
            raise Retry(defer=0)
        everything(jobs.observability, name)

    jobs.WorkerSettings.functions.append(func(jobs.observed(try_twice), name="flaky"))
    redis_settings = RedisSettings.from_dsn(redis_url)
    pool = await create_pool(redis_settings)
    request_id = await request(jobs.observability, lambda: pool.enqueue_job("flaky", name, observe=carry()))
    worker = create_worker(
        jobs.WorkerSettings, redis_settings=redis_settings, burst=True, handle_signals=False, poll_delay=0.01
    )
    await worker.main()
    assert await asyncio.to_thread(jobs.observability.flush, 10)
    await worker.close()
    await pool.aclose()
    assert not jobs.observability.is_open
    assert_carried(receiver, request_id, name)


@needs_redis
@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # arq's own call
async def test_what_arq_runs_has_the_name_of_its_job(
    load: Callable[[str], ModuleType], receiver: Receiver, redis_url: str, name: str
) -> None:
    """Whatever is reported inside of `restore()`, and what ends the job; at first its transaction is an unknown
    task's."""
    jobs = load("arq")
    from arq import create_pool, func
    from arq.connections import RedisSettings
    from arq.worker import create_worker

    async def tell(ctx: dict[str, Any], name: str) -> None:
        jobs.observability.errors.capture_message(f"message {name}")
        logging.getLogger("jobs").error("log %s", name)
        with sentry_sdk.new_scope():
            jobs.observability.errors.capture_exception(ValueError(f"handled {name}"))
        raise RuntimeError(f"raised {name}")

    jobs.WorkerSettings.functions.append(func(jobs.observed(tell), name="tell_all"))
    redis_settings = RedisSettings.from_dsn(redis_url)
    pool = await create_pool(redis_settings)
    await pool.enqueue_job("tell_all", name)
    worker = create_worker(
        jobs.WorkerSettings, redis_settings=redis_settings, burst=True, handle_signals=False, poll_delay=0.01
    )
    await worker.main()
    assert await asyncio.to_thread(jobs.observability.flush, 10)
    await worker.close()
    await pool.aclose()
    errors = [error for error in receiver.signals(kind="error") if name in error["name"]]
    assert [error["payload"].get("transaction") for error in errors] == ["tell_all"] * 4


def test_what_celery_runs_has_the_name_of_its_job(
    load: Callable[[str], ModuleType], receiver: Receiver, name: str
) -> None:
    """Which its integration knows from the start."""
    jobs = load("Celery")

    def tell() -> None:
        jobs.observability.errors.capture_message(name)

    jobs.app.task(tell, shared=False, name="tell_all").apply(headers={"observe": {}})
    assert jobs.observability.flush(10)
    (error,) = [error for error in receiver.signals(kind="error") if name in error["name"]]
    assert error["payload"]["transaction"] == "tell_all"


@pytest.mark.parametrize(
    ("unknown", "extra", "transaction"),
    [
        ("unknown RQ task", {"rq-job": {"func": "reports.make"}}, "reports.make"),
        ("<unknown Celery task>", {"celery-job": {"task_name": "make"}}, "make"),
        ("unknown Ray task", {"rq-job": "?"}, None),
    ],
)
def test_a_job_whose_name_its_integration_does_not_know(
    receiver: Receiver, name: str, unknown: str, extra: dict[str, Any], transaction: str | None
) -> None:
    """An event is called as the integration calls the job in its own facts, else nothing; a transaction stays as it
    was."""
    with observed(receiver) as observability:
        observability.start()
        with sentry_sdk.start_transaction(name=unknown, sampled=True) as job, observability.context():
            for place, facts in extra.items():
                sentry_sdk.get_isolation_scope().set_extra(place, facts)
            observability.errors.capture_message(name)
        assert observability.flush(10)
    (error,) = [error for error in receiver.signals(kind="error") if name in error["name"]]
    assert error["payload"].get("transaction") == transaction
    # By its trace: a test with hooks of its own (test_moments) leaves transactions without a name there.
    (whole,) = receiver.signals(kind="transaction", trace_id=job.trace_id)
    assert whole["payload"]["transaction"] == unknown


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_taskiq(load: Callable[[str], ModuleType], receiver: Receiver, name: str, kind: str) -> None:
    """taskiq's broker in memory, for tasks on the loop and in its threads."""
    jobs = load("taskiq")

    async def on_the_loop(name: str) -> None:
        everything(jobs.observability, name)

    def in_a_thread(name: str) -> None:
        everything(jobs.observability, name)

    task = jobs.broker.register_task(on_the_loop if kind == "async" else in_a_thread, task_name="everything")
    await jobs.broker.startup()
    request_id = await request(jobs.observability, lambda: task.kiq(name))
    await jobs.broker.wait_all()
    assert await asyncio.to_thread(jobs.observability.flush, 10)
    assert_carried(receiver, request_id, name)
    assert jobs.broker.middlewares[0].bound == {}
    await jobs.broker.shutdown()
    assert not jobs.observability.is_open


def test_what_ends_a_script_is_reported_with_its_user(receiver: Receiver, tmp_path: Path, name: str) -> None:
    """The interpreter reports an uncaught exception after the block of `context()` has ended: it says whose it was."""
    code = f"""
from metricx_observe import Observability
observability = Observability.from_env()
with observability.context(user_id="alice", workspace_id="acme"):
    raise RuntimeError("{name}")
"""
    settings = {"METRICX_RECEIVER_URL": receiver.url, "ENVIRONMENT": "development"}
    assert run_python("-c", code, folder=tmp_path, **settings).returncode == 1
    code = "from metricx_observe import Observability as O; o = O.from_env(); o.start(); assert o.flush(20)"
    assert run_python("-c", code, folder=tmp_path, **settings).returncode == 0
    (error,) = [signal for signal in receiver.signals(kind="error") if name in signal["name"]]
    assert (error["user_id"], error["workspace_id"]) == ("alice", "acme")


def test_an_exception_that_takes_no_attributes_is_raised_all_the_same(receiver: Receiver) -> None:
    """A class of the application's that refuses attributes costs the user on its report, and nothing else."""

    class Closed(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            if name != "__traceback__":  # Python itself sets that
                raise AttributeError(name)

    with observed(receiver) as observability, pytest.raises(Closed), observability.context(user_id="alice"):
        raise Closed
