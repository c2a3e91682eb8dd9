"""LLM traces, generations, spans and tools: observations with start and end times of their own.

A `with` block ends its observation; an exception inside marks it failed and goes on. The blocks are synchronous and
work in async code too: nothing in them waits.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from math import isfinite
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self, TypeVar

from metricx_observe.boundary import Facade
from metricx_observe.ids import new_id, new_span_id
from metricx_observe.normalise import Notes, as_text, freeze, mapping, short_text, shown_name

from .fields import READ, READ_TRACE, observation_name, time_in_ns
from .records import ObservationRecord, ScoreRecord, context_facts, trace_facts
from .usage import read_response

logger = logging.getLogger("metricx_observe.observation")

_O = TypeVar("_O", bound="Observation")
_current: ContextVar[Observation | None] = ContextVar("metricx_observe_observation", default=None)


class LLMSink(Protocol):
    """The LLM vendor, as the facade sees it."""

    @property
    def client(self) -> Any:
        """The vendor's own client."""

    def put(self, type: str, record: bytes) -> bool: ...
    def url(self, trace_id: str) -> str: ...
    def samples(self, trace_id: str) -> bool: ...


class _Shared:
    """What holds for all observations of a trace: what the application gave, by the names of `TraceFacts`."""

    def __init__(self, name: str) -> None:
        self.facts: dict[str, Any] = {"name": name}
        self.last_end_ns = 0


