"""`metricx-observe forget`: what is stored here of a user is deleted, and what the vendors hold can be."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer

from .cli_outbox import _opened
from .cli_text import harmless
from .exceptions import ObserveError
from .settings import Settings, load_settings

_BATCH = 500
"""Trace ids in one call to Langfuse."""


def forget(
    user_id: Annotated[str, typer.Argument(help="The id that the application binds.")],
    vendors: Annotated[bool, typer.Option("--vendors", help="Make the vendors' deletion calls too.")] = False,
    destination: Annotated[
        list[str] | None, typer.Option(help="A RudderStack destination that is to delete the user; repeatable.")
    ] = None,
    rudderstack_token: Annotated[str, typer.Option(envvar="RUDDERSTACK_ACCESS_TOKEN", help="Of its API.")] = "",
    rudderstack_api: Annotated[
        str, typer.Option(envvar="RUDDERSTACK_API_URL", help="https://api.eu.rudderstack.com in the EU.")
    ] = "https://api.rudderstack.com",
    receiver_token: Annotated[str, typer.Option(envvar="METRICX_RECEIVER_TOKEN", help="Of the receiver.")] = "",
) -> None:
    """Delete a user from the outbox, dead letters and local receiver; print, or make, the vendors' deletion calls."""
    if not user_id.strip():
        raise ObserveError("an empty id is nobody's")
    settings = load_settings({})
    failed: list[str] = []
    with _step("outbox", failed):
        typer.echo(f"outbox and dead letters: {_in_outbox(user_id)} messages deleted")
    with _step("receiver", failed):
        typer.echo(f"receiver: {_in_receiver(settings, user_id, receiver_token)} signals deleted")
    suppression = _suppression(user_id, destination or [])
    _print_calls(settings, user_id, suppression, rudderstack_api)
    if vendors:
        with _step("RudderStack", failed):
            typer.echo(f"RudderStack: {_at_rudderstack(rudderstack_api, rudderstack_token, suppression)}")
        with _step("Langfuse", failed):
            typer.echo(f"Langfuse: {_at_langfuse(settings, user_id)} traces deleted")
    if failed:
        raise ObserveError(f"not done: {', '.join(failed)}")


@contextmanager
def _step(name: str, failed: list[str]) -> Iterator[None]:
    """A step that fails alone: the others are done all the same, and the exit status says so. Tells no response."""
    try:
        yield
    except ObserveError as error:
        failed.append(f"{name} ({error})")
    except httpx.HTTPStatusError as error:
        failed.append(f"{name} (answered {error.response.status_code})")
    except httpx.HTTPError as error:
        failed.append(f"{name} ({type(error).__name__})")
    except (AttributeError, KeyError, TypeError, ValueError):
        failed.append(f"{name} (its answer cannot be read)")


def _in_outbox(user_id: str) -> int:
    from .delivery.upkeep import forget as delete

    with _opened() as (outbox, channels):
        return delete(outbox, channels, user_id)


def _in_receiver(settings: Settings, user_id: str, token: str) -> int:
    """By a running receiver, else in the file that it leaves."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with suppress(httpx.ConnectError), _client() as client:
        answer = client.delete(f"{settings.receiver_url}/api/signals", params={"user": user_id}, headers=headers)
        return int(answer.raise_for_status().json()["deleted"])
    with suppress(ImportError):  # without the extra there never was one
        from .receiver.store import Store, default_store_path

        if (path := default_store_path()).exists():
            store = Store(path)
            try:
                return store.forget(user_id)
            finally:
                store.close()
    return 0


def _suppression(user_id: str, destinations: list[str]) -> dict[str, Any]:
    """RudderStack's regulation: https://www.rudderstack.com/docs/api/user-suppression-api/ (its enterprise plan)."""
    users = [{"userId": user_id}]
    if destinations:
        return {"regulationType": "suppress_with_delete", "destinationIds": destinations, "users": users}
    return {"regulationType": "suppress", "users": users}


def _print_calls(settings: Settings, user_id: str, suppression: dict[str, Any], rudderstack_api: str) -> None:
    """As commands, with the names of the keys in the place of the keys."""
    base, keys = settings.langfuse_base_url.rstrip("/"), '-u "$LANGFUSE_PUBLIC_KEY:$LANGFUSE_SECRET_KEY"'
    json_type = "-H 'Content-Type: application/json'"
    typer.echo(
        f"""
# RudderStack: suppresses the user; with --destination ID the destination is to delete them too
curl -X POST {rudderstack_api}/v2/regulations -H "Authorization: Bearer $RUDDERSTACK_ACCESS_TOKEN" \\
  {json_type} -d {shlex.quote(json.dumps(suppression))}
# Langfuse: the user's traces (go on with the cursor of the answer), then their deletion
curl -G {base}/api/public/v2/observations {keys} -d fields=core -d limit=1000 \\
  -d userId={quote(user_id, safe="", errors="replace")}
curl -X DELETE {base}/api/public/traces {keys} {json_type} -d '{{"traceIds": ["…"]}}'
# Sentry deletes issues, not users: search {shlex.quote(harmless(f'user.id:"{user_id}"'))} there
"""
    )


def _at_rudderstack(api: str, token: str, suppression: dict[str, Any]) -> str:
    if not token:
        raise ObserveError("RUDDERSTACK_ACCESS_TOKEN is not set: a workspace's service access token")
    with _client() as client:
        headers = {"Authorization": f"Bearer {token}"}
        client.post(f"{api.rstrip('/')}/v2/regulations", headers=headers, json=suppression).raise_for_status()
    return str(suppression["regulationType"])


def _at_langfuse(settings: Settings, user_id: str) -> int:
    """Langfuse 5's API: observations of a user by cursor, then `DELETE /api/public/traces`."""
    target = settings.vendor("langfuse")
    if target.state != "on":
        raise ObserveError("LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY are not set")
    with _client(auth=(target.key, target.secret), base_url=f"{target.url}/api/public") as client:
        query: dict[str, str | int] = {"userId": user_id, "fields": "core", "limit": 1000}
        found: dict[str, None] = {}
        while True:
            page = client.get("/v2/observations", params=query).raise_for_status().json()
            found |= dict.fromkeys(each["traceId"] for each in page["data"] if each.get("traceId"))
            if not (cursor := page["meta"].get("cursor")):
                break
            query["cursor"] = cursor
        ids = list(found)
        for at in range(0, len(ids), _BATCH):
            client.request("DELETE", "/traces", json={"traceIds": ids[at : at + _BATCH]}).raise_for_status()
    return len(ids)


def _client(**more: Any) -> httpx.Client:
    return httpx.Client(timeout=30, trust_env=False, **more)
