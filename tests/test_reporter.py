"""ErrorReporter: what it gives to the error vendor, and when."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytest

from metricx_observe import ErrorReporter
from metricx_observe.boundary import Boundary
from metricx_observe.context import Context, RequestContext, current_cell, detached, use_cell
from metricx_observe.ids import new_id
from metricx_observe.signals.errors import RequestStatus


class Sink:
    """An error vendor that keeps what it gets, and whose it was."""

    def __init__(self) -> None:
        self.got: list[tuple[Any, ...]] = []
        self.cells: list[Context | None] = []

    def scope(self, cell: Context) -> AbstractContextManager[RequestStatus]:
        """Not of interest here."""
        raise NotImplementedError

    def capture(
        self, error: BaseException, *, handled: bool, extra: Mapping[str, Any], level: str | None
    ) -> str | None:
        """Keep it."""
        return self._keep(error, handled, extra, level)

    def message(self, text: str, level: str, extra: Mapping[str, Any]) -> str | None:
        """Keep it."""
        return self._keep(text, level, extra)

    def breadcrumb(self, message: str, category: str | None, data: Mapping[str, Any]) -> None:
        """Keep it."""
        self._keep(message, category, data)

    def _keep(self, *got: Any) -> str:
        self.got.append(got)
        self.cells.append(current_cell())
        return new_id()


@pytest.fixture
def sink() -> Sink:
    """Where reports go."""
    return Sink()


@pytest.fixture
def boundary() -> Boundary:
    """What was counted."""
    return Boundary()


@pytest.fixture
def errors(sink: Sink, boundary: Boundary) -> ErrorReporter:
    """Outside any request."""
    return ErrorReporter(sink, boundary)


def request_of(request_id: str = "r1") -> Context:
    """A request's cell."""
    return Context(RequestContext(request_id, "a" * 32))


def test_an_exception_is_reported_once_per_request(errors: ErrorReporter, sink: Sink) -> None:
    """By identity: the same object again gives the first id, in another request it is news."""
    error = ValueError("x")
    ids = []
    for request_id in ("r1", "r1", "r2"):
        with use_cell(request_of(request_id)):
            ids.append(errors.capture_exception(error))
    assert ids[0] == ids[1] != ids[2]
    assert len(sink.got) == 2
    assert errors.capture_exception(error) == ids[2], "outside of both it is what was reported last"


def test_outside_a_request_too(errors: ErrorReporter, sink: Sink) -> None:
    """A script that reports in two places has one event, also of an exception that refuses attributes."""

    class Closed(Exception):
        """It takes no attributes."""

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    error, closed = ValueError("x"), Closed()
    assert errors.capture_exception(error) == errors.capture_exception(error)
    with detached():
        assert errors.capture_exception(closed) == errors.capture_exception(closed)
    assert len(sink.got) == 2


def test_the_exception_being_handled_is_the_default(errors: ErrorReporter, sink: Sink, boundary: Boundary) -> None:
    """In an except block nothing has to be given; outside one there is nothing to report, which is counted."""
    error = ValueError("x")
    try:
        raise error
    except ValueError:
        assert errors.capture_exception() is not None
    assert sink.got == [(error, True, {}, None)]
    assert errors.capture_exception() is None
    assert boundary.counts == {"capture_exception: no exception given": 1}


def test_what_is_no_exception_is_a_message(errors: ErrorReporter, sink: Sink) -> None:
    """`capture_exception("payment failed")` is a mistake that costs no report."""
    odd: Any = "payment failed"
    assert errors.capture_exception(odd, extra={"a": 1}) is not None
    assert sink.got == [("payment failed", "error", {"a": 1})]


def test_extra_and_level_are_read_at_once(errors: ErrorReporter, sink: Sink, boundary: Boundary) -> None:
    """Extra is a copy; a level that Sentry does not know is counted and left out."""
    extra = {"a": [1]}
    errors.capture_message("text", level="Warning", extra=extra)
    extra["a"].append(2)
    errors.capture_message("text", level="loud")
    odd: Any = [1, 2]
    errors.capture_exception(ValueError(), extra=odd, level="fatal")
    assert sink.got[0] == ("text", "warning", {"a": [1]})
    assert sink.got[1] == ("text", "info", {})
    assert sink.got[2][2:] == ({"value": [1, 2]}, "fatal")
    assert boundary.counts == {"capture_message: unknown level": 1}


def test_breadcrumbs(errors: ErrorReporter, sink: Sink) -> None:
    """Message, category and data are plain."""
    errors.add_breadcrumb(7, category="a\nb", data={"x": {1}})
    errors.add_breadcrumb("step")
    assert sink.got == [("7", "a b", {"x": [1]}), ("step", None, {})]


def test_a_bound_reporter_is_right_in_any_thread(errors: ErrorReporter, sink: Sink) -> None:
    """The injected reporter makes its own request current while it reports."""
    cell = request_of()
    bound = errors.bound(cell)

    def work() -> None:
        bound.capture_exception(ValueError("x"))
        bound.capture_message("x")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert sink.cells == [cell, cell]
    assert cell.reported
    assert current_cell() is None


def test_off_does_nothing(boundary: Boundary) -> None:
    """Without a vendor every call gives None."""
    errors = ErrorReporter(None, boundary)
    assert errors.capture_exception(ValueError()) is None
    assert errors.capture_message("x") is None
    errors.add_breadcrumb("x")
    assert boundary.counts == {}


def test_a_vendor_that_fails_does_not_reach_the_request(boundary: Boundary) -> None:
    """An exception inside the vendor's code is counted."""

    class Failing(Sink):
        """It fails."""

        def _keep(self, *got: Any) -> str:
            raise RuntimeError("inside")

    errors = ErrorReporter(Failing(), boundary)
    assert errors.capture_exception(ValueError()) is None
    assert errors.capture_message("x") is None
    errors.add_breadcrumb("x")
    assert sum(boundary.counts.values()) == 3
