"""The functions of the documented API: a thin face over one `Observability`.

They work inside and outside a request. Before `init_observability()` (or an `Observability` that was opened) they do
nothing and say so once. None of them raises, whatever it is given.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.applications import Starlette

from . import context as contexts
from .boundary import Boundary
from .events import Event
from .exceptions import ConfigurationError
from .llm import LLMTracer, Trace
from .observability import Observability
from .startup import DOCUMENTED_NAMES, announce, calling_module

logger = logging.getLogger(__name__)

_said = False
_off = Boundary()


def init_observability(
    app: Starlette | None = None, *, logger: logging.Logger | None = None, **overrides: Any
) -> dict[str, str]:
    """Start all that is configured, and log what is on. Never raises: a service that is at fault is off.

    A second call changes nothing, but for an `app`, which gets the middleware.

    Args:
        app: Also put the middleware around this application, as `Observability.install` does.
        logger: Of the start-up line; the calling module's when None.
        overrides: Fields of `Settings`.

    Returns:
        By service (`sentry`, `analytics`, `langfuse`): `on`, `local: URL` or `off: reason`.
    """
    log = logger or logging.getLogger(calling_module())
    try:
        running = Observability.default
        known = running is not None and running.is_open
        if running is None or not known:
            from .settings import load_settings

            running = Observability(load_settings(overrides), tolerant=True)
        if app is not None:
            running.install(app, logger=log)
        elif not known:
            running.start()
            announce(running.settings, running.vendors, log)
        return running.states()
    except Exception as error:
        # another error's text may hold what was configured
        reason = str(error) if isinstance(error, ConfigurationError) else type(error).__name__
        log.error("[STARTUP] Observability: none: %s", reason)
        return dict.fromkeys(DOCUMENTED_NAMES.values(), f"off: {reason}")


def _running() -> Observability | None:
    global _said
    running = Observability.default
    if running is not None and running.is_open:
        return running
    if not _said:
        _said = True
        logger.warning("telemetry is not started: call init_observability() first. Nothing is sent until then.")
    return None


def track(
    user_id: object,
    event: Event | str,
    properties: Mapping[str, Any] | None = None,
    *,
    anonymous_id: object = None,
    timestamp: datetime | None = None,
) -> str | None:
    """Send an analytics event of a user. Returns the message id."""
    running = _running()
    if running is None:
        return None
    return running.tracker.track(event, properties, user_id=user_id, anonymous_id=anonymous_id, timestamp=timestamp)


def identify(user_id: object, email: str | None = None, traits: Mapping[str, Any] | None = None) -> str | None:
    """Tell analytics who a user is. Returns the message id. Binds nobody: see `set_user_context`."""
    running = _running()
    return running.tracker.identify(user_id, email=email, traits=traits) if running is not None else None


def set_user_context(user_id: object, email: str | None = None, workspace_id: object = None) -> None:
    """Bind the user to this request, or outside one to the current task: errors, events and traces carry it."""
    running = _running()
    if running is not None:
        with running.boundary("set_user_context"):
            contexts.bind_user(user_id, email=email, workspace_id=workspace_id)


def capture_exception(
    error: BaseException | None = None, extra: Mapping[str, Any] | None = None, level: str | None = None
) -> str | None:
    """Report a handled exception; the one being handled when None. Returns the event id."""
    running = _running()
    return running.errors.capture_exception(error, extra=extra, level=level) if running is not None else None


def create_copilot_trace(
    user_id: object = None,
    workspace_id: object = None,
    question: object = None,
    *,
    session_id: object = None,
    metadata: Mapping[str, Any] | None = None,
    tags: Sequence[str] | None = None,
) -> Trace:
    """Begin the trace of a copilot's answer. With Langfuse off it does nothing."""
    running = _running()
    tracer = running.llm if running is not None else LLMTracer(None, _off)
    return tracer.trace(
        "copilot",
        input=question,
        user_id=user_id,
        workspace_id=workspace_id,
        session_id=session_id,
        metadata=metadata,
        tags=tags,
    )


def log_generation(
    trace: Trace | None = None,
    name: str = "generation",
    model: str | None = None,
    input_messages: object = None,
    output: object = None,
    usage: Mapping[str, Any] | None = None,
    *,
    start_time: datetime | None = None,
    latency_ms: float | None = None,
    error: BaseException | str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> str | None:
    """Log an LLM call after the fact. Returns the generation's id.

    It ends now and began when the previous observation of this trace ended, else with the trace. `latency_ms` counts
    back from now, or from `start_time` on, which is UTC where it is naive.
    """
    if not isinstance(trace, Trace):
        return None
    with _boundary()("log_generation"):
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


def complete_copilot_trace(
    trace: Trace | None = None,
    success: bool = True,
    answer: object = None,
    latency_ms: float | None = None,
    total_tokens: int | None = None,
    *,
    error: BaseException | str | None = None,
) -> None:
    """End a copilot's trace, with its answer, or as failed with `error` as the reason."""
    if not isinstance(trace, Trace):
        return
    with _boundary()("complete_copilot_trace"):
        metadata = {"success": success, "total_tokens": total_tokens, "latency_ms": latency_ms}
        trace.update(output=answer, metadata={key: value for key, value in metadata.items() if value is not None})
        if not success:
            trace.fail("failed" if error is None else error)
    trace.end(_after(_moment(trace.start_ns), latency_ms))


def _boundary() -> Boundary:
    running = Observability.default
    return running.boundary if running is not None else _off


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
