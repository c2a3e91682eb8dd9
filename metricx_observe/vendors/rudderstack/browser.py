"""What a browser's request says for analytics: page, locale, and the ids that GA4 and RudderStack keep in cookies.

These are the only things that a client may supply. They say which browser it is, never which user.
"""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode

from metricx_observe.ids import printable, text_id
from metricx_observe.request.facts import Clean, RequestFacts

_MAX_AGENT, _MAX_LOCALE, _MAX_URL = 200, 35, 2048
_MAX_COOKIES = 16 << 10
"""Characters of cookies that are looked at: servers take no more headers than that."""


class Browser(NamedTuple):
    """Of one request: the anonymous id, and the members of RudderStack's `context` that come from the browser."""

    anonymous_id: str | None
    context: dict[str, Any]
    """Page, user agent and locale: in these may be anything."""
    ids: dict[str, Any]
    """GA4's client and session."""


def read_browser(request: RequestFacts, clean: Clean) -> Browser:
    """What a request says. `clean` gives the parts of its path as they may be sent."""
    headers = dict(reversed(request.headers))  # the first of equal names
    cookies = _cookies(";".join(value for name, value in request.headers if name == "cookie"))  # HTTP/2 may split them
    anonymous_id = _rudder_value(cookies.get("rl_anonymous_id", ""))
    client_id, session = _ga_client_id(cookies.get("_ga", "")), _session_id(cookies)
    context = {
        "page": _page(request, headers, clean),
        "userAgent": printable(headers.get("user-agent", ""))[:_MAX_AGENT],
        "locale": printable(headers.get("accept-language", "").split(",")[0].split(";")[0].strip())[:_MAX_LOCALE],
    }
    ids = {"externalId": client_id and [{"type": "ga4ClientId", "id": client_id}], "sessionId": session}
    return Browser(
        text_id(anonymous_id) if isinstance(anonymous_id, (str, int)) else None,
        {name: value for name, value in context.items() if value or name == "page"},
        {name: value for name, value in ids.items() if value},
    )


def _cookies(header: str) -> dict[str, str]:
    """GA4's and RudderStack's own, by name."""
    pairs = (part.strip().partition("=") for part in header[:_MAX_COOKIES].split(";"))
    return {name: value.strip('"') for name, _, value in pairs if name.startswith(("_ga", "rl_"))}


def _page(request: RequestFacts, headers: dict[str, str], clean: Clean) -> dict[str, str]:
    """The page that the user looks at: this request when the browser navigates to it, else the one it came from.

    Of both only what the application's own templates say of the path: in any other nobody knows what is a secret.
    """
    origin, path = request.referrer(clean)
    referrer = _address(origin, path, headers.get("referer", "")) if origin else ""
    navigates = request.method == "GET" and headers.get("sec-fetch-mode") in (None, "navigate")
    if referrer and not navigates:
        page = {"url": referrer, "path": path}
    else:
        path = request.path(clean)
        page = {"url": _address(request.origin, path, f"?{request.query}"), "path": path, "referrer": referrer}
    return {name: value for name, value in page.items() if value}


def _address(origin: str, path: str, given: str) -> str:
    """An address of which only campaign parameters stay of the query that was given."""
    query = given.partition("?")[2].partition("#")[0]
    campaign = [pair for pair in parse_qsl(query) if pair[0].startswith("utm_")] if "utm_" in query else []
    return printable(f"{origin}{path}{'?' if campaign else ''}{urlencode(campaign)}")[:_MAX_URL]


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
