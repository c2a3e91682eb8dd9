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
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from threading import Lock
from typing import Any, NamedTuple

from .ids import new_id, text_id, valid_request_id, valid_trace_id
from .request import RequestInfo

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


class Context:
    """The cell of one request or job. Injected by `ContextDep`; also what the module's functions act on."""

    __slots__ = (
        "_binding", "info", "installed", "llm_trace_id", "pending", "put", "reported", "shared", "state", "upstream",
    )  # fmt: skip

    def __init__(
        self,
        state: RequestContext,
        info: RequestInfo | None = None,
        upstream: Upstream | None = None,
        shared: bool = True,
    ) -> None:
        self.state = state
        self.info = info
        self.upstream = upstream
        self.shared = shared
        """False for a cell that `bind_*` made outside a request: it is replaced, never changed (see `_writable`)."""
        self.reported = False
        """Whether an exception was reported here: its error status is then no news."""
        self.pending: BaseException | None = None
        """An exception that left the routes; a handler or middleware may still make a response of it."""
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
        unbinds. Never raises.
        """
        user_id, new_workspace = text_id(id), text_id(workspace_id)
        given: dict[str, Any] = {}
        if traits is not None:
            with suppress(Exception):  # a mapping that cannot be read
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
        workspace_id = text_id(id)
        workspace = None if workspace_id is None else Workspace(workspace_id, text_id(name))
        with self._binding:
            self.state = self.state._replace(workspace=workspace)

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

    def end(self) -> None:
        """The request has ended: let go of everything that would keep it alive."""
        self.pending = None
        if self.info is not None:
            self.info.release()


_cell: ContextVar[Context | None] = ContextVar("metricx_observe_context", default=None)

_LEFT = "__metricx_observe_cell__"

DETACHED = Context(RequestContext("", ""))
"""Marks a Context in which no request applies. Never written to."""

carry_secret: bytes | None = None
"""METRICX_CARRY_SECRET of this process, set by `Observability`: what `carry()` signs and `restore()` demands."""

vendor_scope: Callable[[Context], AbstractContextManager[object]] = nullcontext
"""What begins with a job at the error vendor, set by `Observability`: breadcrumbs and a trace of its own."""


def current_cell() -> Context | None:
    """The cell of the running request or job; None outside, `DETACHED` under `detached()`."""
    return _cell.get()


def current() -> RequestContext | None:
    """The frozen context of the running request or job, or None."""
    cell = _cell.get()
    return None if cell is None or cell is DETACHED else cell.state


def _writable() -> Context:
    """The cell to bind to: the request's own, else a new one that no other task can see."""
    cell = _cell.get()
    if cell is not None and cell.shared and cell is not DETACHED:
        return cell
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


class use_cell:
    """Make `cell` the current one for a block. A class: a generator costs each request a microsecond more."""

    __slots__ = ("_cell", "_token")

    def __init__(self, cell: Context) -> None:
        self._cell = cell

    def __enter__(self) -> Context:
        self._token = _cell.set(self._cell)
        return self._cell

    def __exit__(self, *raised: object) -> None:
        try:
            _cell.reset(self._token)
        except ValueError:  # a generator that is dropped ends in somebody else's Context, and has nothing to undo there
            pass


@contextmanager
def begin(cell: Context) -> Iterator[Context]:
    """Make `cell` the current one for a block that is no request: a job, or what outlives its request.

    An exception that leaves the block says whose it was: a worker's or the interpreter's hook reports it only then.
    """
    with use_cell(cell), vendor_scope(cell):
        try:
            yield cell
        except Exception as error:
            with suppress(Exception):  # a class of the application's may refuse attributes
                setattr(error, _LEFT, cell)
            raise


def left_by(error: BaseException | None) -> Context | None:
    """The cell of the job that this exception ended, or None."""
    cell: Context | None = getattr(error, _LEFT, None)
    return cell


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
    if text_id(user_id) is not None:
        cell.bind_user(user_id, email=email)
    if text_id(workspace_id) is not None:
        cell.bind_workspace(workspace_id)
    return cell


def detached() -> AbstractContextManager[Context]:
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


@contextmanager
def restore(carried: Mapping[str, str]) -> Iterator[Context]:
    """Bind what `carry()` gave, for a block.

    Never raises: what is not a carried context, or not signed with our METRICX_CARRY_SECRET, binds nobody and is
    logged.
    """
    with begin(_restored(carried)) as cell:
        yield cell


def _restored(carried: Mapping[str, str]) -> Context:
    try:
        fields = {str(key): str(value) for key, value in dict(carried).items()}
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
    except Exception:
        return False
