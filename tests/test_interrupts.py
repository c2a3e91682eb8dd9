"""What the application's own code and its signal handlers raise in our calls: SystemExit and time limits pass."""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import pytest
import sentry_sdk
from fastapi import FastAPI
from starlette.types import Message

from metricx_observe import Observability
from metricx_observe import context as contexts
from metricx_observe.context import current_cell
from metricx_observe.ids import new_id
from metricx_observe.interrupts import is_interrupt

from .receiver_server import Receiver
from .support import observed, scope_of


class SoftLimit(Exception):
    """As Celery's: an Exception that a signal handler raises."""


def limit(signum: int, frame: FrameType | None) -> None:
    raise SoftLimit


@pytest.fixture(autouse=True)
def _limited() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, limit)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


class Worker:
    """Handlers as there are: a method, as RQ's, and one that takes itself off and lets another function raise."""

    def end(self, signum: int, frame: FrameType | None) -> None:
        raise SoftLimit

    def end_once(self, signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_DFL)
        limit_of(self)

    def __call__(self, *given: object) -> None:
        raise SoftLimit


def limit_of(_: object) -> None:
    raise SoftLimit


def with_task(task: str, signum: int, frame: FrameType | None) -> None:
    raise SoftLimit(task)


@pytest.mark.parametrize(
    "handler",
    [limit, Worker().end, Worker().end_once, Worker(), partial(with_task, "report")],
    ids=["function", "method", "takes itself off", "callable", "partial"],
)
def test_what_a_signal_handler_raises_is_known_by_its_frame(handler: Any) -> None:
    """Whatever kind of handler it is, and however deep the interrupted code."""
    signal.signal(signal.SIGALRM, handler)
    with pytest.raises(SoftLimit) as caught:
        any(map(signal.raise_signal, [signal.SIGALRM]))
    assert is_interrupt(caught.value)


def test_what_else_is_raised_is_none() -> None:
    """Also of a function with two arguments, and one that never was raised."""
    for call in (partial(limit, 14, None), partial(int, "x"), Worker()):
        with pytest.raises((SoftLimit, ValueError)) as caught:
            call()
        assert not is_interrupt(caught.value)
    assert not is_interrupt(SoftLimit())


def _interrupt() -> None:
    signal.raise_signal(signal.SIGALRM)


def _exit() -> None:
    raise SystemExit


def _cancel() -> None:
    raise KeyboardInterrupt


def value_of(action: Callable[[], None]) -> Any:
    """A value whose text, and whatever else is asked of it, runs `action`."""

    def act(*_: object) -> Any:
        action()

    return type("Odd", (), dict.fromkeys(("__str__", "__repr__", "__bool__"), act))()


def error_of(action: Callable[[], None]) -> Exception:
    """An exception whose text runs `action`."""

    class Odd(Exception):
        def __str__(self) -> str:
            action()
            return "odd"

    return Odd()


Use = Callable[[Observability, Callable[[], None]], object]
USES: dict[str, Use] = {
    "track": lambda o, act: o.tracker.track("odd", {"a": [{"b": value_of(act)}]}),
    "track by an odd name": lambda o, act: o.tracker.track(value_of(act)),
    "identify": lambda o, act: o.tracker.identify("u1", traits={"a": value_of(act)}),
    "llm input": lambda o, act: o.llm.trace("t", input=[value_of(act)]).end(),
    "llm update": lambda o, act: o.llm.trace("t").update(output={"a": value_of(act)}, metadata={"b": {1, 2}}),
    "llm error": lambda o, act: o.llm.trace("t").fail(error_of(act)),
    "capture_exception": lambda o, act: o.errors.capture_exception(error_of(act)),
    "capture_exception's extra": lambda o, act: o.errors.capture_exception(ValueError(), extra={"a": value_of(act)}),
    "capture_message": lambda o, act: o.errors.capture_message(value_of(act)),
    "add_breadcrumb": lambda o, act: o.errors.add_breadcrumb("x", data={"a": value_of(act)}),
    "bind_user": lambda o, act: contexts.bind_user("u2", email=value_of(act)),
    "set_tag": lambda o, act: contexts.set_tag("a", value_of(act)),
    "set_consent": lambda o, act: contexts.set_consent(analytics=value_of(act)),
}


@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
@pytest.mark.parametrize(
    ("action", "kind"),
    [(_interrupt, SoftLimit), (_exit, SystemExit), (_cancel, KeyboardInterrupt)],
    ids=["a time limit", "SystemExit", "KeyboardInterrupt"],
)
def test_it_reaches_the_application_and_the_next_call_works(
    receiver: Receiver, use: Use, action: Callable[[], None], kind: type[BaseException]
) -> None:
    """It is no fault of the call; no lock stays taken, and the context is what it was."""
    run = new_id()
    with observed(receiver) as observability, observability.context(user_id=run) as cell:
        before = sentry_sdk.get_isolation_scope(), sentry_sdk.get_current_scope()
        with pytest.raises(kind):
            use(observability, action)
        assert observability.boundary.counts == {}
        assert current_cell() is cell
        assert (sentry_sdk.get_isolation_scope(), sentry_sdk.get_current_scope()) == before
        contexts.bind_user(run)
        contexts.set_tag("run", run)
        observability.tracker.track("after")
        observability.llm.trace("after").end()
        observability.errors.capture_exception(ValueError("after"))
        assert observability.flush(10)
    found = {signal["kind"] for signal in receiver.signals(user=run) if "after" in signal["name"]}
    assert found == {"track", "trace", "error"}


@pytest.mark.parametrize("kind", [SystemExit, SoftLimit])
async def test_a_request_that_the_applications_sampler_ends_leaves_no_scope_behind(
    receiver: Receiver, kind: type[BaseException]
) -> None:
    """The sampler is asked before there is a block to leave."""

    def sampler(_: object) -> float:
        if kind is SystemExit:
            raise SystemExit
        _interrupt()
        return 1.0

    with observed(receiver, sentry_options={"traces_sampler": sampler}) as observability:
        app = FastAPI()
        observability.install(app)
        before = sentry_sdk.get_isolation_scope(), sentry_sdk.get_current_scope()
        with pytest.raises(kind):
            await app(scope_of("/"), _receive, _send)
        assert (sentry_sdk.get_isolation_scope(), sentry_sdk.get_current_scope()) == before
        assert current_cell() is None


async def _receive() -> Message:
    return {"type": "http.request"}


async def _send(_: Message) -> None: ...


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.disable()  # what is raised in a callback of its, as hypothesis has one, is lost
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
def test_a_timer_ends_a_call_that_takes_long(receiver: Receiver) -> None:
    """Wherever in the walk of a large value it comes."""
    rows = [{"at": n, "text": {f"{n}", "x"}} for n in range(3_000)]
    with observed(receiver) as observability:
        observability.tracker.track("rows", {"rows": rows}, user_id="u1")  # logs, where Sentry swallows all
        for n in range(1, 20):
            with pytest.raises(SoftLimit):
                _go_on(observability, rows, limit_s=n / 1_000)
        assert observability.boundary.counts.keys() <= {"track rows: too large"}
        assert observability.tracker.track("after") is not None


def _go_on(observability: Observability, rows: object, limit_s: float) -> None:
    end = time.monotonic() + 5
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    while time.monotonic() < end:
        observability.tracker.track("rows", {"rows": rows}, user_id="u1")
