"""One small post that becomes much: refused before it is Python objects, on each vendor's path."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.receiver_wire import INGESTION, OTLP, RUDDERSTACK, SCORES, SENTRY

RUN = """
import sys
from metricx_observe.receiver import run
run(port=0, store_path=sys.argv[1], on_listen=lambda url: print(url, flush=True))
"""
PROTOBUF = "application/x-protobuf"


class Running:
    """A receiver with its default limits, as `metricx-observe dev` starts it."""

    def __init__(self, store: Path) -> None:
        # not measured for coverage: to trace each step through millions of fields takes ten times as long
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
        run = [sys.executable, "-c", RUN, str(store)]
        self._process = subprocess.Popen(run, stdout=subprocess.PIPE, text=True, env=environment)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def peak_mib(self) -> int:
        """The most memory that it has had. Not by `getrusage`: after a fork that begins at its parent's."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) >> 10

    def post(self, path: str, body: bytes, **headers: str) -> httpx.Response:
        packed = gzip.compress(body, compresslevel=1, mtime=0)
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json", **headers}
        return httpx.post(self.url + path, content=packed, headers=headers, timeout=60, trust_env=False)

    def end(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from started(tmp_path_factory.mktemp("receiver"))


@pytest.fixture
def fresh_server(tmp_path: Path) -> Iterator[Running]:
    """For the largest posts: the allocator keeps some of what earlier ones needed."""
    yield from started(tmp_path)


def started(directory: Path) -> Iterator[Running]:
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux to measure memory")
    running = Running(directory / "receiver.db")
    yield running
    running.end()


def listed(one: bytes, n: int, before: bytes = b'{"batch":[', after: bytes = b"]}") -> bytes:
    return before + b",".join([one] * n) + after


def field(number: int, inner: bytes) -> bytes:
    """A field of bytes in protobuf."""
    size, length = bytearray(), len(inner)
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + inner


def in_span(inner: bytes) -> bytes:
    """An OTLP export in protobuf with one span, which has these fields beside its ids."""
    return field(1, field(2, field(2, SPAN_PROTOBUF + inner)))


def spans(one: bytes) -> bytes:
    """OTLP/JSON around what a scope's list of spans holds."""
    return b'{"resourceSpans":[{"scopeSpans":[{"spans":[' + one + b"]}]}]}"


SPAN = b'{"traceId":"' + b"1" * 32 + b'","spanId":"' + b"2" * 16 + b'"'
SPAN_PROTOBUF = field(1, b"1" * 16) + field(2, b"2" * 8)
HEADER = b'{"event_id":"' + b"a" * 32 + b'"}\n'
IN_A_MESSAGE = b'{"batch":[{"type":"track","x":[', b"]}]}"
IN_LOGS = b'{"type":"log"}\n{"items":[', b"]}\n"
FLOODS: dict[str, Callable[[], tuple[str, bytes, str]]] = {
    "messages": lambda: (RUDDERSTACK, listed(b'{"type":"track","event":"e"}', 600_000), ""),
    "messages just over the bound": lambda: (RUDDERSTACK, listed(b'{"type":"track"}', 20_001), ""),
    "messages of unknown types": lambda: (RUDDERSTACK, listed(b"{}", 3_000_000), ""),
    "keys of one message": lambda: (
        RUDDERSTACK, listed(b",".join(b'"k%d":0' % n for n in range(2_000_000)), 1, b'{"batch":[{', b"}]}"), ""
    ),
    "lists in a message": lambda: (RUDDERSTACK, listed(b"[]", 3_000_000, *IN_A_MESSAGE), ""),
    "strings in a message": lambda: (RUDDERSTACK, listed(b'"a"', 3_000_000, *IN_A_MESSAGE), ""),
    "numbers in a message": lambda: (RUDDERSTACK, listed(b"0.1", 3_000_000, *IN_A_MESSAGE), ""),
    "a string's quotes escaped": lambda: (RUDDERSTACK, listed(b'"\\""', 2_000_000, b"[", b"]"), ""),
    "nested lists": lambda: (RUDDERSTACK, listed(b"[" * 500 + b"]" * 500, 30_000), ""),
    "scores": lambda: (SCORES, listed(b'{"name":"a","value":1}', 600_000, b"[", b"]"), ""),
    "scores just over the bound": lambda: (SCORES, listed(b'{"name":"a","value":1}', 20_001, b"[", b"]"), ""),
    "ingestion": lambda: (INGESTION, listed(b"{}", 600_000), ""),
    "ingestion just over the bound": lambda: (INGESTION, listed(b"{}", 20_001), ""),
    "envelope items": lambda: (SENTRY, HEADER + b"{}\n\n" * 1_000_000, ""),
    "envelope events": lambda: (SENTRY, HEADER + b'{"type":"event"}\n{}\n' * 600_000, ""),
    "envelope logs": lambda: (SENTRY, HEADER + listed(b"{}", 2_000_000, b'{"type":"log"}\n{"items":['), ""),
    "envelope logs in items": lambda: (SENTRY, HEADER + listed(b"{}", 9_000, *IN_LOGS) * 9, ""),
    "keys of an envelope's header": lambda: (SENTRY, listed(b'"a":0', 2_000_000, b"{", b"}\n"), ""),
    "spans": lambda: (OTLP, spans(listed(SPAN + b"}", 300_000, b"", b"")), ""),
    "spans just over the bound": lambda: (OTLP, spans(listed(SPAN + b"}", 20_001, b"", b"")), ""),
    "resourceSpans": lambda: (OTLP, listed(b"{}", 3_000_000, b'{"resourceSpans":['), ""),
    "scopeSpans": lambda: (OTLP, listed(b"{}", 3_000_000, b'{"resourceSpans":[{"scopeSpans":[', b"]}]}"), ""),
    "attributes": lambda: (OTLP, spans(SPAN + listed(b"{}", 2_000_000, b',"attributes":[') ), ""),
    "events": lambda: (OTLP, spans(SPAN + listed(b"{}", 2_000_000, b',"events":[')), ""),
    "resourceSpans in protobuf": lambda: (OTLP, field(1, b"") * 3_000_000, PROTOBUF),
    "scopeSpans in protobuf": lambda: (OTLP, field(1, field(2, b"") * 3_000_000), PROTOBUF),
    "spans in protobuf": lambda: (OTLP, field(1, field(2, field(2, b"") * 3_000_000)), PROTOBUF),
    "20,001 spans in protobuf": lambda: (OTLP, field(1, field(2, field(2, SPAN_PROTOBUF) * 20_001)), PROTOBUF),
    "attributes in protobuf": lambda: (OTLP, in_span(field(9, b"") * 3_000_000), PROTOBUF),
    "events in protobuf": lambda: (OTLP, in_span(field(11, b"") * 3_000_000), PROTOBUF),
    "values in an array in protobuf": lambda: (
        OTLP, field(1, field(2, field(2, field(9, field(2, field(5, field(1, b"") * 3_000_000)))))), PROTOBUF
    ),
    "unknown fields in protobuf": lambda: (OTLP, b"\x78\x00" * 3_000_000, PROTOBUF),
}  # fmt: skip
"""What it is many of: where it is posted, what, and its media type when that is not JSON."""


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_in_one_post_is_a_413_and_costs_no_memory(server: Running, name: str) -> None:
    """What would become millions of objects is refused before it does, on each path."""
    path, body, media_type = FLOODS[name]()
    answer = server.post(path, body, **({"Content-Type": media_type} if media_type else {}))
    assert answer.status_code == 413, answer.text
    assert server.peak_mib() < 300


def long_text() -> bytes:
    """A character of four bytes makes Python hold the whole text in four bytes a character."""
    return "\N{GRINNING FACE}".encode() + b"x" * (27 << 20)


ALLOWED: dict[str, Callable[[], tuple[str, bytes, str]]] = {
    "lists in a message": lambda: (
        RUDDERSTACK,
        listed(b"[]", 249_000, *IN_A_MESSAGE),
        "",
    ),
    "a long text": lambda: (RUDDERSTACK, b'{"batch":[{"type":"track","x":"' + long_text() + b'"}]}', ""),
    "separators in a text": lambda: (
        RUDDERSTACK,
        b'{"batch":[{"type":"track","x":"' + b',\\"[' * (6 << 20) + b'"}]}',
        "",
    ),
    "a long error": lambda: (SENTRY, HEADER + b'{"type":"event"}\n{"x":"' + long_text() + b'"}\n', ""),
    "an envelope of blank lines": lambda: (SENTRY, HEADER + b"\n" * (27 << 20), ""),
    "a long value": lambda: (
        OTLP,
        field(1, field(2, field(2, SPAN_PROTOBUF + field(9, field(2, field(1, long_text())))))),
        PROTOBUF,
    ),
    "events": lambda: (OTLP, in_span(field(11, b"") * 490_000), PROTOBUF),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_just_within_the_bounds_is_taken_in_bounded_memory(fresh_server: Running, name: str) -> None:
    """The largest text and the most values that are read hold no more; separators inside of a text do not count."""
    path, body, media_type = ALLOWED[name]()
    answer = fresh_server.post(path, body, **({"Content-Type": media_type} if media_type else {}))
    assert answer.status_code == 200, answer.text
    assert fresh_server.peak_mib() < 300


def test_a_resource_repeated_by_each_span_is_bounded(fresh_server: Running) -> None:
    """Each stored span shows its resource, so 20,000 spans under one of 16 KB are a 413 rather than 320 MB."""
    resource = json.dumps({"attributes": [{"key": "a", "value": {"stringValue": "b" * 16_384}}]}).encode()
    scopes = listed(SPAN + b"}", 20_000, b'"scopeSpans":[{"spans":[', b"]}]")
    assert (
        fresh_server.post(OTLP, b'{"resourceSpans":[{"resource":' + resource + b"," + scopes + b"}]}").status_code
        == 413
    )
    assert fresh_server.peak_mib() < 300


def rudderstack_batch() -> bytes:
    """200 messages of nearly the size that RudderStack takes."""
    return listed(json.dumps({"type": "track", "properties": {"x": "y" * 30_000}}).encode(), 200)


def langfuse_batch(*, protobuf: bool = False) -> bytes:
    """512 spans of 40 attributes and 50 KB, which is more than Langfuse's SDK joins."""
    texts = {f"key_{n}": "x" for n in range(39)} | {"input": "words, and more words, " * 2_200}
    if protobuf:
        pairs = [field(9, field(1, k.encode()) + field(2, field(1, v.encode()))) for k, v in texts.items()]
        return field(1, field(2, b"".join(field(2, SPAN_PROTOBUF + b"".join(pairs)) for _ in range(512))))
    attributes = json.dumps([{"key": key, "value": {"stringValue": value}} for key, value in texts.items()])
    return spans(listed(SPAN + b',"attributes":' + attributes.encode() + b"}", 512, b"", b""))


@pytest.mark.parametrize(
    ("path", "body", "media_type"),
    [
        (RUDDERSTACK, rudderstack_batch, "application/json"),
        (OTLP, langfuse_batch, "application/json"),
        (OTLP, partial(langfuse_batch, protobuf=True), PROTOBUF),
    ],
)
def test_the_largest_batches_of_sdks_and_couriers_pass(
    fresh_server: Running, path: str, body: Callable[[], bytes], media_type: str
) -> None:
    """Bounds against floods refuse nothing that a real SDK sends."""
    assert fresh_server.post(path, body(), **{"Content-Type": media_type}).status_code == 200
