"""FastAPI dependencies: routers declare what they need, and never touch a vendor's SDK.

The providers are async, so that no thread is taken, and take the connection, so that they work in websockets too. They
are public for `app.dependency_overrides`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from .context import Context
from .exceptions import NotInstalledError
from .request.middleware import SCOPE_KEY, Installed
from .signals.errors import ErrorReporter
from .signals.llm import LLMTracer
from .signals.tracker import Tracker

if TYPE_CHECKING:
    from .observability import Observability


class Signals:
    """All that a request can send: what the other dependencies give, by one.

    FastAPI's resolution of a dependency costs about half as much as our middleware, so a route that needs several of
    them is cheaper with this one. `dependency_overrides` of the others do not reach it: override `get_signals`.
    """

    __slots__ = ("_observability", "context")

    def __init__(self, observability: Observability, context: Context) -> None:
        self._observability = observability
        self.context = context

    @property
    def tracker(self) -> Tracker:
        """The tracker of this request."""
        return self._observability.tracker.bound(self.context)

    @property
    def llm(self) -> LLMTracer:
        """The LLM tracer of this request."""
        return self._observability.llm.bound(self.context)

    @property
    def errors(self) -> ErrorReporter:
        """The error reporter of this request."""
        return self._observability.errors.bound(self.context)


async def get_signals(connection: HTTPConnection) -> Signals:
    """Tracker, LLM tracer, error reporter and context of this request."""
    return _signals(connection)


async def get_context(connection: HTTPConnection) -> Context:
    """The cell of this request: bind the user, read the ids."""
    return _signals(connection).context


async def get_tracker(connection: HTTPConnection) -> Tracker:
    """The tracker of this request."""
    return _signals(connection).tracker


async def get_llm_tracer(connection: HTTPConnection) -> LLMTracer:
    """The LLM tracer of this request."""
    return _signals(connection).llm


async def get_error_reporter(connection: HTTPConnection) -> ErrorReporter:
    """The error reporter of this request."""
    return _signals(connection).errors


def _signals(connection: HTTPConnection) -> Signals:
    installed: Installed | None = connection.scope.get(SCOPE_KEY)
    if installed is None:
        raise NotInstalledError(
            "metricx_observe is not installed here: add `Observability.from_env().install(app)` after `app = FastAPI()`"
        )
    if installed.cell.info is not None:
        installed.cell.info.update_scope(connection.scope)
    return Signals(installed.observability, installed.cell)


ContextDep = Annotated[Context, Depends(get_context)]
TrackerDep = Annotated[Tracker, Depends(get_tracker)]
LLMTracerDep = Annotated[LLMTracer, Depends(get_llm_tracer)]
ErrorReporterDep = Annotated[ErrorReporter, Depends(get_error_reporter)]
SignalsDep = Annotated[Signals, Depends(get_signals)]
