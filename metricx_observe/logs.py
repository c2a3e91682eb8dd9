"""Logging: LOG_LEVEL, the start-up line's logger, and who and which request on log records (opt-in)."""

from __future__ import annotations

import logging

from .context import current
from .ids import one_line

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
FORMAT = "%(levelname)s:%(name)s:%(message)s [request_id=%(request_id)s user_id=%(user_id)s]"


def set_level(level: str | None) -> None:
    """Apply LOG_LEVEL: to a root logger without handlers all of it, else to the `metricx_observe` logger only."""
    if level not in LEVELS:
        return
    if not logging.getLogger().handlers:
        logging.basicConfig(level=level)
    else:
        logging.getLogger("metricx_observe").setLevel(level)


class ContextFilter(logging.Filter):
    """Puts `request_id`, `trace_id`, `user_id` and `workspace_id` on each record; "-" where there is none.

    Add it to a handler, so that it sees every logger's records: `handler.addFilter(ContextFilter())`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        state = current()
        found = {
            "request_id": state and state.request_id,
            "trace_id": state and state.trace_id,
            "user_id": state and state.user and state.user.id,
            "workspace_id": state and state.workspace and state.workspace.id,
        }
        for name, value in found.items():
            # what stands there stays: the application's `extra`, or what was true when the record was queued
            record.__dict__.setdefault(name, value or "-")
        return True


class ContextFormatter(logging.Formatter):
    """Formats a record with its request and user, also where the filter was not added. One line per message."""

    def __init__(self, fmt: str = FORMAT, datefmt: str | None = None) -> None:
        super().__init__(fmt, datefmt)

    def formatMessage(self, record: logging.LogRecord) -> str:
        ContextFilter().filter(record)
        record.message = one_line(record.message)
        return super().formatMessage(record)
