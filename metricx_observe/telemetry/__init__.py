"""The functions of the documented API: a thin face over one `Observability`, laid out as the users' own module is.

They work inside and outside a request. Before `init_observability()` (or an `Observability` that was opened) they do
nothing and say so once. None of them raises, whatever it is given: an argument that nobody knows, or that is missing,
is counted, and the call goes on without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from metricx_observe.context import bind_user
from metricx_observe.events import Event
from metricx_observe.observability import Observability
from metricx_observe.signals.llm import Trace

from .calls import documented, flushed, running, sends_its_event
from .start import init_analytics, init_langfuse, init_observability, init_sentry, shutdown_observability

__all__ = [
    "capture_exception", "capture_message", "clear_user_context", "complete_copilot_trace", "create_copilot_trace",
    "flush_analytics", "flush_langfuse", "get_langfuse", "identify", "init_analytics", "init_langfuse",
    "init_observability", "init_sentry", "log_generation", "log_span", "set_user_context", "shutdown_langfuse",
    "shutdown_observability", "trace_llm_call", "track", "track_connected_google_ads", "track_connected_meta_ads",
    "track_connected_shopify", "track_copilot_query_sent", "track_user_logged_in", "track_user_signed_up",
]  # fmt: skip


# Analytics


@documented
def track(
    user_id: object,
    event: Event | str,
    properties: Mapping[str, Any] | None = None,
    *,
    anonymous_id: object = None,
    timestamp: datetime | None = None,
) -> str | None:
    """Send an analytics event of a user. Returns the message id."""
    return running().tracker.track(event, properties, user_id=user_id, anonymous_id=anonymous_id, timestamp=timestamp)


@documented
def identify(
    user_id: object,
    email: str | None = None,
    name: str | Mapping[str, Any] | None = None,
    traits: Mapping[str, Any] | None = None,
) -> str | None:
    """Tell analytics who a user is. Returns the message id. Binds nobody: see `set_user_context`.

    A mapping in the third place is taken for the traits, which stood there before.
    """
    if isinstance(name, Mapping) and traits is None:
        name, traits = None, name
    if name is not None and (traits is None or isinstance(traits, Mapping)):
        traits = {"name": name, **(traits or {})}
    return running().tracker.identify(user_id, email=email, traits=traits)


@sends_its_event
def track_user_signed_up(user_id: object, email: object, name: object = None, workspace_id: object = None) -> None:
    """A new registration."""


@sends_its_event
def track_user_logged_in(user_id: object, email: object, workspace_id: object = None) -> None:
    """A log-in."""


@sends_its_event
def track_connected_google_ads(
    user_id: object, workspace_id: object, account_id: object = None, account_name: object = None
) -> None:
    """Google's OAuth is complete."""


@sends_its_event
def track_connected_meta_ads(
    user_id: object, workspace_id: object, account_id: object = None, account_name: object = None
) -> None:
    """Meta's OAuth is complete."""


@sends_its_event
def track_connected_shopify(user_id: object, workspace_id: object, shop_domain: object = None) -> None:
    """Shopify's OAuth is complete."""


@sends_its_event
def track_copilot_query_sent(
    user_id: object,
    workspace_id: object,
    question_length: object,
    has_context: object = False,
    success: object = None,
    latency_ms: object = None,
) -> None:
    """A question to the copilot."""


@documented
def flush_analytics() -> bool:
    """Deliver what was put so far: waits at most 5 s, for vendors that answer, and on an event loop for nothing."""
    return flushed()


# Errors, and whose they are


@documented
def set_user_context(user_id: object, email: str | None = None, workspace_id: object = None) -> None:
    """Bind the user to this request, or outside one to the current task: errors, events and traces carry it."""
    found = running()
    if isinstance(found, Observability) and found.settings.enabled:
        bind_user(user_id, email=email, workspace_id=workspace_id)


@documented
def clear_user_context() -> None:
    """Bind nobody to this request or task from now on."""
    set_user_context(None)


@documented
def capture_exception(
    exception: BaseException | None = None,
    extra: Mapping[str, Any] | None = None,
    level: str | None = None,
    *,
    error: BaseException | None = None,
) -> str | None:
    """Report a handled exception; the one being handled when None. Returns the event id.

    `error` is what this function called `exception` before.
    """
    return running().errors.capture_exception(error if exception is None else exception, extra=extra, level=level)


@documented
def capture_message(message: object, level: str = "info", extra: Mapping[str, Any] | None = None) -> str | None:
    """Report a message: level is fatal, error, warning, info or debug. Returns the event id."""
    return running().errors.capture_message(message, level=level, extra=extra)


