"""Observability: builds all of it from the settings, installs it, says how it is, and closes it."""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from secrets import token_bytes
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack, cast

from anyio import to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.errors import ServerErrorMiddleware

from . import context as contexts
from .boundary import Boundary
from .context import Context, Hooks, Job, job_cell, mark_reported
from .delivery import Channel, Delivery, Limits
from .exceptions import ConfigurationError
from .health import health_route
from .interrupts import is_interrupt
from .logs import say, set_level
from .reporter import ErrorReporter, ErrorSink
from .request.identity import AskConsent, Identify
from .request.inner_layer import InnerLayer
from .request.middleware import ObserveMiddleware, is_applications
from .request.stack import OuterStack
from .signals.llm import LLMTracer
from .signals.tracker import Tracker
from .startup import State, announce, calling_module, state_of

if TYPE_CHECKING:  # loaded when they are used, so that importing the package costs little more than FastAPI
    from .settings import Settings
    from .vendors import VendorOptions
    from .vendors.vendor import Opened, Target

logger = logging.getLogger(__name__)

_FACADES: dict[str, Any] = {"tracker": Tracker, "llm": LLMTracer, "errors": ErrorReporter}
_TOO_LATE = (
    "install(app) comes too late for the middleware: signals are sent, but requests have no request id, and no user "
    "from identify=. Call it where the application is made, not in its lifespan."
)


