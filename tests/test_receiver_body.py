"""Bodies: encodings, sizes and rates, and what is no path of the receiver."""

from __future__ import annotations

import gzip
import json
import resource
import socket
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from metricx_observe.receiver import Limits
from tests.faults import until
from tests.receiver_server import GENEROUS, Receiver, running_receiver
from tests.receiver_wire import INGESTION, MEDIA, OTLP, RUDDERSTACK, SCORES, SENTRY, post, refusal

BATCH = json.dumps({"batch": [{"type": "track", "event": "e", "messageId": "m"}]}).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


@pytest.fixture
def receiver(server: Receiver) -> Receiver:
    server.clear()
    return server


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(BATCH, mtime=0)),
        ("GZIP", gzip.compress(BATCH, mtime=0)),
        ("deflate", zlib.compress(BATCH)),
        ("identity", BATCH),
    ],
)
def test_content_encodings_of_the_sdks_are_read(receiver: Receiver, coding: str, body: bytes) -> None:
    """gzip and deflate are what the SDKs and OpenTelemetry's exporters use."""
    assert post(receiver, RUDDERSTACK, body, **{"Content-Encoding": coding}).status_code == 200
    assert len(receiver.signals()) == 1


def test_brotli_is_read_where_it_is_installed(receiver: Receiver) -> None:
    """Sentry's SDK sends br when brotli is installed."""
    brotli = pytest.importorskip("brotli")
    br = {"Content-Encoding": "br"}
    assert post(receiver, RUDDERSTACK, brotli.compress(BATCH), **br).status_code == 200
    assert "truncated" in refusal(post(receiver, RUDDERSTACK, brotli.compress(BATCH)[:-4], **br), 400)
    assert "not valid br" in refusal(post(receiver, RUDDERSTACK, BATCH, **br), 400)
    bomb = brotli.compress(bytes(1 << 27), quality=1)
    assert "after decompression" in refusal(post(receiver, RUDDERSTACK, bomb, **br), 413)


@pytest.mark.parametrize(
    ("coding", "body", "status", "reason"),
    [
        ("gzip", b"not gzip", 400, "not valid gzip"),
        ("gzip", gzip.compress(BATCH, mtime=0)[:-9], 400, "truncated"),
        ("gzip", b"", 400, "truncated"),
        ("gzip", gzip.compress(BATCH, mtime=0) * 2, 400, "after its end"),
        ("deflate", zlib.compress(BATCH)[:-1], 400, "truncated"),
        ("zstd", BATCH, 415, "Content-Encoding must be"),
    ],
)
def test_damaged_and_unknown_encodings_are_refused(
    receiver: Receiver, coding: str, body: bytes, status: int, reason: str
) -> None:
    """Damaged, truncated and unknown encodings get a 4xx that says which it was."""
    assert reason in refusal(post(receiver, RUDDERSTACK, body, **{"Content-Encoding": coding}), status)


def test_br_without_brotli_says_what_to_install(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where brotli is missing the refusal names the pip command."""
    monkeypatch.setitem(sys.modules, "brotli", None)
    assert "pip install" in refusal(post(receiver, RUDDERSTACK, BATCH, **{"Content-Encoding": "br"}), 415)


def test_a_gzip_bomb_is_a_413_in_bounded_memory(receiver: Receiver) -> None:
    """1 GiB of zeros in a megabyte costs little more than the limit."""
    bomb = _bomb(1 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "after decompression" in refusal(post(receiver, RUDDERSTACK, bomb, **{"Content-Encoding": "gzip"}), 413)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 3 * GENEROUS.decoded_bytes / 1024


def _bomb(size: int) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    chunk = bytes(1 << 20)
    return b"".join([deflate.compress(chunk) for _ in range(size >> 20)]) + deflate.flush()


def test_bodies_over_the_limits_are_refused() -> None:
    """The limit before decompression holds for a declared and for a chunked body, that after it for plain ones too."""
    with running_receiver(limits=Limits(body_bytes=1000, decoded_bytes=500)) as receiver:
        assert "over 1000 bytes" in refusal(post(receiver, RUDDERSTACK, b"x" * 1001), 413)
        chunked = httpx.post(receiver.url + RUDDERSTACK, content=(b"x" * 600 for _ in range(2)))
        assert "over 1000 bytes" in refusal(chunked, 413)
        assert "over 500 bytes" in refusal(post(receiver, RUDDERSTACK, b" " * 501), 413)
        for bad in (b"[]", b"\xff"):
            assert refusal(post(receiver, MEDIA, bad), 400)


def test_too_many_signals_a_second_are_a_429_that_says_when_to_come_back() -> None:
    """The rate of stored rows is bounded; a single batch over the bound is a 413, since no second has room for it."""
    with running_receiver(limits=Limits(rows_per_s=1_000)) as receiver:
        batch = [{"type": "track", "event": "e", "messageId": str(n)} for n in range(1_001)]
        assert "1000 signals" in refusal(post(receiver, RUDDERSTACK, {"batch": batch}), 413)
        statuses = [post(receiver, RUDDERSTACK, {"batch": batch[:1_000]}) for _ in range(9)]
        refused = [each for each in statuses if each.status_code == 429]
        assert refused
        assert refused[0].headers["retry-after"] == "1"
        assert len(receiver.signals()) == 1_000


def test_a_client_that_hangs_up_in_the_body_leaves_no_trace(receiver: Receiver) -> None:
    """A body shorter than its Content-Length is not stored, and the receiver goes on."""
    host, port = receiver.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /v1/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n" + BATCH)
    assert post(receiver, RUDDERSTACK, BATCH).status_code == 200
    assert len(receiver.signals()) == 1


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (b'"' + b'[,{\\"\\\\' * 200_000 + b'"', 200),
        (b"[" + b"0," * 600_000 + b"0]", 413),
        (b"[" + b'"a",' * 1_100_000 + b"0]", 413),
    ],
)
def test_values_are_bounded_and_what_stands_in_a_text_is_none(receiver: Receiver, value: bytes, status: int) -> None:
    """Separators and escaped quotes inside of a text are text; outside of it each is a value."""
    answer = post(receiver, RUDDERSTACK, b'{"batch":[{"type":"track","x":' + value + b"}]}")
    assert answer.status_code == status, answer.text
    assert len(receiver.signals()) == (status == 200)


def test_bodies_that_are_held_at_the_same_time_are_bounded() -> None:
    """Clients that send large bodies and never end them cost four of the largest; others are told to come back."""
    head = b"POST /v1/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n" + b"x" * 999
    with running_receiver(limits=Limits(body_bytes=1000)) as receiver, ExitStack() as held:
        host, port = receiver.url.removeprefix("http://").split(":")
        for _ in range(4):
            held.enter_context(socket.create_connection((host, int(port)), timeout=10)).sendall(head)
        until(lambda: post(receiver, RUDDERSTACK, BATCH).status_code == 429)
        held.close()
        until(lambda: post(receiver, RUDDERSTACK, BATCH).status_code == 200)


@pytest.mark.parametrize("path", [SENTRY, RUDDERSTACK, OTLP, SCORES, INGESTION])
def test_unknown_methods_and_paths_are_4xx(receiver: Receiver, path: str) -> None:
    """A GET of a path for posts is a 405, an unknown one a 404, both as JSON."""
    assert refusal(httpx.get(receiver.url + path), 405)
    assert refusal(httpx.post(receiver.url + path + "x/y"), 404)
