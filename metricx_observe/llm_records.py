"""What an LLM trace is made of when it is handed to the vendor, and what the facade wants of one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from .context import Context, RequestContext


class TraceFacts(NamedTuple):
    """What stands on every observation of a trace."""

    name: str = ""
    user_id: str | None = None
    workspace_id: str | None = None
    session_id: str | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = {}
    state: RequestContext | None = None

    def within(self, cell: Context | None) -> TraceFacts:
        """The same in a request or job, whose user and workspace fill in what was not given."""
        if cell is None:
            return self
        user_id = self.user_id or (cell.user.id if cell.user else None)
        workspace_id = self.workspace_id or (cell.workspace.id if cell.workspace else None)
        return self._replace(user_id=user_id, workspace_id=workspace_id, state=cell.state)


class ObservationRecord(NamedTuple):
    """One observation that ended."""

    trace: TraceFacts
    trace_id: str
    id: str
    parent_id: str | None
    type: str
    name: str
    start_ns: int
    end_ns: int
    fields: Mapping[str, bytes | str]
    """As they were when they were given. JSON: input, output, metadata, model_parameters, usage, cost. Text: level,
    status_message, model, completion_start_time."""


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

    def put(self, record: ObservationRecord | ScoreRecord, size: int) -> bool: ...
    def url(self, trace_id: str) -> str: ...
    def attach(self, trace_id: str, span_id: str) -> object:
        """Make this the parent of the vendor's own spans. Returns what `detach` takes."""

    def detach(self, before: object) -> None: ...
