"""Langfuse: takes our records, and owns the SDK's client for what is not hot.

The client serves prompts, datasets, `auth_check` and the application's own Langfuse code; its spans take the same way
as ours, through our exporter.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from langfuse import Langfuse as Client
from langfuse._client.resource_manager import LangfuseResourceManager
from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.context import Context as OtelContext
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, Tracer, format_span_id, format_trace_id
from opentelemetry.util._decorator import _agnosticcontextmanager

from metricx_observe.context import DETACHED, Context, current_cell
from metricx_observe.normalise import snapshot
from metricx_observe.signals.llm import current_observation
from metricx_observe.signals.records import ContextFacts, TraceFacts, context_facts, trace_facts

from .langfuse_channel import LangfuseChannel, ScoreChannel, SpanRecord, resource_attributes, trace_attributes
from .vendor import Opened, Target

if TYPE_CHECKING:
    from metricx_observe.settings import Settings

logger = logging.getLogger(__name__)

Put = Callable[[str, object, int], bool]

_ALL = 1 << 64
_ANY_SIZE = 1 << 30
"""The channel cuts what is too large, and counts it."""
_NO_CONTENT = "metricx.no_content"
"""Marks a span whose user did not allow content until it is exported; never sent."""


class Langfuse(Opened):
    """The LLM vendor: takes records, and owns the SDK's client on a TracerProvider of its own, never the global one."""

    def __init__(self, settings: Settings, target: Target, put: Put) -> None:
        """Start the SDK's client: `@observe` and `langfuse.openai` find it by `get_client()`, however late."""
        self.sink = self
        self._target = target
        self._send = put
        resource = Resource.create(resource_attributes(settings))
        sampler = TraceIdRatioBased(settings.langfuse_sample_rate)  # not by a client's traceparent
        self._bound = sampler.bound
        self._provider = _Provider(sampler, resource, shutdown_on_exit=False)
        self._provider.add_span_processor(_Identify())
        owned = target.key not in LangfuseResourceManager._instances
        if not owned:
            logger.warning("a Langfuse client with this public key exists already: its spans do not pass the outbox")
        self.client: Client | None = Client(
            public_key=target.key,
            secret_key=target.secret,
            base_url=target.url,
            environment=settings.environment_at("langfuse"),
            release=settings.release,
            tracer_provider=self._provider,
            span_exporter=SpanExport(put),
            flush_interval=0.2,  # the exporter is a hand-over: waiting longer would only lose more at kill -9
        )
        # None where the application owns it, or OTEL_SDK_DISABLED leaves the client without one
        self._manager = self.client._resources if owned else None
        if self._manager is not None:
            # its hook would block the interpreter's end while Langfuse is down; close() does what it does
            atexit.unregister(self._manager.shutdown)

    def put(self, type: str, record: bytes) -> bool:
        """Hand a frozen record to the channel of its type."""
        vendor = ScoreChannel.vendor if type == "score" else LangfuseChannel.vendor
        return self._send(vendor, record, len(record))

    def samples(self, trace_id: str) -> bool:
        """By LANGFUSE_SAMPLE_RATE, as OpenTelemetry's own sampler decides for the application's own spans."""
        return self._bound >= _ALL or int(trace_id[16:], 16) < self._bound

    def url(self, trace_id: str) -> str:
        """The trace's page, which finds its project by itself."""
        return f"{self._target.url}/trace/{trace_id}"

    def flush(self) -> None:
        """Hand over what the application's own Langfuse code has ended."""
        self._provider.force_flush(1_000)

    def stop(self, timeout_s: float) -> None:
        """Stop the client's threads, waiting no longer than `timeout_s` for what it holds itself."""
        self.client = None
        if self._manager is not None:
            # a later client with the same key would get this closed one; there is no public way to let go of it
            LangfuseResourceManager._instances.pop(self._target.key, None)
        self.flush()
        if self._manager is not None:
            end = partial(self._end, self._manager)
            worker = threading.Thread(target=end, name="metricx-langfuse-close", daemon=True)
            worker.start()
            worker.join(timeout_s)

    def _end(self, manager: LangfuseResourceManager) -> None:
        """What the manager leaves open: connections, and the provider's thread, which would keep delivery in memory."""
        manager.shutdown()
        manager.httpx_client.close()
        self._provider.shutdown()

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """A block that OpenTelemetry's instrumentations do not see. For delivery's threads."""
        token = otel_context.attach(otel_context.set_value(otel_context._SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            yield
        finally:
            otel_context.detach(token)


class _Provider(TracerProvider):
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

    def __init__(self, put: Put) -> None:
        self._put = put

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            record = snapshot(_read_span(span), [], _ANY_SIZE)
            self._put(LangfuseChannel.vendor, record, len(record))
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing of its own to close."""


def _read_span(span: ReadableSpan) -> SpanRecord:
    context = span.get_span_context() or otel_trace.INVALID_SPAN_CONTEXT
    attributes = dict(span.attributes or {})
    no_content = bool(attributes.pop(_NO_CONTENT, False))
    return {
        "trace_id": format_trace_id(context.trace_id),
        "id": format_span_id(context.span_id),
        "parent_id": format_span_id(span.parent.span_id) if span.parent else None,
        "name": span.name,
        "kind": span.kind.value + 1,  # OTLP counts from unspecified = 0
        "start_ns": span.start_time or 0,
        "end_ns": span.end_time or 0,
        "attributes": attributes,
        "events": [
            {"name": event.name, "time_ns": event.timestamp, "attributes": dict(event.attributes or {})}
            for event in span.events
        ],
        "status": {"code": span.status.status_code.value, "message": span.status.description or ""},
        "no_content": no_content,
    }


class _Identify(SpanProcessor):
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


_WHOSE = "_metricx_whose"


def _whose(cell: Context | None, given: Mapping[str, Any]) -> tuple[TraceFacts, ContextFacts | None]:
    """Whose a span is now; tags are metadata."""
    context = context_facts(cell)
    trace = trace_facts(context, given)
    return {**trace, "metadata": {**trace["metadata"], **(context["tags"] if context else {})}}, context
