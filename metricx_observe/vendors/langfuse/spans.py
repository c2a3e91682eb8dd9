"""Spans of the application's own Langfuse code: nested under our observations, with our user, frozen when exported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from langfuse import LangfuseOtelSpanAttributes as Key
from opentelemetry import trace as otel_trace
from opentelemetry.context import Context as OtelContext
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, Tracer, format_span_id, format_trace_id
from opentelemetry.util._decorator import _agnosticcontextmanager

from metricx_observe.context import DETACHED, Context, current_cell
from metricx_observe.normalise import snapshot
from metricx_observe.signals.llm import current_observation
from metricx_observe.signals.records import ContextFacts, TraceFacts, context_facts, trace_facts

from .channel import SpanEvent, SpanRecord, trace_attributes

_ANY_SIZE = 1 << 30
"""The channel cuts what is too large, and counts it."""
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
_NO_CONTENT = "metricx.no_content"
"""Marks a span whose user did not allow content until it is exported; never sent."""
_WHOSE = "_metricx_whose"


class NestingProvider(TracerProvider):
    """Gives tracers whose spans nest under the observation whose block runs.

    Not by putting the observation into OpenTelemetry's context: the application's other spans would take it for their
    parent, and each block would pay for it.
    """

    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:
        return _Tracer(super().get_tracer(*args, **kwargs))


class _Tracer(Tracer):
    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def start_span(self, name: str, context: OtelContext | None = None, *args: Any, **kwargs: Any) -> otel_trace.Span:
        return self._tracer.start_span(name, _beneath() if context is None else context, *args, **kwargs)

    @_agnosticcontextmanager  # as the SDK's: also a decorator, and asks where it is at each call
    def start_as_current_span(
        self, name: str, context: OtelContext | None = None, *args: Any, **kwargs: Any
    ) -> Iterator[otel_trace.Span]:
        context = _beneath() if context is None else context
        with self._tracer.start_as_current_span(name, context, *args, **kwargs) as span:
            yield span


def _beneath() -> OtelContext | None:
    """The context of a new span's parent: of our observation, unless a Langfuse span began inside its block."""
    observation, running = current_observation(), otel_trace.get_current_span()
    if observation is None:
        return None
    trace_id = int(observation.trace_id, 16)
    inside = isinstance(running, ReadableSpan) and (running.start_time or 0) >= observation.start_ns
    where = running.get_span_context()
    if inside and where.trace_id == trace_id:
        return None
    if isinstance(running, NonRecordingSpan) and where.is_valid and where.trace_flags.sampled and not where.is_remote:
        return None  # the SDK's `trace_context=`: the application says where it belongs
    ours = SpanContext(trace_id, int(observation.id, 16), False, TraceFlags(TraceFlags.SAMPLED))
    return otel_trace.set_span_in_context(NonRecordingSpan(ours))


class SpanExport(SpanExporter):
    """Hands spans of the application's own Langfuse code to the channel."""

    def __init__(self, put: Callable[[bytes, int], object]) -> None:
        self._put = put

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            record = snapshot(_read_span(span), [], _ANY_SIZE)
            self._put(record, len(record))
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing of its own to close."""


def _read_span(span: ReadableSpan) -> SpanRecord:
    context = span.get_span_context() or otel_trace.INVALID_SPAN_CONTEXT
    attributes = dict(span.attributes or {})
    events: list[SpanEvent] = [
        {"name": event.name, "time_ns": event.timestamp, "attributes": dict(event.attributes or {})}
        for event in span.events
    ]
    if attributes.pop(_NO_CONTENT, False):
        attributes = {key: value for key, value in attributes.items() if not key.startswith(_CONTENT_KEYS)}
        for event in events:
            event["attributes"] = event["attributes"] if event["name"] == _EXCEPTION else {}
    return {
        "trace_id": format_trace_id(context.trace_id),
        "id": format_span_id(context.span_id),
        "parent_id": format_span_id(span.parent.span_id) if span.parent else None,
        "name": span.name,
        "kind": span.kind.value + 1,  # OTLP counts from unspecified = 0
        "start_ns": span.start_time or 0,
        "end_ns": span.end_time or 0,
        "attributes": attributes,
        "events": events,
        "status": {"code": span.status.status_code.value, "message": span.status.description or ""},
    }


class Identify(SpanProcessor):
    """Puts our user, session and trace fields on the application's own spans, and whether their content may be sent.

    When they start, for whoever reads them meanwhile, and again when they end: who is bound and what is allowed then
    counts, as it does for our own observations.
    """

    def __init__(self) -> None:
        self._open = WeakValueDictionary[int, partial[Any]]()
        """By span id. A span may end on another thread, or in another request; one may never end."""

    def on_start(self, span: Span, parent_context: OtelContext | None = None) -> None:  # noqa: ARG002
        observation, cell = current_observation(), current_cell()
        if observation is not None and int(observation.trace_id, 16) == span.get_span_context().trace_id:
            whose = partial(_whose, observation._tracer._cell, observation._shared.facts)
        elif cell is not None and cell is not DETACHED:
            whose = partial(_whose, cell, {})
        else:
            return
        setattr(span, _WHOSE, whose)  # lives as long as the span does
        self._open[span.get_span_context().span_id] = whose
        span.set_attributes(trace_attributes(*whose()))

    def on_end(self, span: ReadableSpan) -> None:
        """Before the exporter gets this copy of the span: the span itself takes no attribute any more."""
        context = span.get_span_context()
        whose = None if context is None else self._open.pop(context.span_id, None)
        if whose is not None:
            trace, request = whose()
            refused = request is not None and request["consent"]["llm_content"] is False
            found = {**(span.attributes or {}), **trace_attributes(trace, request)}
            span._attributes = {**found, _NO_CONTENT: True} if refused else found

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002
        """Holds nothing. The base class says None in OpenTelemetry 1.33, and those behind it are then not asked."""
        return True


def _whose(cell: Context | None, given: Mapping[str, Any]) -> tuple[TraceFacts, ContextFacts | None]:
    """Whose a span is now; tags are metadata."""
    context = context_facts(cell)
    trace = trace_facts(context, given)
    return {**trace, "metadata": {**trace["metadata"], **(context["tags"] if context else {})}}, context
