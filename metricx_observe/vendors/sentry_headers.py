"""The headers of an envelope and of its items: the SDK's own, and texts of the application's among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import orjson

from metricx_observe.inbound import without_path_secrets
from metricx_observe.privacy import Personal, Scrubber

_FIXED = frozenset(
    {"event_id", "sent_at", "sdk", "type", "length", "item_count", "trace_id", "public_key", "org_id", "sampled",
     "sample_rate", "sample_rand", "replay_id", "release", "environment"}
)  # fmt: skip
"""What the SDK fills in itself, with nothing of the application's data."""

Clean = Callable[[Mapping[str, Any]], dict[str, Any]]


def header_scrubber(scrubber: Scrubber, params: Mapping[str, str] | None, personal: Personal) -> Clean:
    """What makes headers as they may be stored. `params`: of the path of the request that the envelope is of."""
    path = partial(scrubber.scrub, signal="envelope", place="headers", personal=personal)

    def without_path(value: Any) -> Any:
        return orjson.loads(without_path_secrets(orjson.dumps(value), params or {}, path)) if params else value

    def clean(headers: Mapping[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in headers.items() if key not in _FIXED}
        if not given or (not params and scrubber.harmless(given, personal)):
            return dict(headers)  # mostly, and a pass costs more than all the rest
        nested = {key: clean(value) for key, value in given.items() if isinstance(value, dict)}
        flat = {key: value for key, value in given.items() if key not in nested}
        scrubbed = without_path(scrubber.scrub(flat, "envelope", "headers", personal=personal))
        return {**headers, **dict(zip(flat, scrubbed.values(), strict=True)), **nested}

    return clean
