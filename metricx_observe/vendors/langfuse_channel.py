"""Langfuse's channels: observations as OTLP/JSON, and scores.

Encoding a span as OTLP/JSON costs 4 us, by OpenTelemetry's protobuf encoder 55; `tests/test_vendor_langfuse.py` holds
ours against what the SDK emits for the same observations.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
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
from metricx_observe.privacy import Scrubber
from metricx_observe.settings import Settings, Vendor

_KEYS = {
    "input": Key.OBSERVATION_INPUT,
    "output": Key.OBSERVATION_OUTPUT,
    "model_parameters": Key.OBSERVATION_MODEL_PARAMETERS,
    "usage": Key.OBSERVATION_USAGE_DETAILS,
    "cost": Key.OBSERVATION_COST_DETAILS,
    "level": Key.OBSERVATION_LEVEL,
    "status_message": Key.OBSERVATION_STATUS_MESSAGE,
    "model": Key.OBSERVATION_MODEL,
    "completion_start_time": Key.OBSERVATION_COMPLETION_START_TIME,
}
_CONTENT = frozenset({"input", "output"})
_CONTENT_KEYS = (
    Key.OBSERVATION_INPUT, Key.OBSERVATION_OUTPUT, "gen_ai.prompt", "gen_ai.completion", "gen_ai.input.messages",
    "gen_ai.output.messages",
)  # fmt: skip
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

    def importance(self, kind: str) -> Importance:  # noqa: ARG002
        return Importance.SIGNAL

    def rate_limits(self, status: int, headers: Mapping[str, str]) -> Mapping[str, float]:  # noqa: ARG002
        return {}


class LangfuseChannel(_Channel):
    """Langfuse's spans for delivery, as OTLP/JSON."""

    vendor = "langfuse"
    path = "/api/public/otel/v1/traces"
    max_messages = 500
    max_bytes = 3 << 20
    """Langfuse takes 4.5 MB a request (its own SDK's default is below that)."""

    def __init__(self, settings: Settings, target: Vendor, scrubber: Scrubber) -> None:
        super().__init__(target)
        self._scrubber = scrubber
        resource = {"service.name": settings.service_name} | resource_attributes(settings)
        scope = {"name": LANGFUSE_TRACER_NAME, "version": sdk_version}
        public_key = _attributes({"public_key": target.key})
        self._base = _attributes(resource_attributes(settings))
        self._last: tuple[TraceFacts, object, list[dict[str, Any]]] | None = None
        self._head = (
            b'{"resourceSpans":[{"resource":{"attributes":' + orjson.dumps(_attributes(resource))
            + b'},"scopeSpans":[{"scope":' + orjson.dumps({**scope, "attributes": public_key}) + b',"spans":['
        )  # fmt: skip

    def encode(self, record: Any) -> Sequence[Message]:
        """A packed `ObservationRecord`, or a span of the application's own Langfuse code."""
        if isinstance(record, ReadableSpan):
            span = self._theirs(record)
        else:
            span = self._ours(ObservationRecord.unpacked(record))
        return [Message("trace", orjson.dumps(_given(span)))]

    def _ours(self, record: ObservationRecord) -> dict[str, Any]:
        fields, state, scrubber = record.fields, record.state, self._scrubber
        values: dict[str, Any] = {Key.OBSERVATION_TYPE: record.type}
        no_content = state is not None and state.consent.llm_content is False
        for name, given in fields.items():
            value = orjson.dumps(given[1]) if isinstance(given, tuple) else given
            if name == "metadata":
                values |= _flat(Key.OBSERVATION_METADATA, scrubber.scrub(orjson.loads(value), record.type, name))
            elif no_content and name in _CONTENT:
                continue
            elif isinstance(value, str):
                values[_KEYS[name]] = scrubber.text(value, record.type, name)
            else:
                values[_KEYS[name]] = _as_text(scrubber.scrub_json(value, record.type, name))
        if "usage" in fields:  # OpenTelemetry's GenAI names, still in development there: this is their one place
            counts, prefix = orjson.loads(str(values[_KEYS["usage"]])), "gen_ai.usage"
            values |= {f"{prefix}.{side}_tokens": counts[side] for side in ("input", "output") if side in counts}
            values |= _given({"gen_ai.request.model": fields.get("model")})
        failed = {"code": 2, "message": values.get(Key.OBSERVATION_STATUS_MESSAGE, "")}
        return {
            "traceId": record.trace_id,
            "spanId": record.id,
            "parentSpanId": record.parent_id,
            "name": scrubber.text(record.name, record.type, "name"),
            "kind": 1,
            "startTimeUnixNano": str(record.start_ns),
            "endTimeUnixNano": str(record.end_ns),
            "attributes": self._of_trace(record) + _attributes(values) + self._base,
            "status": failed if fields.get("level") == "ERROR" else {},
        }

    def _of_trace(self, record: ObservationRecord) -> list[dict[str, Any]]:
        """The same for each observation of a trace, and they mostly come one after the other."""
        last = self._last
        if last is None or last[0] != record.given or last[1] != record.state:
            last = record.given, record.state, _attributes(trace_attributes(record.trace, self._scrubber))
            self._last = last
        return last[2]

    def _theirs(self, span: ReadableSpan) -> dict[str, Any]:
        context = span.get_span_context() or otel_trace.INVALID_SPAN_CONTEXT
        given = dict(span.attributes or {})
        dropped = _CONTENT_KEYS if given.pop(NO_CONTENT, False) else ()
        kept = {key: value for key, value in given.items() if not key.startswith(dropped)}
        return {
            "traceId": format_trace_id(context.trace_id),
            "spanId": format_span_id(context.span_id),
            "parentSpanId": format_span_id(span.parent.span_id) if span.parent else None,
            "name": self._scrubber.text(span.name, "observation", "name"),
            "kind": span.kind.value + 1,  # OTLP counts from unspecified = 0
            "startTimeUnixNano": str(span.start_time or 0),
            "endTimeUnixNano": str(span.end_time or 0),
            "attributes": self._scrubbed(kept, "attributes") + self._base,
            "events": [self._event(event) for event in span.events],
            "status": {
                "code": span.status.status_code.value,
                "message": self._scrubber.text(span.status.description or "", "observation", "status"),
            },
        }

    def _event(self, event: Event) -> dict[str, Any]:
        attributes = self._scrubbed(event.attributes, "events")
        return {"name": event.name, "timeUnixNano": str(event.timestamp), "attributes": attributes}

    def _scrubbed(self, attributes: Mapping[str, Any] | None, place: str) -> list[dict[str, Any]]:
        return _attributes(self._scrubber.scrub(dict(attributes or {}), "observation", place))

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
        self._environment = settings.environment_name
        self._release = settings.release
        self._scrubber = scrubber

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
    return _given({Key.ENVIRONMENT: settings.environment_name, Key.RELEASE: settings.release})


