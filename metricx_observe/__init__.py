"""One middleware and three dependencies for errors, analytics and LLM traces in FastAPI.

app = FastAPI()
Observability.from_env().install(app)

@app.post("/qa")
async def ask(question: Question, tracker: TrackerDep, llm: LLMTracerDep) -> Answer: ...
"""

from typing import TYPE_CHECKING

from .context import Consent, Context, Identity, RequestContext, User, Workspace
from .dependencies import ContextDep, ErrorReporterDep, LLMTracerDep, Signals, SignalsDep, TrackerDep
from .events import Event, Personal
from .exceptions import ConfigurationError, InputError, NotInstalledError, ObserveError
from .observability import Observability
from .request.middleware import ObserveMiddleware
from .signals.errors import ErrorReporter
from .signals.llm import Generation, LLMTracer, Observation, Trace
from .signals.tracker import Tracker
from .telemetry import (
    capture_exception,
    complete_copilot_trace,
    create_copilot_trace,
    identify,
    init_observability,
    log_generation,
    set_user_context,
    track,
)

if TYPE_CHECKING:
    from .settings import Settings

__version__ = "0.1.0"

__all__ = [
    "ConfigurationError",
    "Consent",
    "Context",
    "ContextDep",
    "ErrorReporter",
    "ErrorReporterDep",
    "Event",
    "Generation",
    "Identity",
    "InputError",
    "LLMTracer",
    "LLMTracerDep",
    "NotInstalledError",
    "Observability",
    "Observation",
    "ObserveError",
    "ObserveMiddleware",
    "Personal",
    "RequestContext",
    "Settings",
    "Signals",
    "SignalsDep",
    "Trace",
    "Tracker",
    "TrackerDep",
    "User",
    "Workspace",
    "capture_exception",
    "complete_copilot_trace",
    "create_copilot_trace",
    "identify",
    "init_observability",
    "log_generation",
    "set_user_context",
    "track",
]


def __getattr__(name: str) -> object:
    """`Settings` is loaded when it is asked for: pydantic-settings costs half as much again as all the rest of us."""
    if name == "Settings":
        from .settings import Settings

        return Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
