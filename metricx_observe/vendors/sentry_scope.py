"""Sentry's scopes of one request or job: its own breadcrumbs, tags and trace, made when something first touches them.

Most requests touch nothing of Sentry. Forking two scopes for each costs as much as all else that the middleware does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import copy
from datetime import UTC, datetime
from threading import RLock
from typing import Any

import sentry_sdk
from sentry_sdk.scope import Scope
from sentry_sdk.tracing import Transaction

from metricx_observe.context import Context, Upstream
from metricx_observe.ids import chance, new_id
from metricx_observe.rate import TokenBucket
from metricx_observe.settings import Settings

from .sentry_channel import TRANSACTION_BYTES, FinishTransaction, Put
from .sentry_events import route_name

_NO_UPSTREAM = Upstream()

_filling = RLock()
"""Two threads of one request may touch its scope for the first time at once. Held for some microseconds."""


def _after_fork() -> None:
    global _filling
    _filling = RLock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Scope(Scope):
    __slots__ = ("fill",)
    fill: Callable[[], Scope] | None


class _LazyScope(_Scope):
    """Becomes what `fill()` gives when it is first touched, but for its client, which the SDK reads all the time."""

    __slots__ = ()

    def __init__(self, fill: Callable[[], Scope], client: Any) -> None:
        object.__setattr__(self, "fill", fill)
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


class Transactions:
    """Sentry's transactions: which requests get one, and what becomes of it."""

    def __init__(self, settings: Settings, put: Put) -> None:
        self._settings = settings
        self._put = put
        self._upstream = TokenBucket(settings.traces_max_per_second)
        """Requests that are traced only because the caller asked for it, which anybody can."""

    def begin(self, cell: Context) -> Transaction | None:
        """A transaction, if the request is sampled. A negative upstream leaves it out, a positive one has a limit."""
        info, upstream, rate = cell.info, cell.upstream or _NO_UPSTREAM, self._settings.sample_rate
        if info is None or upstream.sampled is False or not rate:
            return None
        ours = chance() < rate
        if not (ours or upstream.sampled) or info.method in ("HEAD", "OPTIONS") or self._settings.ignored(info.path):
            return None
        if not (ours or self._upstream.take()):
            return None
        scope = sentry_sdk.get_current_scope()
        transaction = Transaction(
            name="<unmatched>",
            op="websocket.server" if info.method == "WEBSOCKET" else "http.server",
            source="route",
            sampled=True,
            trace_id=cell.state.trace_id,
        )
        transaction.parent_span_id = upstream.span_id
        scope.start_transaction(transaction)
        transaction.sample_rate = rate
        scope.span = transaction
        return transaction

    def end(self, transaction: Transaction, status: int, cell: Context) -> None:
        """Hand a transaction over to the writer, which builds its event in the request's scopes."""
        transaction.name = route_name(cell)
        if status:
            transaction.set_http_status(status)
        scopes = sentry_sdk.get_isolation_scope(), sentry_sdk.get_current_scope()
        self._put(FinishTransaction(*scopes, transaction, datetime.now(UTC)), TRANSACTION_BYTES)


class RequestScope:
    """`with` it: Sentry's isolation scope and current scope are those of this cell.

    `status`: of the response, set by the middleware for the transaction, if there is one.
    """

    __slots__ = ("_before", "_cell", "_client", "_mine", "_process", "_transaction", "_transactions", "status")
    _mine: _LazyScope | None
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
        Scope.set_isolation_scope(self._mine)
        Scope.set_current_scope(_LazyScope(self._current, self._before[1].client))
        self._transaction = self._transactions.begin(self._cell)
        return self

    def _isolation(self) -> Scope:
        scope, cell, process = self._before[0].fork(), self._cell, self._process
        scope.clear_breadcrumbs()  # a fork copies the parent's
        scope.client = self._client  # also after a later `sentry_sdk.init` by the application
        scope.add_event_processor(lambda event, hint: process(event, hint, cell))
        scope.set_new_propagation_context()
        propagation = scope.get_active_propagation_context()
        propagation.trace_id = cell.state.trace_id or new_id()
        if cell.upstream is not None:
            propagation.parent_span_id = cell.upstream.span_id
            propagation.parent_sampled = cell.upstream.sampled
        return scope

    def _current(self) -> Scope:
        scope = self._before[1].fork()
        scope.span = None
        return scope

    def __exit__(self, *raised: object) -> None:
        if self._transaction is not None:
            self._transactions.end(self._transaction, self.status, self._cell)
        # a generator that is dropped ends in somebody else's Context, which has nothing to put back
        if Scope.get_isolation_scope() is self._mine:
            Scope.set_isolation_scope(self._before[0])
            Scope.set_current_scope(self._before[1])
        self._mine = self._transaction = None  # a task that outlives the request keeps its scope, and nothing more
