"""The receiver as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.routing import Router
from starlette.types import ASGIApp

from .api import Api
from .guard import LOOPBACK_HOSTS, Guard
from .ingest import Ingest
from .pages import Pages
from .store import Limits, Store


def create_app(
    store_path: str | Path = ":memory:",
    *,
    token: str | None = None,
    allowed_hosts: Collection[str] = LOOPBACK_HOSTS,
    limits: Limits | None = None,
) -> ASGIApp:
    """The receiver: three wire formats in, a JSON API and pages out.

    Args:
        store_path: an SQLite file, or `:memory:`. Closed when the application's lifespan ends.
        token: what every call must present: as Bearer or Basic, as the DSN's key, as write key, as Langfuse's key.
        allowed_hosts: names that the Host header may have; `*` for any.
    """
    store = Store(store_path, limits)

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        try:
            yield
        finally:
            store.close()

    # A Router, not Starlette: in the same process an application's SDK may have instrumented that class, and the
    # receiver must never report itself to itself.
    routes = [*Api(store).routes(), *Ingest(store).routes(), *Pages(store).routes()]
    return Guard(Router(routes=routes, lifespan=lifespan), allowed_hosts=allowed_hosts, token=token)
