"""Whose request or job it is: one mutable cell per request, in one ContextVar, that every signal is attributed by.

`cell` has the cell and what it holds, `running` which one applies to the code that runs now, `jobs` how a job gets the
context of the request that made it, and `reported` which exceptions were reported already.
"""

from .cell import DETACHED, Consent, Context, Hooks, Identity, RequestContext, Upstream, User, Workspace, hooks
from .jobs import Job, carry, detached, job_cell, restore
from .reported import left_by, mark_reported, reported_as
from .running import (
    bind_user,
    bind_workspace,
    current,
    current_cell,
    errors,
    llm,
    set_consent,
    set_tag,
    tracker,
    use_cell,
)

__all__ = [
    "DETACHED", "Consent", "Context", "Hooks", "Identity", "Job", "RequestContext", "Upstream", "User",
    "Workspace", "bind_user", "bind_workspace", "carry", "current", "current_cell", "detached", "errors", "hooks",
    "job_cell", "left_by", "llm", "mark_reported", "reported_as", "restore", "set_consent", "set_tag", "tracker",
    "use_cell",
]  # fmt: skip
