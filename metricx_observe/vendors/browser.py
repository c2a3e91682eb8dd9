"""What a browser's request says for analytics: page, locale, and the ids that GA4 and RudderStack keep in cookies.

These are the only things that a client may supply. They say which browser it is, never which user.
"""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from metricx_observe.ids import one_line, text_id
from metricx_observe.request import RequestInfo

_MAX = 200
_MAX_COOKIES = 16 << 10
"""Bytes of cookies that are looked at: servers take no more headers than that."""


class Browser(NamedTuple):
    """Of one request: the anonymous id, and the part of RudderStack's `context` that comes from the browser."""

    anonymous_id: str | None
    context: dict[str, Any]


def read_browser(info: RequestInfo) -> Browser:
    """Read once per request; later events of the request get the same object."""
    if info.analytics is None:
        info.analytics = _read(info)
    browser: Browser = info.analytics
    return browser


def _read(info: RequestInfo) -> Browser:
    headers = {name: value.decode("latin-1") for name, value in reversed(info.headers)}  # the first of equal names
    context: dict[str, Any] = {"page": _page(info, headers)}
    if agent := headers.get(b"user-agent"):
        context["userAgent"] = one_line(agent)[:_MAX]
    if language := headers.get(b"accept-language", "").split(",")[0].split(";")[0].strip():
        context["locale"] = one_line(language)[:35]
    if b"cookie" not in headers:
        return Browser(None, context)
    cookies = _cookies(info)
    if client_id := _ga_client_id(cookies.get("_ga", "")):
        context["externalId"] = [{"type": "ga4ClientId", "id": client_id}]
    if session := _session_id(cookies):
        context["sessionId"] = session
    anonymous = _rudder_value(cookies.get("rl_anonymous_id", ""))
    return Browser(text_id(anonymous) if isinstance(anonymous, (str, int)) else None, context)


def _page(info: RequestInfo, headers: dict[bytes, str]) -> dict[str, str]:
    """The page that the user looks at: this request when the browser navigates to it, else the one it came from."""
    referrer = _without_secrets(headers.get(b"referer", ""))
    navigates = info.method == "GET" and headers.get(b"sec-fetch-mode") in (None, "navigate")
    if navigates or not referrer:
        here = f"{info.url}?{info.query.decode('latin-1')}" if info.query else info.url
        page = {"url": _without_secrets(here), "path": info.path}
        return {**page, "referrer": referrer} if referrer else page
    return {"url": referrer, "path": urlsplit(referrer).path}


def _without_secrets(url: str) -> str:
    """A URL without credentials, fragment, and all of its query but campaign parameters."""
    if not url:
        return ""
    try:
        parts = urlsplit(one_line(url))
        campaign = [(key, value) for key, value in parse_qsl(parts.query) if key.startswith("utm_")]
        netloc = parts.netloc.rpartition("@")[2]
    except ValueError:
        return ""
    query = f"?{urlencode(campaign)}" if campaign else ""
    return f"{parts.scheme}://{netloc}{parts.path}{query}"[:2048] if netloc else ""


def _cookies(info: RequestInfo) -> dict[str, str]:
    """Those of GA4 and RudderStack. HTTP/2 may split the header into several."""
    headers = b";".join(value for key, value in info.headers if key == b"cookie")[:_MAX_COOKIES].decode("latin-1")
    pairs = (part.strip().partition("=") for part in headers.split(";"))
    return {name: value.strip('"') for name, _, value in pairs if name.startswith(("_ga", "rl_"))}


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
