"""Read a request's body within bounds, before and after decompression."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from starlette.requests import ClientDisconnect, Request

from .signals import Refused

WINDOW_BITS = {"gzip": 31, "deflate": 15}
"""For zlib: with the gzip header, and with the zlib header, which HTTP calls deflate."""
CHUNK = 1 << 20
"""Bytes that are decompressed at a time, so that a bomb is noticed before it is large."""


class BodyReader:
    """Reads bodies as they are sent, within a bound for each and one for all that are held at the same time."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes of one body. Four of that size may be held at once."""
        self._limit, self._held = limit, 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body, held for a block. Raises Refused: 413 over the limit, 429 while others hold too much."""
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                self._held += len(chunk)
                if len(body) > self._limit:
                    raise Refused(413, f"the body is over {self._limit} bytes")
                if self._held > 4 * self._limit:
                    raise Refused(429, "too many large posts at once", {"Retry-After": "1"})
            yield bytes(body)
        except ClientDisconnect:
            raise Refused(400, "the body is shorter than its Content-Length") from None
        finally:
            self._held -= len(body)


def decompress(body: bytes, coding: str, limit: int) -> bytes:
    """The body without its Content-Encoding, in bounded memory.

    Raises:
        Refused: 413 over `limit` bytes, 400 for damaged or truncated data, 415 for a coding that is not known.
    """
    coding = coding.strip().lower() or "identity"
    if coding in WINDOW_BITS:
        parts = _inflate(body, coding)
    elif coding == "br":
        parts = _unbrotli(body)
    elif coding == "identity":
        parts = iter([body])
    else:
        raise Refused(415, "Content-Encoding must be gzip, deflate, br or identity")
    whole = bytearray()
    for part in parts:
        whole += part
        if len(whole) > limit:
            raise Refused(413, f"the body is over {limit} bytes after decompression")
    return bytes(whole)


def _inflate(body: bytes, coding: str) -> Iterator[bytes]:
    stream = zlib.decompressobj(WINDOW_BITS[coding])
    try:
        while not stream.eof:
            part = stream.decompress(body, CHUNK)
            if not part and not stream.unconsumed_tail and not stream.eof:
                raise Refused(400, f"the {coding} body is truncated")
            yield part
            body = stream.unconsumed_tail
    except zlib.error:
        raise Refused(400, f"the body is not valid {coding}") from None
    if stream.unused_data:  # of many tiny members, which no SDK sends, each would cost a copy of all that follow
        raise Refused(400, f"the {coding} body goes on after its end")


def _unbrotli(body: bytes) -> Iterator[bytes]:
    """Sentry's SDK sends br where brotli is installed, which is then usually the receiver's environment as well."""
    try:
        brotli: Any = import_module("brotli")
    except ImportError:
        raise Refused(415, "Content-Encoding br needs: pip install 'brotli>=1.2'; gzip needs nothing") from None
    stream = brotli.Decompressor()
    try:
        while not stream.is_finished():
            part = stream.process(body, output_buffer_limit=CHUNK)
            if not part and stream.can_accept_more_data():
                raise Refused(400, "the br body is truncated")
            yield part
            body = b""
    except (brotli.error, TypeError):  # before 1.2 it knows no limit
        raise Refused(400, "the body is not valid br, or brotli is older than 1.2") from None
