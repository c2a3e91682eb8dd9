"""Observability: without a web application, its ends, what it says of itself, and Sentry's own web integrations."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sentry_sdk
from fastapi import FastAPI
from starlette.types import Message

from metricx_observe import ConfigurationError, Observability, Settings, init_observability
from metricx_observe.context import current, detached
from metricx_observe.ids import new_id
from metricx_observe.settings import load_settings

from .processes import run_python
from .receiver_server import Receiver
from .support import call, observed

KEYS = ("k3y0fs3ntry", "k3y0frudder", "pk-lf-k3y", "sk-lf-s3cr3t", "c4rrys3cr3t")


def keys_for(url: str) -> dict[str, Any]:
    """Production settings whose vendors are all at `url`."""
    return {
        "environment": "production",
        "sentry_dsn": url.replace("://", f"://{KEYS[0]}@") + "/1",
        "rudderstack_write_key": KEYS[1],
        "rudderstack_data_plane_url": url,
        "langfuse_public_key": KEYS[2],
        "langfuse_secret_key": KEYS[3],
        "langfuse_base_url": url,
        "carry_secret": KEYS[4],
    }


@pytest.fixture(autouse=True)
def _none_running(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Observability, "default", None)
    with detached():
        yield


@pytest.fixture
def user_id() -> str:
    return f"user-{new_id()}"


async def lifespan(app: FastAPI) -> None:
    """Start the application and shut it down, as a server does."""
    waiting = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}]

    async def receive() -> Message:
        return waiting.pop()

    async def send(message: Message) -> None:
        assert message["type"] in ("lifespan.startup.complete", "lifespan.shutdown.complete")

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)


def test_a_worker_without_a_web_application(receiver: Receiver, user_id: str) -> None:
    """`.tracker`, `.llm` and `.errors` open it on first use; `context` gives a job's signals their user and request."""
    with observed(receiver) as observability:
        assert not observability.is_open
        with observability.context(user_id=user_id, workspace_id="w1", email="ada@example.com") as context:
            ids = {observability.tracker.track("job_done"), observability.errors.capture_exception(ValueError("x"))}
            with observability.llm.trace("summary") as trace:
                ids.add(trace.id)
        assert current() is None
        assert observability.flush(10)
        found = receiver.wait_for(3, user=user_id)
        assert {signal["id"] for signal in found} == ids
        assert {(signal["workspace_id"], signal["request_id"]) for signal in found} == {("w1", context.request_id)}


def test_many_threads_open_it_once(receiver: Receiver, user_id: str) -> None:
    """The first use by many threads at once loses no signal of any of them."""
    with observed(receiver) as observability:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: observability.tracker.track("e", {"n": n}, user_id=user_id), range(8)))
        assert observability.flush(10)
        assert len(receiver.wait_for(8, user=user_id)) == 8


def test_closing_twice_and_using_it_afterwards(receiver: Receiver) -> None:
    """`close` again does nothing; a call after it returns None and raises nothing; Sentry's client is given back."""
    with observed(receiver) as observability:
        observability.start()
        tracker, llm, errors = observability.tracker, observability.llm, observability.errors
        assert sentry_sdk.get_client().is_active()
        observability.close()
        observability.close()
        assert not sentry_sdk.get_client().is_active()
        assert (tracker.track("e"), errors.capture_exception(ValueError("x"))) == (None, None)
        with llm.trace("t") as trace:
            assert trace.score("good", 1) is None
        assert observability.tracker.track("e") is None
        assert observability.status()["sentry"]["state"].startswith("local")


def test_start_opens_it_again(receiver: Receiver, user_id: str) -> None:
    """After `close`, an explicit `start` opens it again, and it is the default one again."""
    with observed(receiver, **keys_for(receiver.url)) as observability:
        for _ in range(2):
            observability.start()
            assert Observability.default is observability
            assert observability.tracker.track("e", user_id=user_id)
            observability.close()
        receiver.wait_for(2, user=user_id)


@contextmanager
def refusing() -> Iterator[str]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@contextmanager
def hanging() -> Iterator[str]:
    with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("vendor", [refusing, hanging])
