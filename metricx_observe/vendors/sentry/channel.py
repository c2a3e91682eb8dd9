"""Sentry's channel: envelopes as the writer scrubs them, as they are posted, and what an answer says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any

import orjson
import sentry_sdk
from sentry_sdk.consts import EndpointType
from sentry_sdk.envelope import Item
from sentry_sdk.utils import Dsn

from metricx_observe.delivery.answer import Answer, seconds_asked
from metricx_observe.delivery.channel import Described, Importance, Message, Post
from metricx_observe.scrubber import Scrubber, one_signal
from metricx_observe.vendors.vendor import Target

from .envelope import joined, thaw
from .items import scrub_items
from .rules import NO_RULES, Rules, replaced, take_rules
from .scrub import scrub_event
from .size import MAX_EVENT, to_json, within_bounds

_FIXED_HEADERS = frozenset(
    {"event_id", "sent_at", "sdk", "type", "length", "item_count", "trace_id", "public_key", "org_id", "sampled",
     "sample_rate", "sample_rand", "replay_id", "release", "environment"}
)  # fmt: skip
"""What the SDK fills in itself, with nothing of the application's data."""


class SentryChannel:
    """Sentry's envelopes for delivery: one a post, several posts at once."""

    vendor = "sentry"
    max_messages = 1
    max_bytes = 20 << 20
    """An event may be 1 MB, with attachments 20 MB compressed (Sentry's size limits)."""
    concurrency = 20
    """Posts hold one event each: at 80 ms a round trip 8 at once make 95 errors a second, 20 make 241."""

    def __init__(self, target: Target, scrubber: Scrubber, note: Callable[[str, list[str]], None]) -> None:
        dsn = Dsn(target.url)
        auth = dsn.to_auth(f"sentry.python/{sentry_sdk.VERSION}")
        self.local, self.away_hint = target.state == "local", target.away_hint
        self.destination = f"{dsn.netloc}{dsn.path}{dsn.project_id}#{sha256(dsn.public_key.encode()).hexdigest()[:12]}"
        self._url = auth.get_api_url(EndpointType.ENVELOPE)
        self._headers = {
            "User-Agent": str(auth.client),
            "X-Sentry-Auth": auth.to_header(),
            "Content-Type": "application/x-sentry-envelope",
        }
        self._scrubber = scrubber
        self._note = note

    @one_signal()
    def encode(self, record: bytes) -> Sequence[Message]:
        """A frozen envelope as the message that is stored."""
        headers, items = thaw(record)
        rules = next((take_rules(content) for _, content in items if isinstance(content, dict)), NO_RULES)
        # all headers before a body, which may take all of the scrubber's time: without its type an item is lost
        headers = self._scrub_headers(headers, rules)
        clean = [self._scrub_headers(header, rules) for header, _ in items]
        categories = [str(Item(b"", headers=header).data_category) for header, _ in items]
        bodies = [
            content if isinstance(content, bytes) else self._item(content, category, rules)
            for (_, content), category in zip(items, categories, strict=True)
        ]
        return [
            Message(categories[0] if categories else "default", joined(headers, [*zip(clean, bodies, strict=True)]))
        ]

    def _scrub_headers(self, headers: Mapping[str, Any], rules: Rules) -> dict[str, Any]:
        """The headers of an envelope or item: the application's own texts are among them."""
        found: dict[str, Any] = {}
        for key, value in headers.items():
            if key in _FIXED_HEADERS:
                found[key] = value
            elif isinstance(value, dict):
                found[key] = self._scrub_headers(value, rules)
            else:
                scrubbed = self._scrubber.scrub({key: value}, "envelope", "headers", personal=rules.personal)
                found[key] = next(iter(scrubbed.values()))
                found[key] = found[key] if rules.replace is None else replaced(found[key], rules.replace)
        return found

    def _item(self, content: Any, category: str, rules: Rules) -> bytes:
        if isinstance(content, dict) and isinstance(content.get("items"), list):
            content = scrub_items(content, category, self._scrubber)
            content["items"] = [orjson.Fragment(self._bounded(each, category)) for each in content["items"]]
        elif isinstance(content, dict):
            return self._bounded(scrub_event(content, category, self._scrubber, rules), category)
        else:
            content = self._scrubber.scrub(content, category, "item")
        return to_json(content)

    def _bounded(self, content: Any, category: str) -> bytes:
        """An event, or one of several items, as JSON of at most 1 MB."""
        data = to_json(content)
        if len(data) > MAX_EVENT and isinstance(content, dict):
            self._note(category, ["too large"])
            data = within_bounds(content)
        return data

    def post(self, payloads: Sequence[bytes]) -> Post:
        return Post(self._url, self._headers, payloads[0])

    def importance(self, kind: str) -> Importance:
        if kind == "error":
            return Importance.ERROR
        return Importance.TRANSACTION if kind in ("transaction", "session", "profile") else Importance.SIGNAL

    def rate_limits(self, status: int, headers: Mapping[str, str]) -> Mapping[str, float]:
        """`X-Sentry-Rate-Limits: 60:error;transaction:scope, …`, else `Retry-After` for every kind.

        After a 429 without a number to read Sentry's SDKs wait a minute (Sentry's SDK documentation, "Rate Limiting").
        """
        limits: dict[str, float] = {}
        numbers = False
        for part in headers.get("x-sentry-rate-limits", "").split(","):
            number, _, rest = part.partition(":")
            if (seconds := seconds_asked(number)) is not None:
                numbers = True
                kinds = [kind.strip() for kind in rest.partition(":")[0].split(";")]
                for kind in filter(None, kinds) if any(kinds) else ("",):
                    limits[kind] = max(seconds, limits.get(kind, 0.0))
        if not numbers and status == 429:
            after = Answer(status, headers).retry_after_s
            limits[""] = 60.0 if after is None else after
        return {kind: seconds for kind, seconds in limits.items() if seconds}

    def describe(self, kind: str, payload: bytes) -> Described:
        """Event id, exception type or transaction, and user, from a stored envelope."""
        header, event = {}, None
        with suppress(ValueError):  # an envelope without items, or a first item that is no JSON
            header, _, event = map(orjson.loads, payload.split(b"\n", 3)[:3])
        event = event if isinstance(event, dict) else {}
        values = (event.get("exception") or {}).get("values") or [{}]
        name = values[-1].get("type") or event.get("transaction") or kind
        return Described(str(header.get("event_id", "")), str(name), (event.get("user") or {}).get("id"))
