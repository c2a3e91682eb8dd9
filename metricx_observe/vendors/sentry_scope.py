"""Sentry's scopes of one request or job: its own breadcrumbs, tags and trace, made when something first touches them.

Most requests touch nothing of Sentry. Forking two scopes for each costs as much as all else that the middleware does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import copy
from threading import RLock
from time import time
from typing import Any

from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from sentry_sdk.scope import Scope
from sentry_sdk.tracing import Transaction

from metricx_observe.context import Context, RequestContext, hooks
from metricx_observe.ids import new_id
from metricx_observe.interrupts import is_interrupt

from .sentry_transactions import Transactions

_filling = RLock()
"""Two threads of one request may touch its scope for the first time at once. Held for some microseconds."""


def _after_fork() -> None:
    global _filling
    _filling = RLock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Scope(Scope):
    __slots__ = ("fill", "filled")
    fill: Callable[[], Scope] | None
    filled: Callable[[Scope], object]


class _LazyScope(_Scope):
    """Becomes what `fill()` gives when it is first touched, but for its client, which the SDK reads all the time."""

    __slots__ = ()

    def __init__(self, fill: Callable[[], Scope], client: Any, filled: Callable[[Scope], object] = bool) -> None:
        """`filled` is called when the scope may be used, before whoever touched it goes on."""
        object.__setattr__(self, "fill", fill)
        object.__setattr__(self, "filled", filled)
        object.__setattr__(self, "client", client)

    def __getattr__(self, name: str) -> Any:  # called only for what is not set
        self._touch()
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        self._touch()
        object.__setattr__(self, name, value)

    def __copy__(self) -> Scope:
        self._touch()
        return copy(self)

    def _touch(self) -> None:
        with _filling:
            if type(self) is _LazyScope and self.fill is not None:
                filled = self.fill()
                for slot in Scope.__slots__:
                    object.__setattr__(self, slot, getattr(filled, slot))
                object.__setattr__(self, "fill", None)
                object.__setattr__(self, "__class__", _Scope)
                self.filled(self)


def cell_of(scope: Scope) -> Context | None:
    """The cell of the request or job that an isolation scope, or a fork of one, belongs to."""
    owners = (getattr(each, "__self__", None) for each in scope._event_processors)
    return next((owner._cell for owner in owners if isinstance(owner, (RequestScope, _Holder))), None)


class _Holder:
    """Keeps a cell in a scope of the SDK's own: a scope takes nothing but event processors."""

    __slots__ = ("_cell",)

    def __init__(self, cell: Context) -> None:
        self._cell = cell

    def process(self, event: Any, hint: Any) -> Any:  # noqa: ARG002
        return event


def _is_a_requests(scope: Scope) -> bool:
    """Whether the SDK's ASGI middleware made it: in the process's own scope a user would be everybody.

    It leaves its event processor there, as a partial; the scope's name is also written by those that make none.
    """
    owners = (getattr(getattr(each, "func", None), "__self__", None) for each in scope._event_processors)
    return any(isinstance(owner, SentryAsgiMiddleware) for owner in owners)


def request_cell(make: bool) -> Context | None:
    """The cell of the request for which the SDK's own web integration has made a scope, where there is no middleware.

    All of a request share that scope, also the threads of its dependencies. `make`: one where there is none yet.
    """
    scope = Scope.get_isolation_scope()
    found = cell_of(scope)
    if found is None and make and _is_a_requests(scope):
        found = Context(RequestContext(new_id(), scope.get_active_propagation_context().trace_id))
        scope.add_event_processor(_Holder(found).process)
    return found


class _Outside:
    """A block in other scopes. A class: it costs a microsecond less than a generator."""

    __slots__ = ("_scopes",)

    def __init__(self, scopes: tuple[Scope, Scope]) -> None:
        self._scopes = scopes

    def _swap(self, *raised: object) -> None:  # noqa: ARG002
        isolation, current = self._scopes
        self._scopes = Scope.get_isolation_scope(), Scope.get_current_scope()
        Scope.set_isolation_scope(isolation)
        Scope.set_current_scope(current)

    __enter__ = __exit__ = _swap


