"""Langfuse's channels: observations as OTLP/JSON, and scores.

Encoding a span as OTLP/JSON costs 4 us, by OpenTelemetry's protobuf encoder 55; `tests/test_vendor_langfuse.py` holds
ours against what the SDK emits for the same observations.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypedDict
from urllib.parse import urlsplit

import orjson
from langfuse import LangfuseOtelSpanAttributes as Key
from langfuse import __version__ as sdk_version
from langfuse._client.constants import LANGFUSE_TRACER_NAME

from metricx_observe.delivery.channel import Described, Importance, Message, Post
from metricx_observe.privacy import Scrubber, one_signal
from metricx_observe.signals.records import ContextFacts, ObservationRecord, ScoreRecord, TraceFacts

from .langfuse_size import MAX_SPAN, within_bounds
from .vendor import Target

if TYPE_CHECKING:
    from metricx_observe.settings import Settings

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
_TAIL = b"]}]}]}"
"""Of an export, behind its spans."""
_INT64 = 1 << 63


class SpanEvent(TypedDict):
    """Of a span of the application's own."""

    name: str
    time_ns: int
    attributes: dict[str, Any]


class SpanRecord(TypedDict):
    """A span of the application's own Langfuse code, frozen when the SDK exports it."""

    trace_id: str
    id: str
    parent_id: str | None
    name: str
    kind: int
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    events: list[SpanEvent]
    status: dict[str, Any]
    no_content: bool
    """Whether the user did not allow content."""


