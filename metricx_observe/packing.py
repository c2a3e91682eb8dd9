"""Records while they wait in the queue: as bytes, which the garbage collector never walks through.

What lives through two collections of the young counts as old, and each quarter more of old objects makes the collector
walk through all that the application holds: 60 ms and more where three vendors' SDKs are loaded. Records that waited as
instances, tuples or dicts cost each request 30 us of that (measured with `gc.callbacks`), and one in a hundred requests
had to wait for it.
"""

from __future__ import annotations

import marshal
from typing import Any, cast

from .context import Consent, RequestContext, User, Workspace

_PLAIN = 2
"""The last format that looks for no repeated objects: that would cost as much as all the rest."""


def pack(values: tuple[Any, ...]) -> bytes:
    """Tuples, lists, dicts, texts, bytes and numbers as bytes. Raises ValueError for anything else.

    By marshal: it takes a microsecond where pickle takes eight. Only this process reads the bytes, or the one that
    delivers for it, by the same interpreter.
    """
    return marshal.dumps(values, _PLAIN)


def unpack(packed: bytes) -> tuple[Any, ...]:
    """What `pack` was given."""
    return cast("tuple[Any, ...]", marshal.loads(packed))


def plain_state(state: RequestContext) -> tuple[Any, ...]:
    """A request's context as `pack` wants it, without the user's traits."""
    user, workspace = state.user, state.workspace
    return (
        state.request_id, state.trace_id, user and (user.id, user.email), workspace and tuple(workspace),
        dict(state.tags), tuple(state.consent),
    )  # fmt: skip


def state_of(plain: tuple[Any, ...]) -> RequestContext:
    """What `plain_state` was given."""
    request_id, trace_id, user, workspace, tags, consent = plain
    return RequestContext(
        request_id, trace_id, user and User(*user), workspace and Workspace(*workspace), tags, Consent(*consent)
    )
