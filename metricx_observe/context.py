"""Who and which request a signal belongs to: one mutable cell per request in one ContextVar.

A plain ContextVar that is set in a sync dependency is lost to the route, which runs in another copy of the
context. A cell is shared by every copy: dependencies, threadpool routes, background tasks, streaming bodies and
`create_task` all see what any of them bound. The cell holds no body, no Request, and the ASGI scope only while the
request runs, so a task that outlives its request pins nothing.

This module knows nobody else in the package.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from threading import Lock, current_thread
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from .ids import new_id, subject_id, text_id, valid_request_id, valid_trace_id
from .interrupts import is_interrupt, suppress_faults
from .request import RequestInfo

if TYPE_CHECKING:
    from .reporter import ErrorReporter
    from .signals.llm import LLMTracer
    from .signals.tracker import Tracker

logger = logging.getLogger(__name__)


class User(NamedTuple):
    """Who is signed in, by the server's own authentication."""

    id: str
    email: str | None = None
    traits: Mapping[str, Any] = {}


class Workspace(NamedTuple):
    """The tenant that the user works in."""

    id: str
    name: str | None = None


class Identity(NamedTuple):
    """What an `identify=` callable returns: the user of this connection and their workspace."""

    id: str
    email: str | None = None
    traits: Mapping[str, Any] | None = None
    workspace_id: str | None = None


class Consent(NamedTuple):
    """What the user allowed. None: not asked. False: nothing of it is sent."""

    analytics: bool | None = None
    llm_content: bool | None = None


class Upstream(NamedTuple):
    """What the caller's trace headers said: its span and its sampling decision (None: it left it to us)."""

    span_id: str | None = None
    sampled: bool | None = None


class _RequestContext(NamedTuple):
    request_id: str
    trace_id: str
    user: User | None = None
    workspace: Workspace | None = None
    tags: Mapping[str, str] = {}
    consent: Consent = Consent()


class RequestContext(_RequestContext):
    """What is known of a request or job. Immutable: binding puts a new one into the cell."""

    # no `__slots__`: `packing` keeps its plain form in its `__dict__`


def _nothing() -> None: ...


