"""One HTTP connection to a vendor: a post with a deadline in total, and what the answer to it means.

Each of Sentry's events is a post. One of 8 KB takes 15 us of CPU, where http.client takes 72 and httpx, below its
client, more than twice that (measured). It waits in one system call, `recv`: whoever waits lets go of the interpreter,
and beside a busy thread gets it back 5 ms later. So http.client only connects and writes the head, once a connection,
and httptools reads the answers. The threads of delivery need no pool: each has its connection.
"""

from __future__ import annotations

import email.utils
import encodings.idna  # noqa: F401  # here, and not in a thread: a child that is forked in between has half a module
import ipaddress
import re
import socket
import ssl
import struct
import time
import urllib.request
import zlib
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC
from enum import Enum
from functools import cache, partial
from http.client import BadStatusLine, HTTPConnection, HTTPException, HTTPSConnection, RemoteDisconnected
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

import certifi
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from .channel import Post

GZIP_FROM = 4096
"""Setting up gzip costs 50 us a post; below this it saves less than that."""
READ_BYTES = 16 << 10
"""What TLS hands over at most."""
HEAD_BYTES = BODY_BYTES = 64 << 10
BODY_S = 0.5
"""How long a body may take after its status: it only saves the connection, and the answer is known."""
KEEP_ALIVE_S = 15.0
"""Servers and what stands before them hang up on a connection that says nothing, often after 20 s and more."""
HEADERS = {"User-Agent": "metricx-observe"}


Verdict = Enum("Verdict", "DELIVERED REFUSED RETRY FORBIDDEN MISDIRECTED")
"""What a status says about the messages of its post. FORBIDDEN may mean one of them or the credentials (a firewall
answers 403 to a body, a vendor to a key), MISDIRECTED the address or the proxy on the way."""
_FORBIDDEN = 401, 403
_MISDIRECTED = 404, 407, 421
_PASSING = 408, 425, 429
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")
_TUNNEL_REFUSED = re.compile(r"Tunnel connection failed: 4(?!08|25|29)[0-9][0-9]\b")
"""What http.client raises when a proxy does not open a tunnel, for a reason that no later try mends."""


def seconds_asked(value: str) -> float | None:
    """Seconds that the number in a header asks to wait; 0.0 where it asks for nothing, None where it is not a number.

    It asks for something as RFC 9110 writes delay-seconds, with a fraction allowed because Sentry sends some: ASCII
    digits, without a sign or an exponent. Whatever else Python takes for a number (-1, nan, inf) asks for nothing.
    """
    number = value.strip()
    if _SECONDS.fullmatch(number):
        return float(number)
    with suppress(ValueError):
        float(number)
        return 0.0
    return None


class Answer(NamedTuple):
    """The status line and the headers, with lower-case names."""

    status: int
    headers: Mapping[str, str]

    @property
    def verdict(self) -> Verdict:
        """What the status says; a redirect and what is no HTTP status are neither a success nor a refusal."""
        if 200 <= self.status < 300:
            return Verdict.DELIVERED
        if self.status in _FORBIDDEN:
            return Verdict.FORBIDDEN
        if self.status in _MISDIRECTED:
            return Verdict.MISDIRECTED
        if self.status in _PASSING or not 400 <= self.status < 500:
            return Verdict.RETRY
        return Verdict.REFUSED

    @property
    def retry_after_s(self) -> float | None:
        """Seconds that a `Retry-After` header asks to wait: a number, or an HTTP date. 0.0: for nothing; None: no such.

        A date is compared with the answer's own `Date`: this machine's clock may be wrong.
        """
        value = self.headers.get("retry-after", "")
        if (until := _timestamp(value)) is None:
            return seconds_asked(value)
        now = self.date
        return max(0.0, until - (time.time() if now is None else now))

    @property
    def date(self) -> float | None:
        """Seconds since 1970 when the vendor answered, as its `Date` header says; None where it says nothing."""
        return _timestamp(self.headers.get("date", ""))