# LLM calls


@documented
def create_copilot_trace(
    user_id: object = None,
    workspace_id: object = None,
    question: object = None,
    session_id: object = None,
    *,
    name: str = "copilot",
    metadata: Mapping[str, Any] | None = None,
    tags: Sequence[str] | None = None,
) -> Trace:
    """Begin the trace of a copilot's answer, which ends with `complete_copilot_trace`. With Langfuse off it does
    nothing."""
    trace = running().llm.trace(name, input=question, metadata=metadata, tags=tags)
    return trace.update(user_id=user_id, workspace_id=workspace_id, session_id=session_id)


@documented
def log_generation(
    trace: Trace | None = None,
    name: str = "generation",
    model: str | None = None,
    input_messages: object = None,
    output: object = None,
    usage: object = None,
    latency_ms: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    *,
    start_time: datetime | None = None,
    error: BaseException | str | None = None,
) -> str | None:
    """Log an LLM call after the fact. Returns the generation's id.

    It ends now and began when the previous observation of this trace ended, else with the trace. `latency_ms` counts
    back from now, or from `start_time` on, which is UTC where it is naive.
    """
    if not isinstance(trace, Trace):
        return None
    if isinstance(start_time, datetime):
        began, ended = start_time, _after(start_time, latency_ms)
    else:
        began, ended = _after(datetime.now(UTC), latency_ms, -1) or _moment(trace.last_end_ns), None
    generation = trace.generation(name, model=model, input=input_messages, metadata=metadata, start_time=began)
    generation.update(output=output, usage=usage)
    if error is not None:
        generation.fail(error)
    generation.end(ended)
    return generation.id


@documented
def log_span(
    trace: Trace | None = None,
    name: str = "span",
    start_time: datetime | float | None = None,
    end_time: datetime | float | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> str | None:
    """Log a step after the fact. Returns the span's id.

    Times are datetimes, UTC where they are naive, or seconds since 1970. Without them the step ends now, and began
    when the previous observation of this trace ended.
    """
    if not isinstance(trace, Trace):
        return None
    span = trace.span(name, metadata=metadata, start_time=_time(start_time) or _moment(trace.last_end_ns))
    span.end(_time(end_time))
    return span.id


@documented
def complete_copilot_trace(
    trace: Trace | None = None,
    success: bool = True,
    answer: object = None,
    error: BaseException | str | None = None,
    latency_ms: float | None = None,
    total_tokens: int | None = None,
) -> None:
    """End a copilot's trace, with its answer, or as failed with `error` as the reason."""
    if not isinstance(trace, Trace):
        return
    known = {"success": success, "total_tokens": total_tokens, "latency_ms": latency_ms}
    try:
        trace.update(output=answer, metadata={key: value for key, value in known.items() if value is not None})
        if not success:
            trace.fail("failed" if error is None else error)
    finally:
        trace.end(_after(_moment(trace.start_ns), latency_ms))


@documented
def trace_llm_call(
    name: str, user_id: object = None, workspace_id: object = None, metadata: Mapping[str, Any] | None = None
) -> AbstractContextManager[Trace]:
    """A block that is one trace, which `as` gives: it ends with the block, as failed where that raises."""
    return running().llm.trace(name, user_id=user_id, workspace_id=workspace_id, metadata=metadata)


@documented
def get_langfuse() -> Any:
    """The Langfuse SDK's client, for prompts, datasets and scores; None when Langfuse is off."""
    return running().llm.client


@documented
def flush_langfuse() -> bool:
    """Deliver what was put so far: waits at most 5 s, for vendors that answer, and on an event loop for nothing."""
    return flushed()


@documented
def shutdown_langfuse() -> None:
    """As `flush_langfuse`: `shutdown_observability()` ends all three together."""
    flushed()


def _time(given: object) -> datetime | None:
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        return _after(datetime.fromtimestamp(0, UTC), given * 1000)
    return given if isinstance(given, datetime) else None


def _moment(ns: int) -> datetime:
    return datetime.fromtimestamp(ns // 1000 / 1e6, UTC)


def _after(moment: datetime, milliseconds: object, sign: int = 1) -> datetime | None:
    """A moment so much later; None if the latency is not a length of time, so that the call is logged all the same."""
    if isinstance(milliseconds, (int, float)):
        with suppress(ValueError, OverflowError):
            return moment + timedelta(milliseconds=sign * milliseconds)
    return None
