"""What Langfuse declares. Its SDK is imported when it is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, SecretStr
from pydantic_settings import BaseSettings

from metricx_observe.delivery import Channel, Delivery
from metricx_observe.scrubber import Scrubber
from metricx_observe.vendors.vendor import Opened, Part, Target, Vendor, is_url, read_from

if TYPE_CHECKING:
    from metricx_observe.settings import Settings
    from metricx_observe.vendors.cli_erasure import Erasure


def _switch(value: object) -> object:
    """As its SDK reads it: anything but `true` and `false` is the default, and no error."""
    return {"true": True, "false": False}.get(value.strip().lower()) if isinstance(value, str) else value


_URL = Part("url", is_url, "is no URL: type it with its scheme, https://cloud.langfuse.com")
Switch = Annotated[bool | None, BeforeValidator(_switch)]


class LangfuseSettings(BaseSettings):
    """Langfuse's part of `Settings`."""

    langfuse_public_key: Annotated[str | None, Part("key")] = read_from("LANGFUSE_PUBLIC_KEY")
    langfuse_secret_key: Annotated[SecretStr | None, Part("secret")] = read_from("LANGFUSE_SECRET_KEY")
    langfuse_base_url: Annotated[str, _URL] = read_from(
        "LANGFUSE_BASE_URL", "LANGFUSE_HOST", default="https://cloud.langfuse.com"
    )
    langfuse_environment: str | None = read_from("LANGFUSE_TRACING_ENVIRONMENT")
    langfuse_tracing: Switch = read_from("LANGFUSE_TRACING_ENABLED", default=True)
    langfuse_sample_rate: float = read_from("LANGFUSE_SAMPLE_RATE", default=1.0, ge=0, le=1)
    otel_sdk_disabled: Switch = read_from("OTEL_SDK_DISABLED", default=False)


class Langfuse(Vendor):
    """LLM traces."""

    name = label = "langfuse"
    title = "Langfuse"
    facade = "llm"
    package = distribution = "langfuse"
    uses = {
        "langfuse._client.resource_manager:LangfuseResourceManager": "_instances shutdown",
        "opentelemetry.context": "_SUPPRESS_INSTRUMENTATION_KEY",
    }
    fields = LangfuseSettings

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
        from .channel import LangfuseChannel, ScoreChannel

        return [LangfuseChannel(settings, target, scrubber, note), ScoreChannel(settings, target, scrubber)]

    def open(self, settings: Settings, target: Target, delivery: Delivery, **_: Any) -> Opened:
        from .client import Langfuse as Client

        return Client(settings, target, delivery.put)

    def erasure(self) -> Erasure:
        from metricx_observe.vendors.cli_erasure import LangfuseErasure

        return LangfuseErasure(self)
