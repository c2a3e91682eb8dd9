"""A message's parameters: what a name there gives away stands neither in the text nor in the breadcrumb on the wire."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import uuid4

import pytest
import sentry_sdk

from metricx_observe import Observability

from .receiver_server import Receiver
from .support import observed

log = logging.getLogger("shop")


@pytest.fixture
def observability(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> Iterator[Observability]:
    """One that sends to the receiver; information is logged, so that it becomes breadcrumbs."""
    caplog.set_level(logging.INFO)
    with observed(receiver) as running:
        running.start()
        yield running


class Password(str):
    """A text of a class of its own."""


class Vault:
    """Shows what it holds."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return f"<{self.text}>"


Style = Callable[[str], object]


def _exception(secret: str) -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        log.exception("failed for %(user)s: %(api_key)s", {"user": "ann", "api_key": secret})


def _structlog(secret: str) -> None:
    log.error({"event": "sign-in failed", "password": secret})  # its `wrap_for_formatter`


def _loguru(secret: str) -> None:
    """How loguru propagates a record: formatted, with its own `extra` as one attribute."""
    more = {"extra": {"pw": secret}}
    log.handle(log.makeRecord("shop", logging.ERROR, __file__, 1, f"in: {secret}", (), None, "f", more))


def _breadcrumb(secret: str) -> None:
    sentry_sdk.add_breadcrumb(message=f"in: {secret}", category="auth", data={"password": secret, "try": 2})
    log.error("then")


def _crumb_of(level: int, message: str, *args: object, **more: Any) -> None:
    log.log(level, message, *args, **more)
    log.error("then")


STYLES: dict[str, Style] = {
    "a mapping": lambda s: log.error("in: %(password)s", {"password": s}),
    "several keys": lambda s: log.error("%(user)s in: %(password)s (%(n)d)", {"user": "u", "password": s, "n": 3}),
    "twice": lambda s: log.error("%(password)s, again %(password)r", {"password": s}),
    "a repr": lambda s: log.error("in: %(password)r", {"password": f'{s}"\'\\'}),
    "positional": lambda s: log.error("failed: password=%s at %d", f"correct horse {s}", 3),
    "positional, quoted": lambda s: log.error("failed: password='%s' at %d", f"correct' horse {s}", 3),
    "in a warning": lambda s: _crumb_of(logging.WARNING, "in: %(password)s", {"password": s}),
    "in information": lambda s: _crumb_of(logging.INFO, "failed: password=%s", f"correct horse {s}"),
    "an exception's": _exception,
    "extra": lambda s: log.error("signed in with %s", s, extra={"password": s}),
    "extra of a formatted text": lambda s: log.error(f"signed in with {s}", extra={"password": s}),
    "extra in a breadcrumb": lambda s: _crumb_of(logging.INFO, f"signed in with {s}", extra={"password": s}),
    "bytes": lambda s: log.error("in: %(password)s", {"password": s.encode()}),
    "a text's subclass": lambda s: log.error("in: %(password)s", {"password": Password(s)}),
    "an object": lambda s: log.error("in: %(password)s", {"password": Vault(s)}),
    "a list": lambda s: log.error("in: %(passwords)s", {"passwords": [s, "x"]}),
    "a mapping below": lambda s: log.error("in: %(login)s", {"login": {"password": f"correct, {s}"}}),
    "structlog": _structlog,
    "loguru": _loguru,
    "a breadcrumb's data": _breadcrumb,
    "an adapter": lambda s: logging.LoggerAdapter(log, {"token": s}).error(f"in: {s}"),
    "an event without a record": lambda s: sentry_sdk.capture_event(
        {"level": "error", "logentry": {"message": "in: token=%s", "params": [f"a b {s}"], "formatted": f"in: a b {s}"}}
    ),
    "an event's extra": lambda s: sentry_sdk.capture_event(
        {"level": "error", "message": f"in: {s}", "extra": {"password": s}}
    ),
}  # fmt: skip


def arrived(receiver: Receiver, observability: Observability, do: Callable[[], object]) -> dict[str, Any]:
    """The error's event that `do` leads to."""
    user = uuid4().hex
    with observability.context(user_id=user):
        do()
    assert observability.flush(10)
    (signal,) = receiver.wait_for(1, kind="error", user=user)
    payload: dict[str, Any] = signal["payload"]
    return payload


@pytest.mark.parametrize("style", STYLES.values(), ids=list(STYLES))
def test_a_secret_parameter_is_nowhere(receiver: Receiver, observability: Observability, style: Style) -> None:
    """Whatever the style of logging: not in the text, the parameters, the breadcrumb or its data."""
    secret = secrets.token_hex(8)
    event = arrived(receiver, observability, lambda: style(secret))
    assert secret not in json.dumps(event)
    assert "[scrubbed name" in json.dumps(event)


@pytest.mark.parametrize("pin", ["7", "42", "123", 4711, 12.75])
def test_short_values_and_numbers_go_too(receiver: Receiver, observability: Observability, pin: object) -> None:
    """As whole words, so that the rest of the text stays as it was."""
    texts = {"pin": pin, "order": 71428}
    event = arrived(receiver, observability, lambda: log.error("pin %(pin)s of order %(order)s", texts))
    formatted = event["logentry"]["formatted"]
    assert formatted.startswith("pin [scrubbed name ")
    assert formatted.endswith("of order 71428")


@pytest.mark.parametrize(
    ("message", "args"),
    [
        ("%(user)s bought %(n)d for %(price).2f", {"user": "u-1", "n": 3, "price": 1.5}),
        ("the %(state)s of %(code)s", {"state": "open", "code": "E42"}),
        ("100%% of %(share)s", {"share": "all"}),
        ("in: %(password)s", {"password": ""}),
        ("in: %(password)s", {"password": None}),
    ],
)
def test_harmless_parameters_stay(
    receiver: Receiver, observability: Observability, message: str, args: Mapping[str, object]
) -> None:
    """Text and parameters arrive as they were logged."""
    event = arrived(receiver, observability, lambda: log.error(message, args))
    assert event["logentry"]["formatted"] == message % args
    assert event["logentry"]["params"] == args


def test_a_hook_of_the_application_that_raises_lets_nothing_through(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK keeps a breadcrumb whose hook failed; earlier ones drop it."""
    secret = secrets.token_hex(8)
    caplog.set_level(logging.INFO)

    def fails(crumb: Any, hint: Any) -> Any:
        raise ValueError("no")

    with observed(receiver, sentry_options={"before_breadcrumb": fails}) as running:
        running.start()
        event = arrived(receiver, running, lambda: _crumb_of(logging.INFO, "in: %(password)s", {"password": secret}))
    assert secret not in json.dumps(event)
    crumbs = [crumb["message"] for crumb in event["breadcrumbs"]["values"] if crumb.get("category") == "shop"]
    assert not crumbs or "[scrubbed name" in crumbs[0]
    assert crumbs or sentry_sdk.VERSION < "2.75"
