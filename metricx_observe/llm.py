"""LLMTracer: begins traces, with the context of the request or job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from .boundary import Boundary
from .context import Context, current_cell
from .ids import new_id
from .llm_records import LLMSink
from .observation import Generation, Observation, Shared, Trace, current_observation

__all__ = ["Generation", "LLMTracer", "Observation", "Trace"]


class LLMTracer:
    """Makes LLM traces. Injected by `LLMTracerDep`, or `Observability.llm`. No method raises into the caller."""

    __slots__ = ("_boundary", "_cell", "_sink")

    def __init__(self, sink: LLMSink | None, boundary: Boundary, cell: Context | None = None) -> None:
        self._sink = sink
        self._boundary = boundary
        self._cell = cell

    def bound(self, cell: Context) -> LLMTracer:
        """The same tracer for one request, whatever thread it is used from."""
        return LLMTracer(self._sink, self._boundary, cell)

    @property
    def client(self) -> Any:
        """The Langfuse SDK's client, for prompts, datasets and `auth_check()`; None when Langfuse is off."""
        return self._sink.client if self._sink is not None else None

    def trace(
        self,
        name: str,
        *,
        input: object = None,
        user_id: object = None,
        workspace_id: object = None,
        session_id: object = None,
        metadata: Mapping[str, Any] | None = None,
        tags: Sequence[str] | None = None,
        start_time: datetime | None = None,
    ) -> Trace:
        """Begin one unit of LLM work.

        Inside the block of another trace of the same request it becomes a part of that one. Without `user_id` and
        `workspace_id` it belongs to those that are bound when it ends.
        """
        cell = self._cell or current_cell()
        parent = current_observation()
        if parent is not None and parent._tracer._cell_now() is cell:
            shared, trace_id, parent_id = parent._shared, parent.trace_id, parent.id
        else:
            shared, trace_id, parent_id = Shared(), new_id(), None
            if cell is not None and cell.state.request_id:
                cell.llm_trace_id = trace_id
        tracer = LLMTracer(self._sink, self._boundary, cell)
        trace = Trace(tracer, shared, trace_id, parent_id, "span", name, start_time)
        if parent_id is None:
            shared.name = trace.name
        owner: dict[str, Any] = {"user_id": user_id, "workspace_id": workspace_id, "session_id": session_id}
        trace.update(input=input, metadata=metadata, tags=tags, **owner)
        return trace

    def _cell_now(self) -> Context | None:
        return self._cell
