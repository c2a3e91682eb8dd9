"""One HTTP connection to a vendor: a post with a deadline in total, and what the answer to it means.

By http.client: below its client, httpx takes 260 us of CPU a post where this takes 110 (measured, 7.5 KB), and each
of Sentry's events is a post. The threads of delivery need no pool: each has its connection.
"""

from __future__ import annotations

import email.utils
import encodings.idna  # noqa: F401  # here, and not in a thread: a child that is forked in between has half a module
import ipaddress
import socket
import ssl
import time
import urllib.request
import zlib
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from functools import cache, partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

import certifi

from .channel import Post

GZIP_FROM = 4096
"""Setting up gzip costs 50 us a post; below this it saves less than that."""
BODY_BYTES = 64 << 10
BODY_S = 0.5
"""How long a body may take after its status: it only saves the connection, and the answer is known."""
KEEP_ALIVE_S = 15.0
"""Servers and what stands before them hang up on a connection that says nothing, often after 20 s and more."""
HEADERS = {"User-Agent": "metricx-observe"}


Verdict = Enum("Verdict", "DELIVERED REFUSED RETRY STOPPED")
"""What an answer means for the messages."""


class Answer(NamedTuple):
    """The status line and the headers, with lower-case names."""

    status: int
    headers: Mapping[str, str]

    @property
    def verdict(self) -> Verdict:
        """A redirect is no success and no refusal: the address is wrong, the messages are not."""
        if 200 <= self.status < 300:
            return Verdict.DELIVERED
        if self.status in (401, 403):
            return Verdict.STOPPED
        if self.status in (408, 425, 429) or not 400 <= self.status < 500:
            return Verdict.RETRY
        return Verdict.REFUSED

    @property
    def retry_after_s(self) -> float | None:
        """Seconds that a `Retry-After` header asks for: a number, or an HTTP date."""
        value = self.headers.get("retry-after", "")
        with suppress(ValueError):
            return max(0.0, float(value))
        with suppress(ValueError):
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
        return None


class Line:
    """A keep-alive connection to one URL that carries one post at a time. `abort` may be called from any thread."""

    def __init__(self) -> None:
        self._connection: HTTPConnection | None = None
        self._response: HTTPResponse | None = None
        self._socket: socket.socket | None = None
        """The connection's once more: TLS takes the first one over, which cannot be cut then while it shakes hands."""
        self._target, self._headers, self._compresses = "", dict[str, str](), False
        self._until = self._stale_at = float("inf")
        self._aborted = False

    def post(self, post: Post, deadline_s: float) -> Answer:
        """Post and return when the headers are there; `finish` before the next. Raises OSError, HTTPException."""
        self._aborted, self._until = False, time.monotonic() + deadline_s
        connection = self._alive() or self._connect(post.url, deadline_s)
        headers, body = {**self._headers, **post.headers}, post.body
        if self._compresses and len(body) >= GZIP_FROM:
            headers["Content-Encoding"], body = "gzip", zlib.compress(body, 1, wbits=31)
        connection.sock.settimeout(deadline_s)
        connection.request("POST", self._target, body, headers)
        response = self._response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.headers.items()})

    def _connect(self, url: str, timeout_s: float) -> HTTPConnection:
        self.close()
        to = urlsplit(url)
        host, secure = to.hostname or "", to.scheme == "https"
        local = _is_loopback(host)
        proxies = {} if local or urllib.request.proxy_bypass(host) else urllib.request.getproxies()
        found = proxies.get(to.scheme) or proxies.get("all")
        proxy = urlsplit(found) if found else None
        if proxy and proxy.scheme != "http":
            raise OSError(f"a proxy must be http://, and the environment's is {proxy.scheme}://")
        kind = partial(HTTPSConnection, context=_tls()) if secure else HTTPConnection
        connection = kind(*((proxy.hostname or "", proxy.port or 80) if proxy else (host, to.port)), timeout=timeout_s)
        self._target, self._headers = to._replace(scheme="", netloc="").geturl(), HEADERS
        self._compresses = not local  # there it costs more than it saves
        if proxy and secure:
            connection.set_tunnel(host, to.port, _authorization(proxy))
        elif proxy:
            self._target, self._headers = url, HEADERS | _authorization(proxy)
        connection._create_connection = self._dial  # type: ignore[attr-defined]  # where the socket can be had in time
        self._connection = connection
        connection.connect()
        return connection

    def _dial(self, *where: Any) -> socket.socket:
        dialled = socket.create_connection(*where)
        self._socket = dialled.dup()
        if self._aborted:
            self.abort()
        return dialled

    def _alive(self) -> HTTPConnection | None:
        """The connection, if the server has kept it. What it says unasked is as bad as that it hung up."""
        connection = self._connection if self._response is None else None  # else nobody read the last answer
        if connection is not None and connection.sock is not None and time.monotonic() < self._stale_at:
            with suppress(OSError):
                connection.sock.settimeout(0.0)
                try:
                    connection.sock.recv(1)
                except (BlockingIOError, ssl.SSLWantReadError):
                    return connection
        return None

    def finish(self) -> bytes:
        """Read what there is of the body, within bounds, so that the connection can be used again."""
        response, self._response = self._response, None
        now, body = time.monotonic(), b""
        self._until, self._stale_at = now + BODY_S, now + KEEP_ALIVE_S
        with suppress(OSError, HTTPException):
            body = response.read(BODY_BYTES) if response is not None else b""
        self._until = float("inf")
        if response is None or not response.isclosed() or response.will_close:  # failed, or more to come, or no more
            self.close()
        return body

    def check(self, now: float) -> None:
        """Abort the post when its time is over. A read timeout would not: each byte of a trickle starts it again."""
        if now > self._until:
            self.abort()

    def abort(self) -> None:
        """Cut the connection under a running post, which then fails as for a vendor that hung up."""
        self._aborted = True
        if (dialled := self._socket) is not None:  # read once: its own thread may close it meanwhile
            with suppress(OSError):  # it is closed already
                dialled.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
        if self._socket is not None:
            self._socket.close()
        self._connection = self._socket = self._response = None


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    return False


def _authorization(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    password = unquote(f"{proxy.username}:{proxy.password or ''}")
    return {"Proxy-Authorization": f"Basic {b64encode(password.encode()).decode()}"}


@cache
def _tls() -> ssl.SSLContext:
    """The machine's certificates (SSL_CERT_FILE) and certifi's. Loading them costs 20 ms and a megabyte."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