class Context:
    """The cell of one request or job. Injected by `ContextDep`; also what the module's functions act on."""

    __slots__ = (
        "_binding", "answered", "info", "installed", "key", "llm_trace_id", "pending", "put", "reported",
        "send_error", "shared", "state", "upstream",
    )  # fmt: skip

    def __init__(
        self,
        state: RequestContext,
        info: RequestInfo | None = None,
        upstream: Upstream | None = None,
        shared: bool = True,
    ) -> None:
        self.state = state
        self.key = state.request_id
        """Tells this request or job from others; the id that is shown may become another one."""
        self.info = info
        self.upstream = upstream
        self.shared = shared
        """False for a cell that `bind_*` made outside a request: it is replaced, never changed (see `_writable`)."""
        self.reported = False
        """Whether an exception was reported here: its error status is then no news."""
        self.pending: BaseException | None = None
        """An exception that left the routes; a handler or middleware may still make a response of it."""
        self.answered = False
        """Whether the whole response was sent: what fails after that, a background task, is no failure of it."""
        self.send_error: OSError | None = None
        """What the server raised when it could not send: the client has left, which is no error."""
        self.llm_trace_id: str | None = None
        """The last LLM trace that began here, so that an error leads to it."""
        self.put = False
        """Whether a signal was put (METRICX_DURABILITY=acknowledged waits only then)."""
        self._binding = Lock()
        """Two threads of one request may bind at once, and neither may undo what the other bound."""
        self.installed = False
        """Whether the inner layer has run, so that a mounted application with its own does not identify again."""

    @property
    def request_id(self) -> str:
        """The id that is on the response, on each signal and on log records."""
        return self.state.request_id

    @property
    def trace_id(self) -> str:
        """32 hex digits, the upstream's where it sent one."""
        return self.state.trace_id

    @property
    def user(self) -> User | None:
        """Who is bound, or None."""
        return self.state.user

    @property
    def workspace(self) -> Workspace | None:
        """Which workspace is bound, or None."""
        return self.state.workspace

    @property
    def request(self) -> RequestInfo | None:
        """Method, path, headers and route of the request; None in a job."""
        return self.info

    def bind_user(
        self,
        id: object,
        *,
        email: str | None = None,
        traits: Mapping[str, Any] | None = None,
        workspace_id: object = None,
    ) -> None:
        """Bind the signed-in user to this request. Sends nothing.

        The same id again merges the given fields; another id replaces the user and the workspace. A blank id or None
        unbinds; so does what is no text, whole number or UUID, which is counted, and raises with METRICX_STRICT only.
        """
        user_id, new_workspace = _subject("bind_user", id), _subject("bind_user", workspace_id)
        given: dict[str, Any] = {}
        if traits is not None:
            with suppress_faults():  # a mapping that cannot be read
                given.update(traits if isinstance(traits, Mapping) else {})
        with self._binding:
            state = self.state
            old, workspace = state.user, state.workspace
            if user_id is None:
                self.state = state._replace(user=None, workspace=None)
                return
            if old is not None and old.id != user_id:
                old = workspace = None
            if new_workspace is not None and (workspace is None or workspace.id != new_workspace):
                workspace = Workspace(new_workspace)
            user = User(user_id, text_id(email), given)
            if old is not None:
                user = User(user_id, user.email or old.email, {**old.traits, **given})
            # `_replace` costs a microsecond more, and each request binds
            self.state = RequestContext(state.request_id, state.trace_id, user, workspace, state.tags, state.consent)

    def bind_workspace(self, id: object, *, name: str | None = None) -> None:
        """Bind the workspace to this request. A blank id or None unbinds. Never raises."""
        workspace_id = _subject("bind_workspace", id)
        workspace = None if workspace_id is None else Workspace(workspace_id, text_id(name))
        with self._binding:
            self.state = self.state._replace(workspace=workspace)

    def take_request_id(self, request_id: str) -> None:
        """The application has an id of its own for this request: what is made from now on has it."""
        with self._binding:
            self.state = self.state._replace(request_id=request_id)

    def set_tag(self, key: str, value: object) -> None:
        """Put a tag on every signal of this request. Values become strings of at most 200 characters."""
        name, text = (text_id(key) or "unnamed")[:32], text_id(value) or ""
        with self._binding:
            self.state = self.state._replace(tags={**self.state.tags, name: text})

    def set_consent(self, *, analytics: bool | None = None, llm_content: bool | None = None) -> None:
        """Say what the user allowed; what is not given stays as it was."""
        with self._binding:
            old = self.state.consent
            self.state = self.state._replace(
                consent=Consent(
                    old.analytics if analytics is None else _allowed(analytics),
                    old.llm_content if llm_content is None else _allowed(llm_content),
                )
            )

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        """Pickled with an exception that ended a job, it is nothing: no other process has the job."""
        return _nothing, ()

    def end(self) -> None:
        """The request has ended: let go of everything that would keep it alive."""
        self.pending = self.send_error = None
        if self.info is not None:
            self.info.release()


def _subject(call: str, id: object) -> str | None:
    """An id, or None; what was meant as one and is none is a fault of the call."""
    found = subject_id(id)
    if found is None and id is not None and not isinstance(id, str) and note is not None:
        note(call, ["unusable id"])
    return found


_cell: ContextVar[Context | None] = ContextVar("metricx_observe_context", default=None)

_LEFT = "__metricx_observe_cell__"
_REPORTED = "__metricx_observe_event__"

DETACHED = Context(RequestContext("", ""))
"""Marks a Context in which no request applies. Never written to."""

carry_secret: bytes | None = None
"""METRICX_CARRY_SECRET of this process, set by `Observability`: what `carry()` signs and `restore()` demands."""

note: Callable[[str, list[str]], None] | None = None
"""Counts a fault of a call, set by `Observability`; raises with METRICX_STRICT."""

vendor_scope: Callable[[Context], AbstractContextManager[object]] = nullcontext
"""What begins with a job at the error vendor, set by `Observability`: breadcrumbs and a trace of its own."""


vendor_cell: Callable[[bool], Context | None] | None = None
"""Where there is no middleware: the cell that the error vendor's own request holds, set by `Observability`. Called with
whether to make one where there is none yet."""


def current_cell() -> Context | None:
    """The cell of the running request or job; None outside, `DETACHED` under `detached()`."""
    cell = _cell.get()
    return vendor_cell(False) if cell is None and vendor_cell is not None else cell


def current() -> RequestContext | None:
    """The frozen context of the running request or job, or None."""
    cell = current_cell()
    return None if cell is None or cell is DETACHED else cell.state


