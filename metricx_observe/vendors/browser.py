"""What a browser's request says for analytics: page, locale, and the ids that GA4 and RudderStack keep in cookies.

These are the only things that a client may supply. They say which browser it is, never which user.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode

import orjson

from metricx_observe.ids import one_line, text_id
from metricx_observe.request import Clean, RequestFacts, first_headers

T = TypeVar("T")
_MAX = 200
_MAX_COOKIES = 16 << 10
"""Bytes of cookies that are looked at: servers take no more headers than that."""
_REMEMBERED, _LONGEST_REMEMBERED = 1_000, 2_000
"""Values of one header, and bytes of one."""


class Browser(NamedTuple):
    """Of one request: the anonymous id, and the part of RudderStack's `context` that comes from the browser.

    Members of a JSON object, each after a comma: what several requests say alike is encoded once.
    """

    anonymous_id: str | None
    page: bytes
    device: bytes
    """User agent and locale. In these two and the page may be anything."""
    ids: bytes
    """GA4's client and session."""


def read_browser(request: RequestFacts, clean: Clean) -> Browser:
    """What a request says. `clean` gives the parts of its path as they may be sent."""
    headers = first_headers(request.headers)
    cookies = headers.get(b"cookie", b"")
    if len(headers) < len(request.headers):  # HTTP/2 may split the header into several
        cookies = b";".join(value for name, value in request.headers if name == b"cookie")
    # a part of them, so that no session's secret is remembered
    parts = [part for part in cookies[:_MAX_COOKIES].split(b";") if part.lstrip().startswith((b"_ga", b"rl_"))]
    anonymous_id, ids = _ids(b";".join(parts))
    device = _agent(headers.get(b"user-agent", b"")) + _locale(headers.get(b"accept-language", b""))
    return Browser(anonymous_id, _page(request, headers, clean), device, ids)


def _remembered(read: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """`read` for a header whose values come again and again: in all it makes 8 us a request less."""
    known = lru_cache(_REMEMBERED)(read)
    return lambda value: known(value) if len(value) <= _LONGEST_REMEMBERED else read(value)


def _member(name: str, value: object) -> bytes:
    return b',"%b":%b' % (name.encode(), orjson.dumps(value))


@_remembered
def _agent(header: bytes) -> bytes:
    return _member("userAgent", one_line(header.decode("latin-1"))[:_MAX]) if header else b""


@_remembered
def _locale(header: bytes) -> bytes:
    language = header.decode("latin-1").split(",")[0].split(";")[0].strip()
    return _member("locale", one_line(language)[:35]) if language else b""


@_remembered
def _ids(header: bytes) -> tuple[str | None, bytes]:
    """RudderStack's anonymous id, and GA4's client and session."""
    pairs = (part.strip().partition("=") for part in header.decode("latin-1").split(";"))
    cookies = {name: value.strip('"') for name, _, value in pairs if name.startswith(("_ga", "rl_"))}
    client_id, session = _ga_client_id(cookies.get("_ga", "")), _session_id(cookies)
    members = _member("externalId", [{"type": "ga4ClientId", "id": client_id}]) if client_id else b""
    anonymous = _rudder_value(cookies.get("rl_anonymous_id", ""))
    return (
        text_id(anonymous) if isinstance(anonymous, (str, int)) else None,
        members + (_member("sessionId", session) if session else b""),
    )


def _page(request: RequestFacts, headers: dict[bytes, bytes], clean: Clean) -> bytes:
    """The page that the user looks at: this request when the browser navigates to it, else the one it came from.

    Of both only what the application's own templates say of the path: in any other nobody knows what is a secret.
    """
    came_from = headers.get(b"referer", b"").decode("latin-1")
    origin, path = request.referrer(clean)
    referrer = _address(origin, path, came_from) if origin else ""
    navigates = request.method == "GET" and headers.get(b"sec-fetch-mode") in (None, b"navigate")
    if referrer and not navigates:
        page = {"url": referrer, "path": path}
    else:
        path = request.path(clean)
        query = request.query.decode("latin-1")
        page = {"url": _address(request.origin, path, f"?{query}"), "path": path, "referrer": referrer}
    return _member("page", {name: value for name, value in page.items() if value})


def _address(origin: str, path: str, given: str) -> str:
    """An address of which only campaign parameters stay of the query that was given."""
    query = given.partition("?")[2].partition("#")[0]
    campaign = [pair for pair in parse_qsl(query) if pair[0].startswith("utm_")] if "utm_" in query else []
    return one_line(f"{origin}{path}{'?' if campaign else ''}{urlencode(campaign)}")[:2048]


def _ga_client_id(value: str) -> str | None:
    """`GA1.1.1234567890.1700000000` holds the client id in its last two parts."""
    parts = value.split(".")
    return ".".join(parts[-2:]) if len(parts) >= 4 and all(part.isdecimal() for part in parts[-2:]) else None


def _session_id(cookies: dict[str, str]) -> int | None:
    """Of `_ga_<ID>` (`GS1.1.<session>.…` or `GS2.1.s<session>$…`), else of RudderStack's own session."""
    for name, value in cookies.items():
        if name.startswith("_ga_") and value.startswith(("GS1.", "GS2.")):
            digits = value.split(".", 2)[-1].removeprefix("s").replace("$", ".").split(".")[0]
            if digits.isdecimal() and len(digits) <= 16:
                return int(digits)
    session = _rudder_value(cookies.get("rl_session", ""))
    found = session.get("id") or session.get("sessionId") if isinstance(session, dict) else session
    digits = str(found)
    return int(digits) if digits.isdecimal() and len(digits) <= 16 else None


def _rudder_value(raw: str) -> Any:
    """RudderStack's JavaScript SDK stores JSON, in base64 behind `RS_ENC_v3_`; its older one encrypted."""
    text = unquote(raw)
    try:
        if text.startswith("RS_ENC_v3_"):
            text = b64decode(text.removeprefix("RS_ENC_v3_"), validate=True).decode()
        if text.startswith("RudderEncrypt:"):
            return None
        return json.loads(text) if text.startswith(('"', "{")) or text.isdecimal() else text or None
    except (ValueError, RecursionError):
        return None
