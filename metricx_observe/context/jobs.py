"""Work outside a request: a job with the context of the request that made it, and what outlives its request."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Mapping
from typing import Any

from metricx_observe.ids import new_id, valid_request_id, valid_trace_id

from .cell import DETACHED, Consent, Context, RequestContext, hooks
from .reported import mark_left
from .running import current, use_cell

logger = logging.getLogger("metricx_observe.context")


class Job(use_cell):
    """Make a cell the current one for a block outside a request, with a scope of its own at the error vendor.

    An exception that leaves the block says whose it was. A class: `contextlib` writes to the exception, which one of
    the application's may refuse.
    """

    __slots__ = ("_vendor",)

    def __enter__(self) -> Context:
        self._vendor = hooks.job_scope(self._cell)
        super().__enter__()
        try:
            self._vendor.__enter__()
        except BaseException:  # what a signal handler raised
            super().__exit__(None, None, None)
            raise
        return self._cell

    def __del__(self) -> None:
        """A worker that drops a job without its end, as Celery does in eager mode, ends the job's block."""
        if self._token is not None:
            self.__exit__(None, None, None)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, Exception):
            mark_left(error, self._cell)
        try:
            self._vendor.__exit__(kind, error, traceback)
        finally:
            super().__exit__(kind, error, traceback)


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


def detached() -> Job:
    """Run a block in which no request applies: start what outlives its request (a consumer, a pool) under it."""
    return Job(DETACHED)


def carry() -> dict[str, str]:
    """The current context as a small dict of strings, to travel with a job. Empty outside a request or job.

    Holds ids and consent, no e-mail address. Signed when METRICX_CARRY_SECRET is set.
    """
    state = current()
    if state is None:
        return {}
    carried = {"request_id": state.request_id, "trace_id": state.trace_id}
    carried |= {"user_id": state.user.id} if state.user else {}
    carried |= {"workspace_id": state.workspace.id} if state.workspace else {}
    consent = state.consent._asdict().items()
    carried |= {f"consent_{name}": str(int(answer)) for name, answer in consent if answer is not None}
    if hooks.carry_secret:
        carried["signature"] = _signature(carried, hooks.carry_secret)
    return carried


def restore(carried: Mapping[str, str] | None) -> Job:
    """Bind what `carry()` gave, for a block; None, of a job that nobody gave one, begins a context of its own.

    Never raises: what is not a carried context, or not signed with our METRICX_CARRY_SECRET, binds nobody and is
    logged.
    """
    try:
        fields = {str(key): str(value) for key, value in dict(carried or {}).items()}
    except (TypeError, ValueError):
        fields = {}
    given, secret = fields.pop("signature", ""), hooks.carry_secret
    if secret and fields and not hmac.compare_digest(given.encode(), _signature(fields, secret).encode()):
        logger.warning("restore(): the carried context is not signed with METRICX_CARRY_SECRET; nobody is bound")
        fields = {}
    cell = job_cell(
        fields.get("user_id"),
        fields.get("workspace_id"),
        request_id=valid_request_id(fields.get("request_id", "")),
        trace_id=valid_trace_id(fields.get("trace_id", "")),
    )
    answers = {"0": False, "1": True}
    cell.set_consent(**{name: answers.get(fields.get(f"consent_{name}", "")) for name in Consent._fields})
    return Job(cell)


def _signature(fields: Mapping[str, str], secret: bytes) -> str:
    text = "\n".join(f"{key}={len(fields[key])}:{fields[key]}" for key in sorted(fields))
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
