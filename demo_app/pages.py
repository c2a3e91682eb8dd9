"""Renders the demo's templates."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.templating import Jinja2Templates

from demo_app.security import signed_in
from demo_app.settings import HERE
from metricx_observe import Observability
from metricx_observe.context import current

templates = Jinja2Templates(HERE / "templates")


def page(request: Request, name: str, /, *, status_code: int = 200, **context: Any) -> Response:
    """A page that knows who is signed in, and its own request id, under which the receiver lists what it caused."""
    state = current()
    context |= {
        "user": signed_in(request),
        "request_id": state.request_id if state else None,
        "receiver_url": receiver_url(request.app),
        "errors_url": receiver_url(request.app, "sentry"),
    }
    return templates.TemplateResponse(request, name, context, status_code=status_code)


def receiver_url(app: FastAPI, *services: str) -> str | None:
    """The local receiver's address when one of these services (of all: without any) sends to it, else None."""
    observability: Observability = app.state.observability
    states = observability.states()
    local = (states[name].partition("local: ")[2] for name in services or states)
    return next(filter(None, local), None)
