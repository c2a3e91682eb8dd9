"""What an LLM trace is made of when it is handed to the vendor, and what the facade wants of one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from .context import RequestContext
from .normalise import Texts
from .packing import pack, plain_state, state_of, unpack


class TraceFacts(NamedTuple):
    """What stands on every observation of a trace."""

    name: str = ""
    user_id: str | None = None
    workspace_id: str | None = None
    session_id: str | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = {}
    state: RequestContext | None = None

    def within(self, state: RequestContext | None) -> TraceFacts:
        """The same in a request or job, whose user and workspace fill in what was not given."""
        if state is None:
            return self
        user_id = self.user_id or (state.user.id if state.user else None)
        workspace_id = self.workspace_id or (state.workspace.id if state.workspace else None)
        return TraceFacts(self.name, user_id, workspace_id, self.session_id, self.tags, self.metadata, state)


Waiting = bytes | tuple[bytes, Mapping[str, Any], tuple[Any, ...]]
_METADATA = TraceFacts._fields.index("metadata")


class ObservationRecord(NamedTuple):
    """One observation that ended."""

    given: TraceFacts
    """As the application gave them; equal for all observations of a trace."""
    state: RequestContext | None
    trace_id: str
    id: str
    parent_id: str | None
    type: str
    name: str
    start_ns: int
    end_ns: int
    fields: Mapping[str, bytes | str | Texts]
    """As they were when they were given. Bytes are JSON: metadata, model_parameters, usage, cost, and input and output
    that are no plain text or messages. The others are texts: level, status_message, model, completion_start_time."""

    @classmethod
    def packed(
        cls, given: tuple[Any, ...], state: RequestContext | None, values: tuple[Any, ...], fields: dict[str, Any]
    ) -> tuple[Waiting, int]:
        """A record as it waits in the queue, and about how many bytes it holds.

        As bytes; long texts and a trace's metadata, which all of its observations share, stand beside them.

        `given`: the first values of a `TraceFacts`; `values`: those between the others.
        """
        plain = None if state is None else plain_state(state), *values
        shared = given if len(given) > _METADATA and given[_METADATA] else None
        if shared is None and tuple not in map(type, fields.values()):
            packed = pack((tuple(given), *plain, fields))
            return packed, len(packed)
        long = {name: field for name, field in fields.items() if type(field) is tuple}
        packed = pack(((), *plain, {name: field for name, field in fields.items() if name not in long}))
        return (packed, long, given), len(packed) + sum(size for size, _ in long.values())

    @classmethod
    def unpacked(cls, packed: Waiting) -> ObservationRecord:
        """What `packed` was made of."""
        if isinstance(packed, bytes):
            given, state, *values, fields = unpack(packed)
            return cls._make((TraceFacts(*given), state and state_of(state), *values, fields))
        rest, long, given = packed
        _, state, *values, fields = unpack(rest)
        facts = given if isinstance(given, TraceFacts) else TraceFacts(*given)
        return cls._make((facts, state and state_of(state), *values, fields | long))

    @property
    def trace(self) -> TraceFacts:
        """What stands on the observation."""
        return self.given.within(self.state)


class ScoreRecord(NamedTuple):
    """A score of an observation."""

    id: str
    trace: TraceFacts
    trace_id: str
    observation_id: str
    name: str
    value: float | str
    data_type: str
    comment: str | None
    timestamp: datetime


class LLMSink(Protocol):
    """The LLM vendor, as the facade sees it."""

    @property
    def client(self) -> Any:
        """The vendor's own client."""

    def put(self, record: Waiting | ScoreRecord, size: int) -> bool: ...
    def url(self, trace_id: str) -> str: ...
    def samples(self, trace_id: str) -> bool: ...
