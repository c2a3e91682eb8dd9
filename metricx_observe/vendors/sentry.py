"""Sentry: its SDK builds events, in scopes that are ours.

Everything that knows the SDK's inside is in this folder's `sentry…` files; `tests/test_vendor_sentry*.py` fail when the
SDK changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import sentry_sdk
from sentry_sdk import integrations as sentry_integrations
from sentry_sdk.consts import DEFAULT_OPTIONS
from sentry_sdk.integrations.fastapi import FastApiIntegration
from sentry_sdk.integrations.logging import LoggingIntegration, ignore_logger
from sentry_sdk.integrations.starlette import StarletteIntegration
from sentry_sdk.utils import event_from_exception

from metricx_observe.bodies import shown_body
from metricx_observe.context import DETACHED, Context, current_cell, left_by, mark_reported, reported_as
from metricx_observe.exceptions import ConfigurationError
from metricx_observe.scrubber import Scrubber
from metricx_observe.settings import Settings, Vendor

from .burst import error_key
from .sentry_channel import EnvelopeTransport, Put
from .sentry_events import enrich, name_job
from .sentry_frames import Bypass, add_source, steps_of, tell_own
from .sentry_logs import ItemHooks
from .sentry_messages import Messages, clean_message, crumb_hook
from .sentry_named import name_fields, show_named_tuples
from .sentry_scope import RequestScope, cell_of, request_cell
from .sentry_targets import keep_from_redirects, propagation_targets
from .sentry_transactions import Transactions

logger = logging.getLogger(__name__)

_WEB = ("starlette", "fastapi")
"""Integrations whose work the middleware does, at a fifth of their cost."""
_OFF = ("anthropic", "openai", "openai_agents", "langchain", "langgraph", "huggingface_hub", "cohere", "litellm",
        "google_genai", "pydantic_ai", "mcp", "dedupe")  # fmt: skip
"""Langfuse has the LLM calls; dedupe's ContextVar keeps the last exception's frames alive in each later task."""
_ASYNCIO = "asyncio"
"""Its logger says what ended a task when that is collected, in whatever request that happens."""
_ADMITTED = "metricx_admitted"
"""In the hint of an event that was looked at for bursts."""
_RECORD_ID = "_metricx_event_id"
"""On a log record that was admitted: the id of its event. The SDK shows attributes without the underscore."""
_EXTRA = "metricx_extra"
"""In the hint of an event that was given more facts."""


class Sentry:
    """The owner of Sentry's global client in this process, or several with one DSN."""

    _open: ClassVar[list[Sentry]] = []

    def __init__(
        self,
        settings: Settings,
        target: Vendor,
        put: Put,
        commit: Callable[[float], bool],
        options: Mapping[str, Any],
        web: bool,
        scrubber: Scrubber,
    ) -> None:
        """Become the process's Sentry client. `web`: with Sentry's own web integrations, where no middleware is.

        Raises:
            ConfigurationError: Another open Observability has another DSN; the SDK does not know an option.
        """
        if unknown := sorted(options.keys() - DEFAULT_OPTIONS.keys()):
            told = ", ".join(unknown)
            raise ConfigurationError(f"sentry_options: sentry-sdk {sentry_sdk.VERSION} has no option {told}")
        if any(other._dsn != target.url for other in Sentry._open):
            raise ConfigurationError("another open Observability has another SENTRY_DSN: close() it first")
        self._settings = settings
        self._scrubber = scrubber
        self._dsn: str = target.url
        self._transport = EnvelopeTransport(put, commit, settings.errors_max_per_second)
        given = {**self._options(web), **options}
        self._previous = self._take_over(given, options)
        if "trace_propagation_targets" not in options:
            given["trace_propagation_targets"] = propagation_targets(settings.trace_hosts)
        keep_from_redirects()
        show_named_tuples()
        self._bypass = Bypass(options)
        # with `data_collection` the SDK takes no scrubber; a shorter length would cut the events' ids, too
        if not options.get("data_collection") and (options.get("max_value_length") or 32) >= 32:
            given["event_scrubber"] = self._bypass
        if options.get("add_full_stack"):  # the SDK joins the stacks by their source
            given["include_source_context"] = True
        self._messages = Messages(scrubber)
        with_source = bool(options.get("include_source_context", True))
        for hook in ("before_send", "before_send_transaction"):
            given[hook] = self._completing(options.get(hook), with_source)
        given["before_breadcrumb"] = crumb_hook(options.get("before_breadcrumb"), self._messages)
        given |= ItemHooks(self._messages, _cell_now, scrubber).options(given)
        with _fewer_imports():
            sentry_sdk.init(dsn=target.url, transport=self._transport, **given)
        self._client: Any = sentry_sdk.get_client()
        try:
            self._transactions = Transactions(settings, put, self._client, options, scrubber)
            self._attend()
        except BaseException:
            sentry_sdk.get_global_scope().set_client(self._previous)
            self._client.close(timeout=0)
            raise
        Sentry._open.append(self)

    def _attend(self) -> None:
        """What is done to the client that was made."""
        # `disabled_integrations` has no effect where an earlier `init` set them up
        for name in _OFF:
            self._client.integrations.pop(name, None)
        for name in ("metricx_observe", "metricx_observe.*"):
            ignore_logger(name)
        # its handlers format the traceback and build the whole event before we are asked; they have no public names
        logs = self._client.get_integration(LoggingIntegration)
        for name, wanted in (("_handler", self._is_new_record), ("_breadcrumb_handler", _is_no_echo)):
            if (handler := getattr(logs, name, None)) is not None:
                handler.addFilter(partial(wanted, handler))
        sentry_sdk.get_global_scope().add_event_processor(self._process)

    def _options(self, web: bool) -> dict[str, Any]:
        settings = self._settings
        return {
            "environment": settings.environment_at("sentry"),
            "release": settings.release,
            "traces_sample_rate": settings.sample_rate,
            "include_local_variables": settings.send_locals,
            "include_source_context": False,  # the SDK reads each frame's file anew, 4 of an error's 7 ms
            "max_request_body_size": "never",
            "in_app_include": list(settings.in_app),
            "in_app_exclude": ["metricx_observe"],
            "disabled_integrations": [] if web else [StarletteIntegration(), FastApiIntegration()],
        }

    def _take_over(self, given: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
        """The client that was there before us, or None. Says what of its options is lost, but for the `options` given
        anew."""
        earlier = sentry_sdk.get_client()
        if not earlier.is_active() or any(earlier is other._client for other in Sentry._open):
            return earlier if earlier.is_active() else None
        # the SDK fills in what it was not given: host name, folder, release, and more
        none: dict[str, Any] = dict.fromkeys(("default_integrations", "auto_enabling_integrations"), False)
        filled = {**sentry_sdk.Client(**none).options, **{name: DEFAULT_OPTIONS[name] for name in none}}
        theirs = dict(earlier.options)
        if not (theirs.get("data_collection") or {}).get("provided_by_user"):
            theirs.pop("data_collection", None)  # made of other options, which are named themselves
        now = {**filled, **{name: value for name, value in given.items() if value is not None}}
        lost = [
            name
            for name in sorted((DEFAULT_OPTIONS.keys() & theirs.keys()) - {*options, "dsn", "transport"})
            if not any(_alike(theirs[name], other.get(name)) for other in (filled, now))
        ]
        logger.warning(
            "an earlier sentry_sdk.init is taken over; not carried over: %s. Give them as "
            "Observability.from_env(sentry_options={...}) and remove the earlier call.",
            ", ".join(lost) or "nothing",
        )
        return earlier

    def close(self) -> None:
        """Give the global client back to whoever had it before."""
        Sentry._open.remove(self)
        for other in Sentry._open:
            if other._previous is self._client:
                other._previous = self._previous
        scope = sentry_sdk.get_global_scope()
        scope._event_processors.remove(self._process)  # there is no public way to take a processor off again
        if sentry_sdk.get_client() is self._client:
            scope.set_client(self._previous)
        self._client.close(timeout=0)  # its threads

    request_cell = staticmethod(request_cell)

    def replace_web_integrations(self) -> None:
        """The middleware is installed: Sentry's own web integrations would report everything once more.

        Without it (`init_observability()` alone) they stay: nothing else sees unhandled errors then.
        """
        for client in (self._client, sentry_sdk.get_global_scope().client):  # a later `init` has them as well
            for name in _WEB:
                client.integrations.pop(name, None)

    def flush(self) -> None:
        """Hand over what the SDK gathers itself: logs, metrics, sessions."""
        self._client.flush(timeout=1.0)

    @property
    def replaced(self) -> bool:
        """Whether a later `sentry_sdk.init` took the global client away; requests still report through ours."""
        return self in Sentry._open and sentry_sdk.get_global_scope().client is not self._client

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """A block that Sentry does not see: no breadcrumb, span, header or event. For delivery's threads."""
        with sentry_sdk.isolation_scope() as scope:
            # without a release the SDK would ask git: a fork meanwhile would hold up this thread until the child ends
            nobody = sentry_sdk.Client(release="", default_integrations=False, auto_enabling_integrations=False)
            scope.client = nobody  # `set_client` would put its environment on everybody's logs and metrics
            yield

    def scope(self, cell: Context) -> RequestScope:
        """An isolation scope for one request or job, bound to its cell."""
        return RequestScope(cell, self._client, self._process, self._transactions)

    def _process(self, event: Any, hint: Any, cell: Context | None = None) -> Any:
        """Sentry's event processor: the cell of the running code, else the one that its scope is bound to.

        A thread may have one without the other. An event under `detached()` belongs to no request. What ended a job is
        reported after it.
        """
        name_fields(event)
        running = current_cell()
        error = (hint.get("exc_info") or (None, None, None))[1]
        if event.get("logger") == _ASYNCIO:
            event.pop("breadcrumbs", None)
            event.get("contexts", {}).pop("trace", None)
            return event
        if running is not None and cell is not None:
            return event  # the process's own processor, which has no cell, had it already
        cell = running or cell or left_by(error) or DETACHED
        if not self._is_news(event, hint, error, cell):
            return None
        if cell is not DETACHED:
            self._enrich(event, cell)
        return event

    def _enrich(self, event: Any, cell: Context) -> None:
        """Put on what is known of the request or job now: what is bound later is of later events."""
        info, send_ip = cell.info, self._settings.send_client_ip
        request, paths = (None, ()) if info is None else (info.facts(), info.paths())
        rules = enrich(event, cell.state, cell.llm_trace_id, request, send_ip, self._scrubber, paths)
        if info is not None and info.body and event.get("type") != "transaction":
            event["request"]["data"] = shown_body(info.body, info.header(b"content-type") or "")
        self._transport.rules.keep(event["event_id"], rules)

    def _completing(self, before_send: Any, with_source: bool) -> Any:
        """A hook that first puts on what was kept from the SDK's serialiser, which costs 4 us a value."""

        def complete(event: Any, hint: Any) -> Any:
            self._bypass.put_back(event)
            tell_own(event)
            name_job(event)
            if with_source:
                add_source(event)
            if extra := hint.get(_EXTRA):  # the SDK would cut it to ten items
                event["extra"] = {**(event.get("extra") or {}), **extra}
            refused = _cell_now().state.consent.analytics is False
            clean_message(event, hint.get("log_record"), self._messages, "drop" if refused else "hash")
            return event if before_send is None else self._sent(before_send, event, hint)

        return complete

    def _sent(self, before_send: Any, event: Any, hint: Any) -> Any:
        """What the application makes of an event; what it must be scrubbed by goes with it, whatever is left of it."""
        event_id = event["event_id"]
        sent = before_send(event, hint)
        rules = self._transport.rules.take(event_id)
        if isinstance(sent, dict):
            self._transport.rules.keep(sent.setdefault("event_id", event_id), rules)
        return sent

    def _is_new_record(self, handler: Any, record: logging.LogRecord) -> bool:
        """Whether to make an event of a log record: not of an exception that was reported, or comes in a burst."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None or not handler._can_record(record):  # of a logger that the application ignores
            return True
        cell = DETACHED if record.name == _ASYNCIO else current_cell() or left_by(error) or DETACHED
        if reported_as(error, cell) is not None:
            return False
        sent, event_id = self._transport.burst.admit(error_key(error))
        if sent:
            setattr(record, _RECORD_ID, event_id)
        else:
            mark_reported(error, cell, event_id or "")
        return sent

    def _is_news(self, event: Any, hint: Any, error: BaseException | None, cell: Context) -> bool:
        """Whether it was not reported already (it may have been logged and raised), and is not one more of a burst."""
        if (admitted := getattr(hint.get("log_record"), _RECORD_ID, None)) is not None:
            event["event_id"], hint[_ADMITTED] = admitted, True
        event_id, sent = event["event_id"], True
        if error is not None and reported_as(error, cell) not in (None, event_id):
            return False
        if _ADMITTED not in hint and event.get("level") in ("error", "fatal"):
            hint[_ADMITTED] = True
            key = _text_key(event) if error is None else error_key(error)
            sent, event_id = self._transport.burst.admit(key, event_id)
        if error is not None:
            mark_reported(error, cell, event_id or "")
        return sent

    def capture(
        self, error: BaseException, *, handled: bool, extra: Mapping[str, Any], level: str | None
    ) -> str | None:
        admission = self._transport.burst.admit(error_key(error))
        if not admission.sent:
            return admission.event_id
        client, mechanism = sentry_sdk.get_client(), {"type": "metricx_observe", "handled": handled}
        plainly = {**client.options, "include_local_variables": False}
        event, hint = event_from_exception(error, client_options=plainly, mechanism=mechanism)
        ours = client.options["event_scrubber"] is self._bypass
        steps = steps_of(event, error, client.options) if ours else None  # type: ignore[arg-type]
        if steps is None:  # the SDK does it
            event, hint = event_from_exception(error, client_options=client.options, mechanism=mechanism)
        event["event_id"] = str(admission.event_id)
        with self._bypass.locals_for(event, steps or [], client.options):
            return self._capture(event, {**hint, _ADMITTED: True}, extra, level)

    @property
    def merged(self) -> int:
        """Errors that were counted on another one's event, because they came in a burst."""
        return self._transport.burst.merged

    def message(self, text: str, level: str, extra: Mapping[str, Any]) -> str | None:
        return self._capture({"message": text}, {}, extra, level)

    def _capture(self, event: Any, hint: dict[str, Any], extra: Mapping[str, Any], level: str | None) -> str | None:
        if level:
            event["level"] = level
        return sentry_sdk.get_current_scope().capture_event(event, {**hint, _EXTRA: extra})

    def breadcrumb(self, message: str, category: str | None, data: Mapping[str, Any]) -> None:
        sentry_sdk.add_breadcrumb(message=message, category=category, data=dict(data))


def _alike(one: Any, other: Any) -> bool:
    """Whether two options are the same: the SDK's own objects (its scrubber) do not know."""
    return one == other or (type(one) is type(other) and hasattr(one, "__dict__") and vars(one) == vars(other))


@contextmanager
def _fewer_imports() -> Iterator[None]:
    """A block in which the SDK does not look for the packages of `_OFF`: it imports each to see whether it is there.

    That takes seconds and 100 MB where they are. Of the public options `disabled_integrations` comes after the import,
    and `auto_enabling_integrations` turns off all of them.
    """
    automatic: list[str] = getattr(sentry_integrations, "_AUTO_ENABLING_INTEGRATIONS", [])
    before = automatic[:]
    automatic[:] = [each for each in before if each.split(".")[2:3] not in [[name] for name in _OFF]]
    try:
        yield
    finally:
        automatic[:] = before


def _is_no_echo(handler: Any, record: logging.LogRecord) -> bool:  # noqa: ARG001
    """Whether a log record is a step of something, and not what a server or a wrapper says of a request that ended."""
    error = record.exc_info[1] if record.exc_info else None
    return error is None or current_cell() is not None or reported_as(error, DETACHED) is None


def _cell_now() -> Context:
    return current_cell() or cell_of(sentry_sdk.get_isolation_scope()) or DETACHED


def _text_key(event: Any) -> Hashable:
    logged = event.get("logentry") or event
    return event.get("logger"), logged.get("formatted"), logged.get("message")
