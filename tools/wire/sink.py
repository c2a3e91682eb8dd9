"""The vendors' end: a server on loopback that answers as the vendors do and keeps each request as it came.

Each situation has a path of its own (`/s/NAME/...`), so that what arrives is known to be its own, whichever thread or
process sent it.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self


class Arrived(NamedTuple):
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


_ANSWERS: tuple[tuple[str, int, str, bytes], ...] = (
    ("/envelope", 200, "application/json", b'{"id":"fc6d8c0c43fc4630ad850ee518f1b9d0"}'),
    ("/v1/batch", 200, "text/plain", b"OK"),
    ("/otel/v1/traces", 200, "application/x-protobuf", b""),
    ("/api/public/scores", 200, "application/json", b'{"id":"score"}'),
    ("/api/public/ingestion", 207, "application/json", b'{"successes":[],"errors":[]}'),
    ("/api/public/projects", 200, "application/json", b'{"data":[{"id":"project","name":"same wire"}]}'),
)
"""By a part of the path. An empty protobuf message is the success of OTLP."""


class Sink:
    """The server, for the length of a `with` block."""

    def __init__(self) -> None:
        self._arrived: dict[str, list[Arrived]] = {}
        self._away: set[str] = set()
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"sink": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def take(self, situation: str) -> list[Arrived]:
        """What arrived for a situation, which has ended."""
        with self._lock:
            return self._arrived.pop(situation, [])

    def answer(self, request: Arrived) -> tuple[int, str, bytes]:
        """Keep a request, and say what its vendor answers; a vendor that is away answers 503 and keeps nothing."""
        _, kind, situation, *rest = [*request.path.split("/", 3), "", ""]
        if kind in ("away", "back"):
            with self._lock:
                self._away.add(situation) if kind == "away" else self._away.discard(situation)
            return 200, "text/plain", b""
        with self._lock:
            if situation in self._away:
                return 503, "text/plain", b"away"
            self._arrived.setdefault(situation, []).append(request._replace(path=f"/{rest[0]}"))
        for part, status, content_type, body in _ANSWERS:
            if part in request.path:
                return status, content_type, body
        return 404, "application/json", b"{}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: Any) -> None:
        """A client that was killed in the middle of a request is a part of some situations."""


class _Handler(BaseHTTPRequestHandler):
    sink: Sink
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one packet an answer
    timeout = 60

    def _serve(self) -> None:
        body = self._chunks() if self.headers.get("transfer-encoding") else self._whole()
        headers = {name.lower(): value for name, value in self.headers.items()}
        status, content_type, content = self.sink.answer(Arrived(self.command, self.path, headers, body))
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _whole(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def _chunks(self) -> bytes:
        found = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            found.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(found)

    def log_message(self, *_: object) -> None:
        """Nothing on the console."""
