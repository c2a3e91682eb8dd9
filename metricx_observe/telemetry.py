"""The functions of the documented API: a thin face over one `Observability`.

They work inside and outside a request. Before `init_observability()` (or an `Observability` that was started) they do
nothing and say so once. None of them raises.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.applications import Starlette

from . import context as contexts
from .boundary import Boundary
from .exceptions import ConfigurationError
from .llm import LLMTracer, Trace
from .logs import set_level
from .observability import Observability, calling_module
from .settings import Settings, load_settings

logger = logging.getLogger(__name__)

_said = False


def init_observability(
    app: Starlette | None = None, *, logger: logging.Logger | None = None, **overrides: Any
) -> dict[str, str]:
    """Start all that is configured, and log what is on. Never raises: a service that is at fault is off.

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
        if running is not None and running.is_open:
            return running.states()
        settings, faults = _settings(overrides)
        set_level(settings.log_level)
        for fault in faults:
            log.error("[STARTUP] %s", fault)
        observability = Observability(settings, tolerant=True)
        if app is not None:
            observability.install(app, logger=log)
        else:
            observability.start()
            observability.announce(log)
        return observability.states()
    except Exception as error:
        log.error("[STARTUP] Observability: none: %s", error)
        return dict.fromkeys(("sentry", "analytics", "langfuse"), f"off: {error}")


def _settings(overrides: Mapping[str, Any]) -> tuple[Settings, list[str]]:
    """The settings, with those that are at fault at their defaults, and what is wrong with them."""
    try:
        return load_settings(overrides), []
    except ConfigurationError as error:
        kept = {name: value for name, value in overrides.items() if name not in error.fields}
        return load_settings(kept, ignore=error.fields), [str(error)]


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
    user_id: object = None, event: str = "", properties: Mapping[str, Any] | None = None, **more: Any
) -> str | None:
    """Send an analytics event of a user. Returns the message id."""
    running = _running()
    return running.tracker.track(event, properties, user_id=user_id, **more) if running is not None else None


def identify(
    user_id: object = None, email: str | None = None, traits: Mapping[str, Any] | None = None
) -> str | None:
    """Tell analytics who a user is. Returns the message id. Binds nobody: see `set_user_context`."""
    running = _running()
    return running.tracker.identify(user_id, email=email, traits=traits) if running is not None else None


def set_user_context(user_id: object, email: str | None = None, workspace_id: object = None) -> None:
    """Bind the user to this request, or outside one to the current task: errors, events and traces carry it."""
    if _running() is not None:
        contexts.bind_user(user_id, email=email, workspace_id=workspace_id)


def capture_exception(
    error: BaseException | None = None, extra: Mapping[str, Any] | None = None, level: str | None = None
) -> str | None:
    """Report a handled exception; the one being handled when None. Returns the event id."""
    running = _running()
    return running.errors.capture_exception(error, extra=extra, level=level) if running is not None else None


def create_copilot_trace(
    user_id: object = None, workspace_id: object = None, question: object = None, **more: Any
) -> Trace:
    """Begin the trace of a copilot's answer. With Langfuse off it does nothing."""
    running = _running()
    tracer = running.llm if running is not None else LLMTracer(None, Boundary())
    return tracer.trace("copilot", input=question, user_id=user_id, workspace_id=workspace_id, **more)


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

    It began when the previous observation of this trace ended, else with the trace; `start_time`, or `latency_ms`
    before now, override that.
    """
    if not isinstance(trace, Trace):
        return None
    now = datetime.now(UTC)
    began = datetime.fromtimestamp(trace.last_end_ns / 1e9, UTC)
    if start_time is not None:
        began, now = start_time, _after(start_time, latency_ms) or now
    elif latency_ms is not None:
        began = _after(now, -latency_ms) or began
    generation = trace.generation(name, model=model, input=input_messages, metadata=metadata, start_time=began)
    generation.update(output=output, usage=usage)
    if error is not None:
        generation.fail(error)
    generation.end(now)
    return generation.id


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
    metadata = {"success": bool(success), "total_tokens": total_tokens, "latency_ms": latency_ms}
    trace.update(output=answer, metadata={key: value for key, value in metadata.items() if value is not None})
    if not success:
        trace.fail(error if error is not None else "failed")
    began = datetime.fromtimestamp(trace.start_ns / 1e9, UTC)
    trace.end(_after(began, latency_ms))


def _after(moment: datetime, milliseconds: object) -> datetime | None:
    if not isinstance(milliseconds, (int, float)) or not abs(milliseconds) < 1e11:  # also NaN
        return None
    return moment + timedelta(milliseconds=milliseconds)
