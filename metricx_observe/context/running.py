"""Which cell applies to the code that runs now, and the functions that act on it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextvars import ContextVar, Token
from functools import cache
from threading import current_thread
from typing import TYPE_CHECKING, Any, cast

from metricx_observe.ids import new_id

from .cell import DETACHED, Context, RequestContext, hooks
from .reported import report_outwards

if TYPE_CHECKING:
    from metricx_observe.signals.errors import ErrorReporter
    from metricx_observe.signals.llm import LLMTracer
    from metricx_observe.signals.tracker import Tracker

logger = logging.getLogger("metricx_observe.context")

_cell: ContextVar[Context | None] = ContextVar("metricx_observe_context", default=None)
_DEPENDENCY = "AnyIO worker"
"""The name of the threads in which Starlette and FastAPI run plain functions."""


def current_cell() -> Context | None:
    """The cell of the running request or job; None outside, `DETACHED` under `detached()`."""
    return _cell.get() or hooks.request_cell(False)


def current() -> RequestContext | None:
    """The frozen context of the running request or job, or None."""
    cell = current_cell()
    return None if cell is None or cell is DETACHED else cell.state


def _writable() -> Context:
    """The cell to bind to: the request's own, else a new one that no other task can see."""
    cell = _cell.get() or hooks.request_cell(True)
    if cell is None and current_thread().name.startswith(_DEPENDENCY):
        warn_that_it_is_lost()
    if cell is None or cell is DETACHED:
        cell = Context(RequestContext(new_id(), new_id()), shared=False)
    elif not cell.shared:
        cell = Context(cell.state, shared=False)
    else:
        return cell
    _cell.set(cell)
    return cell


@cache  # so that it is logged once
def warn_that_it_is_lost() -> None:
    logger.warning(
        "a user was bound in a dependency or route of `def` without the middleware: it is lost when that returns. "
        "Type init_observability(app), or Observability.from_env().install(app), where the application is made."
    )


def bind_user(
    id: object, *, email: str | None = None, traits: Mapping[str, Any] | None = None, workspace_id: object = None
) -> None:
    """Bind the user to the running request; outside one, to the current task only. See `Context.bind_user`."""
    _writable().bind_user(id, email=email, traits=traits, workspace_id=workspace_id)


def bind_workspace(id: object, *, name: str | None = None) -> None:
    """Bind the workspace to the running request; outside one, to the current task only."""
    _writable().bind_workspace(id, name=name)


def set_tag(key: str, value: object) -> None:
    """Put a tag on every signal of the running request or task."""
    _writable().set_tag(key, value)


def set_consent(*, analytics: bool | None = None, llm_content: bool | None = None) -> None:
    """Say what the user of the running request or task allowed."""
    _writable().set_consent(analytics=analytics, llm_content=llm_content)


def tracker() -> Tracker:
    """The tracker of the running request or job, for code that has neither in its hand. Does nothing when off."""
    return cast("Tracker", hooks.facade("tracker"))


def llm() -> LLMTracer:
    """The LLM tracer of the running request or job. Does nothing when off."""
    return cast("LLMTracer", hooks.facade("llm"))


def errors() -> ErrorReporter:
    """The error reporter of the running request or job. Does nothing when off."""
    return cast("ErrorReporter", hooks.facade("errors"))


class use_cell:
    """Make `cell` the current one for a block. A class: a generator costs each request a microsecond more."""

    __slots__ = ("_cell", "_token")

    def __init__(self, cell: Context) -> None:
        self._cell = cell
        self._token: Token[Context | None] | None = None

    def __enter__(self) -> Context:
        self._token = _cell.set(self._cell)
        return self._cell

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        token, self._token = self._token, None
        if token is None:
            return
        if error is not None:
            report_outwards(error, self._cell, token.old_value)
        try:
            _cell.reset(token)
        except ValueError:  # a generator that is dropped ends in somebody else's Context, and has nothing to undo there
            pass
