"""Puts the demo together. The telemetry is two lines of it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.sessions import SessionMiddleware

from demo_app import standins
from demo_app.copilot.model import open_model
from demo_app.database import open_database
from demo_app.pages import page
from demo_app.routers import auth, connections, dashboard, debug, qa
from demo_app.security import NotSignedInError, identify, refuse_other_sites
from demo_app.settings import HERE, Settings
from metricx_observe import Observability

# authlib writes PKCE verifiers at DEBUG, which LOG_LEVEL=DEBUG would put on the console.
logging.getLogger("authlib").setLevel(logging.INFO)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The demo application; settings come from the environment unless given."""
    settings = settings or Settings()
    app = FastAPI(title="Metricx in small", lifespan=_lifespan, dependencies=[Depends(refuse_other_sites)])
    app.state.settings = settings
    app.add_middleware(
        SessionMiddleware,
        secret_key=settings.session_secret.get_secret_value(),
        session_cookie="metricx_session",
        same_site="lax",
        https_only=settings.secure_cookies,
    )
    for module in (dashboard, auth, connections, qa, debug, standins):
        app.include_router(module.router)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.add_exception_handler(NotSignedInError, _ask_to_log_in)
    app.add_exception_handler(HTTPException, _refusal)
    app.add_exception_handler(RequestValidationError, _refusal)
    app.add_exception_handler(Exception, _error_page)

    app.state.observability = Observability.from_env()
    app.state.observability.install(app, identify=identify)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.engine = await run_in_threadpool(open_database, app.state.settings.database_url)
    async with open_model(app.state.settings) as model:
        app.state.model = model
        yield
    app.state.engine.dispose()


async def _ask_to_log_in(request: Request, _error: Exception) -> Response:
    if _is_browser(request):
        return RedirectResponse("/login", status_code=303)
    return JSONResponse({"detail": "Log in first."}, status_code=401)


async def _refusal(request: Request, error: Exception) -> Response:
    """A page for a person, and FastAPI's JSON for everything else."""
    if isinstance(error, RequestValidationError):
        if not _is_browser(request):
            return await request_validation_exception_handler(request, error)
        fields = ", ".join(dict.fromkeys(str(each["loc"][-1]) for each in error.errors()))
        status, reason = 422, f"What was sent does not fit: {fields}."
    else:
        assert isinstance(error, HTTPException)  # the only other class that this is registered for
        if not _is_browser(request):
            return await http_exception_handler(request, error)
        status, reason = error.status_code, error.detail
    refusal = page(request, "refusal.html", status_code=status, status=status, reason=reason)
    refusal.headers.update(getattr(error, "headers", None) or {})  # `Allow`, where the method is wrong
    return refusal


def _is_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


async def _error_page(request: Request, _error: Exception) -> Response:
    return page(request, "error.html", status_code=500)