def trace_attributes(facts: TraceFacts, scrubber: Scrubber | None) -> dict[str, Any]:
    """User, session, name, tags and metadata of the trace; Langfuse wants them on every observation."""
    state, tags, name, session = facts.state, list(facts.tags), facts.name, facts.session_id
    metadata: dict[str, Any] = {**facts.metadata, **(state.tags if state is not None else {})}
    if scrubber is not None:
        tags, metadata = scrubber.scrub(tags, "trace", "tags"), scrubber.scrub(metadata, "trace", "metadata")
        name, session = scrubber.text(name, "trace", "name"), session and scrubber.text(session, "trace", "session")
    if state is not None:
        metadata |= {"request_id": state.request_id, "request_trace_id": state.trace_id}
    if facts.workspace_id is not None:
        # in a tag as well: the SDK encodes metadata as JSON, which Langfuse's filters do not all look into
        tags.append(f"workspace:{facts.workspace_id}"[:200])
        metadata["workspace_id"] = facts.workspace_id
    values = {
        Key.TRACE_NAME: name or None,
        Key.TRACE_USER_ID: facts.user_id,
        Key.TRACE_SESSION_ID: session,
        Key.TRACE_TAGS: tags or None,
    }
    return _given(values) | _flat(Key.TRACE_METADATA, metadata)


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


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


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
