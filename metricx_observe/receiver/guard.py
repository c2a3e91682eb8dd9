"""Who may talk to the receiver, and what every answer carries. Pure ASGI, around everything else."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Collection, Iterator
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .signals import Refused

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")


class Guard:
    """Checks Host (DNS rebinding), Origin (another site's page that posts) and the token, then calls the application.

    No CORS header is ever sent, so no other site's page can read an answer.
    """

    def __init__(self, app: ASGIApp, *, allowed_hosts: Collection[str], token: str | None) -> None:
        self._app = app
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)
        self._token = token.encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        try:
            self._check(scope["method"], Headers(scope=scope))
            scope["app"] = self._app  # with it Starlette's routes raise for 404 and 405, which are then JSON as well
            await self._app(scope, receive, send_secured)
        except HTTPException as refused:
            # RudderStack's SDK reads `code` and `message`, and fails where they are missing.
            body = {"code": refused.status_code, "message": refused.detail}
            answer = JSONResponse(body, refused.status_code, dict(refused.headers or {}))
            await answer(scope, receive, send_secured)

    def _check(self, method: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if "*" not in self._allowed_hosts and _split("//" + host)[0] not in self._allowed_hosts:
            raise Refused(421, "this Host is not served here; start the receiver with --allowed-host to allow it")
        origin = headers.get("origin")
        if method not in ("GET", "HEAD") and origin is not None and _split(origin)[1] != host.lower():
            raise Refused(403, "a page of another site may not post here")
        if self._token and not any(hmac.compare_digest(given, self._token) for given in _credentials(headers)):
            challenge = {"WWW-Authenticate": 'Basic realm="metricx-observe", charset="UTF-8"'}
            raise Refused(401, "the receiver's token is missing or wrong", challenge)


def _split(address: str) -> tuple[str | None, str]:
    """Host name, and host with port, of an address; nothing for what is none."""
    try:
        parts = urlsplit(address)
        return parts.hostname, parts.netloc.lower()
    except ValueError:
        return None, ""


def _credentials(headers: Headers) -> Iterator[bytes]:
    """Everything that may be the token: each SDK has its own place for a key, and a browser has Basic."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield value.strip().encode()
    elif scheme.lower() == "basic":
        try:
            yield from base64.b64decode(value, validate=True).split(b":", 1)
        except binascii.Error:
            pass
    for field in headers.get("x-sentry-auth", "").removeprefix("Sentry ").split(","):
        name, _, value = field.strip().partition("=")
        if name == "sentry_key":
            yield value.encode()
