"""LLM calls: the copilot's trace, its generations and steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from metricx_observe.signals.llm import LLMTracer, Trace

from .calls import boundary, documented, flushed, running


def _tracer() -> LLMTracer:
    found = running()
    return LLMTracer(None, boundary()) if found is None else found.llm


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
    return _tracer().trace(
        name,
        input=question,
        user_id=user_id,
        workspace_id=workspace_id,
        session_id=session_id,
        metadata=metadata,
        tags=tags,
    )


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
    with boundary()("log_generation"):
        began, ended = _moment(trace.last_end_ns), None
        if isinstance(start_time, datetime):
            began, ended = start_time, _after(start_time, latency_ms)
        elif (before := _after(datetime.now(UTC), latency_ms, back=True)) is not None:
            began = before
        generation = trace.generation(name, model=model, input=input_messages, metadata=metadata, start_time=began)
        generation.update(output=output, usage=usage)
        if error is not None:
            generation.fail(error)
        generation.end(ended)
        return generation.id
    return None


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
    with boundary()("complete_copilot_trace"):
        metadata = {"success": success, "total_tokens": total_tokens, "latency_ms": latency_ms}
        trace.update(output=answer, metadata={key: value for key, value in metadata.items() if value is not None})
        if not success:
            trace.fail("failed" if error is None else error)
    trace.end(_after(_moment(trace.start_ns), latency_ms))


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
    with boundary()("log_span"):
        began = _time(start_time) or _moment(trace.last_end_ns)
        span = trace.span(name, metadata=metadata, start_time=began)
        span.end(_time(end_time))
        return span.id
    return None


@documented
def trace_llm_call(
    name: str, user_id: object = None, workspace_id: object = None, metadata: Mapping[str, Any] | None = None
) -> AbstractContextManager[Trace]:
    """A block that is one trace, which `as` gives: it ends with the block, as failed where that raises."""
    return _tracer().trace(name, user_id=user_id, workspace_id=workspace_id, metadata=metadata)


@documented
def get_langfuse() -> Any:
    """The Langfuse SDK's client, for prompts, datasets and scores; None when Langfuse is off."""
    return _tracer().client


@documented
def flush_langfuse() -> bool:
    """Deliver what was put so far: waits at most 5 s, for vendors that answer, and on an event loop for nothing."""
    return flushed()


@documented
def shutdown_langfuse() -> None:
    """As `flush_langfuse`: `shutdown_observability()` ends all three together."""
    flush_langfuse()


def _time(given: object) -> datetime | None:
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        with suppress(ValueError, OverflowError, OSError):
            return datetime.fromtimestamp(given, UTC)
    return given if isinstance(given, datetime) else None


def _moment(ns: int) -> datetime:
    return datetime.fromtimestamp(ns // 1000 / 1e6, UTC)


def _after(moment: datetime, milliseconds: object, *, back: bool = False) -> datetime | None:
    """None for what is no length of time: a call that is logged with a senseless latency is logged all the same."""
    if not isinstance(milliseconds, (int, float)):
        return None
    try:
        return moment + timedelta(milliseconds=-milliseconds if back else milliseconds)
    except (ValueError, OverflowError):
        return None
