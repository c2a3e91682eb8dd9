"""Sentry's SDK: its client for this process, and the hooks by which its events become ours."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import sentry_sdk
from sentry_sdk.consts import DEFAULT_OPTIONS
from sentry_sdk.integrations.logging import LoggingIntegration, ignore_logger
from sentry_sdk.scrubber import EventScrubber
from sentry_sdk.utils import event_from_exception

from metricx_observe.context import DETACHED, Context, Hooks, current_cell, hooks, left_by, mark_reported, reported_as
from metricx_observe.delivery import Delivery
from metricx_observe.exceptions import ConfigurationError
from metricx_observe.ids import new_id
from metricx_observe.request.bodies import shown_body
from metricx_observe.scrubber import Scrubber
from metricx_observe.vendors.vendor import Opened, Target

from .burst import Admission, Burst, error_key
from .channel import EnvelopeTransport
from .events import complete_frames, enrich, name_job, rules_of
from .messages import Messages
from .options import OFF, fewer_imports, keep_from_redirects, own_options, warn_of_lost_options
from .rules import NO_RULES
from .scope import RequestScope, Sampler, cell_of, request_cell
from .serialise import prepare, show_named_tuples

if TYPE_CHECKING:
    from metricx_observe.settings import Settings

_WEB = ("starlette", "fastapi")
"""Integrations whose work the middleware does, at a fifth of their cost."""
_ASYNCIO = "asyncio"
"""Its logger says what ended a task when that is collected, in whatever request that happens."""
_RULES, _EXTRA, _BODY = "metricx_rules", "metricx_extra", "metricx_body"
"""In the hint of an event: what goes with it, and what its serialiser would cut to ten items."""


class _NoScrubber(EventScrubber):
    """In the place of the SDK's own: ours sees everything later."""

    def scrub_event(self, event: Any) -> None: ...


