"""Langfuse's channels: observations as OTLP/JSON, and scores.

Encoding a span as OTLP/JSON costs 4 us, by OpenTelemetry's protobuf encoder 55; `tests/test_vendor_langfuse.py` holds
ours against what the SDK emits for the same observations.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from math import isfinite
from typing import Any
from urllib.parse import urlsplit

import orjson
from langfuse import LangfuseOtelSpanAttributes as Key
from langfuse import __version__ as sdk_version
from langfuse._client.constants import LANGFUSE_TRACER_NAME
from opentelemetry import trace as otel_trace
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import format_span_id, format_trace_id

from metricx_observe.delivery.channel import Described, Importance, Message, Post
from metricx_observe.llm_records import ObservationRecord, TraceFacts
from metricx_observe.scrubber import Scrubber, one_signal
from metricx_observe.settings import Settings, Vendor

from .langfuse_size import MAX_SPAN, within_bounds

_KEYS = {
    "input": Key.OBSERVATION_INPUT,
    "output": Key.OBSERVATION_OUTPUT,
    "model_parameters": Key.OBSERVATION_MODEL_PARAMETERS,
    "usage": Key.OBSERVATION_USAGE_DETAILS,
    "cost": Key.OBSERVATION_COST_DETAILS,
    "level": Key.OBSERVATION_LEVEL,
    "status_message": Key.OBSERVATION_STATUS_MESSAGE,
    "type": Key.OBSERVATION_TYPE,
    "model": Key.OBSERVATION_MODEL,
    "completion_start_time": Key.OBSERVATION_COMPLETION_START_TIME,
}
_TEXT = b'{"key":"%b","value":{"stringValue":%%b}}'
_TEXTS = {name: _TEXT % key.encode() for name, key in _KEYS.items()}
"""Attributes without their texts: to fill these in costs half of what dicts for orjson do."""
_REQUEST_MODEL = _TEXT % b"gen_ai.request.model"
_COUNTS = [
    (side, b'{"key":"gen_ai.usage.%b_tokens","value":{"intValue":"%%d"}}' % side.encode())
    for side in ("input", "output")
]
"""OpenTelemetry's GenAI names, still in development there: this is their one place."""
_FEW_TAGS = 5  # of a trace that is remembered
_CONTENT = frozenset({"input", "output"})
_LARGE = _CONTENT | {"metadata"}
"""Scrubbed after the rest, which has arrived then where the scrubber's time runs out."""
_CONTENT_KEYS = (
    Key.OBSERVATION_INPUT, Key.OBSERVATION_OUTPUT, Key.EXPERIMENT_ITEM_EXPECTED_OUTPUT,
    "langfuse.trace.input", "langfuse.trace.output", "gen_ai.prompt", "gen_ai.completion", "gen_ai.content",
    "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions",
    "gen_ai.tool.call.arguments", "gen_ai.tool.call.result", "input.value", "output.value",
    "llm.input_messages", "llm.output_messages", "llm.prompts", "llm.completions",
    "traceloop.entity.input", "traceloop.entity.output", "ai.prompt", "ai.response.text", "mcp.request.argument",
)  # fmt: skip
"""Of Langfuse, OpenTelemetry's GenAI conventions, OpenInference, OpenLLMetry and the AI SDK."""
_EXCEPTION = "exception"
"""The one event whose attributes are no content: what `record_exception` adds."""
NO_CONTENT = "metricx.no_content"
"""Marks a span of the application's own Langfuse code whose user did not allow content; never sent."""
_INT64 = 1 << 63


class _Channel:
    """What both of Langfuse's endpoints share."""

    local: bool
    concurrency = 1
    path: str

    def __init__(self, target: Vendor) -> None:
        self.local = target.state == "local"
        self.destination = f"{urlsplit(target.url).netloc}{self.path}#{sha256(target.key.encode()).hexdigest()[:12]}"
        self._url = f"{target.url}{self.path}"
        self._headers = {
            "Authorization": f"Basic {b64encode(f'{target.key}:{target.secret}'.encode()).decode()}",
            "Content-Type": "application/json",
            "x-langfuse-sdk-name": "python",
            "x-langfuse-sdk-version": sdk_version,
            "x-langfuse-public-key": target.key,
            "x-langfuse-ingestion-version": "4",
        }

    def portable(self, record: Any) -> Sequence[object]:
        """As it is. The SDK's spans cannot be pickled."""
        return [record]

    def importance(self, kind: str) -> Importance:  # noqa: ARG002
        return Importance.SIGNAL

    def rate_limits(self, status: int, headers: Mapping[str, str]) -> Mapping[str, float]:  # noqa: ARG002
        return {}


