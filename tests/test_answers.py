"""Every status with every limit that a header may ask for: no answer makes the courier post the same again and again.

Ten thousand destinations on one loopback receiver, which counts what reaches it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from metricx_observe.boundary import Boundary
from metricx_observe.delivery import Delivery, Limits, Message, Post
from metricx_observe.scrubber import Scrubber
from metricx_observe.vendors.sentry.channel import SentryChannel
from metricx_observe.vendors.vendor import Target
from tests.faults import LineChannel, until
from tests.processes import CHECKOUT

MOST = 8
"""Posts of the same rows in `WINDOW_S`."""
WINDOW_S = 5.0
GLANCE_S = 0.25
"""How long the sweep looks at each; in that time there may be two posts, and one more with each further second."""
STATUSES = range(100, 600)
LIMITS: Sequence[tuple[str, str]] = [
    ("Retry-After", "0"),
    ("Retry-After", "-1"),
    ("Retry-After", "0.001"),
    ("Retry-After", "nan"),
    ("Retry-After", "-inf"),
    ("Retry-After", "1e-9"),
    ("Retry-After", "9" * 400),
    ("Retry-After", "\u0660".encode().decode("latin-1")),
    ("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT"),
    ("Retry-After", "Wed, 21 Oct 0001 07:28:00 -0000"),
    ("Retry-After", ""),
    ("X-Sentry-Rate-Limits", "0:error"),
    ("X-Sentry-Rate-Limits", "0::organization"),
    ("X-Sentry-Rate-Limits", "-5:error, nan:error, inf:error"),
    ("X-Sentry-Rate-Limits", "0.001:error:key"),
    ("X-Sentry-Rate-Limits", "60:unknown_category"),
    ("X-Sentry-Rate-Limits", "60:transaction;session:organization"),
    ("X-Sentry-Rate-Limits", "9" * 400 + ":transaction"),
    ("X-Sentry-Rate-Limits", ""),
    ("X-Sentry-Rate-Limits", ",;:::,"),
]


class Receiver(asyncio.Protocol):
    """Answers `POST /{status}/{n}` with that status and the nth of `LIMITS`; counts posts by path."""

    posts: Counter[str]
    open: set[asyncio.Transport]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.received = transport, b""
        self.open.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, _ = self.received.partition(b"\r\n\r\n")
        if not found or not self.received.endswith(b"end"):
            return
        self.received = b""
        path = head.split(b" ", 2)[1].decode()
        self.posts[path] += 1
        _, status, limit = path.split("/")
        name, value = LIMITS[int(limit)]
        self.transport.write(f"HTTP/1.1 {status} S\r\n{name}: {value}\r\nContent-Length: 0\r\n\r\n".encode("latin-1"))
        if status < "200":
            self.transport.close()  # this was all; else the courier would wait for more


class Sentrys(LineChannel):
    """One message, with Sentry's reading of limits."""

    sentry = SentryChannel(Target("on", url="https://public@sentry.example/42"), Scrubber(), Boundary().count)

    def encode(self, record: Any) -> Sequence[Message]:
        return [Message("error", record)]

    def post(self, payloads: Sequence[bytes]) -> Post:
        return Post(self.url, {}, b"\n".join(payloads))

    def rate_limits(self, status: int, headers: Mapping[str, str]) -> Mapping[str, float]:
        return self.sentry.rate_limits(status, headers)


@contextmanager
def serving() -> Iterator[tuple[str, Counter[str]]]:
    """The address of a receiver on a thread, and what it counts."""
    loop, counted, connections = asyncio.new_event_loop(), Counter[str](), set[asyncio.Transport]()
    made = type("Counting", (Receiver,), {"posts": counted, "open": connections})
    server = loop.run_until_complete(loop.create_server(made, "127.0.0.1", 0, backlog=1024))

    async def end() -> None:
        server.close()
        while connections or len(asyncio.all_tasks()) > 1:  # of clients that have gone, and that are being accepted
            for connection in [*connections]:
                connection.abort()
            await asyncio.sleep(0.01)

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", counted
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def watch(url: str, paths: Sequence[str], counted: Counter[str], limits: Limits, window_s: float) -> None:
    """One message to each path, all at once; ends when the window does."""
    expected = len(counted) + len(paths)
    channels = [Sentrys(url + path, vendor=path, destination=path, max_messages=1) for path in paths]
    delivery = Delivery(channels, url="memory://", limits=limits)
    try:
        for path in paths:
            assert delivery.put(path, b"end")
        until(lambda: len(counted) == expected, 60, every_s=0.02)
        ends = time.monotonic() + window_s
        until(lambda: time.monotonic() > ends, 60, every_s=0.05)
    finally:
        delivery.close(0.0)


def sweep() -> dict[str, int]:
    """Posts by path, of those that had more than two, and one more with each second after the first quarter."""
    often: dict[str, int] = {}
    logging.getLogger("metricx_observe.delivery").setLevel(logging.CRITICAL)  # ten thousand lines say nothing
    with serving() as (url, counted):
        for at in range(0, len(STATUSES), 20):
            began = time.monotonic()
            paths = [f"/{status}/{n}" for status in STATUSES[at : at + 20] for n in range(len(LIMITS))]
            watch(url, paths, counted, Limits(), GLANCE_S)
            most = 2 + time.monotonic() - began
            often |= {path: counted[path] for path in paths if counted[path] > most}
        assert len(counted) == 10_000
    return often


@pytest.mark.slow
def test_no_answer_makes_a_busy_loop() -> None:
    """All statuses from 100 to 599, each with 20 limits: nothing is posted at a rate that makes 8 posts in 5 s."""
    # in a process that is not measured for coverage, which makes its twenty thousand threads cost twice as much
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    code = f"import json; from {__name__} import sweep; print(json.dumps(sweep()))"
    run = [sys.executable, "-W", "error", "-c", code]
    swept = subprocess.run(run, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert swept.stderr == ""
    assert json.loads(swept.stdout) == {}


def test_no_answer_makes_a_busy_loop_in_five_seconds() -> None:
    """The statuses of each kind, with every limit, watched for the whole time."""
    statuses = (100, 199, 200, 302, 400, 401, 403, 404, 408, 425, 429, 500, 503, 599)
    with serving() as (url, counted):
        watch(url, [f"/{each}/{n}" for each in statuses for n in range(len(LIMITS))], counted, Limits(), WINDOW_S)
        assert {path: posts for path, posts in counted.items() if posts > MOST} == {}
