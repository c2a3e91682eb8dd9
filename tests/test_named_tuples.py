"""Named tuples on the wire: each value stands under its field's name, so that a password among them goes."""

from __future__ import annotations

import json
import logging
import pwd
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlparse, urlsplit
from uuid import uuid4

import pytest
import sentry_sdk
from sqlalchemy import create_engine, make_url, text

from metricx_observe import Observability
from metricx_observe.scrubber import Scrubber

from .receiver_server import Receiver
from .support import observed

SECRET = "hunter2-is-the-password"
log = logging.getLogger("shop")


class Login(NamedTuple):
    """A user and a password."""

    username: str
    password: str


class Hidden(NamedTuple):
    """One that hides itself in its repr."""

    username: str
    password: str

    def __repr__(self) -> str:
        return "Hidden()"


@dataclass
class Job:
    """Something that holds a named tuple."""

    login: Login


def _row() -> Any:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        row = connection.execute(text(f"select 'app' as username, '{SECRET}' as password")).one()
    engine.dispose()
    return row


def values() -> dict[str, Any]:
    """Each kind, and where such values stand."""
    login, address = Login("app", SECRET), f"postgresql://app:{SECRET}@db:5432/x?sslmode=require"
    return {
        "a named tuple": login,
        "one with a repr": Hidden("app", SECRET),
        "SQLAlchemy's URL": make_url(address),
        "SQLAlchemy's row": _row(),
        "urlsplit": urlsplit(address),
        "urlparse": urlparse(address),
        "urlsplit's dict": urlsplit(address)._asdict(),
        "of bytes": urlsplit(address.encode()),
        "a password's entry": pwd.struct_passwd(("app", SECRET, 1, 1, "", "/", "/bin/sh")),
        "in a list": [login, Hidden("app", SECRET)],
        "in a dict": {"first": {"second": make_url(address)}},
        "in a tuple": (1, (urlsplit(address), login)),
        "in a named tuple": Login("app", Hidden("app", SECRET)),  # type: ignore[arg-type]
        "in a dataclass": Job(login),
    }


@pytest.fixture
def observability(receiver: Receiver) -> Iterator[Observability]:
    """One that sends to the receiver."""
    with observed(receiver) as running:
        running.start()
        yield running


def _captured(running: Observability, value: Any) -> None:
    local = value
    try:
        raise ValueError(f"boom {local is None}")
    except ValueError as error:
        running.errors.capture_exception(error)


def _logged(running: Observability, value: Any) -> None:
    local = value
    try:
        raise ValueError(f"boom {local is None}")
    except ValueError:
        log.exception("failed")


def _crumb(running: Observability, value: Any) -> None:
    sentry_sdk.add_breadcrumb(message="in", data={"with": value})
    log.error("then")


def _context(running: Observability, value: Any) -> None:
    sentry_sdk.get_isolation_scope().set_context("database", {"at": value})
    log.error("then")


def _tool(running: Observability, value: Any) -> None:
    with running.llm.trace("ask") as trace, trace.tool("connect", input={"to": value}) as tool:
        tool.update(output=value)


SIGNALS: dict[str, Callable[[Observability, Any], object]] = {
    "a local": _captured,
    "a local of a logged error": _logged,
    "a log argument": lambda running, value: log.error("cannot connect to %s", value),
    "a log argument's repr": lambda running, value: log.error("%d: %r", 3, value),
    "extra of a log": lambda running, value: log.error("cannot connect", extra={"to": value}),
    "extra of ours": lambda running, value: running.errors.capture_message("no", extra={"to": value}, level="error"),
    "a breadcrumb": _crumb,
    "a context": _context,
    "a property": lambda running, value: running.tracker.track("connected", {"to": value}),
    "traits": lambda running, value: running.tracker.identify(traits={"to": value}),
    "a tool's input": _tool,
}


@pytest.mark.parametrize("signal", SIGNALS.values(), ids=list(SIGNALS))
def test_no_password_arrives_and_the_other_fields_do(
    receiver: Receiver, observability: Observability, signal: Callable[[Observability, Any], object]
) -> None:
    """In every signal and for every kind of value."""
    for kind, value in values().items():
        user = uuid4().hex
        with observability.context(user_id=user):
            signal(observability, value)
        assert observability.flush(10)
        found = json.dumps([each["payload"] for each in receiver.wait_for(1, user=user)])
        assert SECRET not in found, kind
        assert "app" in found, kind


def test_locals_show_the_fields_by_name(receiver: Receiver, observability: Observability) -> None:
    """What is no secret stays, under its name, however deep."""
    user, local = uuid4().hex, {"urls": [make_url(f"postgresql://app:{SECRET}@db/x")]}
    with observability.context(user_id=user):
        _captured(observability, local)
    assert observability.flush(10)
    (error,) = receiver.wait_for(1, kind="error", user=user)
    (frame,) = error["payload"]["exception"]["values"][0]["stacktrace"]["frames"]
    (shown,) = frame["vars"]["local"]["urls"]
    assert {name: shown[name] for name in ("drivername", "username", "host", "database")} == {
        "drivername": "postgresql", "username": "app", "host": "db", "database": "x",
    }  # fmt: skip
    assert shown["password"].startswith("[scrubbed name")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("SplitResult(netloc='app:{}@db', path='/x')", "SplitResult(netloc='app:[]@db', path='/x')"),
        ("netloc=b'app:{}@db:5432'", "netloc=b'app:[]@db:5432'"),
        ('{{"netloc": "app:{}@db"}}', '{{"netloc": "app:[]@db"}}'),
        ("netloc: :{}@db", "netloc: :[]@db"),
    ],
)  # fmt: skip
def test_a_location_without_its_scheme_is_told_by_its_name(given: str, kept: str) -> None:
    """In the text of a repr, of bytes and of JSON only the password goes."""
    found = str(Scrubber().scrub(given.format(SECRET), "error", "message"))
    before, _, rest = found.partition("[scrubbed url_password")
    assert before + "[]" + rest.partition("]")[2] == kept.replace("{{", "{").replace("}}", "}")
    assert Scrubber().scrub({"netloc": "example.com:443"}, "error", "x") == {"netloc": "example.com:443"}
