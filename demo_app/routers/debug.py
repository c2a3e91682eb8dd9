"""Buttons that go wrong on purpose, to see what becomes of an error."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from demo_app.pages import page
from demo_app.security import require_user
from metricx_observe import ErrorReporterDep

router = APIRouter(prefix="/debug", tags=["debug"], dependencies=[Depends(require_user)])


class DemoError(RuntimeError):
    """Raised by the button."""


@router.get("")
def debug_page(request: Request) -> Response:
    return page(request, "debug.html")


@router.post("/error")
def raise_error(errors: ErrorReporterDep) -> None:
    """An error that nobody catches: reported without a line of code here."""
    errors.add_breadcrumb("The test button was pressed", category="demo")
    raise DemoError("This is a test error: you pressed the button.")


@router.post("/handled")
def report_handled_error(request: Request, errors: ErrorReporterDep) -> Response:
    """An error that the application deals with, and reports all the same."""
    try:
        raise DemoError("This error was caught.")
    except DemoError as error:
        event_id = errors.capture_exception(error, extra={"operation": "demo"})
    return page(request, "debug.html", event_id=event_id)
