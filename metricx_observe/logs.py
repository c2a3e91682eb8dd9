"""Logging: LOG_LEVEL, the start-up line's logger, and who and which request on log records (opt-in)."""

from __future__ import annotations

import logging
import sys
from typing import Any

from .context import current
from .ids import printable

FORMAT = "%(levelname)s:%(name)s:%(message)s [request_id=%(request_id)s user_id=%(user_id)s]"


def level_of(text: str) -> int | None:
    """The number of a level by its name in any case (`warn` and `notset` too) or as digits; None for any other text."""
    name = text.strip().upper()
    return int(name) if name.isascii() and name.isdigit() else logging.getLevelNamesMapping().get(name)


class _UntilConfigured(logging.StreamHandler[Any]):
    """Shows our lines on stderr, as `logging.basicConfig` would, for as long as the application has no handler.

    On our own logger: a handler on the root would make the application's `basicConfig` do nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(logging.BASIC_FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            self.setStream(sys.stderr)  # the one of now: a test or a server may have replaced it
            super().emit(record)


_shown = _UntilConfigured()


def set_level(level: str | None) -> None:
    """Apply LOG_LEVEL to the logger `metricx_observe`, the only one that is ours. Any other text changes nothing."""
    own = logging.getLogger("metricx_observe")
    if level is not None and (number := level_of(level)) is not None:
        own.setLevel(number)
        if _shown not in own.handlers:
            own.addHandler(_shown)


def say(logger: logging.Logger, level: int, text: str, *args: object) -> None:
    """Log a line of the start, which reads `WARNING:app.main:...` also where nobody has configured logging yet."""
    if logger.hasHandlers() or not logger.isEnabledFor(level):
        logger.log(level, text, *args)
    else:
        _shown.handle(logger.makeRecord(logger.name, level, "(start)", 0, text, args, None))


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
        record.message = printable(record.message)
        return super().formatMessage(record)
