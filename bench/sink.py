"""The vendors' end: a process that answers every vendor's route with what that vendor answers, and counts.

HTTP/1.1 with keep-alive and no framework: it must cost little, because it shares the machine with what is measured.
Bodies are kept as they came and read when somebody asks for the counts, so that reading them disturbs no round.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, Self

from bench.worker import READY_S, ROOT, clean_environment

KEPT_BYTES = 128 << 20
"""Bodies beyond this are read at once: a million requests would not fit."""

_unnamed = count()
Id = tuple[str, str]
"""Kind of a signal, e.g. `rudderstack track`, and its id on the wire."""


class Sink:
    """The conductor's end of the process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.sink"], cwd=ROOT, env=clean_environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    def take(self) -> dict[str, int]:
        """What arrived since the last call: `requests`, `bytes`, `doubled`, and the distinct signals by kind."""
        with urllib.request.urlopen(f"{self.url}/take", timeout=READY_S) as response:
            counts: dict[str, int] = json.load(response)
        return counts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate("", timeout=READY_S)


class Counts:
    """What arrived since the last `take`."""

    def __init__(self) -> None:
        self.requests = self.bytes = self._kept_bytes = 0
        self._kept: list[tuple[str, str, bytes]] = []
        self._ids: Counter[Id] = Counter()

    def add(self, path: str, head: str, body: bytes) -> None:
        """One post."""
        self.requests += 1
        self.bytes += len(body)
        self._kept.append((path, head, body))
        self._kept_bytes += len(body)
        if self._kept_bytes > KEPT_BYTES:
            self._read()

    def _read(self) -> None:
        kept, self._kept, self._kept_bytes = self._kept, [], 0
        for path, head, body in kept:
            self._ids.update(signals(path, head, body))

    def as_dict(self) -> dict[str, int]:
        self._read()
        kinds = Counter(kind for kind, _ in self._ids)
        doubled = sum(self._ids.values()) - len(self._ids)
        return {"requests": self.requests, "bytes": self.bytes, "doubled": doubled, **kinds}


def signals(path: str, head: str, body: bytes) -> Iterable[Id]:
    """The signals of one post, in the format of the vendor whose route it is."""
    if "content-encoding: gzip" in head:
        body = gzip.decompress(body)
    for part, read in _READERS.items():
        if part in path:
            return list(read(head, body))
    return [("other", path)]


def _envelope(head: str, body: bytes) -> Iterable[Id]:
    first, _, rest = body.partition(b"\n")
    event_id = json.loads(first).get("event_id") or f"unnamed {next(_unnamed)}"  # a client's report of what it dropped
    while rest.strip():
        line, _, rest = rest.partition(b"\n")
        header = json.loads(line)
        length = header.get("length", rest.find(b"\n"))
        yield f"sentry {header['type']}", event_id
        if header["type"] == "event":
            whole = _frames(json.loads(rest[:length]))
            yield from (("sentry frame", f"{event_id} {number}") for number in range(whole))
        rest = rest[length:].lstrip(b"\n")


def _frames(event: dict[str, Any]) -> int:
    """How many frames have locals and their source line: an error without them would be cheap."""
    exceptions = (event.get("exception") or {}).get("values") or []
    frames = [frame for each in exceptions for frame in (each.get("stacktrace") or {}).get("frames") or []]
    return sum(bool(frame.get("vars") and frame.get("context_line")) for frame in frames)


def _rudderstack(head: str, body: bytes) -> Iterable[Id]:
    return ((f"rudderstack {message['type']}", message["messageId"]) for message in json.loads(body)["batch"])


def _spans(vendor: str) -> Callable[[str, bytes], Iterable[Id]]:
    def read(head: str, body: bytes) -> Iterable[Id]:
        if "application/json" in head:
            resources = json.loads(body)["resourceSpans"]
            found = [span["spanId"] for each in resources for scope in each["scopeSpans"] for span in scope["spans"]]
        else:
            from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

            request = ExportTraceServiceRequest.FromString(body)
            spans = (span for each in request.resource_spans for scope in each.scope_spans for span in scope.spans)
            found = [span.span_id.hex() for span in spans]
        return ((f"{vendor} span", span_id) for span_id in found)

    return read


def _posthog(head: str, body: bytes) -> Iterable[Id]:
    return (("posthog event", event["uuid"]) for event in json.loads(body)["batch"])


_READERS: dict[str, Callable[[str, bytes], Iterable[Id]]] = {
    "/envelope": _envelope,
    "/v1/batch": _rudderstack,
    "/api/public/otel/v1/traces": _spans("langfuse"),
    "/v1/traces": _spans("otlp"),
    "/batch": _posthog,
}
_ANSWERS = {
    "/envelope": ("application/json", b'{"id":"fc6d8c0c43fc4630ad850ee518f1b9d0"}'),
    "/v1/batch": ("text/plain", b"OK"),
    "/v1/traces": ("application/x-protobuf", b""),
    "/batch": ("application/json", b'{"status":1}'),
    "/v1/info": ("application/json", b'{"project_name":"bench","project_url":"http://127.0.0.1"}'),
}
"""An empty protobuf message is the success of OTLP."""


class Connection(asyncio.Protocol):
    """One client's."""

    def __init__(self, counts: list[Counts]) -> None:
        self._counts = counts
        self._buffer = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].decode("latin-1").lower()
            _, _, rest = head.partition("content-length:")
            length = int(rest.partition("\r\n")[0]) if rest else 0
            if "transfer-encoding" in head or len(self._buffer) < end + 4 + length:
                if "transfer-encoding" in head:  # no client here does it; a new one shall be seen
                    self._transport.write(b"HTTP/1.1 411 Length Required\r\ncontent-length: 0\r\n\r\n")
                return
            body, self._buffer = self._buffer[end + 4 : end + 4 + length], self._buffer[end + 4 + length :]
            self._transport.write(self._answer(head.split(" ", 2)[1], head, body))

    def _answer(self, path: str, head: str, body: bytes) -> bytes:
        if path == "/take":
            kind, content = "application/json", json.dumps(self._counts[0].as_dict()).encode()
            self._counts[0] = Counts()
        else:
            self._counts[0].add(path, head, body)
            kind, content = next((_ANSWERS[part] for part in _ANSWERS if part in path), ("application/json", b"{}"))
        return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (
            kind.encode(), len(content), content,
        )  # fmt: skip


async def main() -> None:
    """Serve until stdin is closed."""
    loop, counts = asyncio.get_running_loop(), [Counts()]
    server = await loop.create_server(lambda: Connection(counts), "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
