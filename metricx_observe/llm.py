"""LLMTracer: begins traces, with the context of the request or job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from .boundary import Facade
from .llm_records import LLMSink
from .observation import Generation, Observation, Trace, current_observation

_O = TypeVar("_O", bound=Observation)

__all__ = ["Generation", "LLMTracer", "Observation", "Trace"]


class LLMTracer(Facade[LLMSink]):
    """Makes LLM traces. Injected by `LLMTracerDep`, or `Observability.llm`. No method raises into the caller."""

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
        return self._begin(Trace, "span", name, start_time).update(
            input=input, metadata=metadata, tags=tags, user_id=user_id, workspace_id=workspace_id, session_id=session_id
        )

    def generation(
        self, name: str, *, model: str | None = None, start_time: datetime | None = None, **fields: Any
    ) -> Generation:
        """Begin an LLM call: a part of the trace whose block runs here, else a trace of that one call.

        Takes what `Generation.update` takes: `input`, `model_parameters`, `metadata`, …
        """
        return self._begin(Generation, "generation", name, start_time).update(model=model, **fields)

    def _begin(self, kind: type[_O], type: str, name: str, start_time: datetime | None) -> _O:
        cell, parent = self._cell_now(), current_observation()
        if parent is not None and parent._tracer._cell is not cell:
            parent = None
        observation = kind(self if self._cell is cell else self.bound(cell), parent, type, name, start_time)
        if parent is None and cell is not None:
            cell.llm_trace_id = observation.trace_id
        return observation
