"""What RudderStack declares. Its SDK is imported when its channel is made."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from metricx_observe.delivery import Channel, Delivery
from metricx_observe.exceptions import ObserveError
from metricx_observe.privacy import Scrubber

from .vendor import ForgetOption, Opened, Target, Variable, Vendor, is_url, read_from

if TYPE_CHECKING:
    import httpx

    from metricx_observe.settings import Settings


class RudderStackSettings(BaseSettings):
    """RudderStack's part of `Settings`."""

    rudderstack_write_key: SecretStr | None = read_from("RUDDERSTACK_WRITE_KEY")
    rudderstack_data_plane_url: str | None = read_from("RUDDERSTACK_DATA_PLANE_URL")


class RudderStack(Vendor):
    """Events, which the document calls analytics."""

    name = "rudderstack"
    label = "analytics"
    title = "RudderStack"
    facade = "tracker"
    package = "rudderstack"
    distribution = "rudder-sdk-python"
    uses = tuple(f"rudderstack.analytics.client:Client.{name}" for name in (
        "alias", "group", "identify", "page", "screen", "track",
    ))  # fmt: skip
    fields = RudderStackSettings
    variables = (
        Variable("key", "RUDDERSTACK_WRITE_KEY", "rudderstack_write_key"),
        Variable(
            "url", "RUDDERSTACK_DATA_PLANE_URL", "rudderstack_data_plane_url", is_url,
            "is no URL: type it as RudderStack shows it, https://…",
        ),
    )  # fmt: skip
    forget_options = (
        ForgetOption(
            "destination", "A RudderStack destination that is to delete the user; repeatable.", None, list[str] | None
        ),
        ForgetOption("rudderstack_token", "Of its API.", variable="RUDDERSTACK_ACCESS_TOKEN"),
        ForgetOption(
            "rudderstack_api", "https://api.eu.rudderstack.com in the EU.", "https://api.rudderstack.com",
            variable="RUDDERSTACK_API_URL",
        ),
    )  # fmt: skip

    def local(self, url: str) -> Mapping[str, str]:
        return {"url": url, "key": "local"}

    def channels(
        self, settings: Settings, target: Target, scrubber: Scrubber, note: Callable[[str, list[str]], None]
    ) -> Sequence[Channel]:
        from .rudderstack import RudderStackChannel

        return [RudderStackChannel(settings, target, scrubber, note)]

    def open(self, settings: Settings, target: Target, delivery: Delivery, **_: Any) -> Opened:
        opened = Opened()
        opened.sink = partial(delivery.put, self.name)
        return opened

    def advice(self, settings: Settings) -> str:
        if settings.chose_personal_data:
            return ""
        return (
            "analytics get e-mail addresses, which GA4's terms forbid: set METRICX_PERSONAL_DATA to hash or drop, "
            "or to keep"
        )

    def forget_commands(
        self, settings: Settings, user_id: str, options: Mapping[str, Any]
    ) -> Sequence[str]:  # fmt: skip
        api, body = options["rudderstack_api"], shlex.quote(json.dumps(_regulation(user_id, options)))
        return [
            "# RudderStack: suppresses the user; with --destination ID the destination is to delete them too",
            f'curl -X POST {api}/v2/regulations -H "Authorization: Bearer $RUDDERSTACK_ACCESS_TOKEN" \\',
            f"  -H 'Content-Type: application/json' -d {body}",
        ]

    def forget(
        self, target: Target, user_id: str, options: Mapping[str, Any], client: Callable[..., httpx.Client]
    ) -> str:
        if not options["rudderstack_token"]:
            raise ObserveError("RUDDERSTACK_ACCESS_TOKEN is not set: a workspace's service access token")
        headers = {"Authorization": f"Bearer {options['rudderstack_token']}"}
        regulation = _regulation(user_id, options)
        with client(headers=headers, base_url=options["rudderstack_api"]) as api:
            api.post("/v2/regulations", json=regulation).raise_for_status()
        return str(regulation["regulationType"])


def _regulation(user_id: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Of https://www.rudderstack.com/docs/api/user-suppression-api/ (its enterprise plan)."""
    users = [{"userId": user_id}]
    if destinations := list(options["destination"] or ()):
        return {"regulationType": "suppress_with_delete", "destinationIds": destinations, "users": users}
    return {"regulationType": "suppress", "users": users}
