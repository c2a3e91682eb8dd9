"""What Sentry declares. Its SDK is imported when it is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast
from urllib.parse import urlsplit

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from metricx_observe.delivery import Channel, Delivery
from metricx_observe.scrubber import Scrubber
from metricx_observe.vendors.vendor import Opened, Part, Target, Vendor, is_url, read_from

if TYPE_CHECKING:
    from metricx_observe.settings import Settings
    from metricx_observe.vendors.cli_erasure import Erasure

_PROFILES = ("profiles_sample_rate", "profiles_sampler", "profile_session_sample_rate", "profile_lifecycle")
_OUR_OPTIONS = {
    "dsn": "type SENTRY_DSN",
    "transport": "the outbox is the transport: leave it out",
    **dict.fromkeys(_PROFILES, "profiles are not sent: leave it out"),
}
"""Of `sentry_sdk.init`: what `sentry_options` may not set, and what to type."""


def _is_dsn(value: str) -> bool:
    return is_url(value) and bool(urlsplit(value).username) and urlsplit(value).path.rpartition("/")[2].isdigit()


_DSN = Part("url", _is_dsn, "is malformed: type https://PUBLIC_KEY@HOST/PROJECT_ID, as Sentry's settings show it")


class SentrySettings(BaseSettings):
    """Sentry's part of `Settings`."""

    sentry_dsn: Annotated[SecretStr | None, _DSN] = read_from("SENTRY_DSN")
    sentry_environment: str | None = read_from("SENTRY_ENVIRONMENT")
    release: str | None = read_from("METRICX_RELEASE", "SENTRY_RELEASE", "RELEASE_VERSION")
    traces_sample_rate: float | None = read_from("METRICX_TRACES_SAMPLE_RATE", "SENTRY_TRACES_SAMPLE_RATE", ge=0, le=1)

    @property
    def sample_rate(self) -> float:
        """Share of requests that are traced: 1.0 where Sentry goes to the local receiver, else 0.1, unless set."""
        if self.traces_sample_rate is not None:
            return self.traces_sample_rate
        return 1.0 if Sentry().target(cast("Settings", self)).state == "local" else 0.1


class Sentry(Vendor):
    """Errors and transactions."""

    name = label = "sentry"
    title = "Sentry"
    facade = "errors"
    package = "sentry_sdk"
    distribution = "sentry-sdk"
    uses = {
        "sentry_sdk": "Client VERSION add_breadcrumb get_client get_current_scope get_global_scope get_isolation_scope "
        "init isolation_scope",
        "sentry_sdk.client:_Client": "capture_event close flush get_integration is_active",
        "sentry_sdk.scope:Scope": "add_event_processor capture_event clear_breadcrumbs client fork "
        "get_active_propagation_context get_current_scope get_global_scope get_isolation_scope set_client "
        "set_current_scope set_isolation_scope set_new_propagation_context span start_transaction _event_processors",
        "sentry_sdk.tracing:Transaction": "finish name parent_span_id sample_rate set_http_status",
        "sentry_sdk.tracing_utils:PropagationContext": "parent_sampled parent_span_id trace_id",
        "sentry_sdk.envelope:Item": "data_category get_bytes",
    }
    fields = SentrySettings
    options = "sentry_options"

    def local(self, url: str) -> Mapping[str, str]:
        return {"url": url.replace("://", "://local@", 1) + "/1"}

    def refused(self, options: Mapping[str, Any]) -> str:
        refused = sorted(_OUR_OPTIONS.keys() & options.keys())
        return "; ".join(f"{name} cannot be set there, {_OUR_OPTIONS[name]}" for name in refused)

    def channels(
        self, settings: Settings, target: Target, scrubber: Scrubber, note: Callable[[str, list[str]], None]
    ) -> Sequence[Channel]:
        from .channel import SentryChannel

        return [SentryChannel(target, scrubber, note)]

    def open(
        self, settings: Settings, target: Target, delivery: Delivery, *, scrubber: Scrubber, options: Mapping[str, Any],
        middleware: bool,
    ) -> Opened:  # fmt: skip
        from .client import Sentry as Client

        return Client(settings, target, delivery, options, middleware, scrubber)

    def erasure(self) -> Erasure:
        from metricx_observe.vendors.cli_erasure import SentryErasure

        return SentryErasure(self)