class Observability:
    """Errors, analytics and LLM traces of one process.

        app = FastAPI()
        Observability.from_env().install(app)

    Works without a web application too: `.tracker`, `.llm` and `.errors` open it on first use, `.close()` ends it.
    """

    default: ClassVar[Observability | None] = None
    """The one that the documented module-level functions act on: the first that was opened and is open."""

    def __init__(
        self, settings: Settings | None = None, *, tolerant: bool = False, **options: Unpack[VendorOptions]
    ) -> None:
        """Build it; nothing runs and nothing is opened yet.

        Args:
            settings: `Settings(...)`; from the environment when None.
            tolerant: A vendor that is at fault is off, instead of an error.
            options: More for a vendor's SDK, by the keyword that the vendor has for it.

        Raises:
            ConfigurationError: A vendor is configured wrongly or not installed; says what to type.
        """
        from .scrubber import Scrubber
        from .settings import load_settings
        from .vendors import REGISTRY, options_by_vendor

        self._options = options_by_vendor(options)
        self.settings = settings if settings is not None else load_settings({})
        self.vendors: dict[str, Target] = {name: vendor.target(self.settings) for name, vendor in REGISTRY.items()}
        faults = [target.reason for target in self.vendors.values() if target.state == "fault"]
        faults += filter(None, [self.settings.delivery_fault])
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
        self.opened: dict[str, Opened] = {}
        self._delivery: Delivery | None = None
        self._facades = {name: facade(None, self.boundary) for name, facade in _FACADES.items()}
        self._middleware = False
        self._state = "new"
        self._opening = Lock()

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """Build it from the environment and `.env`. `overrides` are fields of `Settings`, and a vendor's options.

        Raises:
            ConfigurationError: Names the variable, the fault and what to type; never a value.
        """
        from .settings import load_settings
        from .vendors import VendorOptions

        options: Any = {name: overrides.pop(name) for name in VendorOptions.__annotations__ if name in overrides}
        return cls(load_settings(overrides), **options)

    @property
    def tracker(self) -> Tracker:
        """Analytics, for code without a request."""
        self._open()
        return cast(Tracker, self._facades["tracker"])

    @property
    def llm(self) -> LLMTracer:
        """LLM traces, for code without a request."""
        self._open()
        return cast(LLMTracer, self._facades["llm"])

    @property
    def errors(self) -> ErrorReporter:
        """Errors, for code without a request."""
        self._open()
        return cast(ErrorReporter, self._facades["errors"])

    @property
    def error_sink(self) -> ErrorSink | None:
        """The error vendor, for the middleware; None when it is off."""
        return cast("ErrorSink | None", self._facades["errors"]._sink)

    def start(self) -> None:
        """Open the vendors, and deliver what an earlier process left. Idempotent; after `close()` it opens again."""
        if self._state == "closed":
            self._state = "new"
        self._open()
        if self._delivery is not None:
            self._delivery.start()

    def serve(self) -> None:
        """Open the vendors with the middleware in the place of a vendor's own web integrations."""
        self._middleware = True
        contexts.hooks.request_cell = Hooks.request_cell
        for opened in self.opened.values():  # without the middleware, or the application has started an SDK anew
            opened.middleware_installed()
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
        """A vendor's SDK is imported only when that vendor is configured."""
        from .vendors import REGISTRY, fit

        settings, channels, self.opened = self.settings, list[Channel](), {}
        if settings.enabled:
            set_level(settings.log_level)
        secret = settings.carry_secret
        contexts.hooks.carry_secret = None if secret is None else secret.get_secret_value().encode()
        contexts.hooks.note = self.boundary.note
        for name, target in self._wanted().items():
            with self._opening_vendor(name):
                fit.check(REGISTRY[name])
                channels += REGISTRY[name].channels(settings, target, self.scrubber, self.boundary.count)
        if not channels:
            return
        self._delivery = delivery = self._deliver(channels)
        for name, target in self._wanted().items():
            vendor, options = REGISTRY[name], self._options.get(name, {})
            with self._opening_vendor(name):
                self.opened[name] = opened = vendor.open(
                    settings, target, delivery, scrubber=self.scrubber, options=options, middleware=self._middleware
                )
                if facade := _FACADES.get(vendor.facade):
                    self._facades[vendor.facade] = facade(opened.sink, self.boundary)

    def _wanted(self) -> dict[str, Target]:
        """The vendors that are on, or local."""
        return {name: target for name, target in self.vendors.items() if target.is_open}

    def _deliver(self, channels: list[Channel]) -> Delivery:
        settings, limits = self.settings, limits_of(self.settings)
        if settings.delivery == "process" and settings.mode != "test":  # where rows stay in this process
            from .delivery_process.client import RemoteDelivery

            what = channels, settings, self._wanted(), self._scrub_rules, limits
            return RemoteDelivery(*what, isolate=self._isolated, boundary=self.boundary, scrubber=self.scrubber)
        shared = settings.delivery == "external" and not settings.delivery_fault
        deliver = settings.mode != "test" and not shared
        return Delivery(
            channels, url=settings.outbox, limits=limits, deliver=deliver, shared=shared, isolate=self._isolated
        )

    @contextmanager
    def _opening_vendor(self, name: str) -> Iterator[None]:
        """An SDK that does not fit costs its own vendor; what is configured wrongly is an error, unless tolerant."""
        from .vendors import REGISTRY, fit
        from .vendors.vendor import Target

        try:
            yield
        except ConfigurationError as error:
            if not self._tolerant:
                raise
            self.vendors[name] = Target("fault", reason=str(error))
        except Exception as error:
            if is_interrupt(error):
                raise
            self.vendors[name] = Target("fault", reason=fit.misfit(REGISTRY[name], error))

    @property
    def is_open(self) -> bool:
        """Whether it was started and not closed."""
        return self._state == "open"

    @contextmanager
    def _isolated(self) -> Iterator[None]:
        """What delivery's threads run in: no vendor's instrumentation sees them."""
        with ExitStack() as stack:
            for opened in list(self.opened.values()):  # the next vendor may be opening
                stack.enter_context(opened.isolated())
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
        from .vendors import REGISTRY

        return {REGISTRY[name].label: state_of(target, self.settings) for name, target in self.vendors.items()}

    def context(self, *, user_id: object = None, workspace_id: object = None, email: str | None = None) -> Job:
        """Open a context for a job outside any request: its signals share a request id, a user and a workspace."""
        self._open()
        return Job(job_cell(user_id, workspace_id, email=email))

    def report(self, error: BaseException, cell: Context, *, handled: bool) -> None:
        """What the middleware saw. Never raises."""
        if is_applications(error, cell):
            with self.boundary("report"):
                self._facades["errors"].bound(cell).report(error, handled=handled)
        else:  # the server logs it all the same, as its own error
            mark_reported(error, cell, "")

    def report_status(self, status: int, cell: Context) -> None:
        """A response with an error status and no exception behind it."""
        route = cell.info.route if cell.info is not None else None
        self._facades["errors"].bound(cell).capture_message(
            f"HTTP {status} from {route or 'an unknown route'}", level="error"
        )

    async def committed(self) -> None:
        """Wait until what was put so far is on disk (METRICX_DURABILITY=acknowledged)."""
        if self._delivery is not None:
            await self._delivery.committed()

    def status(self) -> dict[str, Any]:
        """Per vendor its state and what delivery counted; faults of calls; what was scrubbed. No secret, no value."""
        delivery = self._delivery.status() if self._delivery is not None else {}
        parts = {
            name: {"state": state_of(target, self.settings), **delivery.pop(name, {})}
            for name, target in self.vendors.items()
        }
        for name, opened in self.opened.items():
            parts[name] |= opened.status()
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
        self._each_alone("flush", [opened.flush for opened in self.opened.values()])

    def close(self, deadline_s: float = 5.0) -> None:
        """Commit, deliver until the deadline, leave the rest on disk for the next start. Idempotent, never raises."""
        if self._state == "open":
            self._state = "closed"
            atexit.unregister(self._at_exit)
            self._shut(deadline_s)

    def _shut(self, deadline_s: float) -> None:
        until, opened, delivery = monotonic() + deadline_s, self.opened.values(), self._delivery
        self._hand_over()
        steps: list[Callable[[], None]] = [partial(each.stop, min(0.5, deadline_s / 4)) for each in opened]
        if delivery is not None:
            steps.append(lambda: delivery.close(max(0.0, until - monotonic())))
        self._each_alone("close", [*steps, *(each.close for each in opened)])
        if contexts.hooks.note == self.boundary.note:
            contexts.hooks.note = Hooks.note

    def _each_alone(self, call: str, steps: Iterable[Callable[[], None]]) -> None:
        """A step that fails keeps no other from being done, in strict mode too."""
        for step in steps:
            try:
                step()
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


def limits_of(settings: Settings) -> Limits:
    """The bounds of delivery that are settings."""
    return Limits(
        outbox_bytes=settings.outbox_max_bytes,
        max_age_s=settings.outbox_max_age,
        ephemeral=settings.outbox_ephemeral,
    )


class NotStarted:
    """What is used while no `Observability` is open: facades that send nothing."""

    boundary = Boundary()
    tracker, llm, errors = Tracker(None, boundary), LLMTracer(None, boundary), ErrorReporter(None, boundary)


def running() -> Observability | NotStarted:
    """The `Observability` that is open, for code that has none in its hand."""
    found = Observability.default
    return found if found is not None and found.is_open else NotStarted()


# the arrow goes the other way: context knows nobody
contexts.hooks.facade = lambda name: getattr(running(), name).bound(contexts.current_cell())
