"""The part of `bench.faults` in which processes end, die and fork, under uvicorn, gunicorn and alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import suppress

from metricx_observe.delivery import Delivery, Limits
from tests.faults import FaultyVendor, LineChannel, until

Figure = tuple[str, str, str, bool]

FIRST = """
import asyncio, os, sys, time
from metricx_observe.delivery import Delivery
from tests.faults import LineChannel
delivery = Delivery([LineChannel(os.environ["VENDOR"])], url=os.environ["OUTBOX"])
def put(count, first=0):
    for n in range(first, first + count):
        delivery.put("rudderstack", {"n": n}, size=50)
"""

SERVED = (
    '''
"""The smallest application that puts a signal a request: ASGI with and without lifespan, and WSGI."""
'''
    + FIRST
    + """
async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.to_thread(delivery.close, 2.0)
        await send({"type": "lifespan.shutdown.complete"})
        return
    put(1, int(scope["path"][1:] or 0))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})

def wsgi(environ, start_response):
    put(1, int(environ["PATH_INFO"][1:] or 0))
    start_response("200 OK", [("Content-Length", "0")])
    return [b""]
"""
)


class Case:
    """A vendor, an outbox and the processes of one case."""

    def __init__(self, folder: str, mode: str = "ok") -> None:
        self.vendor = FaultyVendor()
        self.vendor.mode = mode
        self.url = f"sqlite://{folder}/state/outbox.db"
        self.folder = folder
        self.environment = {**os.environ, "VENDOR": self.vendor.url, "OUTBOX": self.url, "PYTHONPATH": f".:{folder}"}

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *command],
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def collect(self) -> Counter[int]:
        """How often each arrived, after the next start."""
        self.vendor.mode = "ok"
        delivery = Delivery([LineChannel(self.vendor.url)], url=self.url, limits=Limits(probe_every_s=0.5))
        delivery.flush(20)
        delivery.close(1)
        self.vendor.close()
        return Counter(json.loads(message)["n"] for message in self.vendor.accepted)


def figure(name: str, counts: Counter[int], expected: int, *, doubles: bool = False) -> Figure:
    lost, twice = expected - len(counts), sum(n > 1 for n in counts.values())
    must = "0 lost" if doubles else "0 lost, 0 doubled"
    return name, must, f"{lost} lost, {twice} doubled", not lost and (doubles or not twice)


def scripts(folder: str) -> list[Figure]:
    figures = []
    for end, name in (("", "script without close()"), ("raise SystemError", "script, uncaught exception")):
        for mode in ("ok", "hang"):
            with tempfile.TemporaryDirectory(dir=folder) as own:
                case = Case(own, mode)
                case.start("-c", f"{FIRST}\nput(500)\n{end}").wait(20)
                figures.append(figure(f"{name}, vendor {mode}", case.collect(), 500, doubles=mode == "ok"))
    return figures


def served(folder: str) -> list[Figure]:
    """SIGTERM while 200 requests have been answered."""
    uvicorn = ("-m", "uvicorn", "served:asgi", "--log-level", "critical", "--port")
    gunicorn = ("-m", "gunicorn", "served:wsgi", "--log-level", "critical")
    figures = []
    for name, command in (
        ("uvicorn", (*uvicorn, "{port}")),
        ("uvicorn --lifespan off", (*uvicorn, "{port}", "--lifespan", "off")),
        ("uvicorn --workers 2", (*uvicorn, "{port}", "--workers", "2")),
        ("gunicorn --preload, 2 workers", (*gunicorn, "--preload", "-w", "2", "-b", "127.0.0.1:{port}")),
    ):
        for mode in ("ok", "hang"):
            with tempfile.TemporaryDirectory(dir=folder) as own:
                case = Case(own, mode)
                with open(f"{own}/served.py", "w") as module:
                    module.write(SERVED)
                port = _free_port()
                process = case.start(*(part.format(port=port) for part in command))
                until(lambda port=port: _get(port, 0), 20, name)  # type: ignore[misc]
                for n in range(1, 200):
                    _get(port, n)
                time.sleep(0.05)  # at most the last 50 ms may be lost where no Python code runs at the end
                process.send_signal(signal.SIGTERM)
                process.wait(20)
                figures.append(figure(f"SIGTERM, {name}, vendor {mode}", case.collect(), 200, doubles=mode == "ok"))
    return figures


def killed(folder: str) -> list[Figure]:
    """kill -9 at 1,000 events a second, plain and acknowledged."""
    plain = "n = 0\nwhile True:\n    put(1, n); print(n, time.monotonic(), flush=True); n += 1; time.sleep(0.0008)"
    acknowledged = (
        "async def main():\n    for n in range(10**6):\n        put(1, n); await delivery.committed()\n"
        "        print(n, time.monotonic(), flush=True)\nasyncio.run(main())"
    )
    figures = []
    for name, code, grace in (("", plain, 0.05), (", acknowledged", acknowledged, 0.0)):
        with tempfile.TemporaryDirectory(dir=folder) as own:
            case = Case(own, "refused")
            process = case.start("-c", f"{FIRST}\n{code}")
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(1500 if not name else 60)]
            process.kill()
            lines += process.communicate()[0].splitlines()
            put = [(int(n), float(at)) for n, at in (line.split() for line in lines if line.count(" ") == 1)]
            safe = {n for n, at in put if at <= put[-1][1] - grace}
            counts = case.collect()
            missing, early = len({n for n, _ in put} - set(counts)), len(safe - set(counts))
            must = "only the last 50 ms lost" if grace else "0 lost"
            got = f"{missing} of {len(put)} lost, {early} of them earlier"
            figures.append((f"kill -9{name}", must, got, not early))
    return figures


def forks(folder: str) -> list[Figure]:
    code = """
        children = []
        for fork in range(20):
            put(50, 10_000 + 50 * fork)
            pid = os.fork()
            if not pid:
                put(50, 50 * fork)
                delivery.close(5)
                os._exit(0)
            children.append(pid)
        for pid in children:
            os.waitpid(pid, 0)
        delivery.close(5)
        """.replace("\n        ", "\n")
    with tempfile.TemporaryDirectory(dir=folder) as own:
        case = Case(own)
        case.start("-c", FIRST + code).wait(60)
        return [figure("20 forks under load", case.collect(), 2000)]


def process_cases() -> list[Figure]:
    """Every case of this module."""
    with tempfile.TemporaryDirectory() as folder:
        return [*scripts(folder), *served(folder), *killed(folder), *forks(folder)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _get(port: int, n: int) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/{n}", timeout=5) as response:
        return bool(response.status == 200)
    return False
