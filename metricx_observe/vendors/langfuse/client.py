"""Langfuse: takes our records, and owns the SDK's client for what is not hot.

The client serves prompts, datasets, `auth_check` and the application's own Langfuse code; its spans take the same way
as ours, through our exporter.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from langfuse import Langfuse as Client
from langfuse._client.resource_manager import LangfuseResourceManager
from opentelemetry import context as otel_context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from metricx_observe.vendors.vendor import Opened, Target

from .channel import LangfuseChannel, ScoreChannel, resource_attributes
from .spans import Identify, NestingProvider, SpanExport

if TYPE_CHECKING:
    from metricx_observe.settings import Settings

logger = logging.getLogger(__name__)

Put = Callable[[str, object, int], bool]

_ALL = 1 << 64


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
        self._provider = NestingProvider(sampler, resource, shutdown_on_exit=False)
        self._provider.add_span_processor(Identify())
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
            span_exporter=SpanExport(partial(put, LangfuseChannel.vendor)),
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