class _Channel:
    """What both of Langfuse's endpoints share."""

    local: bool
    away_hint: str
    concurrency = 1
    path: str

    def __init__(self, target: Target) -> None:
        self.local, self.away_hint = target.state == "local", target.away_hint
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

    def portable(self, record: bytes) -> Sequence[object]:
        """It is bytes."""
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
        self, settings: Settings, target: Target, scrubber: Scrubber, note: Callable[[str, list[str]], None]
    ) -> None:
        super().__init__(target)
        self._scrubber = scrubber
        self._note = note
        resource = {"service.name": settings.service_name} | resource_attributes(settings)
        scope = {"name": LANGFUSE_TRACER_NAME, "version": sdk_version}
        self._base = resource_attributes(settings)
        head = {"resource": {"attributes": _otlp(resource)}, "scopeSpans": [
            {"scope": {**scope, "attributes": _otlp({"public_key": target.key})}, "spans": []}
        ]}  # fmt: skip
        self._head = orjson.dumps({"resourceSpans": [head]}).removesuffix(_TAIL)

    @one_signal()
    def encode(self, record: bytes) -> Sequence[Message]:
        """A frozen `ObservationRecord`, or a `SpanRecord` of the application's own Langfuse code."""
        known = orjson.loads(record)
        kind = known.get("type", "observation")
        data = orjson.dumps(self._theirs(known) if "attributes" in known else self._ours(known))
        if len(data) > MAX_SPAN:
            self._note(kind, ["too large"])
            data = within_bounds(data)
        return [Message("trace", data)]

    def _ours(self, record: ObservationRecord) -> dict[str, Any]:
        type, fields = record["type"], record["fields"]
        trace = self._scrubbed_trace(record["trace"], record["context"])
        attributes = {**trace_attributes(trace, record["context"]), Key.OBSERVATION_TYPE: type}
        name = self._clean(record["name"], type, "name")
        refused = _CONTENT if record["context"] and record["context"]["consent"]["llm_content"] is False else ()
        for field in sorted(fields.keys() - refused, key=_LARGE.__contains__):
            value = self._clean(fields[field], type, field)
            if field == "metadata":
                attributes |= _flat(Key.OBSERVATION_METADATA, value)
            elif isinstance(value, str) and field != "completion_start_time":  # which the SDK sends in quotes
                attributes[_KEYS[field]] = value
            else:
                attributes[_KEYS[field]] = orjson.dumps(value).decode()
            if field == "usage":
                attributes |= _gen_ai_usage(value)
        if "usage" in fields and "model" in fields:
            attributes["gen_ai.request.model"] = attributes[_KEYS["model"]]
        failed = fields.get("level") == "ERROR"
        status = {"code": 2, "message": attributes.get(_KEYS["status_message"], "")} if failed else {}
        return self._span(record, name, attributes, status)

    def _scrubbed_trace(self, trace: TraceFacts, context: ContextFacts | None) -> TraceFacts:
        metadata = {**trace["metadata"], **(context["tags"] if context else {})}
        return {
            **trace,
            "name": self._clean(trace["name"], "trace", "name"),
            "session_id": trace["session_id"] and self._clean(trace["session_id"], "trace", "session"),
            "tags": trace["tags"] and self._clean(trace["tags"], "trace", "tags"),
            "metadata": metadata and self._clean(metadata, "trace", "metadata"),
        }

    def _theirs(self, record: SpanRecord) -> dict[str, Any]:
        no_content = record["no_content"]
        status = {**record["status"], "message": self._clean(record["status"]["message"], "observation", "status")}
        dropped = _CONTENT_KEYS if no_content else ()
        # the smallest first: the others may take the scrubber's time
        smallest_first = sorted(record["attributes"].items(), key=lambda item: _length(item[1]))
        kept = {key: value for key, value in smallest_first if not key.startswith(dropped)}
        name = self._clean(record["name"], "observation", "name")
        attributes = self._clean(kept, "observation", "attributes")
        span = self._span(record, name, attributes, status, record["kind"])
        return {**span, "events": [self._event(event, no_content) for event in record["events"]]}

    def _event(self, event: SpanEvent, no_content: bool) -> dict[str, Any]:
        kept = {} if no_content and event["name"] != _EXCEPTION else event["attributes"]
        return {
            "name": self._clean(event["name"], "observation", "events"),
            "timeUnixNano": str(event["time_ns"]),
            "attributes": _otlp(self._clean(kept, "observation", "events")),
        }

    def _span(
        self, record: ObservationRecord | SpanRecord, name: str, attributes: Mapping[str, Any],
        status: Mapping[str, Any], kind: int = 1,
    ) -> dict[str, Any]:  # fmt: skip
        """OTLP/JSON of what was scrubbed."""
        return {
            "traceId": record["trace_id"],
            "spanId": record["id"],
            **({"parentSpanId": record["parent_id"]} if record["parent_id"] else {}),
            "name": name,
            "kind": kind,
            "startTimeUnixNano": str(record["start_ns"]),
            "endTimeUnixNano": str(record["end_ns"]),
            "attributes": _otlp({**attributes, **self._base}),
            "status": status,
        }

    def _clean(self, value: Any, signal: str, place: str) -> Any:
        return self._scrubber.scrub(value, signal, place)

    def post(self, payloads: Sequence[bytes]) -> Post:
        body = b"%b%b%b" % (self._head, b",".join(payloads), _TAIL)
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

    def __init__(self, settings: Settings, target: Target, scrubber: Scrubber) -> None:
        super().__init__(target)
        self._environment = settings.environment_at("langfuse")
        self._release = settings.release
        self._scrubber = scrubber

    @one_signal()
    def encode(self, record: bytes) -> Sequence[Message]:
        """A frozen `ScoreRecord` in the field names of the API, which has a place for whose it is in metadata only."""
        known: ScoreRecord = orjson.loads(record)
        trace, context, clean = known["trace"], known["context"], self._scrubber.scrub
        about = {
            "user_id": trace["user_id"],
            "workspace_id": trace["workspace_id"],
            "request_id": context and context["request_id"],
            "request_trace_id": context and context["trace_id"],
            "release": self._release,
        }
        score = {
            "id": known["id"],
            "traceId": known["trace_id"],
            "observationId": known["observation_id"],
            "name": clean(known["name"], "score", "name"),
            "value": clean(known["value"], "score", "value"),
            "dataType": known["data_type"],
            "comment": known["comment"] and clean(known["comment"], "score", "comment"),
            "environment": self._environment,
            "metadata": _given(about),
            "timestamp": known["timestamp"],
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


def trace_attributes(trace: TraceFacts, context: ContextFacts | None) -> dict[str, Any]:
    """User, session, name, tags and metadata of the trace; Langfuse wants them on every observation."""
    metadata, workspace_id = {**trace["metadata"]}, trace["workspace_id"]
    if context is not None:
        metadata |= {"request_id": context["request_id"], "request_trace_id": context["trace_id"]}
    tags = [*trace["tags"]]
    if workspace_id is not None:
        metadata["workspace_id"] = workspace_id
        # in a tag as well: the SDK encodes metadata as JSON, which Langfuse's filters do not all look into
        tags.append(f"workspace:{workspace_id}"[:200])
    values = {
        Key.TRACE_NAME: trace["name"] or None,
        Key.TRACE_USER_ID: trace["user_id"],
        Key.TRACE_SESSION_ID: trace["session_id"],
        Key.TRACE_TAGS: tags or None,
    }
    return _given(values) | _flat(Key.TRACE_METADATA, metadata)


def _gen_ai_usage(counts: Any) -> dict[str, int]:
    """OpenTelemetry's GenAI names, still in development there: this and the model's are all of them."""
    sides = ("input", "output") if isinstance(counts, dict) else ()
    return {f"gen_ai.usage.{side}_tokens": counts[side] for side in sides if type(counts.get(side)) is int}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _flat(prefix: str, metadata: Any) -> dict[str, str]:
    """Metadata as the SDK writes it: an attribute a key, each value as JSON, strings in quotes too."""
    if not isinstance(metadata, dict):
        return {prefix: orjson.dumps(metadata).decode()}
    return {f"{prefix}.{key}": orjson.dumps(item).decode() for key, item in metadata.items() if item is not None}


def _length(value: Any) -> int:
    """About how long an attribute is."""
    return len(value) if isinstance(value, (str, list)) else 0


def _otlp(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Attributes as OTLP/JSON."""
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int) and -_INT64 <= value < _INT64:
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(item) for item in value]}}
    return {"stringValue": str(value)}
