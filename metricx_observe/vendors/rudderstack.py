"""RudderStack: its SDK makes the shape of each message once, and never sends.

`Client(send=False)` keeps us on the vendor's own shape; its thread, queue, flush and `atexit` hook are not used.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from hashlib import sha256
from itertools import islice
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import orjson
from rudderstack.analytics.client import Client

from metricx_observe.context import Consent
from metricx_observe.delivery.channel import Described, Importance, Message, Post
from metricx_observe.events import ga4_parameter_faults, ga4_user_faults
from metricx_observe.normalise import plain, shown_name
from metricx_observe.scrubber import Personal, Scrubber, one_signal
from metricx_observe.settings import Settings, Vendor
from metricx_observe.tracker import TrackRecord

from .browser import Browser, read_browser

_MAX_TAGS = 50
_OURS = ("anonymousId", "event", "name", "groupId", "previousId", "category", "properties", "traits")
"""What we fill in where the SDK's message has it."""
_NOT_ASKED = Consent()
_KNOWN, _LONGEST_KNOWN = 1_000, 2_000
"""Pages and devices that hold nothing to scrub, and bytes of one."""
_SHRUNK_BYTES = (8 << 10, 2 << 10, 0)
"""What properties are cut to when a message is too large after all: JSON writes a control character in six."""
_MAX_MESSAGE = 32 << 10
"""The gateway's limit (RudderStack's HTTP API); the SDK's own is 4 MB."""


_LARGE = re.compile(rb"\d{16}")


