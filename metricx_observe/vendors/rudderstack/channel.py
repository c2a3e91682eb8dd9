"""RudderStack: its SDK makes the shape of each message once, and never sends.

`Client(send=False)` keeps us on the vendor's own shape; its thread, queue, flush and `atexit` hook are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson
from rudderstack.analytics.client import Client

from metricx_observe.delivery.channel import Described, Message, Post
from metricx_observe.events import ga4_parameter_faults, ga4_user_faults
from metricx_observe.normalise import plain, shown_name
from metricx_observe.request.facts import RequestFacts
from metricx_observe.scrubber import Personal, Scrubber, one_signal
from metricx_observe.signals.records import AnalyticsRecord, ContextFacts
from metricx_observe.vendors.json_channel import JsonChannel
from metricx_observe.vendors.vendor import Target

from .browser import Browser, read_browser

if TYPE_CHECKING:
    from metricx_observe.settings import Settings

_MAX_TAGS = 50
_MAX_MESSAGE = 32 << 10
"""The gateway's limit (RudderStack's HTTP API); the SDK's own is 4 MB."""
_SHRUNK_BYTES = (8 << 10, 2 << 10, 0)
"""What properties are cut to when a message is too large after all: JSON writes a control character in six."""
_NOBODY = Browser(None, {}, {})