def _writable() -> Context:
    """The cell to bind to: the request's own, else a new one that no other task can see."""
    cell = _cell.get()
    if cell is None and vendor_cell is not None:
        cell = vendor_cell(True)
    if cell is not None and cell.shared and cell is not DETACHED:
        return cell
    if cell is None and current_thread().name.startswith(_DEPENDENCY):
        _say_that_it_is_lost()
    state = RequestContext(new_id(), new_id()) if cell is None or cell is DETACHED else cell.state
    cell = Context(state, shared=False)
    _cell.set(cell)
    return cell


def bind_user(
    id: object, *, email: str | None = None, traits: Mapping[str, Any] | None = None, workspace_id: object = None
) -> None:
    """Bind the user to the running request; outside one, to the current task only. See `Context.bind_user`."""
    _writable().bind_user(id, email=email, traits=traits, workspace_id=workspace_id)


def bind_workspace(id: object, *, name: str | None = None) -> None:
    """Bind the workspace to the running request; outside one, to the current task only."""
    _writable().bind_workspace(id, name=name)


def set_tag(key: str, value: object) -> None:
    """Put a tag on every signal of the running request or task."""
    _writable().set_tag(key, value)


def set_consent(*, analytics: bool | None = None, llm_content: bool | None = None) -> None:
    """Say what the user of the running request or task allowed."""
    _writable().set_consent(analytics=analytics, llm_content=llm_content)


_DEPENDENCY = "AnyIO worker"
"""How the threads are called in which Starlette and FastAPI run what is no coroutine."""
_said = False


def _say_that_it_is_lost() -> None:
    global _said
    if not _said:
        _said = True
        logger.warning(
            "a user was bound in a dependency or route of `def` without the middleware: it is lost when that returns. "
            "Type init_observability(app), or Observability.from_env().install(app), where the application is made."
        )


def facade(name: str) -> Any:
    """The facade of this name for what runs now: `observability` puts its own in this one's place."""
    raise NotImplementedError(name)


def tracker() -> Tracker:
    """The tracker of the running request or job, for code that has neither in its hand. Does nothing when off."""
    return cast("Tracker", facade("tracker"))


def llm() -> LLMTracer:
    """The LLM tracer of the running request or job. Does nothing when off."""
    return cast("LLMTracer", facade("llm"))


def errors() -> ErrorReporter:
    """The error reporter of the running request or job. Does nothing when off."""
    return cast("ErrorReporter", facade("errors"))


class use_cell:
    """Make `cell` the current one for a block. A class: a generator costs each request a microsecond more."""

    __slots__ = ("_cell", "_token")

    def __init__(self, cell: Context) -> None:
        self._cell = cell

    def __enter__(self) -> Context:
        self._token = _cell.set(self._cell)
        return self._cell

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            _report_outwards(error, self._cell, self._token.old_value)
        try:
            _cell.reset(self._token)
        except ValueError:  # a generator that is dropped ends in somebody else's Context, and has nothing to undo there
            pass


class begin:
    """Make a cell the current one for a block that is no request: a job, or what outlives its request.

    An exception that leaves the block says whose it was: a worker's or the interpreter's hook reports it only then.
    A class: `contextlib` writes to the exception, which one of the application's may refuse.
    """

    __slots__ = ("_cell", "_open", "_use", "_vendor")

    def __init__(self, cell: Context) -> None:
        self._cell, self._open = cell, False

    def __enter__(self) -> Context:
        self._use, self._vendor = use_cell(self._cell), vendor_scope(self._cell)
        self._use.__enter__()
        try:
            self._vendor.__enter__()
        except BaseException:  # what a signal handler raised
            self._use.__exit__(None, None, None)
            raise
        self._open = True
        return self._cell

    def __del__(self) -> None:
        """A worker that drops a job without its end, as Celery does in eager mode, ends the job's block."""
        if self._open:
            self.__exit__(None, None, None)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        self._open = False
        if isinstance(error, Exception):
            mark(error, _LEFT, self._cell)
        try:
            self._vendor.__exit__(kind, error, traceback)
        finally:
            self._use.__exit__(kind, error, traceback)


def mark(error: BaseException, name: str, value: object) -> None:
    """Write on an exception, also on one that refuses attributes, as a frozen dataclass does."""
    with suppress_faults():
        BaseException.__setattr__(error, name, value)


