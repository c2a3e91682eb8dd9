"""One HTTP connection to a vendor: a post with a deadline in total, and the answer to it.

What the first connection would load (httpcore, the idna codec) is imported here: see `threads.LOADING`.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401
import gzip
import ipaddress
import logging
import socket
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpcore  # noqa: F401
import httpx

from .channel import Post
from .threads import THREAD_NAME

GZIP_FROM = 4096
"""Setting up gzip costs 50 us a post; below this it saves less than that."""
BODY_BYTES = 64 << 10
BODY_S = 0.5
"""How long a body may take after its status: it only saves the connection, and the answer is known."""
HEADERS = {"user-agent": "metricx-observe", "accept-encoding": "identity"}

for _name in ("httpcore.connection", "httpcore.http11", "httpcore.proxy"):
    # The application that logs at DEBUG asked for its own requests, not for our posts.
    logging.getLogger(_name).addFilter(lambda record: not (record.threadName or "").startswith(THREAD_NAME))

_parsed = cache(httpx.URL)  # a channel has one URL, and parsing it costs 60 us
_tls = cache(httpx.create_ssl_context)  # loading the certificates costs 20 ms and a megabyte


class Answer(NamedTuple):
    """The status line and the headers, with lower-case names."""

    status: int
    headers: Mapping[str, str]


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine: no proxy is asked for it, and compressing costs more than it saves."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _transport(url: str) -> httpx.HTTPTransport:
    """One connection. The layer below httpx's client: redirects, cookies and authentication cost 150 us a post."""
    to = urlsplit(url)
    direct = is_loopback(url) or urllib.request.proxy_bypass(to.hostname or "")
    return httpx.HTTPTransport(
        verify=_tls() if to.scheme == "https" else False,
        limits=httpx.Limits(max_connections=1, keepalive_expiry=15.0),
        proxy=None if direct else urllib.request.getproxies().get(to.scheme),
    )


class Line:
    """A keep-alive connection that carries one post at a time. `abort` may be called from any thread."""

    def __init__(self) -> None:
        self._transport: httpx.HTTPTransport | None = None
        self._response: httpx.Response | None = None
        self._stream: Any = None
        self._until = float("inf")
        self._aborted = False

    def post(self, post: Post, deadline_s: float) -> Answer:
        """Post and return when the headers are there; `finish` before the next one. Raises httpx.HTTPError, OSError."""
        self._aborted, self._until = False, time.monotonic() + deadline_s
        headers, body = {**HEADERS, **post.headers}, post.body
        if len(body) >= GZIP_FROM and not is_loopback(post.url):
            headers["content-encoding"], body = "gzip", gzip.compress(body, 1, mtime=0)
        if self._transport is None:
            self._transport = _transport(post.url)
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), deadline_s)
        extensions = {"timeout": timeouts, "trace": self._traced}
        request = httpx.Request("POST", _parsed(post.url), headers=headers, content=body, extensions=extensions)
        self._response = self._transport.handle_request(request)
        return Answer(self._response.status_code, self._response.headers)

    def _traced(self, name: str, info: Mapping[str, Any]) -> None:
        if name.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._stream = info["return_value"]
            if self._aborted:
                self.abort()

    def finish(self) -> bytes:
        """Read what there is of the body, within bounds, so that the connection can be used again."""
        response, self._response = self._response, None
        self._until = min(self._until, time.monotonic() + BODY_S)
        body = bytearray()
        if response is not None:
            with suppress(httpx.HTTPError, OSError):
                for part in response.stream:  # type: ignore[union-attr]
                    body += part
                    if len(body) > BODY_BYTES:
                        break
            response.close()
        self._until = float("inf")
        return bytes(body[:BODY_BYTES])

    def check(self, now: float) -> None:
        """Abort the post when its time is over. A read timeout would not: each byte of a trickle starts it again."""
        if now > self._until:
            self.abort()

    def abort(self) -> None:
        """Cut the connection under a running post, which then fails as for a vendor that hung up."""
        self._aborted = True
        if self._stream is not None:
            with suppress(OSError):  # it is closed already
                self._stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()
