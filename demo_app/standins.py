"""Stand-ins for Google, Meta and Shopify: a consent page, a token endpoint and the bit of API that the demo reads.

They check what the real ones check (client, redirect address, PKCE, one use per code) and answer in their shapes, so
the demo's side of the flow is the real one. They keep what they issued in memory, and know one account each.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from base64 import urlsafe_b64encode
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, SecretStr

from demo_app.pages import page
from demo_app.settings import Provider

router = APIRouter(prefix="/providers", include_in_schema=False)

CLIENT_ID = "metricx-demo"
CLIENT_SECRET = secrets.token_urlsafe(24)
CODE_LIFETIME_S = 60
"""RFC 6749 allows a code ten minutes; the demo takes milliseconds."""
TOKEN_LIFETIME_S = 3_600

ANSWERS: dict[str, dict[str, Any]] = {
    "google_ads": {
        "customers:listAccessibleCustomers": {"resourceNames": ["customers/8123456789"]},
        "customers/8123456789/googleAds:search": {
            "results": [{"customer": {"id": "8123456789", "descriptiveName": "Northwind Search"}}]
        },
    },
    "meta_ads": {"me/adaccounts": {"data": [{"account_id": "2090417755", "name": "Northwind Social"}]}},
    "shopify": {"shop.json": {"shop": {"name": "Northwind Outdoor", "myshopify_domain": "northwind.myshopify.com"}}},
}


def provider(name: str, request: Request) -> Provider:
    """The stand-in's settings.

    The browser goes to the address that it knows us by. Our own calls go to the socket that this request came in on,
    which no client can choose, unlike the Host header.
    """
    host, port = request.scope["server"]
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}/providers/{name}"
    return Provider(
        client_id=CLIENT_ID,
        client_secret=SecretStr(CLIENT_SECRET),
        authorize_url=str(request.url_for("consent", name=name)),
        token_url=f"{base}/token",
        api_url=f"{base}/account",
        scope="read",
    )


class Authorization(BaseModel):
    """The query of an authorization request, RFC 6749 section 4.1.1 and RFC 7636 section 4.3."""

    response_type: Literal["code"]
    client_id: Literal["metricx-demo"]
    redirect_uri: str
    scope: str
    state: str
    code_challenge: str
    code_challenge_method: Literal["S256"]


_codes: dict[str, tuple[float, str, Authorization]] = {}
"""By code: until when it is good, which stand-in issued it, and for which request."""
_tokens: dict[str, tuple[float, str]] = {}


@router.get("/{name}/authorize")
async def consent(request: Request, name: str, query: Annotated[Authorization, Query()]) -> Response:
    """The consent page."""
    _check_redirect(request, name, query)
    return page(request, "consent.html", provider=name.replace("_", " ").title(), scope=query.scope)


@router.post("/{name}/authorize")
async def decide(
    request: Request,
    name: str,
    query: Annotated[Authorization, Query()],
    decision: Annotated[Literal["allow", "deny"], Form()],
) -> Response:
    """Send the browser back with a code, or with the refusal."""
    _check_redirect(request, name, query)
    if decision == "deny":
        answer = {"error": "access_denied", "error_description": "The user said no.", "state": query.state}
    else:
        code = secrets.token_urlsafe(24)
        _forget_expired()
        _codes[code] = (time.monotonic() + CODE_LIFETIME_S, name, query)
        answer = {"code": code, "state": query.state}
    return RedirectResponse(f"{query.redirect_uri}?{urlencode(answer)}", status_code=303)


class TokenRequest(BaseModel):
    """RFC 6749 section 4.1.3 and RFC 7636 section 4.5."""

    grant_type: Literal["authorization_code"]
    code: str
    redirect_uri: str
    client_id: str
    client_secret: str
    code_verifier: str


@router.post("/{name}/token")
async def token(name: str, form: Annotated[TokenRequest, Form()]) -> Response:
    """Exchange a code, once."""
    if form.client_id != CLIENT_ID or not secrets.compare_digest(form.client_secret, CLIENT_SECRET):
        return JSONResponse({"error": "invalid_client"}, 401)
    _forget_expired()
    _, issuer, query = _codes.pop(form.code, (0, None, None))
    challenge = urlsafe_b64encode(hashlib.sha256(form.code_verifier.encode()).digest()).rstrip(b"=").decode()
    if query is None or (issuer, query.redirect_uri, query.code_challenge) != (name, form.redirect_uri, challenge):
        return JSONResponse({"error": "invalid_grant"}, 400)
    access_token = secrets.token_urlsafe(24)
    _tokens[access_token] = (time.monotonic() + TOKEN_LIFETIME_S, name)
    return JSONResponse({"access_token": access_token, "token_type": "Bearer", "expires_in": TOKEN_LIFETIME_S})


@router.api_route("/{name}/account/{path:path}", methods=["GET", "POST"])
async def account(request: Request, name: str, path: str) -> dict[str, Any]:
    """What the real API answers to the calls that the demo makes."""
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
    _forget_expired()
    _, issuer = _tokens.get(bearer, (0, None))
    if issuer != name or path not in ANSWERS[name]:
        raise HTTPException(401 if issuer != name else 404)
    answer: dict[str, Any] = ANSWERS[name][path]
    return answer


def _check_redirect(request: Request, name: str, query: Authorization) -> None:
    """A provider sends codes to registered addresses only, and nothing at all to another: an error page instead."""
    if name not in ANSWERS or query.redirect_uri != str(request.url_for("finish_connection", name=name)):
        raise HTTPException(400, "This redirect address is not registered for this client.")


def _forget_expired() -> None:
    now = time.monotonic()
    for issued in (_codes, _tokens):
        for key in [key for key, value in issued.items() if value[0] < now]:
            del issued[key]