class LangfuseChannel(_Channel):
    """Langfuse's spans for delivery, as OTLP/JSON."""

    vendor = "langfuse"
    path = "/api/public/otel/v1/traces"
    max_messages = 200
    """2,500 a second at 80 ms a round trip; joining and deleting 500 of 3 KB holds up the event loop for 1 ms."""
    max_bytes = 3 << 20
    """Langfuse takes 4.5 MB a request (its own SDK's default is below that)."""

    def __init__(
        self, settings: Settings, target: Vendor, scrubber: Scrubber, note: Callable[[str, list[str]], None]
    ) -> None:
        super().__init__(target)
        self._scrubber = scrubber
        self._note = note
        resource = {"service.name": settings.service_name} | resource_attributes(settings)
        scope = {"name": LANGFUSE_TRACER_NAME, "version": sdk_version}
        public_key = _listed(_encoded({"public_key": target.key}))
        self._base = _encoded(resource_attributes(settings))
        self._last: tuple[str, TraceFacts, object, bytes] | None = None
        self._head = (
            b'{"resourceSpans":[{"resource":{"attributes":[' + _encoded(resource)
            + b']},"scopeSpans":[{"scope":' + orjson.dumps({**scope, "attributes": public_key}) + b',"spans":['
        )  # fmt: skip

    @one_signal()
    def encode(self, record: Any) -> Sequence[Message]:
        """A packed `ObservationRecord`, or a span of the application's own Langfuse code."""
        if isinstance(record, ReadableSpan):
            span, kind = self._theirs(record), "observation"
        else:
            known = ObservationRecord.unpacked(record)
            span, kind = self._ours(known), known.type
        data = orjson.dumps(span)
        if len(data) > MAX_SPAN:
            self._note(kind, ["too large"])
            data = within_bounds(data)
        return [Message("trace", data)]

    def _ours(self, record: ObservationRecord) -> dict[str, Any]:
        fields, state, scrubber = record.fields, record.state, self._scrubber
        no_content = state is not None and state.consent.llm_content is False
        texts, attributes = {"type": record.type}, [self._of_trace(record)]
        title = scrubber.text(record.name, record.type, "name")
        for name in sorted(fields, key=_LARGE.__contains__):
            given = fields[name]
            if no_content and name in _CONTENT:
                continue
            value = orjson.dumps(given[1]) if isinstance(given, tuple) else given
            if isinstance(value, str):
                texts[name] = scrubber.text(value, record.type, name)
            elif name == "metadata":
                metadata = scrubber.scrub(orjson.loads(value), record.type, name)
                attributes.append(_encoded(_flat(Key.OBSERVATION_METADATA, metadata)))
            elif name == "usage":
                texts[name], counts = self._usage(value, record.type)
                attributes += [count % counts[side] for side, count in _COUNTS if type(counts.get(side)) is int]
            else:
                texts[name] = _as_text(orjson.dumps(scrubber.scrub(orjson.loads(value), record.type, name)))
        if "usage" in texts and "model" in texts:
            attributes.append(_REQUEST_MODEL % orjson.dumps(texts["model"]))
        attributes += [_TEXTS[name] % orjson.dumps(text) for name, text in texts.items()]
        failed = fields.get("level") == "ERROR"
        return {
            "traceId": record.trace_id,
            "spanId": record.id,
            **({"parentSpanId": record.parent_id} if record.parent_id else {}),
            "name": title,
            "kind": 1,
            "startTimeUnixNano": str(record.start_ns),
            "endTimeUnixNano": str(record.end_ns),
            "attributes": _listed(*attributes, self._base),
            "status": {"code": 2, "message": texts.get("status_message", "")} if failed else {},
        }

    def _usage(self, data: bytes, type: str) -> tuple[str, dict[str, Any]]:
        counts = self._scrubber.scrub(orjson.loads(data), type, "usage")
        return orjson.dumps(counts).decode(), counts

    def _of_trace(self, record: ObservationRecord) -> bytes:
        """The same for each observation of a trace, and they mostly come one after the other."""
        last, whole = self._last, (record.trace_id, record.given, record.state)
        metadata = record.given.metadata  # the very same, where there is any: 1 and True are equal
        if last is None or last[:3] != whole or (metadata and last[1].metadata is not metadata):
            whose, rest = _read_trace(record.trace, self._scrubber)
            encoded = _encoded_whose(*whose) if len(whose[-1]) <= _FEW_TAGS else _encoded(_whose(*whose))
            parts = encoded, _encoded(_flat(Key.TRACE_METADATA, rest))
            last = self._last = *whole, b",".join(filter(None, parts))
        return last[3]

    def _theirs(self, span: ReadableSpan) -> dict[str, Any]:
        context = span.get_span_context() or otel_trace.INVALID_SPAN_CONTEXT
        given = dict(span.attributes or {})
        no_content = given.pop(NO_CONTENT, False)
        dropped = _CONTENT_KEYS if no_content else ()
        smallest_first = sorted(given, key=lambda key: _held(given[key]))  # the others may take the scrubber's time
        kept = {key: given[key] for key in smallest_first if not key.startswith(dropped)}
        status = self._scrubber.text(span.status.description or "", "observation", "status")
        return {
            "traceId": format_trace_id(context.trace_id),
            "spanId": format_span_id(context.span_id),
            **({"parentSpanId": format_span_id(span.parent.span_id)} if span.parent else {}),
            "name": self._scrubber.text(span.name, "observation", "name"),
            "kind": span.kind.value + 1,  # OTLP counts from unspecified = 0
            "startTimeUnixNano": str(span.start_time or 0),
            "endTimeUnixNano": str(span.end_time or 0),
            "attributes": _listed(self._scrubbed(kept, "attributes"), self._base),
            "events": [self._event(event, no_content) for event in span.events],
            "status": {"code": span.status.status_code.value, "message": status},
        }

    def _event(self, event: Event, no_content: object) -> dict[str, Any]:
        kept = None if no_content and event.name != _EXCEPTION else event.attributes
        return {
            "name": self._scrubber.text(event.name, "observation", "events"),
            "timeUnixNano": str(event.timestamp),
            "attributes": _listed(self._scrubbed(kept, "events")),
        }

    def _scrubbed(self, attributes: Mapping[str, Any] | None, place: str) -> bytes:
        return _encoded(self._scrubber.scrub(dict(attributes or {}), "observation", place))

    def post(self, payloads: Sequence[bytes]) -> Post:
        body = b"%b%b%b" % (self._head, b",".join(payloads), b"]}]}]}")
        return Post(self._url, self._headers, body)

    def describe(self, kind: str, payload: bytes) -> Described:  # noqa: ARG002
        span = orjson.loads(payload)
        users = [item["value"].get("stringValue") for item in span["attributes"] if item["key"] == Key.TRACE_USER_ID]
        return Described(span["spanId"], span["name"], users[0] if users else None)