def _exact(value: Any) -> Any:
    """Whole numbers from 2**53 on as text: JavaScript, which RudderStack's transformations are, rounds them."""
    if isinstance(value, dict):
        return {key: _exact(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_exact(each) for each in value]
    return str(value) if type(value) is int and abs(value) >= 1 << 53 else value


class RudderStackChannel(JsonChannel):
    """RudderStack's messages for delivery."""

    vendor = "rudderstack"
    max_messages = 100
    max_bytes = 3 << 20
    """The gateway takes 4,096,000 bytes a request (RudderStack's HTTP API limits)."""

    def __init__(
        self, settings: Settings, target: Target, scrubber: Scrubber, note: Callable[[str, list[str]], None]
    ) -> None:
        super().__init__(target, "/v1/batch")
        self._shapes = _shapes(Client(write_key=target.key, host=target.url, send=False))
        self._scrubber = scrubber
        self._clean = partial(scrubber.scrub, personal=settings.personal_data)
        self._note = note
        self._policy: Personal = settings.personal_data
        self._send_ip = settings.send_client_ip
        self._base: dict[str, Any] = {
            "app": {"name": settings.service_name, "version": settings.release},
            "environment": settings.environment_name,
        }

    @one_signal()
    def encode(self, record: bytes) -> Sequence[Message]:
        """A frozen `AnalyticsRecord` as the SDK's message."""
        known: AnalyticsRecord = orjson.loads(record)
        signal, values = known["type"], _exact(known["values"])
        if signal == "track" and (faults := ga4_parameter_faults(values)):
            self._note(f"track {shown_name(known['name'] or '')}", faults)
        elif signal == "identify" and (faults := ga4_user_faults(values)):
            self._note(signal, faults)
        values = self._clean(self._personal(values, known["personal"]), signal, "properties")
        message = self._message(known, values)
        data = orjson.dumps(message)
        for size in _SHRUNK_BYTES:
            if len(data) <= _MAX_MESSAGE:
                return [Message("event", data)]
            self._note(signal, ["too large"])
            cut = plain(values, [], size)
            data = orjson.dumps(_with_values(message, cut if isinstance(cut, dict) else {"value": cut}))
        if len(data) > _MAX_MESSAGE:
            raise ValueError("too large without its properties")
        return [Message("event", data)]

    def _personal(self, values: dict[str, Any], fields: list[str]) -> dict[str, Any]:
        """METRICX_PERSONAL_DATA on the fields that are marked `Personal`."""
        if self._policy == "keep" or not fields:
            return values
        if self._policy == "drop":
            return {key: value for key, value in values.items() if key not in fields}
        return {
            key: sha256(str(value).strip().lower().encode()).hexdigest() if key in fields and value else value
            for key, value in values.items()
        }

    def _message(self, record: AnalyticsRecord, values: dict[str, Any]) -> dict[str, Any]:
        signal, request = record["type"], record["request"] and RequestFacts(**record["request"])
        browser = read_browser(request, partial(self._part, signal)) if request else _NOBODY
        name, target = record["name"], record["target"]
        if name:
            name = self._clean(name, signal, "name")
        if target and signal == "page":
            target = self._clean(target, signal, "name")
        given = {
            "anonymousId": _anonymous_id(record, browser), "event": name, "name": name, "groupId": target,
            "previousId": target, "category": target, "properties": values, "traits": values,
        }  # fmt: skip
        shape = self._shapes[signal]
        message = {
            **shape,
            "userId": record["user_id"],
            "messageId": record["id"],
            "timestamp": datetime.fromtimestamp(record["timestamp"], UTC),
            "context": {
                **self._base,
                **shape["context"],
                **self._context(record["context"], signal),
                **({"ip": request.client[0]} if self._send_ip and request and request.client else {}),
                **({"traits": values} if signal == "identify" else {}),
                **self._clean(browser.context, signal, "page"),
                **browser.ids,
            },
        }
        return message | {key: value for key, value in given.items() if key in shape}

    def _part(self, signal: str, name: str, text: str) -> str:
        """A part of a path as it may be sent."""
        return str(self._clean({name: text}, signal, "page")[name])

    def _context(self, context: ContextFacts | None, signal: str) -> dict[str, Any]:
        """Whose request it was, by our own names and by RudderStack's for consent."""
        if context is None:
            return {}
        found: dict[str, Any] = {"request_id": context["request_id"], "trace_id": context["trace_id"]}
        if context["workspace_id"] is not None:
            found["workspace_id"] = context["workspace_id"]
        if context["tags"]:
            found["tags"] = self._clean(dict(islice(context["tags"].items(), _MAX_TAGS)), signal, "tags")
        answers = context["consent"]
        if any(given is not None for given in answers.values()):
            found["consentManagement"] = {
                "provider": "custom",
                "resolutionStrategy": "and",
                "allowedConsentIds": [name for name, given in answers.items() if given],
                "deniedConsentIds": [name for name, given in answers.items() if given is False],
            }
        return found

    def post(self, payloads: Sequence[bytes]) -> Post:
        """Messages as one batch, joined as they were stored."""
        sent_at = datetime.now(UTC).isoformat()
        body = b'{"batch":[' + b",".join(payloads) + b'],"sentAt":"' + sent_at.encode() + b'"}'
        return Post(self._url, self._headers, body)

    def describe(self, kind: str, payload: bytes) -> Described:  # noqa: ARG002
        """Message id, event name and user of a stored message."""
        message = orjson.loads(payload)
        name = message.get("event") or message.get("name") or message.get("type")
        return Described(str(message.get("messageId", "")), str(name), message.get("userId"))


def _anonymous_id(record: AnalyticsRecord, browser: Browser) -> str | None:
    """One of user and anonymous id is needed; the request's id at least joins the events of one request."""
    if record["type"] == "alias":
        return None
    found = record["anonymous_id"] or browser.anonymous_id
    if found is None and record["user_id"] is None:
        return record["context"]["request_id"] if record["context"] else record["id"]
    return found


def _with_values(message: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The same message with other properties or traits."""
    context = message["context"]
    return {
        **message,
        **{key: values for key in ("properties", "traits") if key in message},
        "context": {**context, "traits": values} if "traits" in context else context,
    }


def _shapes(sdk: Any) -> dict[str, dict[str, Any]]:
    """One message of each type, as the SDK makes it: with its constant parts and a place for each of ours.

    Not each message by the SDK: its `clean` and its size check cost 35 us a message.
    """
    who: dict[str, Any] = {"user_id": "?", "timestamp": datetime.now(UTC), "message_id": "?"}
    made = {
        "track": sdk.track(event="?", **who),
        "identify": sdk.identify(**who),
        "group": sdk.group(group_id="?", **who),
        "alias": sdk.alias(previous_id="?", **who),
        "page": sdk.page(name="?", category="?", **who),
    }
    return {type: message for type, (_, message) in made.items()}
