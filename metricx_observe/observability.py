"""Observability: builds all of it from the settings, installs it, says how it is, and closes it."""

from __future__ import annotations

import atexit
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from secrets import token_bytes
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Self

from anyio import to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.errors import ServerErrorMiddleware

from . import context as contexts
from .boundary import Boundary
from .context import Context, begin, job_cell, mark_reported
from .delivery import Delivery, Limits, PortableChannel
from .exceptions import ConfigurationError
from .health import health_route
from .interrupts import is_interrupt
from .llm import LLMTracer
from .logs import say, set_level
from .middleware import AskConsent, Identify, InnerLayer, ObserveMiddleware, OuterStack, reportable
from .reporter import ErrorReporter, ErrorSink
from .startup import DOCUMENTED_NAMES, State, announce, calling_module, state_of
from .tracker import Tracker

if TYPE_CHECKING:  # loaded when they are used, so that importing the package costs little more than FastAPI
    from .settings import Settings, Vendor
    from .vendors.langfuse import Langfuse
    from .vendors.sentry import Sentry

logger = logging.getLogger(__name__)

_OUR_OPTIONS = {
    "dsn": "type SENTRY_DSN",
    "transport": "the outbox is the transport: leave it out",
    **dict.fromkeys(
        ("profiles_sample_rate", "profiles_sampler", "profile_session_sample_rate", "profile_lifecycle"),
        "profiles are not sent: leave it out",
    ),
}
"""Of `sentry_sdk.init`: what `sentry_options` may not set, and what to type."""

_TOO_LATE = (
    "install(app) comes too late for the middleware: signals are sent, but requests have no request id, and no user "
    "from identify=. Call it where the application is made, not in its lifespan."
)


