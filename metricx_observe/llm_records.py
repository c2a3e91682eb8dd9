"""What an LLM trace is made of when it is handed to the vendor, and what the facade wants of one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from .context import RequestContext


class TraceFacts(NamedTuple):
    """What stands on every observation of a trace."""

    name: str
    user_id: str | None
    workspace_id: str | None
    session_id: str | None
    tags: tuple[str, ...]
    metadata: bytes | None
    state: RequestContext | None


def facts_of(state: RequestContext | None) -> TraceFacts:
    """What a request or job says of any observation in it."""
    user = state.user.id if state is not None and state.user is not None else None
    workspace = state.workspace.id if state is not None and state.workspace is not None else None
    return TraceFacts("", user, workspace, None, (), None, state)


class ObservationRecord(NamedTuple):
    """One observation that ended. JSON values are bytes, as they were when they were given."""

    trace: TraceFacts
    trace_id: str
    id: str
    parent_id: str | None
    type: str
    name: str
    start_ns: int
    end_ns: int
    fields: Mapping[str, bytes]
    """JSON of input, output, metadata, model_parameters, usage, cost."""
    texts: Mapping[str, str]
    """level, status_message, model, completion_start_time."""


class ScoreRecord(NamedTuple):
    """A score of a trace or observation."""

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

    def put(self, record: ObservationRecord | ScoreRecord, size: int) -> bool: ...

    def attach(self, trace_id: str, span_id: str) -> object:
        """Make this the parent of the vendor's own spans. Returns what `detach` takes."""
        ...

    def detach(self, before: object) -> None: ...

    def url(self, trace_id: str) -> str: ...

    @property
    def client(self) -> Any:
        """The vendor's own client."""
        ...
