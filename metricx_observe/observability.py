"""Observability: what an application makes, installs, asks how it is, and closes."""

from __future__ import annotations

import atexit
import logging
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack

from anyio import to_thread
from starlette.applications import Starlette

from . import context as contexts
from .boundary import Boundary
from .context import Context, Hooks, Job, job_cell, mark_reported
from .logs import say
from .request.health import health_route
from .request.identity import AskConsent, Identify
from .request.install import wrap
from .request.middleware import is_applications
from .signals.errors import ErrorReporter, ErrorSink
from .signals.llm import LLMTracer
from .signals.tracker import Tracker
from .startup import State, announce, calling_module, state_of

if TYPE_CHECKING:  # loaded when they are used, so that importing the package costs little more than FastAPI
    from .settings import Settings
    from .vendors import VendorOptions

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
        from .pipeline import Pipeline
        from .settings import load_settings

        self.settings = settings if settings is not None else load_settings({})
        self._pipeline = pipeline = Pipeline(self.settings, options, tolerant=tolerant)
        self.vendors, self.opened = pipeline.targets, pipeline.opened
        self.boundary, self.scrubber = pipeline.boundary, pipeline.scrubber
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
        return self._pipeline.tracker

    @property
    def llm(self) -> LLMTracer:
        """LLM traces, for code without a request."""
        self._open()
        return self._pipeline.llm

    @property
    def errors(self) -> ErrorReporter:
        """Errors, for code without a request."""
        self._open()
        return self._pipeline.errors

    @property
    def error_sink(self) -> ErrorSink | None:
        """The error vendor, for the middleware; None when it is off."""
        return self._pipeline.errors._sink

    def start(self) -> None:
        """Open the vendors, and deliver what an earlier process left. Idempotent; after `close()` it opens again."""
        if self._state == "closed":
            self._state = "new"
        self._open()
        if self._pipeline.delivery is not None:
            self._pipeline.delivery.start()

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
                self._pipeline.open(middleware=self._middleware)
            except BaseException:
                self._state = "closed"
                self._pipeline.close(0.0)
                raise
            self._state = "open"
        if Observability.default is None or not Observability.default.is_open:
            Observability.default = self
        atexit.register(self._at_exit)

    @property
    def is_open(self) -> bool:
        """Whether it was started and not closed."""
        return self._state == "open"

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
        wrap(app, self, identify=identify, consent=consent)
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
                self._pipeline.errors.bound(cell).report(error, handled=handled)
        else:  # the server logs it all the same, as its own error
            mark_reported(error, cell, "")

    def report_status(self, status: int, cell: Context) -> None:
        """A response with an error status and no exception behind it."""
        route = cell.info.route if cell.info is not None else None
        self._pipeline.errors.bound(cell).capture_message(
            f"HTTP {status} from {route or 'an unknown route'}", level="error"
        )

    async def committed(self) -> None:
        """Wait until what was put so far is on disk (METRICX_DURABILITY=acknowledged)."""
        if self._pipeline.delivery is not None:
            await self._pipeline.delivery.committed()

    def status(self) -> dict[str, Any]:
        """Per vendor its state and what delivery counted; faults of calls; what was scrubbed. No secret, no value."""
        return {
            "service": self.settings.service_name,
            "environment": self.settings.environment_name,
            **self._pipeline.status(),
        }

    def flush(self, timeout_s: float = 10.0, *, patient: bool = True) -> bool:
        """Deliver what was put so far. True when all of it is delivered or refused for good; False after `close()`.

        Without `patient` it waits only for vendors that answer now.
        """
        if self._state == "closed":
            return False
        self._pipeline.flush_vendors()
        return self._pipeline.delivery is None or self._pipeline.delivery.flush(timeout_s, patient=patient)

    def close(self, deadline_s: float = 5.0) -> None:
        """Commit, deliver until the deadline, leave the rest on disk for the next start. Idempotent, never raises."""
        if self._state == "open":
            self._state = "closed"
            atexit.unregister(self._at_exit)
            self._pipeline.close(deadline_s)

    async def aclose(self, deadline_s: float = 5.0) -> None:
        """`close` without blocking the event loop."""
        await to_thread.run_sync(self.close, deadline_s)

    def _at_exit(self) -> None:
        """A script that ends without `close()` loses nothing: what was put goes to disk. Delivers nothing, so is quick.

        Registered after the vendors' own hooks and delivery's, so that it runs before them.
        """
        self._pipeline.flush_vendors()
        if self._pipeline.delivery is not None:
            self._pipeline.delivery.commit(1.0)


class NotStarted:
    """What is used while no `Observability` is open: facades that send nothing."""

    boundary = Boundary()
    tracker, llm, errors = Tracker(None, boundary), LLMTracer(None, boundary), ErrorReporter(None, boundary)


def running() -> Observability | NotStarted:
    """The `Observability` that is open, for code that has none in its hand."""
    found = Observability.default
    return found if found is not None and found.is_open else NotStarted()


# `context` imports no other room, so it gets the facades from here
contexts.hooks.facade = lambda name: getattr(running(), name).bound(contexts.current_cell())
