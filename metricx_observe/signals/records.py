"""Records: all that a signal says, frozen as one JSON value in bytes at the call. A vendor's module makes its message
of it on the writer.

Bytes, because what waits in a queue gets old, and the more old objects there are, the more often the garbage collector
walks through all that the application holds: one in a hundred requests had to wait 60 ms for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from metricx_observe.context import Context


class ContextFacts(TypedDict):
    """Whose request or job it was at the call. Without traits and e-mail address of the user."""

    request_id: str
    trace_id: str
    user_id: str | None
    workspace_id: str | None
    tags: dict[str, str]
    consent: dict[str, bool | None]


class _Signal(TypedDict):
    """What every record says."""

    type: str
    """track, identify, group, alias or page; span, tool or generation; score."""
    id: str
    context: ContextFacts | None


class AnalyticsRecord(_Signal):
    """One call of the tracker."""

    timestamp: float
    """Seconds since 1970."""
    user_id: str | None
    anonymous_id: str | None
    name: str | None
    """Of the event or page."""
    target: str | None
    """The group's id, the previous id of an alias, the category of a page."""
    values: Any
    """Properties or traits."""
    personal: list[str]
    """Names of properties that are personal data."""
    request: Any
    """The members of `RequestFacts`, or None."""


class TraceFacts(TypedDict):
    """What stands on every observation of a trace. User and workspace are the bound ones unless others were given."""

    name: str
    user_id: str | None
    workspace_id: str | None
    session_id: str | None
    tags: list[str]
    metadata: dict[str, Any]


class _TraceSignal(_Signal):
    """What every record of a trace says."""

    trace_id: str
    name: str
    trace: TraceFacts


class ObservationRecord(_TraceSignal):
    """One observation that ended."""

    parent_id: str | None
    start_ns: int
    end_ns: int
    fields: dict[str, Any]
    """What `Observation.update` takes, as it was when it was given."""


class ScoreRecord(_TraceSignal):
    """A score of an observation."""

    observation_id: str
    value: float | str
    data_type: str
    """NUMERIC, BOOLEAN or CATEGORICAL."""
    comment: str | None
    timestamp: str


def context_facts(cell: Context | None) -> ContextFacts | None:
    """Whose request or job it is now."""
    if cell is None:
        return None
    state = cell.state
    return {
        "request_id": state.request_id,
        "trace_id": state.trace_id,
        "user_id": None if state.user is None else state.user.id,
        "workspace_id": None if state.workspace is None else state.workspace.id,
        "tags": dict(state.tags),
        "consent": state.consent._asdict(),
    }


def trace_facts(context: ContextFacts | None, given: Mapping[str, Any]) -> TraceFacts:
    """What the application gave, by its names here, with what the request or job knows where it gave nothing."""
    return {
        "name": given.get("name", ""),
        "user_id": given.get("user_id") or (context and context["user_id"]),
        "workspace_id": given.get("workspace_id") or (context and context["workspace_id"]),
        "session_id": given.get("session_id"),
        "tags": given.get("tags", []),
        "metadata": given.get("metadata", {}),
    }
