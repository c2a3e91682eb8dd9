"""Observations: traces, generations, spans and tools as light records with start and end times of their own.

A `with` block ends its observation; an exception inside marks it failed and goes on. The blocks are synchronous and
work in async code too: nothing in them waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from math import isfinite
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .context import text_id
from .ids import new_id, new_span_id
from .llm_records import ObservationRecord, ScoreRecord, TraceFacts, facts_of
from .normalise import Notes, line, moment, plain, snapshot
from .usage import read_response, usage_details

if TYPE_CHECKING:
    from .llm import LLMTracer

logger = logging.getLogger(__name__)

_current: ContextVar[Observation | None] = ContextVar("metricx_observe_observation", default=None)
_JSON = ("input", "output", "metadata", "model_parameters")
_CONTENT = frozenset({"input", "output"})
_MAX_TEXT = 10_000
_MAX_TAGS = 50
_LEVELS = ("DEBUG", "DEFAULT", "WARNING", "ERROR")


class Shared:
    """What all observations of one trace share."""

    __slots__ = ("last_end_ns", "metadata", "name", "session_id", "tags", "user_id", "workspace_id")

    def __init__(self) -> None:
        self.name = ""
        self.user_id: str | None = None
        self.workspace_id: str | None = None
        self.session_id: str | None = None
        self.tags: tuple[str, ...] = ()
        self.metadata: dict[str, Any] = {}
        self.last_end_ns = 0


class Observation:
    """A span, tool, generation or trace. `id` and `trace_id` are the very ids on the wire."""

    __slots__ = (
        "_before", "_ended", "_fields", "_otel_before", "_shared", "_texts", "_tracer", "id", "name", "parent_id",
        "start_ns", "trace_id", "type",
    )  # fmt: skip

    def __init__(
        self,
        tracer: LLMTracer,
        shared: Shared,
        trace_id: str,
        parent_id: str | None,
        type: str,
        name: object,
        start_time: datetime | None = None,
    ) -> None:
        self._tracer = tracer
        self._shared = shared
        self._fields: dict[str, bytes] = {}
        self._texts: dict[str, str] = {}
        self._ended = False
        self._before: Observation | None = None
        self._otel_before: object = None
        self.trace_id = trace_id
        self.id = new_span_id()
        self.parent_id = parent_id
        self.type = type
        notes: Notes = []
        self.name = _name(name, notes)
        self.start_ns = _ns(start_time, notes)
        tracer._boundary.note(type, notes)

    @property
    def url(self) -> str | None:
        """Where Langfuse shows this trace; None when Langfuse is off."""
        sink = self._tracer._sink
        return sink.url(self.trace_id) if sink is not None else None

    def span(self, name: str, **fields: Any) -> Observation:
        """A step that is no LLM call. Takes what `update` takes."""
        return Observation(self._tracer, self._shared, self.trace_id, self.id, "span", name).update(**fields)

    def tool(self, name: str, **fields: Any) -> Observation:
        """A tool call."""
        return Observation(self._tracer, self._shared, self.trace_id, self.id, "tool", name).update(**fields)

    def generation(
        self,
        name: str,
        *,
        model: str | None = None,
        input: object = None,
        model_parameters: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        start_time: datetime | None = None,
    ) -> Generation:
        """An LLM call."""
        call = Generation(self._tracer, self._shared, self.trace_id, self.id, "generation", name, start_time)
        return call.update(input=input, metadata=metadata, model=model, model_parameters=model_parameters)

    def update(
        self,
        *,
        input: object = None,
        output: object = None,
        metadata: Mapping[str, Any] | None = None,
        level: str | None = None,
        status_message: object = None,
        **more: Any,
    ) -> Self:
        """Set fields; None leaves one as it is. Values are copied as they are now.

        Args:
            level: DEBUG, DEFAULT, WARNING or ERROR.
            status_message: Why it failed.
            more: `model`, `model_parameters`, `usage`, `cost`, `completion_start_time` of a generation; `user_id`,
                `session_id`, `tags` of a trace.
        """
        with self._tracer._boundary(f"{self.type}.update"):
            notes: Notes = ["updated after its end"] if self._ended else []
            fields = {"input": input, "output": output, "metadata": metadata, "level": level, **more}
            for key, value in {**fields, "status_message": status_message}.items():
                if value is not None:
                    try:
                        self._set(key, value, notes)
                    except Exception:
                        notes.append(f"unusable {key[:40]}")
            self._tracer._boundary.note(self.type, dict.fromkeys(notes))
        return self

    def _set(self, key: str, value: Any, notes: Notes) -> None:
        if key in _JSON:
            if key not in _CONTENT or not self._without_content():
                self._fields[key] = snapshot(value, notes)
        elif key in _NUMBERS:
            counts = _NUMBERS[key](value)
            if counts:
                self._fields[key] = snapshot(counts, notes)
            else:
                notes.append(f"no numbers in {key}")
        elif key == "model":
            self._texts[key] = line(value, notes)
        elif key == "status_message":
            self._texts[key] = _text(value, notes)
        elif key == "level":
            level = line(value, notes).upper()
            self._texts[key] = level if level in _LEVELS else "DEFAULT"
        elif key == "completion_start_time":
            if (time := moment(value, notes)) is not None:
                self._texts[key] = time.isoformat().replace("+00:00", "Z")
        else:
            notes.append(f"unknown field {key[:40]}")

    def _without_content(self) -> bool:
        cell = self._tracer._cell
        return cell is not None and cell.state.consent.llm_content is False

    def fail(self, error: BaseException | str) -> Self:
        """Mark it failed, with the reason."""
        return self.update(level="ERROR", status_message=error)

    def score(self, name: str, value: float | str | bool, *, comment: str | None = None) -> str | None:
        """Give a score to this observation. Returns the score's id; None when Langfuse is off."""
        with self._tracer._boundary("score"):
            sink = self._tracer._sink
            if sink is None:
                return None
            data_type, notes = "NUMERIC", Notes()
            if isinstance(value, (bool, str)):
                data_type = "BOOLEAN" if isinstance(value, bool) else "CATEGORICAL"
            number: float | str = line(value, notes, 500) if isinstance(value, str) else float(value)
            if isinstance(number, float) and not isfinite(number):
                raise ValueError("not a number")
            record = ScoreRecord(
                new_id(), self._facts(), self.trace_id, self.id, _name(name, notes), number, data_type,
                None if comment is None else _text(comment, notes), datetime.now(UTC),
            )  # fmt: skip
            self._tracer._boundary.note("score", dict.fromkeys(notes))
            return record.id if sink.put(record, 600) else None
        return None

    def end(self, end_time: datetime | None = None) -> None:
        """End it, once; a `with` block does it."""
        with self._tracer._boundary(f"{self.type}.end"):
            if self._ended:
                return
            self._ended = True
            notes: Notes = []
            end_ns = max(_ns(end_time, notes), self.start_ns)
            self._tracer._boundary.note(self.type, notes)
            self._shared.last_end_ns = max(self._shared.last_end_ns, end_ns)
            self._put(end_ns)

    def _put(self, end_ns: int) -> None:
        sink, cell = self._tracer._sink, self._tracer._cell
        if sink is None:
            return
        # given away: an update after the end must not change what the writer is reading
        fields, texts, self._fields, self._texts = self._fields, self._texts, {}, {}
        record = ObservationRecord(
            self._facts(), self.trace_id, self.id, self.parent_id, self.type, self.name, self.start_ns, end_ns,
            fields, texts,
        )  # fmt: skip
        if sink.put(record, 900 + sum(map(len, fields.values()))) and cell is not None:
            cell.put = True
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s %s trace_id=%s level=%s", self.type, self.name, self.trace_id, texts.get("level", ""))

    def _facts(self) -> TraceFacts:
        shared, cell = self._shared, self._tracer._cell
        found = facts_of(cell.state if cell is not None and cell.state.request_id else None)
        return found._replace(
            name=shared.name,
            user_id=shared.user_id or found.user_id,
            workspace_id=shared.workspace_id or found.workspace_id,
            session_id=shared.session_id,
            tags=shared.tags,
            metadata=snapshot(shared.metadata, []) if shared.metadata else None,
        )

    def __enter__(self) -> Self:
        self._before = current_observation()
        _current.set(self)
        with self._tracer._boundary("llm"):
            if self._tracer._sink is not None:
                self._otel_before = self._tracer._sink.attach(self.trace_id, self.id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Only where it is the current one, and not by token: a streamed answer's block may end in another Context.
        if _current.get() is self:
            _current.set(self._before)
            with self._tracer._boundary("llm"):
                if self._tracer._sink is not None:
                    self._tracer._sink.detach(self._otel_before)
        self._otel_before = None
        if isinstance(error, Exception):
            self.fail(error)
        elif error is not None:
            self.update(level="WARNING", status_message="cancelled")
        self.end()


class Trace(Observation):
    """One unit of LLM work: the observation without a parent."""

    __slots__ = ()

    def _set(self, key: str, value: Any, notes: Notes) -> None:
        shared = self._shared
        if key in ("user_id", "session_id", "workspace_id"):
            setattr(shared, key, text_id(value))
            if getattr(shared, key) is None:
                notes.append(f"unusable {key}")
        elif key == "tags":
            found = plain(value, notes)
            shared.tags = tuple(line(tag, notes) for tag in (found if isinstance(found, list) else [found])[:_MAX_TAGS])
        elif key == "metadata":
            found = plain(value, notes)
            shared.metadata = {**shared.metadata, **(found if isinstance(found, dict) else {"metadata": found})}
        else:
            super()._set(key, value, notes)

    @property
    def last_end_ns(self) -> int:
        """When the last observation of this trace ended; its own start before that. Nanoseconds since the epoch."""
        return self._shared.last_end_ns or self.start_ns


class Generation(Observation):
    """An LLM call."""

    __slots__ = ()

    def record(self, response: object) -> Self:
        """Read model, output and token usage from a provider's response (Anthropic, OpenAI, or a dict like theirs)."""
        with self._tracer._boundary("generation.record"):
            self.update(**read_response(response))
        return self


def current_observation() -> Observation | None:
    """The observation whose `with` block runs here.

    Blocks in generators of one Context may end in any order: one that has ended is never the current one.
    """
    found = _current.get()
    while found is not None and found._ended:
        found = found._before
    return found


def _name(value: object, notes: Notes) -> str:
    return line(value, notes).strip() or "unnamed"


def _text(value: object, notes: Notes) -> str:
    found = plain(value, notes, _MAX_TEXT)
    return found if isinstance(found, str) else str(found)


def _ns(time: object, notes: Notes) -> int:
    """Of `time`, else of now. Whole microseconds, which is what a datetime has: a length that was given is exact."""
    given = moment(time, notes)
    us = round(given.timestamp() * 1e6) if given is not None else time_ns() // 1000
    return us * 1000


def _costs(value: object) -> dict[str, float]:
    """Costs in USD by kind; a plain number is the total."""
    found = plain(value)
    costs = found if isinstance(found, dict) else {"total": found}
    return {key: cost for key, cost in costs.items() if isinstance(cost, (int, float)) and not isinstance(cost, bool)}


_NUMBERS: Mapping[str, Callable[[object], Mapping[str, float]]] = {"usage": usage_details, "cost": _costs}
