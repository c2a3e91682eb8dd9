"""One HTTP connection to a vendor: a post with a deadline in total, and the answer to it."""

from __future__ import annotations

import email.utils
import encodings.idna  # noqa: F401  the first connect of a process loads it, when a fork may come in between
import gzip
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from .channel import Post
from .threads import THREAD_NAME

GZIP_FROM = 4096
"""Setting up gzip costs 50 us a post; below this it saves less than that."""
BODY_BYTES = 64 << 10
BODY_S = 0.5
"""How long a body may take after its status: it only saves the connection, and the answer is known."""


class Answer(NamedTuple):
    """The status line and the headers, with lower-case names."""

    status: int
    headers: Mapping[str, str]


def retry_after_s(value: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for: a number, or an HTTP date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine: no proxy is asked for it."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@cache
def _tls() -> ssl.SSLContext:
    """Shared: loading the certificates costs 20 ms and a megabyte."""
    return httpx.create_ssl_context()


def _not_ours(record: logging.LogRecord) -> bool:
    return not (record.threadName or "").startswith(THREAD_NAME)


for _name in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy"):
    # httpx logs each request at INFO: the application asked for its own requests, not for our posts.
    logging.getLogger(_name).addFilter(_not_ours)


class Line:
    """A keep-alive connection that carries one post at a time. `abort` may be called from any thread."""

    def __init__(self) -> None:
        self._client: httpx.Client | None = None
        self._response: httpx.Response | None = None
        self._stream: Any = None
        self._until = float("inf")
        self._aborted = False

    def post(self, post: Post, deadline_s: float) -> Answer:
        """Post and return when the headers are there; `finish` before the next one. Raises httpx.HTTPError, OSError."""
        if self._response is not None:
            self._response.close()  # something failed before `finish`
        self._aborted = False
        self._until = time.monotonic() + deadline_s
        headers, body = dict(post.headers), post.body
        if len(body) >= GZIP_FROM and not is_loopback(post.url):
            headers["content-encoding"], body = "gzip", gzip.compress(body, 1, mtime=0)
        if self._client is None:
            self._client = httpx.Client(
                trust_env=not is_loopback(post.url),
                verify=_tls() if post.url.startswith("https") else False,
                headers={"user-agent": "metricx-observe", "accept-encoding": "identity"},
                limits=httpx.Limits(max_connections=1, keepalive_expiry=15.0),
                follow_redirects=False,
            )
        request = self._client.build_request(
            "POST",
            post.url,
            content=body,
            headers=headers,
            timeout=deadline_s,
            extensions={"trace": self._traced},
        )
        self._response = self._client.send(request, stream=True)
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
        try:
            if response is not None:
                for part in response.iter_raw():
                    body += part
                    if len(body) > BODY_BYTES:
                        break
        except (httpx.HTTPError, OSError):
            pass
        finally:
            if response is not None:
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
            try:
                self._stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None