def _timestamp(value: str) -> float | None:
    """Seconds since 1970 of an HTTP date; None for what is not one."""
    with suppress(ValueError, TypeError, IndexError, OverflowError):
        found = email.utils.parsedate_to_datetime(value)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()  # HTTP's dates are in UTC
    return None


class _Said:
    """What a vendor says on one connection: httptools calls the methods `on_...` while it is fed."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Expect the answer to a post."""
        self._parser = HttpResponseParser(self)  # anew: one that has failed stays so, and knows the last status
        self._parser.set_dangerous_leniencies(  # to whoever passes an answer on; all we do is read its status
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_chunked_length=True
        )
        self._status, self._headers = 0, dict[str, str]()
        self.answer: Answer | None = None
        self.body = b""
        self.ended = self.keeps = False
        """Whether no more of it comes, and whether the connection can be used again."""

    def feed(self, data: bytes) -> None:
        """Read on; b"" means that the vendor hung up. Raises HTTPException when that leaves no answer.

        Nothing that is wrong after the status line undoes it: what was accepted would be sent again and again.
        """
        with suppress(HttpParserError, HttpParserUpgrade):
            if data:
                self._parser.feed_data(data)
                return
        self.ended, self.keeps = True, False
        if data and not self._status:  # where the vendor hung up it may be of half a line
            self._status = self._parser.get_status_code()
        if self.answer is None and self._status < 200:
            raise BadStatusLine("no HTTP") if data else RemoteDisconnected("the vendor hung up")
        self.answer = self.answer or Answer(self._status, self._headers)

    def on_message_begin(self) -> None:
        self.keeps = False  # if it had ended, it says more than it was asked

    def on_header(self, name: bytes, value: bytes) -> None:
        self._status = self._parser.get_status_code()  # now the status line is whole
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        before = self._headers.get(key)
        self._headers[key] = text if before is None else f"{before}, {text}"  # RFC 9110: a list in several fields

    def on_headers_complete(self) -> None:
        status, headers, self._headers = self._parser.get_status_code(), self._headers, {}  # trailers are no headers
        if status >= 200 and self.answer is None:  # below, the answer is still to come
            self.answer = Answer(status, headers)

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        if self.answer is not None and not self.ended:
            self.ended, self.keeps = True, self._parser.should_keep_alive()


