"""Whether an installed SDK is one that we know: what we use of its inside is looked for before a vendor is opened.

A name that has gone would else be found by the signals that vanish with it. What a module imports by name needs no line
here: it cannot be imported without.
"""

from __future__ import annotations

import re
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version

PACKAGES = {"sentry": "sentry-sdk", "rudderstack": "rudder-sdk-python", "langfuse": "langfuse"}
"""The distribution of a vendor's SDK."""

NAMES = {
    "sentry": (
        *(f"sentry_sdk:{name}" for name in (
            "Client", "VERSION", "add_breadcrumb", "get_client", "get_current_scope", "get_global_scope",
            "get_isolation_scope", "init", "isolation_scope",
        )),
        *(f"sentry_sdk.client:_Client.{name}" for name in (
            "capture_event", "close", "flush", "get_integration", "is_active",
        )),
        *(f"sentry_sdk.scope:Scope.{name}" for name in (
            "__slots__", "add_event_processor", "capture_event", "clear_breadcrumbs", "client", "fork",
            "get_active_propagation_context", "get_current_scope", "get_global_scope", "get_isolation_scope",
            "set_client", "set_current_scope", "set_isolation_scope", "set_new_propagation_context", "span",
            "start_transaction", "_attachments", "_contexts", "_error_processors", "_event_processors", "_extras",
            "_fingerprint", "_level", "_profile", "_session", "_tags", "_transaction", "_user",
        )),
        *(f"sentry_sdk.tracing:Transaction.{name}" for name in (
            "finish", "name", "parent_span_id", "sample_rate", "set_http_status",
        )),
        *(f"sentry_sdk.tracing_utils:PropagationContext.{name}" for name in ("parent_span_id", "trace_id")),
        *(f"sentry_sdk.envelope:Envelope.{name}" for name in ("add_transaction", "get_event")),
        *(f"sentry_sdk.envelope:Item.{name}" for name in ("data_category", "get_bytes", "type")),
        "sentry_sdk.integrations.logging:EventHandler._can_record",
    ),
    "rudderstack": tuple(f"rudderstack.analytics.client:Client.{name}" for name in (
        "alias", "group", "identify", "page", "screen", "track",
    )),
    "langfuse": (
        "langfuse._client.resource_manager:LangfuseResourceManager._instances",
        "langfuse._client.resource_manager:LangfuseResourceManager.shutdown",
        "opentelemetry.context:_SUPPRESS_INSTRUMENTATION_KEY",
    ),
}  # fmt: skip
"""By vendor: module:name of what we use."""


class Misfit(Exception):
    """Names what an SDK has no more."""


def check(vendor: str) -> None:
    """Look for all that we use.

    Raises:
        Misfit: Names the first that is not there.
        ImportError: A module of the SDK's is not there.
    """
    for each in NAMES[vendor]:
        module, _, path = each.partition(":")
        found: object = import_module(module)
        for name in path.split("."):
            if not hasattr(found, name):
                raise Misfit(f"it has no {each.replace(':', '.')}")
            found = getattr(found, name)


def misfit(vendor: str, error: Exception) -> str:
    """Why a vendor is off whose SDK is there; where that is the cause, with the versions that we take and what to type.

    Of the error only what cannot hold a value: the name that it is about.
    """
    package, installed, wanted = PACKAGES[vendor], "?", PACKAGES[vendor]
    with suppress(PackageNotFoundError):
        installed = version(package)
        ours = (each.partition(";")[0].strip() for each in requires("metricx-observe") or ())
        wanted = next((each for each in ours if re.match(rf"{package}\s*[<>=~!(]", each)), package)
    if not isinstance(error, (Misfit, ImportError, AttributeError, TypeError)):
        return f"{package} {installed} could not be started ({type(error).__name__})"
    about = re.search(r"keyword argument '(\w+)'|^cannot import name '(\w+)'", str(error))
    name = next(filter(None, about.groups())) if about else getattr(error, "name", None)
    why = str(error) if isinstance(error, Misfit) else f"{type(error).__name__}{f': {name}' if name else ''}"
    return f"{package} {installed} does not fit ({why}); type: pip install '{wanted}'"
