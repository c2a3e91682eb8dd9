"""A vendor on loopback that can be made to fail in the ways that vendors fail, and a channel that posts to it."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from metricx_observe.delivery import Described, Importance, Message, Post

OUTAGES = ("refused", "500", "503", "429", "hang", "trickle", "reset")


class FaultyVendor:
    """Accepts messages separated by newlines. `mode` is ok, one of OUTAGES, endless (body), or a status."""

    def __init__(self, *, delay_s: float = 0.0, retry_after: str = "1", poison: bytes = b"") -> None:
        self.delay_s = delay_s
        self.retry_after = retry_after
        self.poison = poison
        self.poison_status = 400
        self.refuses: Callable[[bytes], int] = lambda body: 0
        """The status with which a body is refused; 0: it is accepted."""
        self.answer_headers: dict[str, str] = {}
        self.text = b""
        self.accepted: list[bytes] = []
        self.times: list[float] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.most_at_once = 0
        self._at_once = 0
        self._mode = "ok"
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._connections: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.port = 0
        self._listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/batch"

    @property
    def mode(self) -> str:
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        """Change the behaviour for connections that are open, too: whoever hangs is cut."""
        before, self._mode = self._mode, mode
        changed, self._changed = self._changed, threading.Event()
        changed.set()
        if mode == "refused":
            self._hang_up()
        elif before == "refused":
            self._listen()

    def close(self) -> None:
        self._mode = "closed"
        self._changed.set()
        self._hang_up()

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        self.port, self._listener = listener.getsockname()[1], listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _hang_up(self) -> None:
        listener, self._listener = self._listener, None
        for each in [*([listener] if listener else []), *self._connections]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError), connection, connection.makefile("rb") as stream:
            while self._one(connection, stream.readline, stream.read):
                pass
        self._connections.discard(connection)

    def _one(self, connection: socket.socket, readline: Callable[[], bytes], read: Callable[[int], bytes]) -> bool:
        if not readline().startswith(b"POST "):
            return False
        headers: dict[str, str] = {}
        while (line := readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = read(int(headers.get("content-length", "0")))
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        with self._lock:
            self.requests.append((headers, body))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            time.sleep(self.delay_s)
            return self._answer(connection, body)
        finally:
            with self._lock:
                self._at_once -= 1

    def _answer(self, connection: socket.socket, body: bytes) -> bool:
        mode, changed = self._mode, self._changed
        if mode in ("refused", "closed"):
            return False
        if mode == "hang":
            changed.wait()
            return False
        if mode == "trickle":
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n":
                connection.sendall(bytes([byte]))
                if changed.wait(1.0):
                    break
            return False
        if mode == "reset":
            self._accept_messages(body)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if mode == "endless":
            self._accept_messages(body)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            while not changed.wait(0.02):
                connection.sendall(b"x")
            return False
        status = 200 if mode == "ok" else int(mode)
        if mode == "ok" and self.poison and self.poison in body:
            status = self.poison_status
        elif mode == "ok":
            status = self.refuses(body) or status
        headers = dict(self.answer_headers)
        if status in (429, 503) and self.retry_after:
            headers["Retry-After"] = self.retry_after
        if status == 200:
            self._accept_messages(body)
        text = b"no" if status != 200 else self.text
        lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(text)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + text)
        return True

    def _accept_messages(self, body: bytes) -> None:
        now = time.monotonic()
        with self._lock:
            messages = body.split(b"\n")
            self.accepted += messages
            self.times += [now] * len(messages)


@dataclass
class LineChannel:
    """A channel whose messages are JSON lines. A record is anything JSON; its kind may be given as `kind`."""

    url: str
    vendor: str = "rudderstack"
    destination: str = "loopback"
    local: bool = False
    away_hint: str = ""
    max_messages: int = 100
    max_bytes: int = 1 << 20
    concurrency: int = 1
    importances: dict[str, Importance] = field(default_factory=dict)

    def encode(self, record: Any) -> Sequence[Message]:
        if record == "unencodable":
            raise ValueError("record")
        kind = record.get("kind", "track") if isinstance(record, dict) else "track"
        return [Message(kind, record if isinstance(record, bytes) else json.dumps(record).encode())]

    def post(self, payloads: Sequence[bytes]) -> Post:
        if any(b"unjoinable" in payload for payload in payloads):
            raise ValueError("payload")
        return Post(self.url, {"authorization": "Basic c2VjcmV0"}, b"\n".join(payloads))

    def importance(self, kind: str) -> Importance:
        return self.importances.get(kind, Importance.SIGNAL)

    def rate_limits(self, status: int, headers: Mapping[str, str]) -> Mapping[str, float]:
        value = headers.get("x-limits")
        return {kind: float(seconds) for kind, seconds in json.loads(value).items()} if value else {}

    def describe(self, kind: str, payload: bytes) -> Described:
        record = json.loads(payload)
        return Described(str(record.get("id", "")), kind, record.get("user"))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The levels of what was logged, without what a message says that is refused before a second one is stored."""
    return [record.levelname for record in caplog.records if "which waits for another" not in record.getMessage()]


def until(
    done: Callable[[], object], timeout_s: float = 10.0, what: str = "the condition", every_s: float = 0.005
) -> None:
    """Wait for a condition; fails when it does not come."""
    give_up = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > give_up:
            raise AssertionError(f"{what} did not come within {timeout_s} s")
        time.sleep(every_s)
