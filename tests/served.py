"""A whole application under a real server in a process of its own, and what reached the vendors in the end."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from .faults import FaultyVendor, until
from .processes import Python, environment, run_python

APP = """
from fastapi import FastAPI
from metricx_observe import ErrorReporterDep, Observability, TrackerDep

app = FastAPI()
Observability.from_env().install(app)


@app.get("/ready")
async def ready() -> None: ...


@app.get("/{n}")
async def count(n: int, tracker: TrackerDep, errors: ErrorReporterDep) -> None:
    tracker.track("counted", {"n": n}, user_id="user-1")
    if n % 10 == 0:
        errors.capture_exception(ValueError(f"number {n}"))
"""
NEXT_START = """
from metricx_observe import Observability
observability = Observability.from_env()
observability.start()
assert observability.flush(20)
"""


class Served:
    """A running server. `analytics` and `errors` are its RudderStack and its Sentry; Langfuse is off."""

    def __init__(self, folder: Path, command: list[str], mode: str, variables: dict[str, str]) -> None:
        self.analytics, self.errors = FaultyVendor(), FaultyVendor()
        self._folder = folder
        self._variables = {
            "ENVIRONMENT": "production",
            "SENTRY_DSN": f"http://public@127.0.0.1:{self.errors.port}/1",
            "RUDDERSTACK_WRITE_KEY": "write",
            "RUDDERSTACK_DATA_PLANE_URL": f"http://127.0.0.1:{self.analytics.port}",
            "METRICX_SERVICE": "served",
            "METRICX_TRACES_SAMPLE_RATE": "0",
            **variables,
        }
        self._mode(mode)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        (folder / "served.py").write_text(APP)
        self.process = Python(
            [sys.executable, "-m", *(part.format(port=self.port) for part in command)],
            cwd=folder,
            env=environment(folder, **self._variables),
            stdout=subprocess.DEVNULL,
        )

    def _mode(self, mode: str) -> None:
        self.analytics.mode = self.errors.mode = mode

    def get(self, path: object) -> bool:
        """Whether a request, on a connection of its own, is answered."""
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=10) as answer:
            return bool(answer.status == 200)
        return False

    def get_all(self, numbers: range) -> list[int]:
        """Those of the numbers that were answered; eight at a time."""
        with ThreadPoolExecutor(8) as pool:
            return [n for n, answered in zip(numbers, pool.map(self.get, numbers), strict=True) if answered]

    def end(self, number: signal.Signals) -> None:
        """Send a signal, and wait for the end."""
        self.process.send_signal(number)
        self.process.wait(30)

    def collect(self) -> tuple[Counter[int], Counter[int]]:
        """How often each number arrived, as an event and as an error, after the next start."""
        self._mode("ok")
        following = run_python("-c", NEXT_START, folder=self._folder, **self._variables)
        assert following.returncode == 0, following.stderr
        batches = [json.loads(line)["batch"] for line in self.analytics.accepted]
        events = Counter(message["properties"]["n"] for batch in batches for message in batch)
        texts = [line for line in self.errors.accepted if b'"exception"' in line]
        return events, Counter(int(n) for text in texts for n in re.findall(rb'"value":"number (\d+)"', text))

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self.analytics.close()
        self.errors.close()


@contextmanager
def served(folder: Path, *command: str, mode: str = "ok", **variables: str) -> Iterator[Served]:
    """`python -m command` in `folder`, where `served:app` is the application and `{port}` its port."""
    server = Served(folder, list(command), mode, variables)
    try:
        until(lambda: server.get("ready"), 30, "the server")
        yield server
    finally:
        server.close()
