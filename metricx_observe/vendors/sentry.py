"""Sentry: its SDK builds events, in scopes that are ours.

Everything that knows the SDK's inside is here and in `sentry_channel.py`; `tests/test_vendor_sentry.py` fails when the
SDK changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, ClassVar

import sentry_sdk
from sentry_sdk.consts import DEFAULT_OPTIONS
from sentry_sdk.integrations import DidNotEnable, Integration
from sentry_sdk.integrations.logging import ignore_logger
from sentry_sdk.tracing import Transaction
from sentry_sdk.utils import event_from_exception

from metricx_observe.context import DETACHED, Context, current_cell, left_by
from metricx_observe.exceptions import ConfigurationError
from metricx_observe.ids import chance, new_id
from metricx_observe.rate import TokenBucket
from metricx_observe.reporter import mark_reported, reported_as, was_reported
from metricx_observe.settings import Settings, Vendor

from .burst import Admission, error_key
from .sentry_channel import EnvelopeTransport, FinishTransaction, Put
from .sentry_events import enrich, route_name

logger = logging.getLogger(__name__)

_WEB = frozenset({"starlette", "fastapi"})
"""Integrations whose work the middleware does, at a fifth of their cost."""
_LLM = frozenset(
    {"anthropic", "openai", "openai_agents", "langchain", "langgraph", "huggingface_hub", "cohere", "litellm",
     "google_genai", "pydantic_ai", "mcp"}
)  # fmt: skip
"""Langfuse has these calls."""
_OURS = frozenset({"dsn", "transport", "integrations"})
_SERVER_LOGGERS = frozenset({"uvicorn.error", "hypercorn.error", "gunicorn.error"})
"""They log what the middleware has reported already."""
_ADMITTED = "metricx_admitted"
"""In the hint of an event that was looked at for bursts."""
_EXTRA = "metricx_extra"
"""In the hint of an event that was given more facts."""


@dataclass(slots=True)
class RequestTrace:
    """What the middleware tells of a request: its status, for the transaction where there is one."""

    transaction: Transaction | None
    status: int = 0


class Sentry:
    """The owner of Sentry's global client in this process, or several with one DSN."""

    _open: ClassVar[list[Sentry]] = []

    def __init__(self, settings: Settings, target: Vendor) -> None:
        self._settings = settings
        self._target = target
        self._transport: EnvelopeTransport | None = None
        self._previous: Any = None
        self._client: Any = None
        self._upstream_traces = TokenBucket(settings.traces_max_per_second)
        self._rate = settings.sample_rate
        self._send_ip = settings.send_client_ip

    def open(self, put: Put, commit: Callable[[float], bool], options: Mapping[str, Any], web: bool) -> None:
        """Become the process's Sentry client. `web`: with Sentry's own web integrations, where no middleware is.

        Raises:
            ConfigurationError: Another open Observability has another DSN.
        """
        if any(other._target.url != self._target.url for other in Sentry._open):
            raise ConfigurationError("another open Observability has another SENTRY_DSN: close() it first")
        self._take_over(options)
        self._transport = transport = EnvelopeTransport(put, commit, self._settings.errors_max_per_second)
        ours = {"dsn": self._target.url, "transport": transport, "before_send": _with_extra(options.get("before_send"))}
        sentry_sdk.init(**{**self._options(web), **options, **ours})
        self._client = sentry_sdk.get_client()
        # its ContextVar keeps the last exception, and so its frames, alive in each task that began after it
        self._client.integrations.pop("dedupe", None)
        for name in ("metricx_observe", "metricx_observe.*"):
            ignore_logger(name)
        sentry_sdk.get_global_scope().add_event_processor(self._process)
        Sentry._open.append(self)

    def _options(self, web: bool) -> dict[str, Any]:
        settings = self._settings
        return {
            "environment": settings.environment_name,
            "release": settings.release,
            "traces_sample_rate": self._rate,
            "include_local_variables": settings.send_locals,
            "max_request_body_size": "never",
            "in_app_include": list(settings.in_app),
            "in_app_exclude": ["metricx_observe"],
            "disabled_integrations": _integrations(_LLM if web else _LLM | _WEB),
        }

    def _take_over(self, options: Mapping[str, Any]) -> None:
        earlier = sentry_sdk.get_client()
        self._previous = earlier if earlier.is_active() else None
        if self._previous is None or any(earlier is other._client for other in Sentry._open):
            return
        known = {*self._options(False), *options, *_OURS}
        lost = sorted(
            name
            for name, value in earlier.options.items()
            if name in DEFAULT_OPTIONS and name not in known and value != DEFAULT_OPTIONS[name] and value
        )
        logger.warning(
            "an earlier sentry_sdk.init is taken over; not carried over: %s. Give them as "
            "Observability.from_env(sentry_options={...}) and remove the earlier call.",
            ", ".join(lost) or "nothing",
        )

    def close(self) -> None:
        """Give the global client back to whoever had it before."""
        if self in Sentry._open:
            Sentry._open.remove(self)
        for other in Sentry._open:
            if other._previous is self._client:
                other._previous = self._previous
        scope = sentry_sdk.get_global_scope()
        processors = scope._event_processors  # there is no public way to take a processor off again
        if self._process in processors:
            processors.remove(self._process)
        if sentry_sdk.get_client() is self._client:
            scope.set_client(self._previous)
        if self._client is not None:
            self._client.close(timeout=0)  # its threads
        self._transport = None

    def replace_web_integrations(self) -> None:
        """The middleware is installed: Sentry's own web integrations would report everything once more.

        `disabled_integrations` alone has no effect where an earlier `init` set them up. Without the middleware
        (`init_observability()` alone) they stay: nothing else sees unhandled errors then.
        """
        for client in (self._client, sentry_sdk.get_global_scope().client):  # a later `init` has them as well
            for name in _WEB:
                client.integrations.pop(name, None)

    def flush(self) -> None:
        """Hand over what the SDK gathers itself: logs, metrics, sessions."""
        if self._client is not None:
            self._client.flush(timeout=1.0)

    @property
    def replaced(self) -> bool:
        """Whether a later `sentry_sdk.init` took the global client away; requests still report through ours."""
        return self._client is not None and sentry_sdk.get_global_scope().client is not self._client

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """A block that Sentry does not see: no breadcrumb, span, header or event. For delivery's threads."""
        with sentry_sdk.isolation_scope() as scope:
            scope.set_client(sentry_sdk.Client(default_integrations=False, auto_enabling_integrations=False))
            yield

    @contextmanager
    def scope(self, cell: Context) -> Iterator[RequestTrace]:
        """An isolation scope for one request or job, bound to its cell."""
        with sentry_sdk.isolation_scope() as scope:
            scope.clear_breadcrumbs()  # a fork copies the parent's
            sentry_sdk.get_current_scope().span = None
            # also after a later `sentry_sdk.init` by the application; `set_client` costs 8 us more for attributes
            scope.client = self._client
            scope.add_event_processor(lambda event, hint: self._process(event, hint, cell))
            scope.set_new_propagation_context()
            propagation = scope.get_active_propagation_context()
            propagation.trace_id = cell.state.trace_id or new_id()
            if cell.upstream is not None:
                propagation.parent_span_id = cell.upstream.span_id
                propagation.parent_sampled = cell.upstream.sampled
            trace = RequestTrace(self._begin(cell) if self._sampled(cell) else None)
            try:
                yield trace
            finally:
                self._end(trace, cell)

    def _process(self, event: Any, hint: Any, cell: Context | None = None) -> Any:
        """Sentry's event processor: the cell of the running code, else the one that its scope is bound to.

        A thread may have one without the other. An event under `detached()` belongs to no request. What ended a job is
        reported after it.
        """
        running = current_cell()
        error = (hint.get("exc_info") or (None, None, None))[1]
        if event.get("logger") in _SERVER_LOGGERS and error is not None and was_reported(error):
            return None
        if event.get("logger") == "asyncio":  # of a task that was collected, in whatever request that happened
            event.pop("breadcrumbs", None)
            event.get("contexts", {}).pop("trace", None)
            return event
        if running is not None and cell is not None:
            return event  # the process's own processor, which has no cell, had it already
        cell = running or cell or left_by(error) or DETACHED
        if not self._is_news(event, hint, error, cell):
            return None
        return event if cell is DETACHED else enrich(event, cell, self._send_ip)

    def _is_news(self, event: Any, hint: Any, error: BaseException | None, cell: Context) -> bool:
        """Whether it was not reported already (it may have been logged and raised), and is not one more of a burst."""
        event_id, sent = event["event_id"], True
        if error is not None and reported_as(error, cell) not in (None, event_id):
            return False
        if _ADMITTED not in hint and event.get("level") in ("error", "fatal"):
            hint[_ADMITTED] = True
            sent, event_id = self._admit(_text_key(event) if error is None else error_key(error), event_id)
        if error is not None:
            mark_reported(error, cell, event_id or "")
        return sent

    def _sampled(self, cell: Context) -> bool:
        """Decided before a transaction is built. A negative upstream leaves it out, a positive one has a limit."""
        info = cell.info
        if info is None or info.method in ("HEAD", "OPTIONS") or self._settings.ignored(info.path):
            return False
        upstream = cell.upstream.sampled if cell.upstream is not None else None
        if upstream is False or not self._rate:
            return False
        if chance() < self._rate:
            return True
        return upstream is True and self._upstream_traces.take()

    def _begin(self, cell: Context) -> Transaction:
        scope = sentry_sdk.get_current_scope()
        transaction = Transaction(
            name="<unmatched>",
            op="websocket.server" if cell.info and cell.info.method == "WEBSOCKET" else "http.server",
            source="route",
            sampled=True,
            trace_id=cell.state.trace_id,
        )
        if cell.upstream is not None:
            transaction.parent_span_id = cell.upstream.span_id
        scope.start_transaction(transaction)
        transaction.sample_rate = self._rate
        scope.span = transaction
        return transaction

    def _end(self, trace: RequestTrace, cell: Context) -> None:
        transaction, transport = trace.transaction, self._transport
        if transaction is None or transport is None:
            return
        transaction.name = route_name(cell)
        if trace.status:
            transaction.set_http_status(trace.status)
        scopes = sentry_sdk.get_isolation_scope(), sentry_sdk.get_current_scope()
        transport.finish(FinishTransaction(*scopes, transaction, datetime.now(UTC)))

    def capture(
        self, error: BaseException, *, handled: bool, extra: Mapping[str, Any] | None = None, level: str | None = None
    ) -> str | None:
        """Report an exception in the current scope. Returns the event id, None when the SDK dropped it."""
        admission = self._admit(error_key(error))
        if not admission.sent:
            return admission.event_id
        scope = sentry_sdk.get_current_scope()
        event, hint = event_from_exception(
            error,
            client_options=scope.get_client().options,
            mechanism={"type": "metricx_observe", "handled": handled},
        )
        event["event_id"] = str(admission.event_id)
        return self._capture(event, {**hint, _ADMITTED: True}, extra, level)

    def _admit(self, key: Hashable, event_id: str | None = None) -> Admission:
        return self._transport.burst.admit(key, event_id) if self._transport is not None else Admission(True, event_id)

    @property
    def merged(self) -> int:
        """Errors that were counted on another one's event, because they came in a burst."""
        return self._transport.burst.merged if self._transport is not None else 0

    def message(self, text: str, level: str, extra: Mapping[str, Any] | None = None) -> str | None:
        """Report a message in the current scope."""
        return self._capture({"message": text}, {}, extra, level)

    def _capture(self, event: Any, hint: Any, extra: Mapping[str, Any] | None, level: str | None) -> str | None:
        if level:
            event["level"] = level
        return sentry_sdk.get_current_scope().capture_event(event, {**hint, _EXTRA: extra} if extra else hint)

    def breadcrumb(self, message: str, category: str | None, data: Mapping[str, Any] | None) -> None:
        """Add a breadcrumb to the current scope."""
        sentry_sdk.add_breadcrumb(message=message, category=category, data=dict(data or {}))


def _with_extra(before_send: Any) -> Any:
    """A `before_send` that first puts on what was given as `extra`: the SDK would cut it to ten items."""

    def put_extra(event: Any, hint: Any) -> Any:
        if extra := hint.get(_EXTRA):
            event["extra"] = {**(event.get("extra") or {}), **extra}
        return event if before_send is None else before_send(event, hint)

    return put_extra


def _text_key(event: Any) -> Hashable:
    logged = event.get("logentry") or event
    return event.get("logger"), logged.get("formatted"), logged.get("message")


def _integrations(names: frozenset[str]) -> list[Integration]:
    found: list[Integration] = []
    for name in sorted(names):
        with suppress(ImportError, DidNotEnable):  # its library is not installed: nothing to switch off
            module = import_module(f"sentry_sdk.integrations.{name}")
            kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Integration)]
            found += [kind() for kind in kinds if kind.identifier == name]
    return found
