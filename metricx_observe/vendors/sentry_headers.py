"""The headers of an envelope and of its items: the SDK's own, and texts of the application's among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from metricx_observe.scrubber import Scrubber

from .sentry_rules import Rules, policy, replaced, replacing

_FIXED = frozenset(
    {"event_id", "sent_at", "sdk", "type", "length", "item_count", "trace_id", "public_key", "org_id", "sampled",
     "sample_rate", "sample_rand", "replay_id", "release", "environment"}
)  # fmt: skip
"""What the SDK fills in itself, with nothing of the application's data."""

Clean = Callable[[Mapping[str, Any]], dict[str, Any]]


def header_scrubber(scrubber: Scrubber, rules: Rules) -> Clean:
    """What makes headers as they may be stored. `rules`: of the request that the envelope is of."""
    personal, replace = policy(rules), replacing(rules.secrets, rules.paths)

    def clean(headers: Mapping[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in headers.items() if key not in _FIXED}
        if not given:
            return dict(headers)
        nested = {key: clean(value) for key, value in given.items() if isinstance(value, dict)}
        flat = {key: value for key, value in given.items() if key not in nested}
        scrubbed = scrubber.scrub(flat, "envelope", "headers", personal=personal)
        scrubbed = scrubbed if replace is None else replaced(scrubbed, replace)
        return {**headers, **dict(zip(flat, scrubbed.values(), strict=True)), **nested}

    return clean
