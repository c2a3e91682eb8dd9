"""The application's own functions that say who is signed in, and what they allowed."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import HTTPConnection
from starlette.types import Scope

from metricx_observe.context import Consent, Context, Identity

if TYPE_CHECKING:
    from metricx_observe.observability import Observability

Identify = Callable[[HTTPConnection], Awaitable[Identity | str | None] | Identity | str | None]
"""Sync (it must not block) or async. Gives who is signed in, by the server's own authentication, or None."""
AskConsent = Callable[[HTTPConnection], Awaitable[Consent | bool | None] | Consent | bool | None]
"""Sync or async. True or False for analytics, or a `Consent`; None means that the user was not asked: no analytics."""


async def bind_identity(
    observability: Observability, identify: Identify | None, consent: AskConsent | None, scope: Scope, cell: Context
) -> None:
    """Call the application's functions. One that raises is counted, and means no user, or no consent."""
    connection = HTTPConnection(scope)
    if identify is not None:
        with observability.boundary("identify="):
            _bind(cell, await _called(identify, connection))
    if consent is not None:
        cell.set_consent(analytics=False)
        with observability.boundary("consent="):
            answer = await _called(consent, connection)
            given = answer if isinstance(answer, Consent) else Consent(analytics=bool(answer))
            cell.set_consent(analytics=bool(given.analytics), llm_content=given.llm_content)


async def _called(function: Callable[[HTTPConnection], Any], connection: HTTPConnection) -> Any:
    result = function(connection)
    return await result if inspect.isawaitable(result) else result


def _bind(cell: Context, identity: Any) -> None:
    if isinstance(identity, Identity):
        cell.bind_user(identity.id, email=identity.email, traits=identity.traits, workspace_id=identity.workspace_id)
    elif isinstance(identity, (str, int)) or hasattr(identity, "hex"):
        cell.bind_user(identity)
    elif identity is not None:
        raise TypeError("identify= must return an Identity, an id, or None")