class RequestScope:
    """`with` it: Sentry's isolation scope and current scope are those of this cell.

    `status`: of the response, set by the middleware for the transaction, if there is one.
    """

    __slots__ = (
        "_before", "_cell", "_client", "_lazy", "_mine", "_process", "_start", "_transaction", "_transactions",
        "status",
    )  # fmt: skip
    _mine: _LazyScope | None
    _lazy: _LazyScope | None
    _transaction: Transaction | None

    def __init__(
        self,
        cell: Context,
        client: Any,
        process: Callable[[Any, Any, Context], Any],
        transactions: Transactions,
    ) -> None:
        self._cell, self._client, self._process, self._transactions = cell, client, process, transactions
        self.status = 0

    def __enter__(self) -> RequestScope:
        self._before = Scope.get_isolation_scope(), Scope.get_current_scope()
        self._mine = _LazyScope(self._isolation, self._client)
        if isinstance(self._before[0], _Scope):  # in a request: what that sets from now on is none of this one's
            self._mine._touch()
        self._lazy = _LazyScope(self._current, self._before[1].client, self._begin)
        self._transaction = None
        self._start = time() if self._transactions.sampled(self._cell) else 0.0  # a sampler may raise SystemExit
        Scope.set_isolation_scope(self._mine)
        Scope.set_current_scope(self._lazy)
        return self

    def _isolation(self) -> Scope:
        scope, cell = self._before[0].fork(), self._cell
        scope.clear_breadcrumbs()  # a fork copies the parent's
        scope.client = self._client  # also after a later `sentry_sdk.init` by the application
        scope.add_event_processor(self._processor)
        scope.set_new_propagation_context()
        propagation = scope.get_active_propagation_context()
        propagation.trace_id = cell.state.trace_id or new_id()
        if cell.upstream is not None:
            propagation.parent_span_id = cell.upstream.span_id
            propagation.parent_sampled = cell.upstream.sampled
        return scope

    def _processor(self, event: Any, hint: Any) -> Any:
        return self._process(event, hint, self._cell)

    def _current(self) -> Scope:
        scope = self._before[1].fork()
        scope.span = None
        return scope

    def _begin(self, scope: Scope) -> None:
        if self._start:
            self._transaction = self._transactions.begin(scope, self._cell, self._start)

    def __exit__(self, *raised: object) -> None:
        try:
            if self._start:
                self._end()
        except Exception as error:
            if is_interrupt(error):
                raise
            hooks.note("transaction", [type(error).__name__])
        finally:
            self._put_back()

    def _put_back(self) -> None:
        # a generator that is dropped ends in somebody else's Context, which has nothing to put back
        if Scope.get_isolation_scope() is self._mine:
            Scope.set_isolation_scope(self._before[0])
            Scope.set_current_scope(self._before[1])
        # a task that outlives the request keeps its scope, and nothing more
        self._mine = self._lazy = self._transaction = None
        self._start = 0.0

    def outside(self) -> _Outside:
        """A block in the scopes that were there before."""
        return _Outside(self._before)

    def _end(self) -> None:
        """Hand the transaction over: where nobody touched the scope that has it, by its facts."""
        assert self._mine is not None
        assert self._lazy is not None
        ours = (self._process, self._processor)
        scopes = [Scope.get_global_scope(), *self._before]
        if type(self._mine) is not _LazyScope:  # it may have breadcrumbs of log records, which no transaction has
            scopes.append(self._mine)
        if self._transaction is None:
            if self._transactions.put_plain(self._start, self.status, self._cell, scopes, ours):
                return
            _LazyScope._touch(self._lazy)  # makes it
        assert self._transaction is not None
        self._transactions.end(self._transaction, self.status, self._cell, self._mine, self._lazy)