class ScoreChannel(_Channel):
    """Langfuse's scores for delivery: the SDK would hold them in memory only."""

    vendor = "langfuse_scores"
    path = "/api/public/scores"
    max_messages = 50
    max_bytes = 1_000_000
    """The endpoint takes 1 MiB a request, says the SDK."""

    def __init__(self, settings: Settings, target: Vendor, scrubber: Scrubber) -> None:
        super().__init__(target)
        self._environment = settings.environment_at("langfuse")
        self._release = settings.release
        self._scrubber = scrubber

    @one_signal()
    def encode(self, record: Any) -> Sequence[Message]:
        """A `ScoreRecord` in the field names of the API, which has no place for user and request but its metadata."""
        trace, state = record.trace, record.trace.state
        about = {
            "user_id": trace.user_id,
            "workspace_id": trace.workspace_id,
            "request_id": state and state.request_id,
            "request_trace_id": state and state.trace_id,
            "release": self._release,
        }
        score = {
            "id": record.id,
            "traceId": record.trace_id,
            "observationId": record.observation_id,
            "name": self._scrubber.text(record.name, "score", "name"),
            "value": self._scrubber.scrub(record.value, "score", "value"),
            "dataType": record.data_type,
            "comment": record.comment and self._scrubber.text(record.comment, "score", "comment"),
            "environment": self._environment,
            "metadata": _given(about),
            "timestamp": record.timestamp.isoformat(),
        }
        return [Message("score", orjson.dumps(_given(score)))]

    def post(self, payloads: Sequence[bytes]) -> Post:
        return Post(self._url, self._headers, b"[" + b",".join(payloads) + b"]")

    def describe(self, kind: str, payload: bytes) -> Described:  # noqa: ARG002
        score = orjson.loads(payload)
        return Described(score["id"], score["name"], score.get("metadata", {}).get("user_id"))


