"""Read a request's body within bounds, before and after decompression."""

from __future__ import annotations

import zlib
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from starlette.requests import ClientDisconnect, Request

from .signals import Refused

CODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""zlib's window bits: with the gzip header, with the zlib header (what HTTP calls deflate)."""


async def read_body(request: Request, limit: int) -> bytes:
    """The body as it was sent. Raises Refused(413) as soon as it is longer than `limit` bytes."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise Refused(413, f"the body is over {limit} bytes")
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise Refused(413, f"the body is over {limit} bytes")
            chunks.append(chunk)
    except ClientDisconnect:
        raise Refused(400, "the body is shorter than its Content-Length") from None
    return b"".join(chunks)


def decompress(body: bytes, coding: str, limit: int) -> bytes:
    """The body without its Content-Encoding, in bounded memory.

    Raises:
        Refused: 413 over `limit` bytes, 400 for damaged or truncated data, 415 for a coding that is not known.
    """
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        if len(body) > limit:
            raise Refused(413, f"the body is over {limit} bytes")
        return body
    if coding == "br":
        return _unbrotli(body, limit)
    if coding not in CODINGS:
        raise Refused(415, "Content-Encoding must be gzip, deflate, br or identity")
    return _inflate(body, coding, limit)


def _inflate(body: bytes, coding: str, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while body:  # gzip may be a chain of members
        member = zlib.decompressobj(CODINGS[coding])
        try:
            part = member.decompress(body, limit - size + 1)
        except zlib.error:
            raise Refused(400, f"the body is not valid {coding}") from None
        size += len(part)
        if size > limit:
            raise Refused(413, f"the body is over {limit} bytes after decompression")
        if not member.eof:
            raise Refused(400, f"the {coding} body is truncated")
        parts.append(part)
        body = member.unused_data
    return b"".join(parts)


def _unbrotli(body: bytes, limit: int) -> bytes:
    """Sentry's SDK compresses with brotli where that is installed; so then the receiver can read it, in one environment."""
    if find_spec("brotli") is None:
        raise Refused(415, "Content-Encoding br needs: pip install brotli (1.2 or newer); gzip needs nothing")
    brotli: Any = import_module("brotli")
    stream = brotli.Decompressor()
    parts: list[bytes] = []
    size = 0
    try:
        while not stream.is_finished():
            part = stream.process(body, output_buffer_limit=min(limit - size + 1, 1 << 20))
            body = b""
            size += len(part)
            if size > limit:
                raise Refused(413, f"the body is over {limit} bytes after decompression")
            parts.append(part)
            if not part and stream.can_accept_more_data():
                raise Refused(400, "the br body is truncated")
    except (brotli.error, TypeError):
        raise Refused(400, "the body is not valid br, or brotli is older than 1.2") from None
    return b"".join(parts)
