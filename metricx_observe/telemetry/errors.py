"""Errors, and whose they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metricx_observe import context as contexts

from .calls import documented, running


@documented
def set_user_context(user_id: object, email: str | None = None, workspace_id: object = None) -> None:
    """Bind the user to this request, or outside one to the current task: errors, events and traces carry it."""
    found = running()
    if found is not None and found.settings.enabled:
        with found.boundary("set_user_context"):
            contexts.bind_user(user_id, email=email, workspace_id=workspace_id)


@documented
def clear_user_context() -> None:
    """Bind nobody to this request or task from now on."""
    found = running()
    if found is not None and found.settings.enabled:
        with found.boundary("clear_user_context"):
            contexts.bind_user(None)


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
    found = running()
    given = exception if exception is not None else error
    return None if found is None else found.errors.capture_exception(given, extra=extra, level=level)


@documented
def capture_message(message: object, level: str = "info", extra: Mapping[str, Any] | None = None) -> str | None:
    """Report a message: level is fatal, error, warning, info or debug. Returns the event id."""
    found = running()
    return None if found is None else found.errors.capture_message(message, level=level, extra=extra)
