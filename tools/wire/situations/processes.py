"""Processes of their own: scripts, jobs, another `sentry_sdk.init`, a killed process, and a real server."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .running import Run, add, situation

DOCUMENTED = """
import logging
logging.basicConfig(level="WARNING", format="%(levelname)s:%(name)s:%(message)s")
from metricx_observe.telemetry import *
print({name: str(state) for name, state in init_observability().items()})
identify(user_id="u-1", email="a@example.com", traits={"workspace_id": "w-1"})
track(user_id="u-1", event="feature_used", properties={"feature": "export", "format": "csv"})
trace = create_copilot_trace(user_id="u-1", workspace_id="w-1", question="why?")
log_generation(trace=trace, name="understand", model="claude-sonnet-4-20250514",
    input_messages=[{"role": "user", "content": "why?"}], output="because",
    usage={"input": 100, "output": 50, "total": 150}, latency_ms=200)
complete_copilot_trace(trace=trace, success=True, answer="because", latency_ms=1500, total_tokens=150)
set_user_context(user_id="u-1", email="a@example.com", workspace_id="w-1")
try:
    1 / 0
except Exception as e:
    capture_exception(e, extra={"operation": "risky"})
"""
MORE = (
    DOCUMENTED
    + """
track("u-2", "user_signed_up", {"email": "b@example.com"})
track(user_id="u-2", event="x", nonsense=1)
track_user_logged_in("u-1", "a@example.com", "w-1")
track_copilot_query_sent("u-1", 12, "w-1")
trace = create_copilot_trace("u-1", "w-1", "fails?", "session-1", name="other", metadata={"a": 1}, tags=["t"])
print(log_span(trace, "step", 1714564800, 1714564801.5, {"b": 2}) == trace.id)
log_generation(trace, "call", "m", "in", None, None, error=ValueError("no model"))
complete_copilot_trace(trace, success=False, error="gave up")
with trace_llm_call("block", "u-1") as trace:
    pass
capture_message("a message", "warning", {"c": 3})
clear_user_context()
track("u-3", "after")
flush_analytics(); flush_langfuse()
shutdown_observability()
"""
)
NOT_STARTED = """
import logging
logging.basicConfig(level="WARNING", format="%(levelname)s:%(message)s")
from metricx_observe.telemetry import *
print(track("u", "nothing"), capture_exception(ValueError()), create_copilot_trace("u", "w", "q").url)
"""
TOP_LEVEL = """
import metricx_observe as m
m.init_observability()
m.set_user_context("u-1", "a@example.com", "w-1")
m.track("u-1", "top_level", {"a": 1})
trace = m.create_copilot_trace("u-1", "w-1", "q")
m.log_generation(trace, model="m", output="o")
m.complete_copilot_trace(trace, answer="o")
m.capture_exception(ValueError("top level"))
m.Observability.default.close()
"""
UNHANDLED = """
from metricx_observe import Observability
observe = Observability.from_env()
observe.start()
with observe.context(user_id="u-1", workspace_id="w-1"):
    observe.tracker.track("before")
    raise ValueError("ends the script with password=error-CANARY")
"""
JOB = """
from metricx_observe import Observability
observe = Observability.from_env()
with observe.context(user_id="u-1"):
    observe.tracker.track("job", {"a": 1})
    with observe.llm.trace("job", input="x"):
        observe.errors.capture_message("job")
observe.close()
"""
INIT = """
import os, sentry_sdk
sentry_sdk.init(os.environ['SENTRY_DSN'], traces_sample_rate=1.0, environment='theirs', send_default_pii=True)
"""
APPLICATION = """
import asyncio, logging, sys
sys.path.insert(0, TOOLS)
logging.basicConfig(level="WARNING", format="%(levelname)s:%(message)s")
from fastapi import FastAPI
from metricx_observe import ContextDep, Observability, TrackerDep
from wire.situations.asgi import exchange, lifespan, parts, scope_of
BEFORE
app = FastAPI()
observe = Observability.from_env()
observe.install(app)

@app.get("/items/{item}")
async def route(item: str, context: ContextDep, tracker: TrackerDep):
    import sentry_sdk
    context.bind_user("u-1", workspace_id="w-1")
    tracker.track("seen")
    sentry_sdk.capture_message("theirs")
    raise ValueError("broken")

async def main():
    async with lifespan(app):
        AFTER
        answer = await exchange(app, scope_of("/items/7", headers={"x-request-id": "request-1"}), parts())
        print(answer["status"], answer["headers"], answer["raised"])
asyncio.run(main())
import sentry_sdk
print(type(sentry_sdk.get_client().transport).__module__.partition(".")[0])
"""


def script(text: str, expect: int = 0, **settings: Any) -> Any:
    return lambda run: run.process(text, expect=expect, **settings)


def application_script(before: str = "", after: str = "pass") -> str:
    """An application in a process of its own, with an `init` of the application's own somewhere."""
    tools = repr(str(Path(__file__).parents[2]))
    return APPLICATION.replace("TOOLS", tools).replace("BEFORE", before).replace("AFTER", after)


