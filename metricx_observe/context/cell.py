"""The cell of one request or job, and what it holds.

A plain ContextVar that is set in a sync dependency is lost to the route, which runs in another copy of the context. A
cell is shared by every copy: dependencies, threadpool routes, background tasks, streaming bodies and `create_task` all
see what any of them bound. It holds no body, no Request, and the ASGI scope only while the request runs, so a task that
outlives its request pins nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from metricx_observe.ids import subject_id, text_id
from metricx_observe.interrupts import suppress_faults

if TYPE_CHECKING:
    from metricx_observe.request.facts import RequestInfo


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


class RequestContext(NamedTuple):
    """What is known of a request or job. Immutable: binding puts a new one into the cell."""

    request_id: str
    trace_id: str
    user: User | None = None
    workspace: Workspace | None = None
    tags: Mapping[str, str] = {}
    consent: Consent = Consent()


@dataclass(slots=True, eq=False, repr=False)
class Context:
    """The cell of one request or job. Injected by `ContextDep`; also what the module's functions act on."""

    state: RequestContext
    info: RequestInfo | None = None
    upstream: Upstream | None = None
    shared: bool = True  # a cell that `bind_*` made outside a request is not: it is replaced, never changed
    key: str = field(init=False)  # identifies this request or job; the id that is shown may change
    reported: bool = False  # an exception was, so the error status that follows it is not
    pending: BaseException | None = None  # it left the routes; somebody outside may still make a response of it
    answered: bool = False  # the whole response was sent: a background task that fails after it does not make it a 500
    send_error: OSError | None = None  # the server could not send: the client has left, which is no error
    llm_trace_id: str | None = None  # of the last LLM trace that began here, so that an error leads to it
    put: bool = False  # a signal was (METRICX_DURABILITY=acknowledged waits only then)
    identified: bool = False  # so a mounted application with a middleware of its own does not identify again
    _binding: Lock = field(default_factory=Lock)  # two threads may bind at once, and neither may undo the other's

    def __post_init__(self) -> None:
        self.key = self.state.request_id

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
        unbinds. So does anything but a text, whole number or UUID, which is counted, and raises with METRICX_STRICT.
        """
        user_id, new_workspace = _subject("bind_user", id), _subject("bind_user", workspace_id)
        address, new_traits = text_id(email), dict[str, Any]()
        with suppress_faults():  # a mapping that cannot be read
            new_traits.update(traits if isinstance(traits, Mapping) else {})
        with self._binding:
            user, workspace = self.state.user, self.state.workspace
            if user_id is None or (user is not None and user.id != user_id):
                user = workspace = None
            if user_id is not None:
                old = user or User(user_id)
                user = User(user_id, address or old.email, {**old.traits, **new_traits})
                if new_workspace is not None and (workspace is None or workspace.id != new_workspace):
                    workspace = Workspace(new_workspace)
            self.state = self.state._replace(user=user, workspace=workspace)

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
        answers = {"analytics": _allowed(analytics), "llm_content": _allowed(llm_content)}
        given = {name: answer for name, answer in answers.items() if answer is not None}
        with self._binding:
            self.state = self.state._replace(consent=self.state.consent._replace(**given))

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Pickled with an exception that ended a job, it is None: no other process has the job."""
        return type(None), ()

    def end(self) -> None:
        """The request has ended: drop every reference that would keep it alive."""
        self.pending = self.send_error = None
        if self.info is not None:
            self.info.release()


DETACHED = Context(RequestContext("", ""))
"""Marks a Context in which no request applies. Never written to."""


def _subject(call: str, id: object) -> str | None:
    """An id, or None; a value that cannot be an id is counted as a fault of the call."""
    found = subject_id(id)
    if found is None and id is not None and not isinstance(id, str):
        hooks.note(call, ["unusable id"])
    return found


def _allowed(answer: object) -> bool | None:
    """An answer that cannot be read counts as a no."""
    with suppress_faults():
        return None if answer is None else bool(answer)
    return False


def _nothing(*given: object) -> None: ...


@dataclass
class Hooks:
    """What an open `Observability` does for this package, which imports none of the others: it sets and resets them."""

    carry_secret: bytes | None = None  # METRICX_CARRY_SECRET: what `carry()` signs and `restore()` demands
    note: Callable[[str, list[str]], None] = _nothing  # counts a fault of a call; raises with METRICX_STRICT
    job_scope: Callable[[Context], AbstractContextManager[object]] = nullcontext  # of a job at the error vendor
    # without our middleware: the cell that the error vendor's own request holds, made if True is given
    request_cell: Callable[[bool], Context | None] = _nothing
    facade: Callable[[str], Any] = _nothing  # `tracker`, `llm` or `errors`, for what runs now


hooks = Hooks()