def resource_attributes(settings: Settings) -> dict[str, str]:
    """Environment and release, as the SDK puts them."""
    return _given({Key.ENVIRONMENT: settings.environment_at("langfuse"), Key.RELEASE: settings.release})


def trace_attributes(facts: TraceFacts, scrubber: Scrubber | None) -> dict[str, Any]:
    """User, session, name, tags and metadata of the trace; Langfuse wants them on every observation."""
    whose, metadata = _read_trace(facts, scrubber)
    return _whose(*whose) | _flat(Key.TRACE_METADATA, metadata)


_Whose = tuple[str, str | None, str | None, str | None, tuple[str, ...]]
"""Name, user, session, workspace and tags: what many traces have in common."""


def _read_trace(facts: TraceFacts, scrubber: Scrubber | None) -> tuple[_Whose, dict[str, Any]]:
    """Whose a trace is, and its other metadata."""
    state, tags, name, session = facts.state, facts.tags, facts.name, facts.session_id
    metadata: dict[str, Any] = {**facts.metadata, **state.tags} if state is not None else {**facts.metadata}
    if scrubber is not None:  # mostly there are neither, and a pass over nothing costs 0.6 us
        tags = tags and tuple(scrubber.scrub(tags, "trace", "tags"))
        metadata = metadata and scrubber.scrub(metadata, "trace", "metadata")
        name, session = scrubber.text(name, "trace", "name"), session and scrubber.text(session, "trace", "session")
    if state is not None:
        metadata |= {"request_id": state.request_id, "request_trace_id": state.trace_id}
    if facts.workspace_id is not None:
        metadata.pop("workspace_id", None)
    return (name, facts.user_id, session, facts.workspace_id, tags), metadata


def _whose(
    name: str, user_id: str | None, session: str | None, workspace_id: str | None, tags: tuple[str, ...]
) -> dict[str, Any]:
    # in a tag as well: the SDK encodes metadata as JSON, which Langfuse's filters do not all look into
    more = () if workspace_id is None else (f"workspace:{workspace_id}"[:200],)
    values = {
        Key.TRACE_NAME: name or None,
        Key.TRACE_USER_ID: user_id,
        Key.TRACE_SESSION_ID: session,
        Key.TRACE_TAGS: [*tags, *more] or None,
    }
    return _given(values) | _flat(Key.TRACE_METADATA, {"workspace_id": workspace_id})


@lru_cache(1_000)
def _encoded_whose(*whose: *_Whose) -> bytes:
    """Saves 1.5 us where a user asks again."""
    return _encoded(_whose(*whose))


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _flat(prefix: str, metadata: Any) -> dict[str, str]:
    """Metadata as the SDK writes it: an attribute a key, each value as JSON, strings in quotes too."""
    if not isinstance(metadata, dict):
        return {prefix: orjson.dumps(metadata).decode()}
    return {f"{prefix}.{key}": orjson.dumps(item).decode() for key, item in metadata.items() if item is not None}


def _as_text(data: bytes) -> str:
    """A JSON string as its text, anything else as JSON."""
    return orjson.loads(data) if data.startswith(b'"') else data.decode()


def _encoded(values: Mapping[str, Any]) -> bytes:
    """OTLP/JSON's attributes without the brackets around them."""
    return orjson.dumps([
        {"key": key, "value": {"stringValue": value} if type(value) is str else _value(value)}
        for key, value in values.items()
    ])[1:-1]  # fmt: skip


def _held(value: Any) -> int:
    """About how long an attribute is."""
    return len(value) if isinstance(value, (str, list, tuple)) else 0


def _listed(*attributes: bytes) -> orjson.Fragment:
    return orjson.Fragment(b"[%b]" % b",".join(filter(None, attributes)))


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int) and -_INT64 <= value < _INT64:
        return {"intValue": str(value)}
    if isinstance(value, float) and isfinite(value):
        return {"doubleValue": value}
    if isinstance(value, (list, tuple)):
        return {"arrayValue": {"values": [_value(item) for item in value]}}
    return {"stringValue": str(value)}