class Sentry(Opened):
    """The owner of Sentry's global client in this process, or several with one DSN."""

    _open: ClassVar[list[Sentry]] = []

    def __init__(
        self, settings: Settings, target: Target, delivery: Delivery, options: Mapping[str, Any], middleware: bool,
        scrubber: Scrubber,
    ) -> None:  # fmt: skip
        """Become the process's Sentry client; without our middleware, with Sentry's own web integrations.

        Raises:
            ConfigurationError: Another open Observability has another DSN; the SDK does not know an option.
        """
        _refuse(options, target)
        self._settings, self._scrubber = settings, scrubber
        self._dsn: str = target.url
        self._messages = Messages(scrubber)
        self._burst = Burst(settings.errors_max_per_second)
        self._sampler = Sampler(settings, options)
        given = {**own_options(settings, middleware), **options}
        earlier = sentry_sdk.get_client()
        self._previous: Any = earlier if earlier.is_active() else None
        if earlier.is_active() and not any(earlier is other._client for other in Sentry._open):
            warn_of_lost_options(earlier, given, options)
        keep_from_redirects()
        show_named_tuples()
        # the application's own scrubber leaves marks for the serialiser, and a length is its work as well
        self._as_it_is = not (options.get("event_scrubber") or options.get("max_value_length"))
        self._hook_into(given, options)
        self._client: Any = self._started(given, EnvelopeTransport(partial(delivery.put, "sentry"), delivery.commit))
        Sentry._open.append(self)
        self.sink, hooks.job_scope = self, self.scope
        if middleware:
            self.middleware_installed()
        else:
            hooks.request_cell = request_cell

    def _hook_into(self, given: dict[str, Any], options: Mapping[str, Any]) -> None:
        """Put our hooks around the application's in the options that are given to the SDK."""
        if options.get("add_full_stack"):  # the SDK joins the stacks by their source
            given["include_source_context"] = True
        if not options.get("data_collection"):  # with which the SDK takes no scrubber
            given.setdefault("event_scrubber", _NoScrubber())
        for hook in ("before_send", "before_send_transaction"):
            given[hook] = self._completing(options.get(hook), bool(options.get("include_source_context", True)))
        given["before_breadcrumb"] = self._messages.crumb_hook(options.get("before_breadcrumb"))
        given |= self._messages.item_hooks(given, lambda: rules_of(self._cell_of(None), self._scrubber))

    def _started(self, given: Mapping[str, Any], transport: EnvelopeTransport) -> Any:
        """The process's new client with our processor; where that fails, the earlier one is put back."""
        with fewer_imports():
            sentry_sdk.init(dsn=self._dsn, transport=transport, **given)
        client = sentry_sdk.get_client()
        try:
            self._attend(client)
        except BaseException:
            sentry_sdk.get_global_scope().set_client(self._previous)
            client.close(timeout=0)
            raise
        return client

    def _attend(self, client: Any) -> None:
        # `disabled_integrations` has no effect where an earlier `init` set them up
        for name in OFF:
            client.integrations.pop(name, None)
        for name in ("metricx_observe", "metricx_observe.*"):
            ignore_logger(name)
        # its handlers format the traceback and build the whole event before we are asked; they have no public names
        logs = client.get_integration(LoggingIntegration)
        for name, wanted in (("_handler", self._is_new_record), ("_breadcrumb_handler", self._is_a_step)):
            if (handler := getattr(logs, name, None)) is not None:
                handler.addFilter(wanted)
        sentry_sdk.get_global_scope().add_event_processor(self._process)

    def close(self) -> None:
        """Give the global client back to whoever had it before."""
        if hooks.job_scope == self.scope:
            hooks.job_scope = Hooks.job_scope
        hooks.request_cell = Hooks.request_cell
        Sentry._open.remove(self)
        for other in Sentry._open:
            if other._previous is self._client:
                other._previous = self._previous
        scope = sentry_sdk.get_global_scope()
        scope._event_processors.remove(self._process)  # there is no public way to take a processor off again
        if sentry_sdk.get_client() is self._client:
            scope.set_client(self._previous)
        self._client.close(timeout=0)  # its threads

    def middleware_installed(self) -> None:
        """Sentry's own web integrations would report everything once more.

        Without it (`init_observability()` alone) they stay: nothing else sees unhandled errors then.
        """
        for client in (self._client, sentry_sdk.get_global_scope().client):  # a later `init` has them as well
            for name in _WEB:
                client.integrations.pop(name, None)

    def flush(self) -> None:
        """Hand over what the SDK gathers itself: logs, metrics, sessions."""
        self._client.flush(timeout=1.0)
        self._burst.reset()

    def status(self) -> Mapping[str, Any]:
        """`client_replaced`: whether a later `sentry_sdk.init` took the global client away; requests still report
        through ours. `merged`: errors that were not sent, because identical ones of the same second were."""
        replaced = self in Sentry._open and sentry_sdk.get_global_scope().client is not self._client
        return {"client_replaced": replaced, "merged": self._burst.merged}

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """A block that Sentry does not see: no breadcrumb, span, header or event. For delivery's threads."""
        with sentry_sdk.isolation_scope() as scope:
            # without a release the SDK would ask git: a fork meanwhile would hold up this thread until the child ends
            nobody = sentry_sdk.Client(release="", default_integrations=False, auto_enabling_integrations=False)
            scope.client = nobody  # `set_client` would put its environment on everybody's logs and metrics
            yield

    def scope(self, cell: Context) -> RequestScope:
        """The scopes of one request or job, bound to its cell."""
        return RequestScope(cell, self._client, self._sampler)

    def capture(
        self, error: BaseException, *, handled: bool, extra: Mapping[str, Any], level: str | None
    ) -> str | None:
        cell = self._cell_of(error)
        sent, event_id = self._burst.admit(error_key(error), new_id())
        mark_reported(error, cell, event_id or "")  # what has the mark of its own id is let through by `_process`
        if not sent:
            return event_id
        mechanism = {"type": "metricx_observe", "handled": handled}
        event, hint = event_from_exception(error, client_options=sentry_sdk.get_client().options, mechanism=mechanism)
        event["event_id"] = str(event_id)
        captured = self._capture(event, hint, extra, level)
        if captured is None:  # the application's hook dropped it
            mark_reported(error, cell, "")
        return captured

    def message(self, text: str, level: str, extra: Mapping[str, Any]) -> str | None:
        return self._capture({"message": text}, {}, extra, level)

    def _capture(self, event: Any, hint: dict[str, Any], extra: Mapping[str, Any], level: str | None) -> str | None:
        if level:
            event["level"] = level
        return sentry_sdk.get_current_scope().capture_event(event, {**hint, _EXTRA: extra})

    def breadcrumb(self, message: str, category: str | None, data: Mapping[str, Any]) -> None:
        sentry_sdk.add_breadcrumb(message=message, category=category, data=dict(data))

    def _cell_of(self, error: BaseException | None, logger_name: str | None = None) -> Context:
        """Whose an event is: of the running code, else of its scope, which threads inherit, else of a job it ended."""
        if logger_name == _ASYNCIO:
            return DETACHED
        return current_cell() or cell_of(sentry_sdk.get_isolation_scope()) or left_by(error) or DETACHED

    def _process(self, event: Any, hint: Any) -> Any:
        """Sentry's event processor. An event under `detached()` belongs to no request."""
        error = (hint.get("exc_info") or (None, None, None))[1]
        cell = self._cell_of(error, event.get("logger"))
        if not self._is_new(event, error, cell):
            return None
        if event.get("logger") == _ASYNCIO:
            event.pop("breadcrumbs", None)
            event.get("contexts", {}).pop("trace", None)
        if cell is not DETACHED:
            hint[_RULES] = enrich(event, cell, self._settings.send_client_ip, self._scrubber)
            if cell.info is not None and cell.info.body and event.get("type") != "transaction":
                hint[_BODY] = shown_body(cell.info.body, cell.info.header(b"content-type") or "")
        return prepare(event, self._as_it_is)

    def _is_new(self, event: Any, error: BaseException | None, cell: Context) -> bool:
        """Whether it was not reported already (it may have been logged and raised), and is not one more of a burst."""
        event_id: str = event["event_id"]
        known = None if error is None else reported_as(error, cell)
        if known is not None:
            return known == event_id
        admission = Admission(True, event_id)
        if event.get("level") in ("error", "fatal"):
            admission = self._burst.admit(_text_key(event) if error is None else error_key(error), event_id)
        if error is not None:
            mark_reported(error, cell, admission.event_id or "")
        return admission.sent

    def _is_new_record(self, record: logging.LogRecord) -> bool:
        """Whether to make an event of a log record: not of an exception that was reported, or comes in a burst."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return True
        cell = self._cell_of(error, record.name)
        if reported_as(error, cell) is not None:
            return False
        refused = self._burst.refused(error_key(error))
        if refused is not None:
            mark_reported(error, cell, refused.event_id or "")
        return refused is None

    def _is_a_step(self, record: logging.LogRecord) -> bool:
        """Whether a log record is a breadcrumb, and not what a server or a wrapper says of a request that ended."""
        error = record.exc_info[1] if record.exc_info else None
        return error is None or current_cell() is not None or reported_as(error, DETACHED) is None

    def _completing(self, before_send: Any, with_source: bool) -> Any:
        """A hook that puts on what the SDK's serialiser would cut, and then runs the application's."""

        def complete(event: Any, hint: Any) -> Any:
            event_id, rules = event["event_id"], hint.get(_RULES, NO_RULES)
            complete_frames(event, with_source)
            name_job(event)
            if extra := hint.get(_EXTRA):
                event["extra"] = {**(event.get("extra") or {}), **extra}
            if _BODY in hint:
                event["request"]["data"] = hint[_BODY]
            if event.get("type") != "transaction":
                self._messages.clean_event(event, hint.get("log_record"), rules.personal)
            sent = event if before_send is None else before_send(event, hint)
            if isinstance(sent, dict):
                sent.setdefault("event_id", event_id)
                rules.travel_in(sent)
            return sent

        return complete


def _refuse(options: Mapping[str, Any], target: Target) -> None:
    """Raise ConfigurationError for an option that the SDK does not know, and for a second DSN in this process."""
    if unknown := sorted(options.keys() - DEFAULT_OPTIONS.keys()):
        names = ", ".join(unknown)
        raise ConfigurationError(f"sentry_options: sentry-sdk {sentry_sdk.VERSION} has no option {names}")
    if any(other._dsn != target.url for other in Sentry._open):
        raise ConfigurationError("another open Observability has another SENTRY_DSN: close() it first")


def _text_key(event: Any) -> Hashable:
    logged = event.get("logentry") or event
    return event.get("logger"), logged.get("formatted"), logged.get("message")
