"""Observations: traces, generations, spans and tools as light records with start and end times of their own.

A `with` block ends its observation; an exception inside marks it failed and goes on. The blocks are synchronous and
work in async code too: nothing in them waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from math import isfinite
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import orjson

from .ids import new_id, new_span_id
from .interrupts import is_interrupt
from .llm_records import ObservationRecord, ScoreRecord, TraceFacts
from .normalise import Notes, Texts, as_text, content, identifier, line, mapping, moment, plain, shown_name, snapshot
from .usage import cost_details, read_response, usage_details

if TYPE_CHECKING:
    from .llm import LLMTracer

logger = logging.getLogger(__name__)

_current: ContextVar[Observation | None] = ContextVar("metricx_observe_observation", default=None)
_MAX_TAGS = 50
_LEVELS = ("DEBUG", "DEFAULT", "WARNING", "ERROR")


class Observation:
    """A span, tool, generation or trace. `id` and `trace_id` are the very ids on the wire."""

    __slots__ = (
        "_above", "_block", "_ended", "_fields", "_last_end_ns", "_token", "_trace_facts", "_tracer", "id", "name",
        "parent_id", "start_ns", "trace_id", "type",
    )  # fmt: skip

    _shared: ClassVar[frozenset[str]] = frozenset()
    """Fields that hold for all of the trace."""

    def __init__(
        self,
        tracer: LLMTracer,
        parent: Observation | None,
        type: str,
        name: object,
        start_time: datetime | None = None,
    ) -> None:
        self._tracer = tracer
        self._above = None if parent is None else parent._root
        self._fields: dict[str, bytes | str | Texts] = {}
        self._ended = False
        self._token: Token[Observation | None] | None = None
        self.trace_id: str = new_id() if parent is None else parent.trace_id
        self.id = new_span_id()
        self.parent_id = None if parent is None else parent.id
        self.type = type
        self._trace_facts: TraceFacts | None = None
        """Those of the root hold for all of its trace, and so does its `_last_end_ns`. None: its name alone."""
        self._last_end_ns = 0
        self._block = tracer._boundary(type)
        with self._block as notes:
            self.name = _name(name, notes)
            self.start_ns = _ns(start_time, notes)

    @property
    def _root(self) -> Observation:
        return self if self._above is None else self._above  # no reference to itself: that takes the collector to free

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
        with self._block as notes:
            if self._ended:
                notes.append("updated after its end")
            failed, fields, shared = None, self._fields, self._shared
            for key, value in (("input", input), ("output", output), *more.items()):
                if value is None:
                    continue
                try:
                    if key in shared:
                        self._share(key, value, notes)
                    elif key in _READ and (found := _READ[key](value, notes)) is not None:
                        fields[key] = found
                    else:
                        notes.append(f"unusable {shown_name(key)}")
                except Exception as error:  # counted below: it costs no other field
                    if is_interrupt(error):
                        raise
                    failed = error
            if failed is not None:
                raise failed
        return self

    def _share(self, key: str, value: Any, notes: Notes) -> None:
        root = self._root
        facts = root._trace_facts or TraceFacts(root.name)
        if key == "metadata":
            root._trace_facts = facts._replace(metadata={**facts.metadata, **mapping(value, notes)})
        else:
            root._trace_facts = facts._replace(**{key: _READ_TRACE[key](value, notes)})

    def fail(self, error: BaseException | str) -> Self:
        """Mark it failed, with the reason."""
        return self.update(level="ERROR", status_message=error)

    def score(self, name: str, value: float | str | bool, *, comment: str | None = None) -> str | None:
        """Give a score to this observation. Returns the score's id; None when Langfuse is off."""
        with self._tracer._boundary("score") as notes:
            sink, number = self._tracer._sink, line(value, notes, 500) if isinstance(value, str) else float(value)
            if isinstance(number, float) and not isfinite(number):
                raise ValueError("not a number")
            kind = "BOOLEAN" if isinstance(value, bool) else "CATEGORICAL" if isinstance(value, str) else "NUMERIC"
            record = ScoreRecord(
                new_id(), self._facts(), self.trace_id, self.id, _name(name, notes), number, kind,
                None if comment is None else as_text(comment, notes), datetime.now(UTC),
            )  # fmt: skip
            sends = sink is not None and sink.samples(self.trace_id) and sink.put(record, 600)
            return record.id if sends else None
        return None

    def end(self, end_time: datetime | None = None) -> None:
        """End it, once; a `with` block does it."""
        with self._block as notes:
            if not self._ended:
                self._ended = True
                root, end_ns = self._root, max(_ns(end_time, notes), self.start_ns)
                root._last_end_ns = max(root._last_end_ns, end_ns)
                self._put(root, end_ns)

    def _put(self, root: Observation, end_ns: int) -> None:
        sink, cell = self._tracer._sink, self._tracer._cell
        if sink is None or not sink.samples(self.trace_id):
            return
        # given away: an update after the end must not change what the writer is reading
        fields, self._fields = self._fields, {}
        state = None if cell is None else cell.state
        values = self.trace_id, self.id, self.parent_id, self.type, self.name, self.start_ns, end_ns
        record, size = ObservationRecord.packed(root._trace_facts or (root.name,), state, values, fields)
        if sink.put(record, size + 200) and cell is not None:
            cell.put = True
        if logger.isEnabledFor(logging.INFO):
            level = fields.get("level", "")
            logger.info("%s %s trace_id=%s level=%s", self.type, shown_name(self.name), self.trace_id, level)

    def _facts(self) -> TraceFacts:
        cell = self._tracer._cell
        root = self._root
        return (root._trace_facts or TraceFacts(root.name)).within(None if cell is None else cell.state)

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

    _shared = frozenset({"metadata", "user_id", "workspace_id", "session_id", "tags"})

    @property
    def last_end_ns(self) -> int:
        """When the last observation of this trace ended; its own start before that. Nanoseconds since the epoch."""
        return self._root._last_end_ns or self.start_ns


