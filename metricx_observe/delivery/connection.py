"""One HTTP connection to a vendor, by `http.client`, with a deadline in total.

Its parser takes a status for an answer whatever is wrong in the headers behind it; others refuse such an answer, and
the accepted messages would be sent again and again. The comparison is in docs/explanation/delivery.md.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401  # here, and not in a thread: a child that is forked in between has half a module
import io
import ipaddress
import math
import re
import selectors
import socket
import ssl
import time
import urllib.request
import zlib
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
    IncompleteRead,
    RemoteDisconnected,
)
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import certifi

from .answer import Answer
from .channel import Post

GZIP_FROM = 4096
"""Bytes. Setting up gzip costs more than it saves below this."""
BODY_BYTES = 64 << 10
BODY_S = 0.5
"""How long a body may take after its status: it only saves the connection, and the answer is known."""
KEEP_ALIVE_S = 15.0
"""Servers and what stands before them close a connection that is not used, often after 20 s and more."""
USER_AGENT = {"User-Agent": "metricx-observe"}
_TUNNEL_REFUSED = re.compile(r"Tunnel connection failed: 4(?!08|25|29)[0-9][0-9]\b")
"""What `http.client` raises when a proxy does not open a tunnel, for a reason that no later try mends."""


class _Lines(io.BufferedReader):
    """What a server sends. `http.client` takes `HTTP/1.1 200` for an answer, also where the server hung up in it."""

    def readline(self, size: int | None = -1, /) -> bytes:
        read = super().readline(size)
        if read.startswith(b"HTTP/") and not read.endswith(b"\n"):
            raise RemoteDisconnected("half a status line")
        return read


class _Response(HTTPResponse):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fp = _Lines(self.fp.detach())


class Connection:
    """Sends one request at a time, on a connection that is kept alive. Any thread may call `check` and `abort`."""

    def __init__(self) -> None:
        self.deadline = math.inf
        """When `check` aborts what runs. A read timeout does not: each byte of a trickle starts it again."""
        self._http = HTTPConnection("")
        self._socket: socket.socket | None = None  # `http.client` forgets it before the body of a last answer is read
        self._response: HTTPResponse | None = None
        self._headers: Mapping[str, str] = {}
        self._url = self._target = ""
        self._compresses = self._aborted = False
        self._reusable_until = 0.0

    def post(self, post: Post, timeout_s: float) -> Answer:
        """Send a request and return when its answer's headers are there. Raises OSError, HTTPException, ValueError."""
        self._aborted, self.deadline = False, time.monotonic() + timeout_s
        if not self._is_reusable(post.url):
            self._prepare(post.url, timeout_s)
        self._reusable_until = 0.0
        try:
            answer = self._exchange(post)
            if not self._aborted:
                return answer
        except Exception as error:
            self.close()
            if _TUNNEL_REFUSED.match(str(error)):
                return Answer(407, {})  # whatever its reason, it is the proxy's, and nothing was sent to the vendor
            if not self._aborted:
                raise
        self.close()
        raise ConnectionAbortedError("aborted")  # what has come may be half a status line

    def _exchange(self, post: Post) -> Answer:
        body, headers = post.body, {**self._headers, **post.headers}
        if self._compresses and len(body) >= GZIP_FROM:
            body = zlib.compress(body, 1, wbits=31)
            headers["Content-Encoding"] = "gzip"
        self._http.request("POST", self._target, body, headers)
        self._socket = self._http.sock
        self._response = response = self._http.getresponse()
        while response.status in (102, 103):  # the answer is still to come; `http.client` skips only 100 itself
            response.headers = None  # type: ignore[assignment]  # else `begin` thinks that it has read them
            response.begin()
        return Answer(response.status, {name.lower(): response.getheader(name, "") for name in response.headers})

    def finish(self) -> bytes:
        """Read the body, within bounds, so that the connection can be used again. Returns what came of it."""
        response, self._response = self._response, None
        if response is None:
            return b""
        body, now, is_whole = b"", time.monotonic(), False
        self.deadline = now + BODY_S
        try:
            body = response.read(BODY_BYTES)
            is_whole = response.isclosed()
        except IncompleteRead as error:
            body = error.partial
        except (OSError, HTTPException, ValueError):
            pass
        self.deadline = math.inf
        response.close()
        if is_whole and self._http.sock is not None and not self._aborted:
            self._reusable_until = now + KEEP_ALIVE_S
        else:
            self.close()
        return body

    def check(self) -> None:
        """Abort what runs if its time is over."""
        if time.monotonic() > self.deadline:
            self.abort()

    def abort(self) -> None:
        """Cut the connection under a running request, which then fails as for a vendor that hangs up."""
        self._aborted = True
        sock = self._socket or self._http.sock
        with suppress(OSError, AttributeError):  # closed by its own thread meanwhile, or not there yet
            sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._reusable_until, self._socket, self._response = 0.0, None, None
        self._http.close()

    def _is_reusable(self, url: str) -> bool:
        """Whether the connection is still open. A server that says something unasked is about to close it."""
        if url != self._url or time.monotonic() >= self._reusable_until:
            return False
        with selectors.DefaultSelector() as selector:
            selector.register(self._http.sock, selectors.EVENT_READ)
            return not selector.select(0)

    def _prepare(self, url: str, timeout_s: float) -> None:
        """Find the way to an address; `http.client` opens it with the next request."""
        self.close()
        to = urlsplit(url)
        host, is_secure = to.hostname or "", to.scheme == "https"
        is_local = _is_loopback(host)
        proxy = None if is_local else _proxy(to, host)
        at, port = (proxy.hostname or "", proxy.port or 80) if proxy else (host, to.port)
        self._url, self._headers, self._compresses = url, USER_AGENT, not is_local
        self._target = to._replace(scheme="", netloc="").geturl()
        if is_secure:
            self._http = HTTPSConnection(at, port, timeout=timeout_s, context=_tls())
        else:
            self._http = HTTPConnection(at, port, timeout=timeout_s)
        self._http.response_class = _Response
        if proxy and is_secure:
            self._http.set_tunnel(host, to.port, _authorization(proxy))
        elif proxy:
            self._target, self._headers = url, USER_AGENT | _authorization(proxy)


def _proxy(to: SplitResult, host: str) -> SplitResult | None:
    """The environment's proxy for an address. Raises OSError for one that is not HTTP."""
    proxies = {} if urllib.request.proxy_bypass(host) else urllib.request.getproxies()
    found = proxies.get(to.scheme) or proxies.get("all")
    proxy = urlsplit(found) if found else None
    if proxy and proxy.scheme != "http":
        raise OSError(f"a proxy must be http://, and the environment's is {proxy.scheme}://")
    return proxy


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
    """The machine's certificates (SSL_CERT_FILE) and certifi's; loading them is slow."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
