"""Who may talk to the receiver, and what every answer carries. Pure ASGI, around everything else."""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
from collections.abc import Collection, Iterator
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .signals import Refused

logger = logging.getLogger(__name__)

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")


def refusal(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    """An error as JSON. RudderStack's SDK reads `code` and `message` and fails where they are missing."""
    return JSONResponse({"code": status, "message": reason}, status, headers)


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
        started = False

        async def send_secured(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        response = self._refusal(scope)
        if response is None:
            try:
                await self._app(scope, receive, send_secured)
                return
            except Refused as refused:
                retry = {"Retry-After": "1"} if refused.status == 429 else None
                response = refusal(refused.status, refused.reason, retry)
            except HTTPException as error:
                response = refusal(error.status_code, error.detail, dict(error.headers or {}))
            if started:
                raise RuntimeError("an answer was refused after it had begun")
        await response(scope, receive, send_secured)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if "*" not in self._allowed_hosts and _hostname(host) not in self._allowed_hosts:
            return refusal(421, "this Host is not served here; start the receiver with --allowed-host to allow it")
        origin = headers.get("origin")
        if scope["method"] not in ("GET", "HEAD") and origin is not None and urlsplit_netloc(origin) != host.lower():
            return refusal(403, "a page of another site may not post here")
        if self._token and not any(hmac.compare_digest(given, self._token) for given in _credentials(headers)):
            challenge = {"WWW-Authenticate": 'Basic realm="metricx-observe", charset="UTF-8"'}
            return refusal(401, "the receiver's token is missing or wrong", challenge)
        return None


def urlsplit_netloc(origin: str) -> str:
    """Host and port of an Origin; empty for `null` and for what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _hostname(host: str) -> str | None:
    try:
        return urlsplit("//" + host).hostname
    except ValueError:
        return None


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
