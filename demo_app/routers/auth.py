"""Sign up, log in, log out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import AfterValidator, BaseModel, Field, SecretStr
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from demo_app.database import SessionDep
from demo_app.models import User, Workspace
from demo_app.pages import page
from demo_app.security import password_fits, passwords, sign_in
from metricx_observe import ContextDep, TrackerDep
from metricx_observe.events import UserLoggedIn, UserSignedUp

router = APIRouter(tags=["auth"])

Email = Annotated[str, Field(max_length=254, pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$"), AfterValidator(str.lower)]


class Credentials(BaseModel):
    """What the log-in form sends. A SecretStr shows as asterisks wherever the form itself is printed."""

    email: Email
    password: SecretStr = Field(min_length=8, max_length=128)


class Registration(Credentials):
    workspace: str = Field(min_length=1, max_length=80)


@router.get("/signup")
def sign_up_page(request: Request) -> Response:
    return page(request, "signup.html")


# A `def` route: it runs in the threadpool, where hashing a password holds up nobody else.
@router.post("/signup")
def sign_up(
    request: Request,
    form: Annotated[Registration, Form()],
    session: SessionDep,
    context: ContextDep,
    tracker: TrackerDep,
) -> Response:
    """Create the user and a workspace, and sign in."""
    workspace = Workspace(name=form.workspace)
    password_hash = passwords.hash(form.password.get_secret_value())
    user = User(email=form.email, password_hash=password_hash, workspace_id=workspace.id)
    session.add(workspace)
    session.add(user)
    try:
        session.commit()
    except IntegrityError:
        return page(request, "signup.html", status_code=409, error="This e-mail address has an account already.")

    _signed_in(request, user, context, tracker)
    tracker.track(UserSignedUp(email=user.email, workspace_id=user.workspace_id))
    return RedirectResponse("/", status_code=303)


@router.get("/login")
def log_in_page(request: Request) -> Response:
    return page(request, "login.html")


@router.post("/login")
def log_in(
    request: Request,
    form: Annotated[Credentials, Form()],
    session: SessionDep,
    context: ContextDep,
    tracker: TrackerDep,
) -> Response:
    """Sign in, or say that the two do not fit, without saying which is wrong."""
    user = session.exec(select(User).where(User.email == form.email)).first()
    if not password_fits(user, form.password.get_secret_value()) or user is None:
        return page(request, "login.html", status_code=401, error="E-mail address and password do not fit.")

    _signed_in(request, user, context, tracker)
    tracker.track(UserLoggedIn(email=user.email, workspace_id=user.workspace_id))
    return RedirectResponse("/", status_code=303)


@router.post("/logout")
def log_out(request: Request) -> Response:
    request.session.clear()
    return RedirectResponse("/login", status_code=303)


def _signed_in(request: Request, user: User, context: ContextDep, tracker: TrackerDep) -> None:
    """From here on this request is this user's; `identify` in security.py does it for the following ones."""
    sign_in(request, user)
    context.bind_user(user.id, email=user.email, workspace_id=user.workspace_id)
    tracker.identify(user.id, email=user.email, traits={"workspace_id": user.workspace_id})
