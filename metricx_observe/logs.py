"""Logging: LOG_LEVEL, the start-up line's logger, and who and which request on log records (opt-in)."""

from __future__ import annotations

import logging

from .context import current, one_line

FORMAT = "%(levelname)s:%(name)s:%(message)s [request_id=%(request_id)s user_id=%(user_id)s]"


def set_level(level: str | None) -> None:
    """Apply LOG_LEVEL: to a root logger without handlers all of it, else to the `metricx_observe` logger only."""
    if level is None:
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
        record.request_id = state.request_id if state is not None else "-"
        record.trace_id = state.trace_id if state is not None else "-"
        record.user_id = state.user.id if state is not None and state.user is not None else "-"
        record.workspace_id = state.workspace.id if state is not None and state.workspace is not None else "-"
        return True


class ContextFormatter(logging.Formatter):
    """Formats a record with its request and user, also where the filter was not added. One line per message."""

    def __init__(self, fmt: str = FORMAT, datefmt: str | None = None) -> None:
        super().__init__(fmt, datefmt)

    def formatMessage(self, record: logging.LogRecord) -> str:
        if not hasattr(record, "request_id"):
            ContextFilter().filter(record)
        record.message = one_line(record.message)
        return super().formatMessage(record)
