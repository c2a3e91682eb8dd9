"""The only place that imports a vendor's SDK; each is loaded only when its vendor is configured."""

from __future__ import annotations

from collections.abc import Callable

from metricx_observe.delivery.channel import PortableChannel
from metricx_observe.scrubber import Scrubber
from metricx_observe.settings import Settings, Vendor

from . import fit as fit


def channels(
    name: str, settings: Settings, target: Vendor, scrubber: Scrubber, note: Callable[[str, list[str]], None]
) -> list[PortableChannel]:
    """What delivery needs to know of a vendor: one channel for each of its endpoints.

    Args:
        name: sentry, rudderstack or langfuse.
        note: Counts a fault of a call that was mended while it was encoded.

    Raises:
        ImportError: The vendor's SDK is not installed, or does not fit.
    """
    if name == "sentry":
        from .sentry_channel import SentryChannel

        return [SentryChannel(target, scrubber, note)]
    if name == "rudderstack":
        from .rudderstack import RudderStackChannel

        return [RudderStackChannel(settings, target, scrubber, note)]
    from .langfuse_channel import LangfuseChannel, ScoreChannel

    return [LangfuseChannel(settings, target, scrubber, note), ScoreChannel(settings, target, scrubber)]
