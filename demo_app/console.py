"""What the server prints of an error that no route caught: two lines instead of its traceback."""

from __future__ import annotations

import copy
import logging
import traceback
from typing import Any

import uvicorn.config
from uvicorn.logging import DefaultFormatter

from demo_app.settings import HERE
from metricx_observe import Observability


class ShortErrors(DefaultFormatter):
    """uvicorn's format, with an error of a request as one line: its type, its text, and where the demo raised it.

    uvicorn logs such an error to `uvicorn.error` with the traceback through every middleware, some 80 lines; it is
    reported already, and whole there. Only this console's text is shortened: a filter on the logger would change the
    record for every other handler too, and Sentry's knows by the exception on it that it is no second error.
    """

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        in_a_request = record.getMessage().startswith("Exception in ASGI application")
        if error is not None and in_a_request and (where := _reported_to()):
            text = str(error).partition("\n")[0][:300]
            record = copy.copy(record)
            record.msg, record.exc_info = "%s: %s\n          raised at %s, reported to %s", None
            record.args = type(error).__name__, text, _place(error), where
        return super().format(record)


def log_config() -> dict[str, Any]:
    """For `uvicorn.Config`: its own, with `ShortErrors` for the console."""
    config = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    config["formatters"]["default"]["()"] = ShortErrors
    return config


def _reported_to() -> str | None:
    """Where the whole traceback is; None when errors go nowhere, so that the console has to show it."""
    running = Observability.default
    state = running.states()["sentry"] if running is not None else None
    return (state.partition("local: ")[2] or "Sentry") if state else None


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(str(HERE))]
    last = (own or frames)[-1]
    return f"{last.filename.removeprefix(f'{HERE.parent}/')}:{last.lineno} in {last.name}"
