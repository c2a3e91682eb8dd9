"""The three providers: which addresses they have, the OAuth client for one request, and how an account is read."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, NamedTuple

from authlib.integrations.starlette_client import StarletteIntegration, StarletteOAuth2App
from fastapi import Request
from sqlalchemy import Engine
from sqlmodel import Session, col, delete
from starlette.concurrency import run_in_threadpool

from demo_app import standins
from demo_app.models import OAuthState
from demo_app.settings import Provider


class ProviderName(StrEnum):
    GOOGLE_ADS = "google_ads"
    META_ADS = "meta_ads"
    SHOPIFY = "shopify"


class Account(NamedTuple):
    """What a provider says about the account that its user gave us access to."""

    id: str
    name: str


class StateStore:
    """Keeps started authorizations on the server, so that a state is good for exactly one callback.

    The session cookie alone could not do that: a browser can send an old copy. It is what authlib calls a cache.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def set(self, key: str, value: str, expires_in: int) -> None:
        await run_in_threadpool(self._set, OAuthState(key=key, value=value, expires_at=time.time() + expires_in))

    async def get(self, key: str) -> str | None:
        """The value, once: reading removes it in one statement, so of two callbacks at a time one gets it."""
        return await run_in_threadpool(self._take, key)

    async def delete(self, key: str) -> None:
        await run_in_threadpool(self._take, key)

    def _set(self, state: OAuthState) -> None:
        with Session(self.engine) as session:
            session.exec(delete(OAuthState).where(col(OAuthState.expires_at) < time.time()))
            session.add(state)
            session.commit()

    def _take(self, key: str) -> str | None:
        statement = delete(OAuthState).where(col(OAuthState.key) == key, col(OAuthState.expires_at) >= time.time())
        with Session(self.engine) as session:
            value = session.scalars(statement.returning(col(OAuthState.value))).first()
            session.commit()
        return value


def provider_settings(name: ProviderName, request: Request) -> Provider:
    """The real provider where the environment configures it, else the stand-in that this application serves."""
    configured: Provider | None = getattr(request.app.state.settings, name)
    return configured or standins.provider(name, request)


def oauth_client(name: ProviderName, provider: Provider, engine: Engine) -> StarletteOAuth2App:
    """authlib's client: state, PKCE and the exchange of the code."""
    return StarletteOAuth2App(
        StarletteIntegration(name, cache=StateStore(engine)),
        client_id=provider.client_id,
        client_secret=provider.client_secret.get_secret_value(),
        authorize_url=provider.authorize_url,
        access_token_url=provider.token_url,
        client_kwargs={
            "scope": provider.scope,
            "code_challenge_method": "S256",
            # Shopify reads the secret in the body only; the others take it both ways.
            "token_endpoint_auth_method": "client_secret_post",
        },
    )


async def read_account(
    name: ProviderName, provider: Provider, client: StarletteOAuth2App, token: dict[str, Any]
) -> Account:
    """Ask the provider which account this token is for; the first one, where it opens several.

    Raises:
        httpx2.HTTPError: The provider did not answer, or refused.
        LookupError: The user has no account there.
    """
    headers = {
        # Each provider ignores the others' header.
        "developer-token": provider.developer_token.get_secret_value(),
        "X-Shopify-Access-Token": token["access_token"],
    }

    async def call(path: str, method: str = "GET", **kwargs: Any) -> Any:
        response = await client.request(method, f"{provider.api_url}/{path}", token=token, headers=headers, **kwargs)
        return response.raise_for_status().json()

    return await _READERS[name](call)


async def _google_ads(call: Callable[..., Awaitable[Any]]) -> Account:
    resource = (await call("customers:listAccessibleCustomers"))["resourceNames"][0]
    query = {"query": "SELECT customer.id, customer.descriptive_name FROM customer LIMIT 1"}
    customer = (await call(f"{resource}/googleAds:search", "POST", json=query))["results"][0]["customer"]
    return Account(customer["id"], customer["descriptiveName"])


async def _meta_ads(call: Callable[..., Awaitable[Any]]) -> Account:
    account = (await call("me/adaccounts", params={"fields": "account_id,name"}))["data"][0]
    return Account(account["account_id"], account["name"])


async def _shopify(call: Callable[..., Awaitable[Any]]) -> Account:
    shop = (await call("shop.json"))["shop"]
    return Account(shop["myshopify_domain"], shop["name"])


_READERS = {
    ProviderName.GOOGLE_ADS: _google_ads,
    ProviderName.META_ADS: _meta_ads,
    ProviderName.SHOPIFY: _shopify,
}
