"""Analytics: who a user is, what they did, and the documented events by name."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from metricx_observe.events import Event

from .calls import documented, flushed, running


@documented
def track(
    user_id: object,
    event: Event | str,
    properties: Mapping[str, Any] | None = None,
    *,
    anonymous_id: object = None,
    timestamp: datetime | None = None,
) -> str | None:
    """Send an analytics event of a user. Returns the message id."""
    found = running()
    if found is None:
        return None
    return found.tracker.track(event, properties, user_id=user_id, anonymous_id=anonymous_id, timestamp=timestamp)


@documented
def identify(
    user_id: object,
    email: str | None = None,
    name: str | Mapping[str, Any] | None = None,
    traits: Mapping[str, Any] | None = None,
) -> str | None:
    """Tell analytics who a user is. Returns the message id. Binds nobody: see `set_user_context`.

    A mapping in the third place is taken for the traits, which stood there before.
    """
    found = running()
    if found is None:
        return None
    if isinstance(name, Mapping) and traits is None:
        name, traits = None, name
    if name is not None and (traits is None or isinstance(traits, Mapping)):
        traits = {"name": name, **(traits or {})}
    return found.tracker.identify(user_id, email=email, traits=traits)


@documented
def track_user_signed_up(user_id: object, email: object, name: object = None, workspace_id: object = None) -> None:
    """A new registration."""
    track(user_id, "user_signed_up", {"email": email, "name": name, "workspace_id": workspace_id})


@documented
def track_user_logged_in(user_id: object, email: object, workspace_id: object = None) -> None:
    """A log-in."""
    track(user_id, "user_logged_in", {"email": email, "workspace_id": workspace_id})


@documented
def track_connected_google_ads(
    user_id: object, workspace_id: object, account_id: object = None, account_name: object = None
) -> None:
    """Google's OAuth is complete."""
    _connected(user_id, "google_ads", workspace_id, account_id=account_id, account_name=account_name)


@documented
def track_connected_meta_ads(
    user_id: object, workspace_id: object, account_id: object = None, account_name: object = None
) -> None:
    """Meta's OAuth is complete."""
    _connected(user_id, "meta_ads", workspace_id, account_id=account_id, account_name=account_name)


@documented
def track_connected_shopify(user_id: object, workspace_id: object, shop_domain: object = None) -> None:
    """Shopify's OAuth is complete."""
    _connected(user_id, "shopify", workspace_id, shop_domain=shop_domain)


def _connected(user_id: object, what: str, workspace_id: object, **properties: object) -> None:
    track(user_id, f"connected_{what}", {"workspace_id": workspace_id, **properties})


@documented
def track_copilot_query_sent(
    user_id: object,
    workspace_id: object,
    question_length: object,
    has_context: object = False,
    success: object = None,
    latency_ms: object = None,
) -> None:
    """A question to the copilot."""
    track(
        user_id,
        "copilot_query_sent",
        {
            "workspace_id": workspace_id,
            "question_length": question_length,
            "has_context": has_context,
            "success": success,
            "latency_ms": latency_ms,
        },
    )


@documented
def flush_analytics() -> bool:
    """Deliver what was put so far: waits at most 5 s, for vendors that answer, and on an event loop for nothing."""
    return flushed()