def left_by(error: BaseException | None) -> Context | None:
    """The cell of the job that this exception ended, or None."""
    cell: Context | None = getattr(error, _LEFT, None)
    return cell


def mark_reported(error: BaseException, cell: Context, event_id: str) -> None:
    """Remember on the exception itself that it was reported: a list of exceptions would keep their frames alive."""
    cell.reported = True
    mark(error, _REPORTED, (cell.key, event_id))


def reported_as(error: BaseException, cell: Context) -> str | None:
    """The event id of this very exception in this request or job; one that is raised again in another is news.

    Under `DETACHED`, where none applies, that of whichever reported it: a server or a wrapper around the application
    logs what has ended a request.
    """
    key, event_id = getattr(error, _REPORTED, (None, None))
    return event_id if cell is DETACHED or key == cell.key else None


def _report_outwards(error: BaseException, cell: Context, outer: object) -> None:
    """What was reported in a job, or in a request that a job makes, is no news to what it leaves for.

    A request around a request is: both have failed.
    """
    if isinstance(outer, Context) and (cell.info is None or outer.info is None):
        key, event_id = getattr(error, _REPORTED, (None, None))
        if key == cell.key:
            mark_reported(error, outer, event_id or "")


def job_cell(
    user_id: object = None,
    workspace_id: object = None,
    *,
    email: str | None = None,
    request_id: str | None = None,
    trace_id: str | None = None,
) -> Context:
    """A new cell for a job outside any request."""
    cell = Context(RequestContext(request_id or new_id(), trace_id or new_id()))
    if user_id is not None:
        cell.bind_user(user_id, email=email)
    if workspace_id is not None:
        cell.bind_workspace(workspace_id)
    return cell


def detached() -> begin:
    """Run a block in which no request applies: start what outlives its request (a consumer, a pool) under it."""
    return begin(DETACHED)


def carry() -> dict[str, str]:
    """The current context as a small dict of strings, to travel with a job. Empty outside a request or job.

    Holds ids and consent, no e-mail address. Signed when METRICX_CARRY_SECRET is set.
    """
    state = current()
    if state is None:
        return {}
    fields = {
        "request_id": state.request_id,
        "trace_id": state.trace_id,
        "user_id": state.user.id if state.user else None,
        "workspace_id": state.workspace.id if state.workspace else None,
        "consent_analytics": None if state.consent.analytics is None else str(int(state.consent.analytics)),
        "consent_llm_content": None if state.consent.llm_content is None else str(int(state.consent.llm_content)),
    }
    carried = {key: value for key, value in fields.items() if value is not None}
    if carry_secret:
        carried["signature"] = _signature(carried, carry_secret)
    return carried


def restore(carried: Mapping[str, str] | None) -> begin:
    """Bind what `carry()` gave, for a block; None, of a job that nobody gave one, begins a context of its own.

    Never raises: what is not a carried context, or not signed with our METRICX_CARRY_SECRET, binds nobody and is
    logged.
    """
    return begin(_restored(carried))


def _restored(carried: Mapping[str, str] | None) -> Context:
    try:
        fields = {str(key): str(value) for key, value in dict(carried or {}).items()}
    except (TypeError, ValueError):
        fields = {}
    given = fields.pop("signature", "")
    if carry_secret and fields and not hmac.compare_digest(given.encode(), _signature(fields, carry_secret).encode()):
        logger.warning("restore(): the carried context is not signed with METRICX_CARRY_SECRET; nobody is bound")
        fields = {}
    cell = job_cell(
        fields.get("user_id"),
        fields.get("workspace_id"),
        request_id=valid_request_id(fields.get("request_id", "")),
        trace_id=valid_trace_id(fields.get("trace_id", "")),
    )
    flags = {"0": False, "1": True}
    cell.set_consent(
        analytics=flags.get(fields.get("consent_analytics", "")),
        llm_content=flags.get(fields.get("consent_llm_content", "")),
    )
    return cell


def _signature(fields: Mapping[str, str], secret: bytes) -> str:
    text = "\n".join(f"{key}={len(fields[key])}:{fields[key]}" for key in sorted(fields))
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def _allowed(answer: object) -> bool:
    try:
        return bool(answer)
    except Exception as error:
        if is_interrupt(error):
            raise
        return False