def _exact(value: Any) -> Any:
    """Whole numbers from 2**53 on as text: JavaScript, which RudderStack's transformations are, rounds them."""
    if isinstance(value, dict):
        return {key: _exact(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_exact(each) for each in value]
    return str(value) if type(value) is int and abs(value) >= 1 << 53 else value


class RudderStackChannel:
    """RudderStack's messages for delivery."""

    vendor = "rudderstack"
    max_messages = 100
    max_bytes = 3 << 20
    """The gateway takes 4,096,000 bytes a request (RudderStack's HTTP API limits)."""
    concurrency = 1

    def __init__(
        self, settings: Settings, target: Vendor, scrubber: Scrubber, note: Callable[[str, list[str]], None]
    ) -> None:
        key = target.key
        self.local = target.state == "local"
        self.destination = f"{urlsplit(target.url).netloc}#{sha256(key.encode()).hexdigest()[:12]}"
        self._url = f"{target.url}/v1/batch"
        self._headers = {
            "Authorization": f"Basic {b64encode(f'{key}:'.encode()).decode()}",
            "Content-Type": "application/json",
        }
        self._shapes = _shapes(cast(_Sdk, Client(write_key=key, host=target.url, send=False)))
        self._own = {type: [key for key in _OURS if key in shape] for type, shape in self._shapes.items()}
        self._scrubber = scrubber
        self._note = note
        self._policy: Personal = settings.personal_data
        self._send_ip = settings.send_client_ip
        # an application has few names; more than that are looked at again
        self._name = lru_cache(1_000)(partial(self._clean, place="name"))
        self._known: set[bytes] = set()
        self._base: dict[str, Any] = {
            "app": {"name": settings.service_name, "version": settings.release},
            "environment": settings.environment_name,
        }

    @one_signal()
    def encode(self, record: Any) -> Sequence[Message]:
        """A packed `TrackRecord` as the SDK's message."""
        record = TrackRecord.unpacked(record)
        signal, body = record.type, record.body
        values = orjson.loads(body)
        if signal == "track" and (faults := ga4_parameter_faults(values)):
            self._note(f"track {shown_name(record.name or '')}", faults)
        elif signal == "identify" and (faults := ga4_user_faults(values)):
            self._note(signal, faults)
        if _LARGE.search(body):
            values = _exact(values)
        if self._policy != "keep" and record.personal:
            values = self._personal(values, record.personal)
        body = orjson.dumps(self._clean(values, signal, "properties"))
        message = self._message(record, body)
        for size in _SHRUNK_BYTES:
            if len(message) <= _MAX_MESSAGE:
                break
            self._note(signal, ["too large"])
            cut = plain(orjson.loads(body), [], size)
            message = self._message(record, orjson.dumps(cut if isinstance(cut, dict) else {"value": cut}))
        if len(message) > _MAX_MESSAGE:
            raise ValueError("too large without its properties")
        return [Message("event", message)]

    def portable(self, record: Any) -> Sequence[object]:
        """It is bytes."""
        return [record]

    def _personal(self, body: dict[str, Any], fields: frozenset[str]) -> dict[str, Any]:
        """METRICX_PERSONAL_DATA on the fields that are marked `Personal`."""
        if self._policy == "drop":
            return {key: value for key, value in body.items() if key not in fields}
        return {
            key: sha256(str(value).strip().lower().encode()).hexdigest() if key in fields and value else value
            for key, value in body.items()
        }

    def _message(self, record: TrackRecord, body: bytes) -> bytes:
        request, clean = record.request, partial(self._clean, signal=record.type, place="page")
        browser = None if request is None else read_browser(request, clean)
        anonymous = record.anonymous_id or (browser.anonymous_id if browser else None)
        if record.type == "alias":
            anonymous = None
        elif record.user_id is None and anonymous is None:
            # one of both is needed; the request's id at least joins the events of one request
            anonymous = record.state.request_id if record.state is not None else record.id
        context, content = self._context(record), orjson.Fragment(body)
        if record.type == "identify":
            context["traits"] = content
        shown = b"" if browser is None else self._shown(browser, record.type)
        name, target = record.name and self._name(record.name, record.type), record.target
        if record.type == "page" and target is not None:
            target = self._name(target, "page")
        message = {
            **self._shapes[record.type], "userId": record.user_id, "messageId": record.id,
            "timestamp": datetime.fromtimestamp(record.timestamp, UTC),
            "context": orjson.Fragment(orjson.dumps(context)[:-1] + shown + b"}"),
        }  # fmt: skip
        given = {
            "anonymousId": anonymous, "event": name, "name": name, "groupId": target, "previousId": target,
            "category": target, "properties": content, "traits": content,
        }  # fmt: skip
        for key in self._own[record.type]:
            message[key] = given[key]
        return orjson.dumps(message)

    def _context(self, record: TrackRecord) -> dict[str, Any]:
        """What is not the browser's."""
        context = {**self._base, **self._shapes[record.type]["context"]}
        if (state := record.state) is not None:
            context["request_id"] = state.request_id
            context["trace_id"] = state.trace_id
            if state.workspace is not None:
                context["workspace_id"] = state.workspace.id
            if state.tags:
                context["tags"] = self._clean(dict(islice(state.tags.items(), _MAX_TAGS)), record.type, "tags")
            if state.consent != _NOT_ASKED:
                answers = state.consent._asdict()
                context["consentManagement"] = {
                    "provider": "custom",
                    "resolutionStrategy": "and",
                    "allowedConsentIds": [name for name, given in answers.items() if given],
                    "deniedConsentIds": [name for name, given in answers.items() if given is False],
                }
        if self._send_ip and record.request is not None and record.request.client is not None:
            context["ip"] = record.request.client[0]
        return context

    def _shown(self, browser: Browser, signal: str) -> bytes:
        """The browser's members of the context, scrubbed."""
        return self._harmless(browser.page, signal) + self._harmless(browser.device, signal) + browser.ids

    def _harmless(self, members: bytes, signal: str) -> bytes:
        """`members` scrubbed. Remembered are only those that are sent as they are, so that each secret is counted."""
        if members in self._known:
            return members
        given = orjson.loads(b"{%b}" % members[1:])
        scrubbed = self._clean(given, signal, "page")
        if scrubbed != given:
            return b"," + orjson.dumps(scrubbed)[1:-1]
        if len(members) <= _LONGEST_KNOWN:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known.add(members)
        return members

    def _clean(self, value: dict[str, str] | str, signal: str, place: str) -> Any:
        return self._scrubber.scrub(value, signal, place, personal=self._policy)

    def post(self, payloads: Sequence[bytes]) -> Post:
        """Messages as one batch, joined as they were stored."""
        sent_at = datetime.now(UTC).isoformat()
        body = b'{"batch":[' + b",".join(payloads) + b'],"sentAt":"' + sent_at.encode() + b'"}'
        return Post(self._url, self._headers, body)

    def importance(self, kind: str) -> Importance:  # noqa: ARG002
        """All events matter alike."""
        return Importance.SIGNAL

    def rate_limits(self, status: int, headers: Mapping[str, str]) -> Mapping[str, float]:  # noqa: ARG002
        """RudderStack has none beyond `Retry-After`."""
        return {}

    def describe(self, kind: str, payload: bytes) -> Described:  # noqa: ARG002
        """Message id, event name and user of a stored message."""
        message = orjson.loads(payload)
        name = message.get("event") or message.get("name") or message.get("type")
        return Described(str(message.get("messageId", "")), str(name), message.get("userId"))


def _shapes(sdk: _Sdk) -> dict[str, dict[str, Any]]:
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
    return {name: message for name, (_, message) in made.items()}


class _Sdk(Protocol):
    """What we use of the SDK's client, which has no types of its own."""

    def track(self, **kwargs: Any) -> tuple[bool, dict[str, Any]]: ...
    def identify(self, **kwargs: Any) -> tuple[bool, dict[str, Any]]: ...
    def group(self, **kwargs: Any) -> tuple[bool, dict[str, Any]]: ...
    def alias(self, **kwargs: Any) -> tuple[bool, dict[str, Any]]: ...
    def page(self, **kwargs: Any) -> tuple[bool, dict[str, Any]]: ...
