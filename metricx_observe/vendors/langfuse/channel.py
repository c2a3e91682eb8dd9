"""Langfuse's channels: observations as OTLP/JSON, and scores.

Encoding a span as OTLP/JSON costs 4 us, by OpenTelemetry's protobuf encoder 55; `tests/test_vendor_langfuse.py` holds
ours against what the SDK emits for the same observations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

import orjson
from langfuse import LangfuseOtelSpanAttributes as Key
from langfuse import __version__ as sdk_version

from metricx_observe.delivery.channel import Described, Message, Post
from metricx_observe.scrubber import Scrubber, one_signal
from metricx_observe.signals.records import ContextFacts, ObservationRecord, ScoreRecord, TraceFacts
from metricx_observe.vendors.json_channel import JsonChannel
from metricx_observe.vendors.vendor import Target

from .otlp import MAX_SPAN, otlp_attributes, span_json, within_bounds

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
_TAIL = b"]}]}]}"
"""Of an export, behind its spans."""


class SpanEvent(TypedDict):
    """Of a span of the application's own."""

    name: str
    time_ns: int
    attributes: dict[str, Any]


class SpanRecord(TypedDict):
    """A span of the application's own Langfuse code, frozen when the SDK exports it: of content, what is allowed."""

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


class _Channel(JsonChannel):
    """What both of Langfuse's endpoints share."""

    path: str

    def __init__(self, target: Target) -> None:
        super().__init__(target, self.path, shown_path=self.path)
        self._headers |= {
            "x-langfuse-sdk-name": "python",
            "x-langfuse-sdk-version": sdk_version,
            "x-langfuse-public-key": target.key,
            "x-langfuse-ingestion-version": "4",
        }


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
        self._clean = scrubber.scrub
        self._note = note
        resource = {"service.name": settings.service_name} | resource_attributes(settings)
        scope = {"name": "langfuse-sdk", "version": sdk_version}
        self._base = resource_attributes(settings)
        head = {"resource": {"attributes": otlp_attributes(resource)}, "scopeSpans": [
            {"scope": {**scope, "attributes": otlp_attributes({"public_key": target.key})}, "spans": []}
        ]}  # fmt: skip
        self._head = orjson.dumps({"resourceSpans": [head]}).removesuffix(_TAIL)

    @one_signal()
    def encode(self, record: bytes) -> Sequence[Message]:
        """A frozen `ObservationRecord`, or a `SpanRecord` of the application's own Langfuse code."""
        known = orjson.loads(record)
        span = self._own_span(known) if "attributes" in known else self._span(known)
        data = span_json(span)
        if len(data) > MAX_SPAN:
            self._note(known.get("type", "observation"), ["too large"])
            data = within_bounds(span)
        return [Message("trace", data)]

    def _span(self, record: ObservationRecord) -> dict[str, Any]:
        """An observation as a span with the SDK's attributes, scrubbed."""
        type, fields, context = record["type"], record["fields"], record["context"]
        attributes = {**self._trace_attributes(record["trace"], context), Key.OBSERVATION_TYPE: type}
        name = self._clean(record["name"], type, "name")
        refused = _CONTENT if context and context["consent"]["llm_content"] is False else ()
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
        attributes |= self._base
        return {**record, "name": name, "kind": 1, "attributes": attributes, "events": [], "status": status}

    def _trace_attributes(self, trace: TraceFacts, context: ContextFacts | None) -> dict[str, Any]:
        metadata = {**trace["metadata"], **(context["tags"] if context else {})}
        scrubbed: TraceFacts = {
            **trace,
            "name": self._clean(trace["name"], "trace", "name"),
            "session_id": trace["session_id"] and self._clean(trace["session_id"], "trace", "session"),
            "tags": trace["tags"] and self._clean(trace["tags"], "trace", "tags"),
            "metadata": metadata and self._clean(metadata, "trace", "metadata"),
        }
        return trace_attributes(scrubbed, context)

    def _own_span(self, record: SpanRecord) -> dict[str, Any]:
        """A span of the application's own, scrubbed."""
        clean = partial(self._clean, signal="observation")
        # the smallest first: the others may take the scrubber's time
        smallest_first = dict(sorted(record["attributes"].items(), key=lambda item: len(str(item[1]))))
        return {
            **record,
            "status": {**record["status"], "message": clean(record["status"]["message"], place="status")},
            "name": clean(record["name"], place="name"),
            "attributes": clean(smallest_first, place="attributes") | self._base,
            "events": [
                {
                    **event,
                    "name": clean(event["name"], place="events"),
                    "attributes": clean(event["attributes"], place="events"),
                }
                for event in record["events"]
            ],
        }

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
