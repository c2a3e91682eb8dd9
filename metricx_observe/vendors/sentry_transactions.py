"""Sentry's transactions: which requests get one, and how it is made on the writer.

Most traced requests start no span and put nothing on their scopes. Of those only the facts are kept, and the writer
fills them into a transaction that the SDK made once: its own way to one takes 60 us of the event loop and 120 of the
writer. `tests/test_vendor_sentry_transactions.py` holds ours against the SDK's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from threading import current_thread
from time import time
from typing import Any, NamedTuple

from sentry_sdk.envelope import Envelope
from sentry_sdk.scope import Scope, global_event_processors, use_isolation_scope, use_scope
from sentry_sdk.tracing import Transaction

from metricx_observe.context import Context, Upstream
from metricx_observe.ids import chance, new_id, new_span_id
from metricx_observe.interrupts import is_interrupt
from metricx_observe.packing import pack, plain_state, state_of, unpack
from metricx_observe.rate import TokenBucket
from metricx_observe.request import RequestFacts, RequestInfo
from metricx_observe.scrubber import Scrubber
from metricx_observe.settings import Settings

from .sentry_channel import Put, Sent, collecting
from .sentry_events import enrich, route_name

logger = logging.getLogger(__name__)

_NO_UPSTREAM = Upstream()
_UNCHANGING = frozenset(
    {"attach_stacktrace", "before_breadcrumb", "before_send", "debug", "dist", "environment", "ignore_errors",
     "in_app_exclude", "in_app_include", "include_local_variables", "max_breadcrumbs", "release", "sample_rate",
     "send_default_pii", "server_name", "shutdown_timeout"}
)  # fmt: skip
"""Options with which all transactions of one kind are alike but for their own facts."""
_TELLING = (
    "_attachments", "_contexts", "_error_processors", "_extras", "_fingerprint", "_level", "_profile", "_session",
    "_tags", "_transaction", "_user",
)  # fmt: skip
"""What a scope may put on a transaction. The SDK has no public way to ask for it."""


class PlainTransaction(NamedTuple):
    """One whose request touched nothing of Sentry: its facts alone."""

    transactions: Transactions
    packed: bytes

    def envelopes(self) -> list[Sent]:
        """Them in the place of those that the SDK's transaction has."""
        return self.transactions.filled(self.packed)


