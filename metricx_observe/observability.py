"""Observability: builds all of it from the settings, installs it, says how it is, and closes it."""

from __future__ import annotations

import asyncio
import atexit
import logging
import sys
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

from starlette.applications import Starlette
from starlette.middleware import Middleware

from . import context as contexts
from .boundary import Boundary
from .context import Context, begin, job_cell
from .delivery import Channel, Delivery, Limits
from .exceptions import ConfigurationError
from .health import health_route
from .llm import LLMTracer
from .logs import set_level
from .middleware import AskConsent, Identify, InnerLayer, ObserveMiddleware, reportable
from .privacy import Scrubber
from .reporter import ErrorReporter, ErrorSink
from .settings import VENDORS, Settings, Vendor, load_settings
from .tracker import Tracker

if TYPE_CHECKING:
    from .vendors.langfuse import Langfuse
    from .vendors.sentry import Sentry

_DOCUMENTED_NAMES = {"sentry": "sentry", "rudderstack": "analytics", "langfuse": "langfuse"}
"""The document calls RudderStack by what it does."""


class Observability:
    """Sentry, RudderStack and Langfuse for one process.

        app = FastAPI()
        Observability.from_env().install(app)

    Works without a web application too: `.tracker`, `.llm` and `.errors` start it on first use, `.close()` ends it.
    """

    default: ClassVar[Observability | None] = None
    """The one that the documented module-level functions act on: the first that was started and is open."""

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
            sentry_options: Any of `sentry_sdk.init`'s but dsn, transport and integrations.
            tolerant: A vendor whose settings are at fault is off, instead of an error.

        Raises:
            ConfigurationError: A vendor is configured wrongly or not installed; says what to type.
        """
        self.settings = settings if settings is not None else load_settings({})
        self.vendors: dict[str, Vendor] = {name: self.settings.vendor(name) for name in VENDORS}
        faults = [vendor.reason for vendor in self.vendors.values() if vendor.state == "fault"]
        if faults and not tolerant:
            raise ConfigurationError("; ".join(faults))
        self.boundary = Boundary(self.settings.strict)
        self.scrubber = Scrubber(
            names=self.settings.scrub_names,
            patterns=self.settings.scrub_patterns,
            safe_names=self.settings.scrub_safe_names,
        )
        self.error_statuses = self.settings.statuses
        self.acknowledged = self.settings.durability == "acknowledged"
        self._sentry_options = dict(sentry_options or {})
        self._sentry: Sentry | None = None
        self._langfuse: Langfuse | None = None
        self._delivery: Delivery | None = None
        self._tracker = Tracker(None, self.boundary)
        self._llm = LLMTracer(None, self.boundary)
        self._errors = ErrorReporter(None, self.boundary)
        self._state = "new"

    @classmethod
    def from_env(cls, *, sentry_options: Mapping[str, Any] | None = None, **overrides: Any) -> Self:
        """Build it from the environment and `.env`. `overrides` are fields of `Settings`.

        Raises:
            ConfigurationError: Names the variable, the fault and what to type; never a value.
        """
        return cls(load_settings(overrides), sentry_options=sentry_options)

    @property
    def tracker(self) -> Tracker:
        """Analytics, for code without a request."""
        self.start()
        return self._tracker

    @property
    def llm(self) -> LLMTracer:
        """LLM traces, for code without a request."""
        self.start()
        return self._llm

    @property
    def errors(self) -> ErrorReporter:
        """Errors, for code without a request."""
        self.start()
        return self._errors

    @property
    def error_sink(self) -> ErrorSink | None:
        """The error vendor, for the middleware; None when it is off."""
        return self._sentry

    def start(self, *, web: bool = True) -> None:
        """Open the vendors. Idempotent, and called by everything that needs it. Starts no delivery thread yet.

        `web=False` leaves Sentry's own web integrations out from the beginning: the middleware is there.
        """
        if self._state != "new":
            return
        self._state = "open"
        try:
            self._open(web)
        except BaseException:
            self._state = "closed"
            raise
        if Observability.default is None or Observability.default._state == "closed":
            Observability.default = self
        atexit.register(_at_exit, weakref.ref(self))

    def _open(self, web: bool) -> None:
        settings = self.settings
        secret = settings.carry_secret
        contexts.carry_secret = None if secret is None else secret.get_secret_value().encode()
        channels = self._channels()
        self._delivery = Delivery(
            channels,
            url=settings.outbox,
            limits=Limits(outbox_bytes=settings.outbox_max_bytes, max_age_s=settings.outbox_max_age),
            deliver=settings.mode != "test",
            isolate=self._isolated,
        )
        put = self._put
        if self._sentry is not None:
            self._sentry.open(partial(put, "sentry"), self._delivery.commit, self._sentry_options, web)
            self._errors = ErrorReporter(self._sentry, self.boundary)
            contexts.vendor_scope = self._sentry.scope
        if self._langfuse is not None:
            self._langfuse.open(put)
            self._llm = LLMTracer(self._langfuse, self.boundary)
        if self.is_on("rudderstack"):
            self._tracker = Tracker(partial(put, "rudderstack"), self.boundary)

    def _channels(self) -> list[Channel]:
        """A vendor's module is imported only when that vendor is configured: its SDK comes with it."""
        settings, channels = self.settings, list[Channel]()
        if self.is_on("sentry"):
            from .vendors.sentry import Sentry, SentryChannel

            channel = SentryChannel(self.vendors["sentry"], self.scrubber)
            self._sentry = Sentry(settings, self.vendors["sentry"], channel)
            channels.append(channel)
        if self.is_on("rudderstack"):
            from .vendors.rudderstack import RudderStackChannel

            target = self.vendors["rudderstack"]
            channels.append(RudderStackChannel(settings, target, self.scrubber, self.boundary.count))
        if self.is_on("langfuse"):
            from .vendors.langfuse import Langfuse, LangfuseChannel, ScoreChannel

            target = self.vendors["langfuse"]
            self._langfuse = Langfuse(settings, target)
            channels.append(LangfuseChannel(settings, target, self.scrubber))
            channels.append(ScoreChannel(settings, target, self.scrubber))
        return channels

    @property
    def is_open(self) -> bool:
        """Whether it was started and not closed."""
        return self._state == "open"

    def is_on(self, vendor: str) -> bool:
        """Whether this vendor's signals go anywhere."""
        return self.vendors[vendor].state in ("on", "local")

    def _put(self, vendor: str, record: object, size: int) -> bool:
        return self._delivery is not None and self._delivery.put(vendor, record, size=size)

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
        """Put the middleware around a FastAPI or Starlette application, and start.

        Args:
            identify: Gets the connection after session and authentication middleware ran; gives an `Identity`, an id
                or None.
            consent: Gives a `Consent`, or whether analytics are allowed. With it, no consent means no analytics.
            health_path: Where to serve `status()`, e.g. "/health/observability".
            logger: Of the start-up line; the calling module's when None.

        Raises:
            ConfigurationError: The application has begun to serve already.
        """
        if app.middleware_stack is not None:
            raise ConfigurationError("install(app) comes too late: call it before the application's first request")
        set_level(self.settings.log_level)
        self.serve()
        build = app.build_middleware_stack

        def build_wrapped_stack() -> ObserveMiddleware:
            return ObserveMiddleware(build(), observability=self)

        # the one seam around ServerErrorMiddleware, which sends the 500 of unhandled errors outside user middleware
        app.build_middleware_stack = build_wrapped_stack  # type: ignore[method-assign]
        inner = Middleware(InnerLayer, observability=self, identify=identify, consent=consent)
        app.user_middleware.append(inner)
        if health_path is not None:
            app.router.routes.insert(0, health_route(health_path, self.status))
        self.announce(logger or logging.getLogger(calling_module()))

    def serve(self) -> None:
        """Start with the middleware in the place of Sentry's own web integrations."""
        self.start(web=False)
        if self._sentry is not None:
            self._sentry.replace_web_integrations()

    def announce(self, logger: logging.Logger) -> None:
        """The start-up line, and a line for each vendor that is off."""
        names = {_DOCUMENTED_NAMES[name]: vendor for name, vendor in self.vendors.items()}
        on = [
            f"{name} (local: {self.settings.receiver_url})" if vendor.state == "local" else name
            for name, vendor in names.items()
            if vendor.state in ("on", "local")
        ]
        if self.settings.environment is None and self.settings.mode == "production":
            logger.warning("[STARTUP] ENVIRONMENT is not set but a vendor's key is: taken as production. Set it.")
        logger.warning("[STARTUP] Observability: %s", ", ".join(on) or "none")
        for name, vendor in names.items():
            if vendor.state not in ("on", "local"):
                level = logging.ERROR if vendor.state == "fault" else logging.WARNING
                logger.log(level, "[STARTUP] %s is off: %s", name, vendor.reason)
        if self.is_on("rudderstack") and self.settings.personal_data == "keep" and self.settings.mode == "production":
            logger.info("[STARTUP] analytics get e-mail addresses in clear (METRICX_PERSONAL_DATA=keep)")

    def states(self) -> dict[str, str]:
        """By documented name: `on`, `local: URL` or `off: reason`."""
        found = {}
        for name, vendor in self.vendors.items():
            local = f"local: {self.settings.receiver_url}"
            state = local if vendor.state == "local" else "on" if vendor.state == "on" else f"off: {vendor.reason}"
            found[_DOCUMENTED_NAMES[name]] = state
        return found

    @contextmanager
    def context(
        self, *, user_id: object = None, workspace_id: object = None, email: str | None = None
    ) -> Iterator[Context]:
        """Open a context for a job outside any request: its signals share a request id, a user and a workspace."""
        self.start()
        with begin(job_cell(user_id, workspace_id, email=email)) as cell:
            yield cell

    def report(self, error: BaseException, cell: Context, *, handled: bool) -> None:
        """What the middleware saw. Never raises."""
        if reportable(error):
            with self.boundary("report"):
                self._errors.bound(cell).report(error, handled=handled)

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
        vendors: dict[str, Any] = {
            name: {"state": self.states()[_DOCUMENTED_NAMES[name]], **delivery.pop(name, {})} for name in VENDORS
        }
        if self._sentry is not None:
            vendors["sentry"]["client_replaced"] = self._sentry.replaced
        return {
            "service": self.settings.service_name,
            "environment": self.settings.environment_name,
            **vendors,
            **delivery,
            "faults": dict(self.boundary.counts),
            "scrubbed": self.scrubber.report.as_dict(),
        }

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Deliver what was put so far. True when all of it is delivered or refused for good."""
        self._hand_over()
        return self._delivery is None or self._delivery.flush(timeout_s)

    def _hand_over(self) -> None:
        """Ask the vendors' clients for what they hold themselves."""
        if self._langfuse is not None:
            self._langfuse.flush()
        if self._sentry is not None:
            self._sentry.flush()

    def close(self, deadline_s: float = 5.0) -> None:
        """Commit, deliver until the deadline, leave the rest on disk for the next start. Idempotent, never raises."""
        if self._state != "open":
            return
        self._state = "closed"
        for step in self._closing(deadline_s):
            with self.boundary("close"):
                step()

    def _closing(self, deadline_s: float) -> Iterator[Any]:
        yield self._hand_over
        if self._langfuse is not None:
            yield partial(self._langfuse.close, min(0.5, deadline_s / 4))
        if self._delivery is not None:
            yield partial(self._delivery.close, deadline_s * 0.9)
        if self._sentry is not None:
            if contexts.vendor_scope == self._sentry.scope:
                contexts.vendor_scope = nullcontext
            yield self._sentry.close

    async def aclose(self, deadline_s: float = 5.0) -> None:
        """`close` without blocking the event loop."""
        await asyncio.to_thread(self.close, deadline_s)


def calling_module() -> str:
    """The `__name__` of the module outside this package that is calling."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(f"{__package__}."):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", __package__))


def _at_exit(reference: weakref.ref[Observability]) -> None:
    """A script that ends without `close()` loses nothing: what was put goes to disk. Delivers nothing, so is quick."""
    observability = reference()
    if observability is not None and observability._state == "open" and observability._delivery is not None:
        observability._hand_over()
        observability._delivery.commit(1.0)
