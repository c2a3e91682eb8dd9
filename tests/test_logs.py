"""Logging: LOG_LEVEL, and the request and its user on records."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from metricx_observe.context import job_cell, use_cell
from metricx_observe.logs import ContextFilter, ContextFormatter, set_level


@contextmanager
def bare_root() -> Iterator[logging.Logger]:
    """The root logger without a handler, as a process begins; all is put back afterwards."""
    root, own = logging.getLogger(), logging.getLogger("metricx_observe")
    handlers, level, own_level, own_handlers = root.handlers[:], root.level, own.level, own.handlers[:]
    root.handlers.clear()
    try:
        yield root
    finally:
        root.handlers[:], own.handlers[:] = handlers, own_handlers
        root.setLevel(level)
        own.setLevel(own_level)


def record(message: str = "paid", **extra: object) -> logging.LogRecord:
    return logging.getLogger("app").makeRecord("app", logging.INFO, __file__, 1, message, (), None, extra=extra)


def test_a_root_without_handlers_stays_without() -> None:
    """LOG_LEVEL sets our own logger: a handler on the root would make the application's `basicConfig` do nothing."""
    with bare_root() as root:
        before = root.level
        set_level("INFO")
        assert (root.level, root.handlers) == (before, [])
        assert logging.getLogger("metricx_observe").level == logging.INFO


def test_a_root_with_a_handler_is_left_alone() -> None:
    """Where the application has configured logging, only our own logger gets the level."""
    with bare_root() as root:
        handler = logging.NullHandler()
        root.addHandler(handler)
        root.setLevel(logging.ERROR)
        set_level("DEBUG")
        assert (root.level, root.handlers) == (logging.ERROR, [handler])
        assert logging.getLogger("metricx_observe").level == logging.DEBUG


@pytest.mark.parametrize("level", [None, "LOUD"])
def test_no_level_changes_nothing(level: str | None) -> None:
    """Without LOG_LEVEL, or with one that is none, nothing is touched."""
    with bare_root() as root:
        before = root.level
        set_level(level)
        assert (root.level, root.handlers) == (before, [])


def test_the_filter_puts_request_and_user_on_a_record() -> None:
    """Inside a request or job a record has its ids, outside a dash each."""
    with use_cell(job_cell("u1", "w1")) as cell:
        inside = record()
        assert ContextFilter().filter(inside)
    found = {name: inside.__dict__[name] for name in ("request_id", "trace_id", "user_id", "workspace_id")}
    state = cell.state
    assert found == {"request_id": state.request_id, "trace_id": state.trace_id, "user_id": "u1", "workspace_id": "w1"}
    outside = record()
    ContextFilter().filter(outside)
    assert {outside.__dict__[name] for name in found} == {"-"}


def test_what_a_record_has_already_stays() -> None:
    """The application's own `extra`, and a record that was stamped in its request, are not overwritten."""
    with use_cell(job_cell("u1")) as cell:
        queued = record(user_id="the application's own")
        ContextFilter().filter(queued)
    with use_cell(job_cell("u2")):
        line = ContextFormatter("%(request_id)s %(user_id)s").format(queued)
    assert line == f"{cell.state.request_id} the application's own"


def test_the_formatter_needs_no_filter_and_keeps_to_one_line() -> None:
    """The formatter finds the context itself, and no value can begin a line of its own."""
    with use_cell(job_cell("u1")) as cell:
        line = ContextFormatter().format(record("paid\r\nERROR:root:forged"))
    assert line == f"INFO:app:paid  ERROR:root:forged [request_id={cell.state.request_id} user_id=u1]"


def test_each_thread_has_its_own_context() -> None:
    """Two jobs at once do not get each other's ids."""

    def one(n: int) -> str:
        with use_cell(job_cell(f"u{n}")):
            return ContextFormatter("%(user_id)s").format(record())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(20))) == [f"u{n}" for n in range(20)]