class Observability:
    """Sentry, RudderStack and Langfuse for one process.

        app = FastAPI()
        Observability.from_env().install(app)

    Works without a web application too: `.tracker`, `.llm` and `.errors` open it on first use, `.close()` ends it.
    """

    default: ClassVar[Observability | None] = None
    """The one that the documented module-level functions act on: the first that was opened and is open."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        sentry_options: Mapping[str, Any] | None = None,
        tolerant: bool = False,
    ) -> None:
        """Build it; nothing runs and nothing is opened yet.

        Args:
            settings: `Settings(...)`; from the environment when None.
            sentry_options: Any of `sentry_sdk.init`'s but dsn, transport and those of profiles.
            tolerant: A vendor that is at fault is off, instead of an error.

        Raises:
            ConfigurationError: A vendor is configured wrongly or not installed; says what to type.
        """
        from .scrubber import Scrubber
        from .settings import VENDORS, load_settings

        self._sentry_options = dict(sentry_options or {})
        if refused := sorted(_OUR_OPTIONS.keys() & self._sentry_options.keys()):
            told = "; ".join(f"{name} cannot be set there, {_OUR_OPTIONS[name]}" for name in refused)
            raise ConfigurationError(f"sentry_options: {told}")
        self.settings = settings if settings is not None else load_settings({})
        self.vendors: dict[str, Vendor] = {name: self.settings.vendor(name) for name in VENDORS}
        faults = [vendor.reason for vendor in self.vendors.values() if vendor.state == "fault"]
        if faults and not tolerant:
            raise ConfigurationError("; ".join(faults))
        self._tolerant = tolerant
        self.boundary = Boundary(self.settings.strict)
        self._scrub_rules: dict[str, Any] = {
            "names": self.settings.scrub_names,
            "patterns": self.settings.scrub_patterns,
            "safe_names": self.settings.scrub_safe_names,
            "key": token_bytes(),  # of the hash in markers: the same in both processes
        }
        try:
            self.scrubber = Scrubber(**self._scrub_rules)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        self.error_statuses = self.settings.error_statuses
        self.acknowledged = self.settings.durability == "acknowledged"
        self._sentry: Sentry | None = None
        self._langfuse: Langfuse | None = None
        self._delivery: Delivery | None = None
        self._tracker = Tracker(None, self.boundary)
        self._llm = LLMTracer(None, self.boundary)
        self._errors = ErrorReporter(None, self.boundary)
        self._web = True
        self._state = "new"
        self._opening = Lock()

    @classmethod
    def from_env(cls, *, sentry_options: Mapping[str, Any] | None = None, **overrides: Any) -> Self:
        """Build it from the environment and `.env`. `overrides` are fields of `Settings`.

        Raises:
            ConfigurationError: Names the variable, the fault and what to type; never a value.
        """
        from .settings import load_settings

        return cls(load_settings(overrides), sentry_options=sentry_options)

    @property
    def tracker(self) -> Tracker:
        """Analytics, for code without a request."""
        self._open()
        return self._tracker

    @property
    def llm(self) -> LLMTracer:
        """LLM traces, for code without a request."""
        self._open()
        return self._llm

    @property
    def errors(self) -> ErrorReporter:
        """Errors, for code without a request."""
        self._open()
        return self._errors

    @property
    def error_sink(self) -> ErrorSink | None:
        """The error vendor, for the middleware; None when it is off."""
        return self._sentry

    def start(self) -> None:
        """Open the vendors, and deliver what an earlier process left. Idempotent; after `close()` it opens again."""
        if self._state == "closed":
            self._state = "new"
        self._open()
        if self._delivery is not None:
            self._delivery.start()

    def serve(self) -> None:
        """Open the vendors with the middleware in the place of Sentry's own web integrations."""
        self._web, contexts.vendor_cell = False, None
        if self._sentry is not None:  # open already, without the middleware
            self._sentry.replace_web_integrations()
        self._open()

    def _open(self) -> None:
        """Called by everything that needs it; no thread of delivery runs before the first signal."""
        if self._state != "new":
            return
        with self._opening:
            if self._state != "new":
                return
            try:
                self._open_vendors()
            except BaseException:
                self._state = "closed"
                self._shut(0.0)
                raise
            self._state = "open"
        if Observability.default is None or not Observability.default.is_open:
            Observability.default = self
        atexit.register(self._at_exit)

    def _open_vendors(self) -> None:
        from . import vendors

        settings, channels = self.settings, list[PortableChannel]()
        if settings.enabled:
            set_level(settings.log_level)
        secret = settings.carry_secret
        contexts.carry_secret = None if secret is None else secret.get_secret_value().encode()
        contexts.note = self.boundary.note
        wanted = [name for name, vendor in self.vendors.items() if vendor.state in ("on", "local")]
        for name in wanted:
            with self._opening_vendor(name):
                vendors.fit.check(name)
                channels += vendors.channels(name, settings, self.vendors[name], self.scrubber, self.boundary.count)
        if not channels:
            return
        self._delivery = self._deliver(channels)
        for name in wanted:
            if self.vendors[name].state != "fault":
                with self._opening_vendor(name):
                    self._open_vendor(name, self.vendors[name], self._delivery)

    def _deliver(self, channels: list[PortableChannel]) -> Delivery:
        settings = self.settings
        limits = Limits(
            outbox_bytes=settings.outbox_max_bytes,
            max_age_s=settings.outbox_max_age,
            ephemeral=settings.outbox_ephemeral,
        )
        if settings.delivery == "process" and settings.mode != "test":  # where rows stay in this process
            from .sidecar import greeting, remote_delivery

            targets = {name: vendor for name, vendor in self.vendors.items() if vendor.state in ("on", "local")}
            known = greeting(settings, targets, self._scrub_rules, limits)
            return remote_delivery(known, channels, limits, self._isolated, self.boundary, self.scrubber)
        deliver = settings.mode != "test"
        return Delivery(channels, url=settings.outbox, limits=limits, deliver=deliver, isolate=self._isolated)

    @contextmanager
    def _opening_vendor(self, name: str) -> Iterator[None]:
        """An SDK that does not fit costs its own vendor; what is configured wrongly is an error, unless tolerant."""
        from . import vendors
        from .settings import Vendor

        try:
            yield
        except ConfigurationError as error:
            if not self._tolerant:
                raise
            self.vendors[name] = Vendor("fault", reason=str(error))
        except Exception as error:
            if is_interrupt(error):
                raise
            self.vendors[name] = Vendor("fault", reason=vendors.fit.misfit(name, error))

    def _open_vendor(self, name: str, target: Vendor, delivery: Delivery) -> None:
        """A vendor's module is imported only when that vendor is configured: its SDK comes with it."""
        put = partial(delivery.put, name)
        if name == "rudderstack":
            self._tracker = Tracker(put, self.boundary)
        elif name == "sentry":
            from .vendors.sentry import Sentry

            sentry = Sentry(
                self.settings, target, put, delivery.commit, self._sentry_options, self._web, self.scrubber
            )
            self._sentry, self._errors = sentry, ErrorReporter(sentry, self.boundary)
            contexts.vendor_scope = sentry.scope
            if self._web:
                contexts.vendor_cell = sentry.request_cell
            else:
                sentry.replace_web_integrations()
        else:
            from .vendors.langfuse import Langfuse

            self._langfuse = Langfuse(self.settings, target, delivery.put)
            self._llm = LLMTracer(self._langfuse, self.boundary)

    @property
    def is_open(self) -> bool:
        """Whether it was started and not closed."""
        return self._state == "open"

    @contextmanager
    def _isolated(self) -> Iterator[None]:
        """What delivery's threads run in: no vendor's instrumentation sees them."""
        with ExitStack() as stack:
            if self._sentry is not None:
                stack.enter_context(self._sentry.isolated())
            if self._langfuse is not None:
                stack.enter_context(self._langfuse.isolated())
            yield

    def install(
        self,
        app: Starlette,
        *,
        identify: Identify | None = None,
        consent: AskConsent | None = None,
        health_path: str | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        """Put the middleware around a FastAPI or Starlette application, and open the vendors.

        Args:
            identify: Gets the connection after session and authentication middleware ran; gives an `Identity`, an id
                or None.
            consent: Gives a `Consent`, or whether analytics are allowed. With it, no consent means no analytics.
            health_path: Where to serve `status()`, e.g. "/health/observability".
            logger: Of the start-up line; the calling module's when None.

        Too late for the middleware, in a lifespan or after a request, it starts the vendors and says what is missing.
        """
        log = logger or logging.getLogger(calling_module())
        if app.middleware_stack is not None:
            self.start()
            announce(self.settings, self.vendors, log)
            say(log, logging.ERROR, "[STARTUP] %s", _TOO_LATE)
            return
        self.serve()
        build = app.build_middleware_stack

        def build_wrapped_stack() -> ObserveMiddleware | OuterStack:
            stack = build()
            whole: object = stack  # which is always the one class to Starlette's types
            if isinstance(whole, ServerErrorMiddleware):
                return OuterStack(whole, observability=self, consent_required=consent is not None)
            return ObserveMiddleware(stack, observability=self, consent_required=consent is not None)

        # the one seam around ServerErrorMiddleware, which sends the 500 of unhandled errors outside user middleware
        app.build_middleware_stack = build_wrapped_stack  # type: ignore[method-assign]
        if self.settings.enabled:
            inner = Middleware(InnerLayer, observability=self, identify=identify, consent=consent)
            app.user_middleware.append(inner)
        if health_path is not None:
            app.router.routes.insert(0, health_route(health_path, self.status))
        announce(self.settings, self.vendors, log)

    def states(self) -> dict[str, State]:
        """By documented name: `on`, `local: URL` or `off: reason`, which is false."""
        return {DOCUMENTED_NAMES[name]: state_of(vendor, self.settings) for name, vendor in self.vendors.items()}

    def context(self, *, user_id: object = None, workspace_id: object = None, email: str | None = None) -> begin:
        """Open a context for a job outside any request: its signals share a request id, a user and a workspace."""
        self._open()
        return begin(job_cell(user_id, workspace_id, email=email))

    def report(self, error: BaseException, cell: Context, *, handled: bool) -> None:
        """What the middleware saw. Never raises."""
        if reportable(error, cell):
            with self.boundary("report"):
                self._errors.bound(cell).report(error, handled=handled)
        else:  # the server logs it all the same, as its own error
            mark_reported(error, cell, "")

    def report_status(self, status: int, cell: Context) -> None:
        """A response with an error status and no exception behind it."""
        route = cell.info.route if cell.info is not None else None
        self._errors.bound(cell).capture_message(f"HTTP {status} from {route or 'an unknown route'}", level="error")

    async def committed(self) -> None:
        """Wait until what was put so far is on disk (METRICX_DURABILITY=acknowledged)."""
        if self._delivery is not None:
            await self._delivery.committed()

    def status(self) -> dict[str, Any]:
        """Per vendor its state and what delivery counted; faults of calls; what was scrubbed. No secret, no value."""
        delivery = self._delivery.status() if self._delivery is not None else {}
        parts = {
            name: {"state": state_of(vendor, self.settings), **delivery.pop(name, {})}
            for name, vendor in self.vendors.items()
        }
        if self._sentry is not None:
            parts["sentry"] |= {"client_replaced": self._sentry.replaced, "merged": self._sentry.merged}
        return {
            "service": self.settings.service_name,
            "environment": self.settings.environment_name,
            **parts,
            **delivery,
            "faults": dict(self.boundary.counts),
            "scrubbed": self.scrubber.report.as_dict(),
        }

    def flush(self, timeout_s: float = 10.0, *, patient: bool = True) -> bool:
        """Deliver what was put so far. True when all of it is delivered or refused for good; False after `close()`.

        Without `patient` it waits only for vendors that answer now.
        """
        if self._state == "closed":
            return False
        self._hand_over()
        return self._delivery is None or self._delivery.flush(timeout_s, patient=patient)

    def _hand_over(self) -> None:
        """Ask the vendors' clients for what they hold themselves."""
        for client in (self._langfuse, self._sentry):
            if client is not None:
                with self._alone("flush"):
                    client.flush()

    def close(self, deadline_s: float = 5.0) -> None:
        """Commit, deliver until the deadline, leave the rest on disk for the next start. Idempotent, never raises."""
        if self._state == "open":
            self._state = "closed"
            atexit.unregister(self._at_exit)
            self._shut(deadline_s)

    def _shut(self, deadline_s: float) -> None:
        until = monotonic() + deadline_s
        self._hand_over()
        if self._langfuse is not None:
            with self._alone("close"):
                self._langfuse.close(min(0.5, deadline_s / 4))
        if self._delivery is not None:
            with self._alone("close"):
                self._delivery.close(max(0.0, until - monotonic()))
        if contexts.note == self.boundary.note:
            contexts.note = None
        if self._sentry is not None:
            if contexts.vendor_scope == self._sentry.scope:
                contexts.vendor_scope = nullcontext
            contexts.vendor_cell = None
            with self._alone("close"):
                self._sentry.close()

    @contextmanager
    def _alone(self, call: str) -> Iterator[None]:
        """A step that fails alone, in strict mode too."""
        try:
            yield
        except Exception as error:
            if is_interrupt(error):
                raise
            self.boundary.count(call, [type(error).__name__])

    async def aclose(self, deadline_s: float = 5.0) -> None:
        """`close` without blocking the event loop."""
        await to_thread.run_sync(self.close, deadline_s)

    def _at_exit(self) -> None:
        """A script that ends without `close()` loses nothing: what was put goes to disk. Delivers nothing, so is quick.

        Registered after the vendors' own hooks and delivery's, so that it runs before them.
        """
        self._hand_over()
        if self._delivery is not None:
            self._delivery.commit(1.0)


_OFF = Boundary()


def _facade(name: str) -> Any:
    running, cell = Observability.default, contexts.current_cell()
    if running is not None and running.is_open:
        return getattr(running, name).bound(cell)
    return {"tracker": Tracker, "llm": LLMTracer, "errors": ErrorReporter}[name](None, _OFF)


contexts.facade = _facade  # the arrow goes the other way: context knows nobody
