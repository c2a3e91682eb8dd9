"""What Langfuse declares. Its SDK is imported when it is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from pydantic import BeforeValidator, SecretStr
from pydantic_settings import BaseSettings

from metricx_observe.delivery import Channel, Delivery
from metricx_observe.exceptions import ObserveError
from metricx_observe.privacy import Scrubber

from .vendor import Opened, Target, Variable, Vendor, is_url, read_from

if TYPE_CHECKING:
    import httpx

    from metricx_observe.settings import Settings

_BATCH = 500
"""Trace ids in one call of its API."""


def _switch(value: object) -> object:
    """As its SDK reads it: anything but `true` and `false` is the default, and no error."""
    return {"true": True, "false": False}.get(value.strip().lower()) if isinstance(value, str) else value


Switch = Annotated[bool | None, BeforeValidator(_switch)]


class LangfuseSettings(BaseSettings):
    """Langfuse's part of `Settings`."""

    langfuse_public_key: str | None = read_from("LANGFUSE_PUBLIC_KEY")
    langfuse_secret_key: SecretStr | None = read_from("LANGFUSE_SECRET_KEY")
    langfuse_base_url: str = read_from("LANGFUSE_BASE_URL", "LANGFUSE_HOST", default="https://cloud.langfuse.com")
    langfuse_environment: str | None = read_from("LANGFUSE_TRACING_ENVIRONMENT")
    langfuse_tracing: Switch = read_from("LANGFUSE_TRACING_ENABLED", default=True)
    langfuse_sample_rate: float = read_from("LANGFUSE_SAMPLE_RATE", default=1.0, ge=0, le=1)
    otel_sdk_disabled: Switch = read_from("OTEL_SDK_DISABLED", default=False)


class Langfuse(Vendor):
    """LLM traces."""

    name = label = "langfuse"
    title = "Langfuse"
    facade = "llm"
    streams = ("langfuse", "langfuse_scores")
    package = distribution = "langfuse"
    uses = (
        "langfuse._client.resource_manager:LangfuseResourceManager._instances",
        "langfuse._client.resource_manager:LangfuseResourceManager.shutdown",
        "opentelemetry.context:_SUPPRESS_INSTRUMENTATION_KEY",
    )
    fields = LangfuseSettings
    variables = (
        Variable("key", "LANGFUSE_PUBLIC_KEY", "langfuse_public_key"),
        Variable("secret", "LANGFUSE_SECRET_KEY", "langfuse_secret_key"),
        Variable(
            "url", "LANGFUSE_BASE_URL (or LANGFUSE_HOST)", "langfuse_base_url", is_url,
            "is no URL: type it with its scheme, https://cloud.langfuse.com", has_default=True,
        ),
    )  # fmt: skip

    def local(self, url: str) -> Mapping[str, str]:
        return {"url": url, "key": "pk-lf-local", "secret": "sk-lf-local"}

    def switches(self, settings: Settings) -> Mapping[str, bool]:
        return {
            "LANGFUSE_TRACING_ENABLED": settings.langfuse_tracing is False,
            "OTEL_SDK_DISABLED": settings.otel_sdk_disabled is True,
        }

    def channels(
        self, settings: Settings, target: Target, scrubber: Scrubber, note: Callable[[str, list[str]], None]
    ) -> Sequence[Channel]:
        from .langfuse_channel import LangfuseChannel, ScoreChannel

        return [LangfuseChannel(settings, target, scrubber, note), ScoreChannel(settings, target, scrubber)]

    def open(self, settings: Settings, target: Target, delivery: Delivery, **_: Any) -> Opened:
        from .langfuse import Langfuse as Client

        return Client(settings, target, delivery.put)

    def forget_commands(
        self, settings: Settings, user_id: str, options: Mapping[str, Any]
    ) -> Sequence[str]:  # fmt: skip
        api = f"{settings.langfuse_base_url.rstrip('/')}/api/public"
        keys = '-u "$LANGFUSE_PUBLIC_KEY:$LANGFUSE_SECRET_KEY"'
        return [
            "# Langfuse: the user's traces (go on with the cursor of the answer), then their deletion",
            f"curl -G {api}/v2/observations {keys} -d fields=core -d limit=1000 \\",
            f"  -d userId={quote(user_id, safe='', errors='replace')}",
            f"curl -X DELETE {api}/traces {keys} -H 'Content-Type: application/json' -d '{{\"traceIds\": [\"…\"]}}'",
        ]

    def forget(
        self, target: Target, user_id: str, options: Mapping[str, Any], client: Callable[..., httpx.Client]
    ) -> str:  # fmt: skip
        """By Langfuse 5's API: observations of a user by cursor, then `DELETE /api/public/traces`."""
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