add("processes.documented", script(DOCUMENTED + "shutdown_observability()\n"))
add("processes.documented-more", script(MORE))
add("processes.not-started", script(NOT_STARTED))
add("processes.top-level", script(TOP_LEVEL))
add("processes.job", script(JOB))
add("processes.job-in-development", script(JOB, ENVIRONMENT="development"))
add("processes.earlier-init", script(application_script(INIT)))
add("processes.later-init", script(application_script("", INIT.strip().replace("\n", "; "))))
add(
    "processes.wrong-settings",
    script(
        DOCUMENTED + "shutdown_observability()\n", SENTRY_DSN="no dsn", METRICX_TRACE_SAMPLE_RATE="1", LOG_LEVEL="LOUD"
    ),
)
add(
    "processes.missing-key",
    script(DOCUMENTED + "shutdown_observability()\n", LANGFUSE_SECRET_KEY="", RUDDERSTACK_WRITE_KEY=""),
)

KILLED = """
import os, sys, time
from metricx_observe import Observability
observe = Observability.from_env()
observe.start()
with observe.context(user_id="u-1", workspace_id="w-1"):
    for number in range(5):
        observe.tracker.track(f"before_{number}")
    with observe.llm.trace("before") as trace:
        trace.score("good", 1)
    observe.errors.capture_message("before")
observe.flush(2.0)
import sentry_sdk
sentry_sdk.flush()
print("committed", flush=True)
time.sleep(60)
"""
RESTARTED = """
from metricx_observe import Observability
observe = Observability.from_env()
observe.start()
observe.tracker.track("after", user_id="u-1")
print(observe.flush(20.0))
observe.close()
"""


def ended_by_an_error(run: Run) -> None:
    """What it left on disk is delivered by the next process."""
    outbox = {"METRICX_OUTBOX_URL": f"sqlite:///{Path.cwd()}/unhandled.db"}
    run.process(UNHANDLED, expect=1, **outbox)
    run.process(RESTARTED, **outbox)


add("processes.unhandled", ended_by_an_error)


def by_process(do: Any) -> Any:
    """What the second process has not delivered before the first one's end, on a slow machine, the next one does."""

    def both(run: Run) -> None:
        outbox = {"METRICX_OUTBOX_URL": f"sqlite:///{Path.cwd()}/{run.situation.name}.db"}
        run.process(do, METRICX_DELIVERY="process", **outbox)
        run.caller[-1]["process"].pop("log")  # that it took too long to start
        run.process(RESTARTED, **outbox)

    return both


add("processes.delivery-by-process", by_process(JOB))
add("processes.delivery-by-process-application", by_process(application_script()))


def killed(how: signal.Signals, delivery: str) -> Any:
    """A process whose vendors are away is ended; the next one delivers what it left."""

    def do(run: Run) -> None:
        folder = Path("processes", run.situation.name)
        folder.mkdir(parents=True)
        (folder / "killed.py").write_text(KILLED)
        more = {"METRICX_OUTBOX_URL": f"sqlite:///{folder.resolve()}/outbox.db", "METRICX_DELIVERY": delivery}
        run.away(True)
        with subprocess.Popen(
            [sys.executable, "killed.py"], cwd=folder, env=run.environment(**more), stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            run.see("said", process.stdout.readline())
            process.send_signal(how)
        run.away(False)
        run.process(RESTARTED, **more)

    return do


add("processes.killed", killed(signal.SIGKILL, "thread"))


SERVER = """
import os
from fastapi import FastAPI
from metricx_observe import ContextDep, Observability, TrackerDep
app = FastAPI()
Observability.from_env().install(app)

@app.get("/items/{item}")
async def route(item: str, context: ContextDep, tracker: TrackerDep):
    context.bind_user("u-1")
    tracker.track("seen", {"item": item})
    if item == "bad":
        raise ValueError("broken")
"""


@situation("processes.uvicorn")
def _uvicorn(run: Run) -> None:
    """A real server, requests over a socket, and its end by SIGTERM."""
    import socket

    folder = Path("processes", run.situation.name)
    folder.mkdir(parents=True)
    (folder / "served.py").write_text(SERVER)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "served:app", "--port", str(port), "--log-level", "critical"]
    with subprocess.Popen(command, cwd=folder, env=run.environment(), stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        for path in ("/items/7?page=1", "/items/bad", "/none"):
            with socket.create_connection(("127.0.0.1", port), 10) as connection:
                head = f"GET {path} HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\nx-request-id: r-1\r\n\r\n"
                connection.sendall(head.encode())
                answer = b""
                while part := connection.recv(4096):
                    answer += part
            lines = answer.decode().split("\r\n\r\n")[0].split("\r\n")
            run.see(path, sorted(line for line in lines if not line.lower().startswith("date:")))
        process.terminate()
        run.see("ended", process.wait(30))
