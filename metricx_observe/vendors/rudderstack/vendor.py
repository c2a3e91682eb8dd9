"""What RudderStack declares. Its SDK is imported when its channel is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from metricx_observe.delivery import Channel, Delivery
from metricx_observe.scrubber import Scrubber
from metricx_observe.vendors.vendor import Opened, Part, Target, Vendor, is_url, read_from

if TYPE_CHECKING:
    from metricx_observe.settings import Settings
    from metricx_observe.vendors.cli_erasure import Erasure


_URL = Part("url", is_url, "is no URL: type it as RudderStack shows it, https://…")


class RudderStackSettings(BaseSettings):
    """RudderStack's part of `Settings`."""

    rudderstack_write_key: Annotated[SecretStr | None, Part("key")] = read_from("RUDDERSTACK_WRITE_KEY")
    rudderstack_data_plane_url: Annotated[str | None, _URL] = read_from("RUDDERSTACK_DATA_PLANE_URL")


class RudderStack(Vendor):
    """Events, which the document calls analytics."""

    name = "rudderstack"
    label = "analytics"
    title = "RudderStack"
    facade = "tracker"
    package = "rudderstack"
    distribution = "rudder-sdk-python"
    uses = {"rudderstack.analytics.client:Client": "alias group identify page screen track"}
    fields = RudderStackSettings

    def local(self, url: str) -> Mapping[str, str]:
        return {"url": url, "key": "local"}

    def channels(
        self, settings: Settings, target: Target, scrubber: Scrubber, note: Callable[[str, list[str]], None]
    ) -> Sequence[Channel]:
        from .channel import RudderStackChannel

        return [RudderStackChannel(settings, target, scrubber, note)]

    def open(self, settings: Settings, target: Target, delivery: Delivery, **_: Any) -> Opened:
        opened = Opened()
        opened.sink = partial(delivery.put, self.name)
        return opened

    def advice(self, settings: Settings) -> str:
        what = "analytics get e-mail addresses, which GA4's terms forbid"
        to_type = "set METRICX_PERSONAL_DATA to hash or drop, or to keep"
        return "" if settings.chose_personal_data else f"{what}: {to_type}"

    def erasure(self) -> Erasure:
        from metricx_observe.vendors.cli_erasure import RudderStackErasure

        return RudderStackErasure(self)
