"""How `metricx-observe forget` deletes a user at each vendor. Part of the command line: nothing else imports it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from inspect import Parameter
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

import httpx
import typer

from metricx_observe.exceptions import ObserveError

if TYPE_CHECKING:
    from metricx_observe.settings import Settings

    from .vendor import Vendor

_BATCH = 500
"""Trace ids in one call to Langfuse."""
_JSON = "-H 'Content-Type: application/json'"


def client(**more: Any) -> httpx.Client:
    """An HTTP client for an API, without the environment's proxies."""
    return httpx.Client(timeout=30, trust_env=False, **more)


def _option(name: str, default: Any = "", kind: Any = str, **more: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=typer.Option(default, **more), annotation=kind)


class Erasure:
    """At a vendor that has no call for it."""

    options: ClassVar[Sequence[Parameter]] = ()
    """Of the command, as Typer reads them from a function's signature."""

    def __init__(self, vendor: Vendor) -> None:
        self.vendor = vendor

    def commands(self, settings: Settings, user_id: str, options: Mapping[str, Any]) -> Sequence[str]:  # noqa: ARG002
        """Lines of shell that do it, with the names of keys in the place of keys."""
        return [f"# {self.vendor.title} has no call that deletes a user"]

    def delete(self, settings: Settings, user_id: str, options: Mapping[str, Any]) -> str:  # noqa: ARG002
        """Do it. Returns what was done; "" where there is no such call. Raises ObserveError."""
        return ""


class SentryErasure(Erasure):
    """Sentry has none for users."""

    def commands(self, settings: Settings, user_id: str, options: Mapping[str, Any]) -> Sequence[str]:  # noqa: ARG002
        query = shlex.quote(f'user.id:"{user_id}"')
        return [f"# Sentry deletes issues, not users: search {query} there"]


class RudderStackErasure(Erasure):
    """https://www.rudderstack.com/docs/api/user-suppression-api/ (its enterprise plan)."""

    options = (
        _option(
            "destination", None, list[str] | None,
            help="A RudderStack destination that is to delete the user; repeatable.",
        ),
        _option("rudderstack_token", envvar="RUDDERSTACK_ACCESS_TOKEN", help="Of its API."),
        _option(
            "rudderstack_api", "https://api.rudderstack.com", envvar="RUDDERSTACK_API_URL",
            help="https://api.eu.rudderstack.com in the EU.",
        ),
    )  # fmt: skip

    def _regulation(self, user_id: str, options: Mapping[str, Any]) -> dict[str, Any]:
        users = [{"userId": user_id}]
        if destinations := options["destination"]:
            return {"regulationType": "suppress_with_delete", "destinationIds": destinations, "users": users}
        return {"regulationType": "suppress", "users": users}

    def commands(self, settings: Settings, user_id: str, options: Mapping[str, Any]) -> Sequence[str]:  # noqa: ARG002
        api, body = options["rudderstack_api"], shlex.quote(json.dumps(self._regulation(user_id, options)))
        return [
            "# RudderStack: suppresses the user; with --destination ID the destination is to delete them too",
            f'curl -X POST {api}/v2/regulations -H "Authorization: Bearer $RUDDERSTACK_ACCESS_TOKEN" \\',
            f"  {_JSON} -d {body}",
        ]

    def delete(self, settings: Settings, user_id: str, options: Mapping[str, Any]) -> str:  # noqa: ARG002
        if not (token := options["rudderstack_token"]):
            raise ObserveError("RUDDERSTACK_ACCESS_TOKEN is not set: a workspace's service access token")
        regulation, headers = self._regulation(user_id, options), {"Authorization": f"Bearer {token}"}
        with client(base_url=options["rudderstack_api"], headers=headers) as api:
            api.post("/v2/regulations", json=regulation).raise_for_status()
        return str(regulation["regulationType"])


class LangfuseErasure(Erasure):
    """By Langfuse 5's API: observations of a user by cursor, then `DELETE /api/public/traces`."""

    def commands(self, settings: Settings, user_id: str, options: Mapping[str, Any]) -> Sequence[str]:  # noqa: ARG002
        api = f"{settings.langfuse_base_url.rstrip('/')}/api/public"
        keys = '-u "$LANGFUSE_PUBLIC_KEY:$LANGFUSE_SECRET_KEY"'
        return [
            "# Langfuse: the user's traces (go on with the cursor of the answer), then their deletion",
            f"curl -G {api}/v2/observations {keys} -d fields=core -d limit=1000 \\",
            f"  -d userId={quote(user_id, safe='', errors='replace')}",
            f'curl -X DELETE {api}/traces {keys} {_JSON} -d \'{{"traceIds": ["…"]}}\'',
        ]

    def delete(self, settings: Settings, user_id: str, options: Mapping[str, Any]) -> str:  # noqa: ARG002
        target = self.vendor.target(settings)
        if target.state != "on":
            raise ObserveError("LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY are not set")
        found: dict[str, None] = {}
        query: dict[str, str | int] = {"userId": user_id, "fields": "core", "limit": 1000}
        with client(auth=(target.key, target.secret), base_url=f"{target.url}/api/public") as api:
            while True:
                page = api.get("/v2/observations", params=query).raise_for_status().json()
                found |= dict.fromkeys(each["traceId"] for each in page["data"] if each.get("traceId"))
                if not (cursor := page["meta"].get("cursor")):
                    break
                query["cursor"] = cursor
            ids = list(found)
            for at in range(0, len(ids), _BATCH):
                api.request("DELETE", "/traces", json={"traceIds": ids[at : at + _BATCH]}).raise_for_status()
        return f"{len(ids)} traces deleted"