class Observation:
    """A span, tool, generation or trace. `id` and `trace_id` are the very ids on the wire."""

    __slots__ = (
        "_ended", "_fields", "_guard", "_shared", "_token", "_tracer", "id", "name", "parent_id", "start_ns",
        "trace_id", "type",
    )  # fmt: skip

    _of_trace: ClassVar[frozenset[str]] = frozenset()
    """Fields that hold for all of the trace."""

    def __init__(
        self, tracer: LLMTracer, parent: Observation | None, type: str, name: object, start_time: datetime | None = None
    ) -> None:
        self._tracer = tracer
        self._fields: dict[str, Any] = {}
        self._ended = False
        self._token: Token[Observation | None] | None = None
        self.trace_id: str = new_id() if parent is None else parent.trace_id
        self.id = new_span_id()
        self.parent_id = None if parent is None else parent.id
        self.type = type
        self._guard = tracer._boundary(type)
        with self._guard as notes:
            self.name = observation_name(name, notes)
            self.start_ns = time_in_ns(start_time, notes)
        self._shared: _Shared = _Shared(self.name) if parent is None else parent._shared

    @property
    def url(self) -> str | None:
        """Where Langfuse shows this trace; None when Langfuse is off."""
        sink = self._tracer._sink
        return sink.url(self.trace_id) if sink is not None else None

    def span(self, name: str, *, start_time: datetime | None = None, **fields: Any) -> Observation:
        """A step that is no LLM call. Takes what `update` takes."""
        return Observation(self._tracer, self, "span", name, start_time).update(**fields)

    def tool(self, name: str, *, start_time: datetime | None = None, **fields: Any) -> Observation:
        """A tool call. Takes what `update` takes."""
        return Observation(self._tracer, self, "tool", name, start_time).update(**fields)

    def generation(
        self, name: str, *, model: str | None = None, start_time: datetime | None = None, **fields: Any
    ) -> Generation:
        """An LLM call. Takes what `update` takes: `input`, `model_parameters`, `metadata`, …"""
        call = Generation(self._tracer, self, "generation", name, start_time)
        return call.update(model=model, **fields)

    def update(self, *, input: object = None, output: object = None, **more: Any) -> Self:
        """Set fields; None leaves one as it is. Values are copied as they are now.

        Args:
            input: Anything; `output` as well.
            more: `metadata`, a mapping; `level`: DEBUG, DEFAULT, WARNING or ERROR; `status_message`: why it failed.
                Of a generation: `model`, `model_parameters`, `usage` (whole numbers by kind), `cost` (USD, by kind or
                in all), `completion_start_time`. Of a trace: `user_id`, `workspace_id`, `session_id`, `tags`.
        """
        if self._ended:
            with self._guard as notes:
                notes.append("updated after its end")
        for key, value in (("input", input), ("output", output), *more.items()):
            if value is not None:
                with self._guard as notes:  # one that cannot be read costs no other field
                    self._set(key, value, notes)
        return self

    def _set(self, key: str, value: Any, notes: Notes) -> None:
        facts = self._shared.facts
        if key not in self._of_trace:
            found = READ[key](value, notes) if key in READ else None
            if found is None:
                notes.append(f"unusable {shown_name(key)}")
            else:
                self._fields[key] = found
        elif key == "metadata":
            facts[key] = {**facts.get(key, {}), **mapping(value, notes)}
        else:
            facts[key] = READ_TRACE[key](value, notes)

    def fail(self, error: BaseException | str) -> Self:
        """Mark it failed, with the reason."""
        return self.update(level="ERROR", status_message=error)

    def score(self, name: str, value: float | str | bool, *, comment: str | None = None) -> str | None:
        """Give a score to this observation. Returns the score's id; None when Langfuse is off."""
        with self._tracer._boundary("score") as notes:
            sink = self._tracer._sink
            number = short_text(value, notes, 500) if isinstance(value, str) else float(value)
            if isinstance(number, float) and not isfinite(number):
                raise ValueError("not a number")
            kind = "BOOLEAN" if isinstance(value, bool) else "CATEGORICAL" if isinstance(value, str) else "NUMERIC"
            context = context_facts(self._tracer._cell)
            record: ScoreRecord = {
                "type": "score",
                "id": new_id(),
                "trace_id": self.trace_id,
                "observation_id": self.id,
                "name": observation_name(name, notes),
                "value": number,
                "data_type": kind,
                "comment": None if comment is None else as_text(comment, notes),
                "timestamp": datetime.now(UTC).isoformat(),
                "trace": trace_facts(context, self._shared.facts),
                "context": context,
            }
            sends = sink is not None and sink.samples(self.trace_id) and sink.put("score", freeze(record))
            return record["id"] if sends else None
        return None

    def end(self, end_time: datetime | None = None) -> None:
        """End it, once; a `with` block does it."""
        with self._guard as notes:
            if not self._ended:
                self._ended = True
                end_ns = max(time_in_ns(end_time, notes), self.start_ns)
                self._shared.last_end_ns = max(self._shared.last_end_ns, end_ns)
                self._put(end_ns)

    def _put(self, end_ns: int) -> None:
        sink, cell = self._tracer._sink, self._tracer._cell
        if sink is None or not sink.samples(self.trace_id):
            return
        context = context_facts(cell)
        record: ObservationRecord = {
            "type": self.type,
            "id": self.id,
            "trace_id": self.trace_id,
            "parent_id": self.parent_id,
            "name": self.name,
            "start_ns": self.start_ns,
            "end_ns": end_ns,
            "fields": self._fields,
            "trace": trace_facts(context, self._shared.facts),
            "context": context,
        }
        if sink.put(self.type, freeze(record)) and cell is not None:
            cell.put = True
        level = self._fields.get("level", "")
        logger.info("%s %s trace_id=%s level=%s", self.type, shown_name(self.name), self.trace_id, level)

    def __enter__(self) -> Self:
        if self._token is None:
            if (before := _current.get()) is not None and before._ended:
                _current.set(current_observation())  # or a task's ended ones would hang on one another for ever
            self._token = _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None and _current.get() is self:
            try:
                _current.reset(self._token)
            except ValueError:  # a streamed answer's block may end in another Context, which refuses the token
                pass
        if isinstance(error, Exception):
            self.fail(error)
        elif error is not None:
            self.update(level="WARNING", status_message="cancelled")
        self.end()


class Trace(Observation):
    """One unit of LLM work: the observation without a parent."""

    __slots__ = ()

    _of_trace = frozenset({"metadata", "user_id", "workspace_id", "session_id", "tags"})

    @property
    def last_end_ns(self) -> int:
        """When the last observation of this trace ended; its own start before that. Nanoseconds since the epoch."""
        return self._shared.last_end_ns or self.start_ns


class Generation(Observation):
    """An LLM call."""

    __slots__ = ()

    def record(self, response: object) -> Self:
        """Read model, output and token usage from a provider's response: Anthropic's, OpenAI's, or a dict or any object
        with their keys or attributes. One with neither output nor usage becomes the output as it is, and is counted."""
        fields: dict[str, Any] = {}
        with self._guard as notes:
            fields = read_response(response, notes)
        return self.update(**fields)


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


def current_observation() -> Observation | None:
    """The observation whose `with` block runs here.

    Blocks in generators of one Context may end in any order: one that has ended is never the current one.
    """
    found = _current.get()
    while found is not None and found._ended:
        before = found._token.old_value if found._token is not None else None
        found = before if isinstance(before, Observation) else None
    return found
