"""The vendors. Only this folder knows one by name, and imports its SDK, which is loaded where it is configured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from metricx_observe.exceptions import ConfigurationError

from .langfuse.vendor import Langfuse, LangfuseSettings
from .rudderstack.vendor import RudderStack, RudderStackSettings
from .sentry.vendor import Sentry, SentrySettings
from .vendor import Vendor

REGISTRY: dict[str, Vendor] = {vendor.name: vendor for vendor in (Sentry(), RudderStack(), Langfuse())}
"""By name, in the order in which they are listed and opened."""


class VendorSettings(SentrySettings, RudderStackSettings, LangfuseSettings):
    """The fields of `Settings` that vendors declare."""


class VendorOptions(TypedDict, total=False):
    """Keywords of `Observability` for a vendor's SDK."""

    sentry_options: Mapping[str, Any] | None
    """Any of `sentry_sdk.init`'s but dsn, transport and those of profiles."""


def options_by_vendor(options: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What was given for each vendor's SDK. Raises ConfigurationError for what may not be set."""
    if unknown := options.keys() - {vendor.options for vendor in REGISTRY.values()}:
        raise TypeError(f"Observability takes no {', '.join(sorted(unknown))}")
    given: dict[str, Mapping[str, Any]] = {}
    for name, vendor in REGISTRY.items():
        given[name] = dict(options.get(vendor.options) or {})
        if refused := vendor.refused(given[name]):
            raise ConfigurationError(f"{vendor.options}: {refused}")
    return given
