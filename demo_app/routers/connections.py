"""Connect Google Ads, Meta Ads and Shopify: the OAuth 2 authorization code flow with state and PKCE."""

from __future__ import annotations

from datetime import date

from authlib.integrations.base_client import OAuthError
from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import Engine
from sqlmodel import Session, col, delete, select
from starlette.concurrency import run_in_threadpool

from demo_app.database import EngineDep
from demo_app.models import AdMetric, Connection
from demo_app.pages import page
from demo_app.providers import Account, ProviderName, oauth_client, provider_settings, read_account
from demo_app.security import CurrentUser, require_user
from demo_app.seed import ad_metrics
from metricx_observe import TrackerDep
from metricx_observe.events import ConnectedGoogleAds, ConnectedMetaAds, ConnectedShopify, Event

router = APIRouter(prefix="/connections", tags=["connections"])


@router.get("")
async def connections_page(request: Request, user: CurrentUser, engine: EngineDep, notice: str = "") -> Response:
    return await _page(request, user.workspace_id, engine, error=NOTICES.get(notice))


@router.post("/{name}", dependencies=[Depends(require_user)])
async def start_connection(request: Request, name: ProviderName, engine: EngineDep) -> Response:
    """Send the browser to the provider's consent page."""
    client = oauth_client(name, provider_settings(name, request), engine)
    redirect: Response = await client.authorize_redirect(request, request.url_for("finish_connection", name=name))
    return redirect


@router.get("/{name}/callback")
async def finish_connection(
    request: Request, name: ProviderName, user: CurrentUser, engine: EngineDep, tracker: TrackerDep
) -> Response:
    """Exchange the code, keep the account, tell analytics. Nothing of it after a refusal or a replay."""
    provider = provider_settings(name, request)
    client = oauth_client(name, provider, engine)
    try:
        token = await client.authorize_access_token(request)
    except OAuthError as error:
        # A refusal leaves the state unused; it is not to be used later either.
        await client.framework.clear_state_data(request.session, request.query_params.get("state"))
        if error.error == "access_denied":
            return RedirectResponse("/connections?notice=denied", status_code=303)
        return await _page(request, user.workspace_id, engine, status_code=400, error=NOTICES["refused"])
    # A provider that fails here is an error like any other: a 500, reported by telemetry without a line of ours.
    account = await read_account(name, provider, client, token)

    await run_in_threadpool(_save, engine, user.workspace_id, name, account)
    tracker.track(_event(name, account))
    return RedirectResponse("/connections", status_code=303)


NOTICES = {
    "denied": "Nothing was connected: access was denied.",
    "refused": "Nothing was connected: this answer was used before, or belongs to another session.",
}


def _event(name: ProviderName, account: Account) -> Event:
    match name:
        case ProviderName.GOOGLE_ADS:
            return ConnectedGoogleAds(account_id=account.id, account_name=account.name)
        case ProviderName.META_ADS:
            return ConnectedMetaAds(account_id=account.id, account_name=account.name)
        case ProviderName.SHOPIFY:
            return ConnectedShopify(shop_domain=account.id)


async def _page(
    request: Request, workspace_id: str, engine: Engine, *, status_code: int = 200, error: str | None = None
) -> Response:
    connected = await run_in_threadpool(_connected, engine, workspace_id)
    return page(
        request, "connections.html", status_code=status_code, error=error, providers=ProviderName, connected=connected
    )


def _connected(engine: Engine, workspace_id: str) -> dict[str, Connection]:
    with Session(engine) as session:
        found = session.exec(select(Connection).where(Connection.workspace_id == workspace_id))
        return {connection.provider: connection for connection in found}


def _save(engine: Engine, workspace_id: str, name: ProviderName, account: Account) -> None:
    """Keep the account, of each provider the latest one, and the figures that stand for what it would tell."""
    new = Connection(workspace_id=workspace_id, provider=name, account_id=account.id, account_name=account.name)
    with Session(engine) as session:
        session.exec(
            delete(Connection).where(col(Connection.workspace_id) == workspace_id, col(Connection.provider) == name)
        )
        session.exec(delete(AdMetric).where(col(AdMetric.workspace_id) == workspace_id, col(AdMetric.channel) == name))
        session.add(new)
        session.add_all(ad_metrics(workspace_id, name, until=date.today()))
        session.commit()