class Line:
    """A keep-alive connection that carries one post at a time. `abort` may be called from any thread."""

    def __init__(self) -> None:
        self._connection = HTTPConnection("")
        self._socket: socket.socket | None = None
        """The connection's once more: TLS takes the first one over, which cannot be cut then while it shakes hands."""
        self._to: tuple[str, Mapping[str, str]] = "", {}
        self._before, self._after, self._compresses = b"", b"", False
        self._said = _Said()
        self._until = self._stale_at = float("inf")
        self._aborted = False

    def post(self, post: Post, deadline_s: float) -> Answer:
        """Post and return when the headers are there; `finish` before the next. Raises OSError, HTTPException."""
        self._aborted, self._until = False, time.monotonic() + deadline_s
        if not self._alive(post):
            try:
                self._connect(post, deadline_s)
            except OSError as error:
                if not _TUNNEL_REFUSED.match(str(error)):
                    raise
                return Answer(407, {})  # whatever its reason, it is the proxy's, and nothing was posted
        body, encoding = post.body, b""
        if self._compresses and len(body) >= GZIP_FROM:
            body, encoding = zlib.compress(body, 1, wbits=31), b"Content-Encoding: gzip\r\n"
        head = b"%bContent-Length: %d\r\n%b%b\r\n" % (self._before, len(body), self._after, encoding)
        self._said.begin()
        self._connection.sock.sendall(head + body)
        left = HEAD_BYTES
        while self._said.answer is None:
            if left <= 0:
                raise HTTPException("the headers do not end")
            left -= self._read()
        return self._said.answer

    def _read(self) -> int:
        """Read what is there of the answer, bytes. Raises OSError, HTTPException."""
        data: bytes = self._connection.sock.recv(READ_BYTES)
        if not data and self._aborted:  # what has come so far may be half a status line
            raise ConnectionAbortedError("aborted")
        self._said.feed(data)
        return len(data)

    def _connect(self, post: Post, timeout_s: float) -> None:
        self.close()
        to = urlsplit(post.url)
        host, secure = to.hostname or "", to.scheme == "https"
        local = _is_loopback(host)
        proxies = {} if local or urllib.request.proxy_bypass(host) else urllib.request.getproxies()
        found = proxies.get(to.scheme) or proxies.get("all")
        proxy = urlsplit(found) if found else None
        if proxy and proxy.scheme != "http":
            raise OSError(f"a proxy must be http://, and the environment's is {proxy.scheme}://")
        kind = partial(HTTPSConnection, context=_tls()) if secure else HTTPConnection
        connection = kind(*((proxy.hostname or "", proxy.port or 80) if proxy else (host, to.port)), timeout=timeout_s)
        target, headers = to._replace(scheme="", netloc="").geturl(), HEADERS
        self._compresses = not local  # there it costs more than it saves
        if proxy and secure:
            connection.set_tunnel(host, to.port, _authorization(proxy))
        elif proxy:
            target, headers = post.url, HEADERS | _authorization(proxy)
        self._before, self._after = _around_length(connection, target, {**headers, **post.headers})
        connection._create_connection = self._dial  # type: ignore[attr-defined]  # where the socket can be had in time
        self._connection, self._to, self._said = connection, (post.url, post.headers), _Said()
        connection.connect()
        # `check` ends what waits. Python's own timeout costs a poll before each call; the system's, for when nobody
        # checks because the outbox is busy, costs nothing
        connection.sock.settimeout(None)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            with suppress(OSError):  # Windows wants other bytes
                connection.sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(timeout_s) + 1, 0))

    def _dial(self, *where: Any) -> socket.socket:
        dialled = socket.create_connection(*where)
        self._socket = dialled.dup()
        if self._aborted:
            self.abort()
        return dialled

    def _alive(self, post: Post) -> bool:
        """Whether the server has kept the connection. What it says unasked is as bad as that it hung up."""
        if self._said.keeps and time.monotonic() < self._stale_at and self._to == (post.url, post.headers):
            sock = self._connection.sock
            with suppress(OSError):
                sock.settimeout(0.0)
                try:
                    sock.recv(1)  # 2 us with the lines around it; without, servers that hang up in silence fail posts
                except (BlockingIOError, ssl.SSLWantReadError):
                    sock.settimeout(None)
                    return True
        return False

    def finish(self) -> bytes:
        """Read what there is of the body, within bounds, so that the connection can be used again."""
        said, now = self._said, time.monotonic()
        self._until, self._stale_at = now + BODY_S, now + KEEP_ALIVE_S
        with suppress(OSError):
            while said.answer is not None and not said.ended and len(said.body) < BODY_BYTES:
                self._read()
        self._until = float("inf")
        if not said.keeps:  # failed, or more to come, or no more
            self.close()
        return said.body[:BODY_BYTES]

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
        self._said.keeps = False
        self._connection.close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Head(bytearray):
    """Takes the place of a socket to which http.client writes."""

    sendall = bytearray.extend

    def close(self) -> None: ...


def _around_length(connection: HTTPConnection, target: str, headers: Mapping[str, str]) -> tuple[bytes, bytes]:
    """What a connection, before it is made, writes before and after the length of a body."""
    connection.sock = head = _Head()
    connection.request("POST", target, headers=headers)
    connection.close()
    before, _, after = bytes(head).partition(b"Content-Length: 0\r\n")
    return before, after.removesuffix(b"\r\n")


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
