"""Sentry's scopes of one request or job: its own breadcrumbs, tags and trace, and the transaction of a sampled one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from sentry_sdk.scope import Scope
from sentry_sdk.tracing import Transaction

from metricx_observe.context import Context, RequestContext, Upstream, hooks
from metricx_observe.ids import chance, new_id
from metricx_observe.interrupts import is_interrupt
from metricx_observe.rate import TokenBucket
from metricx_observe.request.facts import RequestInfo

from .events import route_name
from .options import streams_spans

if TYPE_CHECKING:
    from metricx_observe.settings import Settings

logger = logging.getLogger(__name__)

_NO_UPSTREAM = Upstream()
_MAX_SPANS = 1000
"""Of a transaction: the SDK's own bound."""
Scopes = tuple[Scope, Scope]
"""The isolation scope and the current one."""


class _CellHolder:
    """An event processor that does nothing: a scope, and what is forked from it, keeps nothing else of ours."""

    def __init__(self, cell: Context) -> None:
        self.cell = cell

    def __call__(self, event: Any, hint: Any) -> Any:  # noqa: ARG002
        return event


def cell_of(scope: Scope) -> Context | None:
    """The cell of the request or job that an isolation scope, or a fork of one, belongs to."""
    holders = (each for each in reversed(scope._event_processors) if isinstance(each, _CellHolder))
    return next((holder.cell for holder in holders), None)


def request_cell(make: bool) -> Context | None:
    """The cell of the request for which the SDK's own web integration has made a scope, where there is no middleware.

    All of a request share that scope, also the threads of its dependencies. `make`: one where there is none yet.
    """
    scope = Scope.get_isolation_scope()
    found = cell_of(scope)
    if found is None and make and _is_a_requests(scope):
        found = Context(RequestContext(new_id(), scope.get_active_propagation_context().trace_id))
        scope.add_event_processor(_CellHolder(found))
    return found


def _is_a_requests(scope: Scope) -> bool:
    """Whether the SDK's ASGI middleware made it: in the process's own scope a user would be everybody.

    It leaves its event processor there, as a partial; the scope's name is also written by those that make none.
    """
    owners = (getattr(getattr(each, "func", None), "__self__", None) for each in scope._event_processors)
    return any(isinstance(owner, SentryAsgiMiddleware) for owner in owners)


class Sampler:
    """Which requests get a transaction."""

    def __init__(self, settings: Settings, options: Mapping[str, Any]) -> None:
        """`options`: those that the application gave to `sentry_sdk.init`."""
        self._settings = settings
        given = options.get("traces_sample_rate")
        self.rate: float = settings.sample_rate if given is None else float(given)
        self._others = streams_spans(options) or options.get("instrumenter") == "otel"
        """The SDK makes no transactions then."""
        self._theirs: Callable[[dict[str, Any]], float | bool | None] | None = options.get("traces_sampler")
        self._warned = False
        self._upstream = TokenBucket(settings.traces_max_per_second)
        """Requests that are traced only because the caller asked for it, which anybody can."""

    def sampled(self, info: RequestInfo, upstream: Upstream) -> bool:
        """Whether a request gets a transaction. A negative upstream leaves it out, a positive one has a limit."""
        if self._others:
            return False
        if self._theirs is not None:
            return self._asked(self._theirs, info, upstream)
        if upstream.sampled is False or not self.rate:
            return False
        ours = chance() < self.rate
        if not (ours or upstream.sampled) or info.method in ("HEAD", "OPTIONS"):
            return False
        if self._settings.ignored(info.path) or self._settings.ignored(info.below_root):
            return False
        return ours or self._upstream.take()

    def _asked(self, sampler: Callable[[dict[str, Any]], Any], info: RequestInfo, upstream: Upstream) -> bool:
        """What the application's `traces_sampler` says, given what the SDK's own integration gives it."""
        context = {
            "transaction_context": {"name": info.route or info.path, "op": _op(info)},
            "parent_sampled": upstream.sampled,
            "asgi_scope": info.scope,
        }
        try:
            return chance() < float(sampler(context) or 0.0)
        except Exception as error:
            if is_interrupt(error):
                raise
            if not self._warned:  # it is asked for each request
                self._warned = True
                logger.warning("traces_sampler raised %s: such a request is not traced", type(error).__name__)
            return False


class RequestScope:
    """`with` it: Sentry's isolation scope and current scope are those of this cell.

    `status`: of the response, set by the middleware for the transaction, if there is one.
    """

    def __init__(self, cell: Context, client: Any, sampler: Sampler) -> None:
        self._cell, self._client, self._sampler = cell, client, sampler
        self.status = 0

    def __enter__(self) -> RequestScope:
        info, upstream = self._cell.info, self._cell.upstream or _NO_UPSTREAM
        sampled = info is not None and self._sampler.sampled(info, upstream)  # may raise SystemExit
        self._before = _scopes_now()
        self._own = isolation, current = self._before[0].fork(), self._before[1].fork()
        isolation.clear_breadcrumbs()  # a fork copies the parent's
        isolation.client = self._client  # also after a later `sentry_sdk.init` by the application
        isolation.add_event_processor(_CellHolder(self._cell))
        isolation.set_new_propagation_context()
        propagation = isolation.get_active_propagation_context()
        propagation.trace_id = self._cell.state.trace_id or new_id()
        propagation.parent_span_id, propagation.parent_sampled = upstream
        current.span = None
        _use(self._own)
        self._transaction: Transaction | None = None
        try:
            with _counted():
                self._transaction = self._begin(current, upstream) if sampled else None
        except BaseException:  # what a signal handler raised
            _use(self._before)
            raise
        return self

    def _begin(self, scope: Scope, upstream: Upstream) -> Transaction:
        op, trace_id = _op(self._cell.info), self._cell.state.trace_id
        transaction = Transaction("<unmatched>", source="route", op=op, sampled=True, trace_id=trace_id)
        transaction.parent_span_id = upstream.span_id
        # in `scope.start_transaction` the SDK asks about sampling and profiles, for longer than all else here takes
        transaction.init_span_recorder(self._client.options["_experiments"].get("max_spans") or _MAX_SPANS)
        transaction.sample_rate = self._sampler.rate
        scope.span = transaction
        return transaction

    def __exit__(self, *raised: object) -> None:
        found = _scopes_now()
        _use(self._own)
        try:
            with _counted():
                if (transaction := self._transaction) is not None:
                    transaction.name = route_name(self._cell)
                    if self.status:
                        transaction.set_http_status(self.status)
                    transaction.finish()
        finally:
            # a generator that is dropped ends in somebody else's Context, which has nothing to put back
            _use(self._before if found[0] is self._own[0] else found)

    @contextmanager
    def outside(self) -> Iterator[None]:
        """A block in the scopes that were there before."""
        found = _scopes_now()
        _use(self._before)
        try:
            yield
        finally:
            _use(found)


@contextmanager
def _counted() -> Iterator[None]:
    """A block whose failure costs the transaction, and not the request."""
    try:
        yield
    except Exception as error:
        if is_interrupt(error):
            raise
        hooks.note("transaction", [type(error).__name__])


def _op(info: RequestInfo | None) -> str:
    return "websocket.server" if info is not None and info.method == "WEBSOCKET" else "http.server"


def _scopes_now() -> Scopes:
    return Scope.get_isolation_scope(), Scope.get_current_scope()


def _use(scopes: Scopes) -> None:
    Scope.set_isolation_scope(scopes[0])
    Scope.set_current_scope(scopes[1])