class Transactions:
    """The transactions of one client."""

    def __init__(
        self, settings: Settings, put: Put, client: Any, options: Mapping[str, Any], scrubber: Scrubber
    ) -> None:
        """`options`: those that the application gave to `sentry_sdk.init`."""
        self._settings = settings
        self._scrubber = scrubber
        given = options.get("traces_sample_rate")
        self._rate: float = settings.sample_rate if given is None else float(given)
        self._sampler: Callable[[dict[str, Any]], float | bool | None] | None = options.get("traces_sampler")
        self._said = False
        """Whether it was logged that the sampler raises: it is asked for each request."""
        self._put = put
        self._client = client
        self._alike = _UNCHANGING.issuperset(options)
        self._made: dict[tuple[str, int], Envelope] = {}
        self._upstream = TokenBucket(settings.traces_max_per_second)
        """Requests that are traced only because the caller asked for it, which anybody can."""

    def sampled(self, cell: Context) -> bool:
        """Whether a request gets a transaction. A negative upstream leaves it out, a positive one has a limit."""
        info, upstream = cell.info, cell.upstream or _NO_UPSTREAM
        if info is None:
            return False
        if self._sampler is not None:
            return self._theirs(self._sampler, info, upstream)
        if upstream.sampled is False or not self._rate:
            return False
        ours = chance() < self._rate
        if not (ours or upstream.sampled) or info.method in ("HEAD", "OPTIONS"):
            return False
        if self._settings.ignored(info.path) or self._settings.ignored(info.below_root):
            return False
        return ours or self._upstream.take()

    def _theirs(self, sampler: Callable[[dict[str, Any]], Any], info: RequestInfo, upstream: Upstream) -> bool:
        """What the application's `traces_sampler` says, given what the SDK's own integration gives it."""
        context = {
            "transaction_context": {"name": info.route or info.path, "op": _op(info)},
            "parent_sampled": upstream.sampled,
            "asgi_scope": info.scope,
        }
        try:
            rate = float(sampler(context) or 0.0)
        except Exception as error:
            if is_interrupt(error):
                raise
            if not self._said:
                self._said = True
                logger.warning("traces_sampler raised %s: such a request is not traced", type(error).__name__)
            return False
        return chance() < rate

    def begin(self, scope: Scope, cell: Context, start: float) -> Transaction:
        """The transaction of a sampled request that began at `start`, as the scope's span."""
        upstream, info = cell.upstream or _NO_UPSTREAM, cell.info
        transaction = Transaction(
            name="<unmatched>",
            op=_op(info),
            source="route",
            sampled=True,
            trace_id=cell.state.trace_id,
            start_timestamp=datetime.fromtimestamp(start, UTC),
        )
        transaction.parent_span_id = upstream.span_id
        scope.start_transaction(transaction)
        transaction.sample_rate = self._rate
        scope.span = transaction
        return transaction

    def end(self, transaction: Transaction, status: int, cell: Context, isolation: Scope, current: Scope) -> None:
        """Let the SDK build the event in the request's scopes, now: a task that goes on may change them."""
        transaction.name = route_name(cell)
        if status:
            transaction.set_http_status(status)
        with use_isolation_scope(isolation), use_scope(current):
            transaction.finish()

    def put_plain(
        self, start: float, status: int, cell: Context, scopes: Sequence[Scope], ours: Collection[Callable[..., Any]]
    ) -> bool:
        """Hand over the facts alone, where that is all there is. False: it is not.

        `scopes`: which may say more; `ours`: event processors that do not.
        """
        info, upstream = cell.info, cell.upstream or _NO_UPSTREAM
        if not self._alike or info is None or not all(_says_nothing(scope, ours) for scope in scopes):
            return False
        if any(not each.__module__.startswith("sentry_sdk.") for each in global_event_processors):
            return False
        thread, request = current_thread(), tuple(info.facts())
        facts = (
            start, time(), status, route_name(cell), _op(info), upstream.span_id, str(thread.ident), thread.name,
            cell.llm_trace_id, plain_state(cell.state), request,
        )  # fmt: skip
        try:
            packed = pack(facts)
        except ValueError:  # the scope holds a server's own types
            return False
        self._put(PlainTransaction(self, packed), len(packed) + 200)
        return True

    def filled(self, packed: bytes) -> list[Sent]:
        """The envelope of a transaction that was put by its facts; on the writer."""
        start, end, status, name, op, parent, thread_id, thread_name, llm_trace_id, state, request = unpack(packed)
        made = self._like(op, status)
        if made is None:  # `trace_ignore_status_codes`
            return []
        event: Any = made.items[0].payload.json
        model = {key: value for key, value in event.items() if key != "user"}
        contexts, whose = model["contexts"], state_of(state)
        trace_id = whose.trace_id
        own = {"trace_id": trace_id, "span_id": new_span_id(), "parent_span_id": parent}
        data = {**contexts["trace"]["data"], "thread.id": thread_id, "thread.name": thread_name}
        event = {
            **model,
            "event_id": new_id(),
            "start_timestamp": _iso(start),
            "timestamp": _iso(end),
            "contexts": {**contexts, "trace": {**contexts["trace"], **own, "data": data}},
        }
        drawn = f"{chance() * self._rate:.6f}"  # what was drawn for it was below the rate
        sampling = {**made.headers["trace"], "trace_id": trace_id, "sample_rand": drawn, "transaction": name}
        envelope = Envelope({"event_id": event["event_id"], "sent_at": _iso(time()), "trace": sampling})
        facts, send_ip = RequestFacts._make(request), self._settings.send_client_ip
        rules = enrich(event, whose, llm_trace_id, facts, send_ip, self._scrubber)
        envelope.add_transaction(event)
        return [Sent(envelope, rules)]

    def _like(self, op: str, status: int) -> Envelope | None:
        """What the SDK makes of a transaction with this status, once; None where it makes nothing of it."""
        if (made := self._made.get((op, status))) is None:
            scope, before = Scope(client=self._client), _is_silent(Scope.get_global_scope())
            with collecting() as envelopes, use_isolation_scope(Scope(client=self._client)), use_scope(scope):
                transaction = Transaction(name="?", op=op, source="route", sampled=True)
                scope.start_transaction(transaction)
                transaction.sample_rate = self._rate
                if status:
                    transaction.set_http_status(status)
                transaction.finish()
            made = envelopes[0] if envelopes else None
            # what the process says of itself now is not what it said when the request ended, nor what it will say
            if made is not None and before and _is_silent(Scope.get_global_scope()):
                self._made[op, status] = made
        return made


def _op(info: RequestInfo | None) -> str:
    return "websocket.server" if info is not None and info.method == "WEBSOCKET" else "http.server"


def _says_nothing(scope: Scope, ours: Collection[Callable[..., Any]]) -> bool:
    """Whether a transaction is the same with this scope and without."""
    return _is_silent(scope) and all(processor in ours for processor in scope._event_processors)


def _is_silent(scope: Scope) -> bool:
    return not any(getattr(scope, name) for name in _TELLING)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