class Generation(Observation):
    """An LLM call."""

    __slots__ = ()

    def record(self, response: object) -> Self:
        """Read model, output and token usage from a provider's response: Anthropic's, OpenAI's, or a dict or any object
        with their keys or attributes. One with neither output nor usage becomes the output as it is, and is counted."""
        fields: dict[str, Any] = {}
        with self._block as notes:
            fields = read_response(response, notes)
        return self.update(**fields)


def current_observation() -> Observation | None:
    """The observation whose `with` block runs here.

    Blocks in generators of one Context may end in any order: one that has ended is never the current one.
    """
    found = _current.get()
    while found is not None and found._ended:
        before = found._token.old_value if found._token is not None else None
        found = before if isinstance(before, Observation) else None
    return found


def _name(value: object, notes: Notes) -> str:
    if type(value) is str and value.isalnum() and len(value) <= 200:
        return value
    return line(value, notes).strip() or "unnamed"


def _ns(time: object, notes: Notes) -> int:
    """Of `time`, else of now. Whole microseconds, which is what a datetime has: a length that was given is exact."""
    given = None if time is None else moment(time, notes)
    us = round(given.timestamp() * 1e6) if given is not None else time_ns() // 1000
    return us * 1000


def _level(value: object, notes: Notes) -> str | None:
    level = line(value, notes).upper()
    return level if level in _LEVELS else None


def _time(value: object, notes: Notes) -> str | None:
    """As the SDK writes it: JSON, in quotes."""
    time = moment(value, notes)
    return None if time is None else f'"{time.isoformat().replace("+00:00", "Z")}"'


def _counts(found: Mapping[str, float]) -> bytes | None:
    return orjson.dumps(found) if found else None


def _tags(value: object, notes: Notes) -> tuple[str, ...]:
    found = plain(value, notes)
    return tuple(line(tag, notes) for tag in (found if isinstance(found, list) else [found])[:_MAX_TAGS])


_READ: Mapping[str, Callable[[object, Notes], bytes | str | Texts | None]] = {
    "input": content, "output": content, "metadata": snapshot, "model_parameters": snapshot,
    "usage": lambda value, _: _counts(usage_details(value)),
    "cost": lambda value, _: _counts(cost_details(value)),
    "model": line, "status_message": as_text, "level": _level, "completion_start_time": _time,
}  # fmt: skip
_READ_TRACE: Mapping[str, Callable[[object, Notes], Any]] = {
    "user_id": identifier, "workspace_id": identifier, "session_id": identifier, "tags": _tags,
}  # fmt: skip
"""How each field of an observation, and of its trace, is read; None: it says nothing that Langfuse could use."""
