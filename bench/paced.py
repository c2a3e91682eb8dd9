"""An open-loop HTTP client in a process of its own: requests leave at a fixed rate, whether answers come or not.

wrk sends the next request when an answer came, so a slow server is asked less. Here a request that finds no free
connection waits, and its wait counts.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import deque
from contextlib import suppress
from time import perf_counter
from typing import Any

from bench.payloads import HEADERS
from bench.worker import Round

CONNECTIONS = 64
GRACE_S = 5.0
"""After the last request; what is not answered by then counts with the time it waited."""


class Stream:
    """Requests of one path at one rate, on connections of their own."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._path = path
        self._head = b"".join(b"%s: %s\r\n" % pair for pair in HEADERS) + b"\r\n"
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._waiting: deque[float] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sent = 0
        self._expected = 0
        """How many there are in all, once the last one is due."""
        self._all_answered = asyncio.Event()
        self.took: list[float] = []

    async def connect(self) -> None:
        """Open one more connection."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self._port)
        self._open.add(connection)
        self._idle.append(connection)
        self._send()

    def _send(self) -> None:
        while self._waiting and self._idle:
            self._sent += 1
            request = f"GET {self._path}/{self._sent % 64} HTTP/1.1\r\n".encode() + self._head
            self._idle.pop().send(self._waiting.popleft(), request)

    def answered(self, connection: Connection, keep: bool) -> None:
        """One answer came. uvicorn closes the connection after an exception: then another is opened."""
        self.took.append(perf_counter() - connection.began)
        connection.began = 0.0
        if len(self.took) == self._expected:
            self._all_answered.set()
        if keep:
            self._idle.append(connection)
            self._send()
        else:
            connection.close()

    def lost(self, connection: Connection) -> None:
        """A connection is closed; replace it."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        task = asyncio.get_running_loop().create_task(self.connect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self, rate: float, seconds: float) -> dict[str, float]:
        """Send, and give the quantiles of all requests in milliseconds."""
        await asyncio.gather(*(self.connect() for _ in range(CONNECTIONS)))
        begin, count = perf_counter(), int(rate * seconds)
        for number in range(count):
            if (wait := begin + number / rate - perf_counter()) > 0:
                await asyncio.sleep(wait)
            self._waiting.append(perf_counter())
            self._send()
        self._expected = count
        if len(self.took) == count:
            self._all_answered.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await self._all_answered.wait()
        return self._quantiles(count)

    def _quantiles(self, count: int) -> dict[str, float]:
        now = perf_counter()
        unanswered = [now - began for began in [*self._waiting, *(each.began for each in self._open if each.began)]]
        lost = count - len(self.took) - len(unanswered)  # a connection broke under them
        times = statistics.quantiles([*self.took, *unanswered, *[GRACE_S] * lost], n=100)
        self.lost = lambda connection: None  # type: ignore[method-assign]  # it is over: replace nothing
        for connection in list(self._open):
            connection.close()
        return {"p50": times[49] * 1e3, "p99": times[98] * 1e3, "sent": count, "unanswered": len(unanswered) + lost}


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._received = b""
        self._transport: Any = None
        self.began = 0.0
        """When its request was due; 0 while it is idle."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream.lost(self)

    def send(self, began: float, request: bytes) -> None:
        """Send a request that was due at `began`."""
        self.began, self._received = began, b""
        self._transport.write(request)

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if found and len(body) >= length and self.began:
            self._stream.answered(self, keep=head.startswith(b"HTTP/1.1 200"))


def open_client() -> Round:
    """In the worker's process. Gives the quantiles of the first path; the others are load beside it."""

    def do(port: int, seconds: float, rates: dict[str, float]) -> dict[str, Any]:
        async def all_streams() -> list[dict[str, float]]:
            return await asyncio.gather(*(Stream(port, path).run(rate, seconds) for path, rate in rates.items()))

        return dict(zip(rates, asyncio.run(all_streams()), strict=True))

    return do
