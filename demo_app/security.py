"""Passwords, the signed session cookie, who is signed in, and the refusal of other sites' forms."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from functools import cache
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Request
from pwdlib import PasswordHash
from starlette.requests import HTTPConnection

from demo_app.models import User
from metricx_observe.context import Identity

passwords = PasswordHash.recommended()  # Argon2id


@cache
def _hash_of_nobody() -> str:
    return passwords.hash(secrets.token_urlsafe())


def password_fits(user: User | None, password: str) -> bool:
    """Whether it is this user's password. No user costs the same time, so that the time tells nobody who has one."""
    fits = passwords.verify(password, user.password_hash if user else _hash_of_nobody())
    return fits and user is not None


@dataclass(frozen=True, slots=True)
class SignedIn:
    """What the session cookie says. It is signed: the browser can read it, and not change it."""

    id: str
    email: str
    workspace_id: str


def sign_in(request: Request, user: User) -> None:
    """Start a new session for this user; nothing of the earlier one stays."""
    request.session.clear()
    request.session["user"] = asdict(SignedIn(user.id, user.email, user.workspace_id))


def signed_in(connection: HTTPConnection) -> SignedIn | None:
    """Who is signed in on this connection, or None."""
    fields = connection.session.get("user")
    return SignedIn(**fields) if fields else None


async def identify(connection: HTTPConnection) -> Identity | None:
    """Tells telemetry whose request this is. Given to `install` once, so no route needs to."""
    user = signed_in(connection)
    return Identity(user.id, email=user.email, workspace_id=user.workspace_id) if user else None


class NotSignedInError(Exception):
    """Nobody is signed in; `create_app` makes it a redirect to the log-in page or a 401."""


async def require_user(connection: HTTPConnection) -> SignedIn:
    """The signed-in user, else NotSignedInError."""
    if user := signed_in(connection):
        return user
    raise NotSignedInError


CurrentUser = Annotated[SignedIn, Depends(require_user)]


async def refuse_other_sites(request: Request) -> None:
    """Refuse what another site's page makes a browser send. The other half is the cookie's SameSite=Lax.

    Browsers send `Sec-Fetch-Site` to trustworthy addresses and `Origin` with every POST. A caller that sends neither
    is not a browser, so no page can have made it carry somebody's cookie.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    same = site in {"same-origin", "none"} if site else not origin or urlsplit(origin).netloc == request.headers["host"]
    if not same and request.method not in {"GET", "HEAD", "OPTIONS"}:
        raise HTTPException(403, "This form was sent by another site.")