async def test_closing_with_dead_vendors(receiver: Receiver, vendor: Any) -> None:
    """`aclose` returns within its deadline whatever the vendors do, and the loop goes on meanwhile."""
    with vendor() as url, observed(receiver, **keys_for(url)) as observability:
        observability.tracker.track("e", user_id="u1")
        observability.errors.capture_exception(ValueError("x"))
        observability.llm.trace("t").end()
        turns, closing_at = 0, time.monotonic()
        task = asyncio.create_task(observability.aclose(1.0))
        while not task.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert time.monotonic() - closing_at < 1.5
        assert turns > 1
        status = observability.status()
        shown = json.dumps(status)
        assert [secret for secret in KEYS if secret in shown] == []
        assert status["rudderstack"]["delivered"] == 0


def test_one_step_of_the_end_fails_alone(receiver: Receiver, user_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In strict mode too, an error in one vendor's end keeps no other from ending."""
    with observed(receiver, **keys_for(receiver.url), strict=True) as observability:
        observability.tracker.track("e", user_id=user_id)
        langfuse = observability.opened["langfuse"]
        monkeypatch.setattr(langfuse, "flush", lambda: 1 / 0)
        observability.close()
        faults = observability.status()["faults"]
        assert (faults["flush: ZeroDivisionError"], faults["close: ZeroDivisionError"]) == (1, 1)
        receiver.wait_for(1, user=user_id)


def test_what_status_says(receiver: Receiver, user_id: str) -> None:
    """Per vendor its state and counters; no key, no user and no content."""
    with observed(receiver, **keys_for(receiver.url)) as observability:
        assert observability.status()["langfuse"] == {"state": "on"}
        observability.tracker.track("", {"x": "hunter2"}, user_id=user_id)
        observability.tracker.track("e", {"password": "hunter2"}, user_id=user_id)
        assert observability.flush(10)
        status = observability.status()
        assert (status["service"], status["environment"]) == ("tests", "production")
        assert (status["sentry"]["state"], status["sentry"]["client_replaced"]) == ("on", False)
        assert status["rudderstack"]["delivered"] == 1
        assert status["faults"] == {"track: no event name": 1}
        assert status["scrubbed"]["track"]["properties"]
        shown = json.dumps(status)
        assert [secret for secret in (*KEYS, "hunter2", user_id) if secret in shown] == []


WITHOUT_MIDDLEWARE = """
import asyncio, sys
import sentry_sdk
from fastapi import FastAPI
from metricx_observe import Observability, init_observability
from tests.support import call

async def fails():
    raise ValueError(sys.argv[1])

async def main():
    alone, later = FastAPI(), FastAPI()
    for app in (alone, later):
        app.get("/fails")(fails)
    states = init_observability()
    running = Observability.default
    assert isinstance((await call(alone, "/fails")).error, ValueError)
    assert init_observability() == states and Observability.default is running
    init_observability(later)
    assert not {"starlette", "fastapi"} & set(sentry_sdk.get_client().integrations)
    answer = await call(later, "/fails")
    assert await asyncio.to_thread(running.flush, 20)
    print(answer.headers["x-request-id"])

asyncio.run(main())
"""


def test_sentrys_own_integrations_without_the_middleware(receiver: Receiver, tmp_path: Path) -> None:
    """`init_observability()` alone leaves Sentry's own web integrations: they report an unhandled exception, once.

    An application that comes later gets the middleware, which takes their place. In a process of its own: Sentry
    installs an integration once per process, or never.
    """
    marker = new_id()
    settings = {"METRICX_RECEIVER_URL": receiver.url, "ENVIRONMENT": "development"}
    ended = run_python("-c", WITHOUT_MIDDLEWARE, marker, folder=tmp_path, **settings)
    assert ended.returncode == 0, ended.stderr
    errors = [signal for signal in receiver.signals(kind="error") if signal["name"] == f"ValueError: {marker}"]
    assert [signal["request_id"] for signal in errors] == [ended.stdout.strip(), None]


async def test_an_application_that_starts_twice(receiver: Receiver, user_id: str) -> None:
    """Shutting down closes it; the same application's next start opens it again, with the middleware in place."""
    with observed(receiver, **keys_for(receiver.url)) as observability:
        app = FastAPI()
        observability.install(app)

        @app.get("/track")
        async def track() -> str | None:
            return observability.tracker.track("e", user_id=user_id)

        for _ in range(2):
            await lifespan(app)
            assert not observability.is_open
            observability.start()
            assert not {"starlette", "fastapi"} & set(sentry_sdk.get_client().integrations)
            assert (await call(app, "/track")).status == 200
        assert await asyncio.to_thread(observability.flush, 10)
        await receiver.await_for(2, user=user_id, kind="track")


async def test_install_after_the_first_request(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """`install` on an application that serves already starts the vendors, and says what is missing."""
    app = FastAPI()
    await call(app, "/")
    with observed(receiver) as observability:
        observability.install(app)
        assert all(observability.states().values())
    assert "install(app) comes too late for the middleware" in caplog.text


async def test_the_response_waits_for_the_commit(receiver: Receiver, user_id: str) -> None:
    """With METRICX_DURABILITY=acknowledged a response starts after its signals are committed."""
    with observed(receiver, durability="acknowledged") as observability:
        app = FastAPI()
        observability.install(app)

        @app.get("/track")
        async def track() -> str | None:
            return observability.tracker.track("e", user_id=user_id)

        assert (await call(app, "/track")).status == 200
        assert observability.status()["rudderstack"]["committed"] == 1
        assert observability.status()["outbox"]["unacknowledged"] == 0


@pytest.mark.parametrize("option", ["dsn", "transport", "profiles_sample_rate"])
def test_sentry_options_that_are_ours(option: str) -> None:
    """`from_env(sentry_options=...)` refuses what we set ourselves, at once."""
    with pytest.raises(ConfigurationError, match=f"sentry_options: {option} cannot be set there"):
        Observability.from_env(sentry_options={option: None})


def test_other_sentry_options_are_passed(receiver: Receiver) -> None:
    """Any other option of `sentry_sdk.init` arrives there."""
    with observed(receiver, sentry_options={"max_breadcrumbs": 7, "release": "mine"}) as observability:
        observability.start()
        options = sentry_sdk.get_client().options
        assert (options["max_breadcrumbs"], options["release"]) == (7, "mine")


def test_a_second_one_with_another_dsn(receiver: Receiver) -> None:
    """Sentry's client is one per process: a second DSN raises, and in `init_observability` is off with the reason."""
    with observed(receiver) as first:
        first.start()
        other = {"environment": "production", "sentry_dsn": "https://other@127.0.0.1:9/2", "outbox_url": "memory://"}
        with pytest.raises(ConfigurationError, match="another open Observability has another SENTRY_DSN"):
            Observability(load_settings(other)).start()
        assert sentry_sdk.get_client() is first.error_sink._client  # type: ignore[union-attr]
        tolerant = Observability(load_settings(other), tolerant=True)
        tolerant.start()
        assert tolerant.states()["sentry"].startswith("off: another open Observability has another SENTRY_DSN")
        tolerant.close()
        assert Observability.default is first


def test_a_vendor_that_fails_to_open_leaves_nothing_open(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """When one is configured wrongly, those that were opened before it are closed again."""

    def refuses(*_: object) -> None:
        raise ConfigurationError("type it otherwise")

    monkeypatch.setattr("metricx_observe.vendors.langfuse.client.Langfuse", refuses)
    observability = Observability(Settings(environment="development", receiver_url=receiver.url))
    with pytest.raises(ConfigurationError, match="type it otherwise"):
        observability.start()
    assert not observability.is_open
    assert not sentry_sdk.get_client().is_active()
    assert Observability.default is None


def test_the_line_names_the_caller_or_the_given_logger(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """The start-up line is logged by the module that calls, or by `logger=`."""
    with observed(receiver) as observability:
        observability.install(FastAPI())
        observability.install(FastAPI(), logger=logging.getLogger("shop"))
        lines = [record for record in caplog.records if "[STARTUP] Observability" in record.getMessage()]
        assert [record.name for record in lines] == [__name__, "shop"]
        local = f"(local: {receiver.url})"
        assert lines[0].getMessage() == (
            f"[STARTUP] Observability: sentry {local}, analytics {local}, langfuse {local}"
        )


def test_init_never_raises(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An error that is none of configuration is told by its type alone; a wrong keyword by its name."""
    assert set(init_observability(nonsense="hunter2").values()) == {"off: no such setting: nonsense"}
    monkeypatch.setattr("metricx_observe.pipeline.Pipeline.open", lambda self, **_: 1 / 0)
    assert set(init_observability(environment="development").values()) == {"off: ZeroDivisionError"}
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "hunter2" not in caplog.text


def test_what_was_put_is_committed_at_exit(receiver: Receiver) -> None:
    """The hook at the interpreter's end hands over and commits, and delivers nothing."""
    with observed(receiver, **keys_for("http://127.0.0.1:9")) as observability:
        observability._at_exit()
        observability.tracker.track("e", user_id="u1")
        observability._at_exit()
        assert observability.status()["rudderstack"]["committed"] == 1
