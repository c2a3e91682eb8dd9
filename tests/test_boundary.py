"""The boundary: swallows, counts and logs once; raises in strict mode."""

from __future__ import annotations

import logging

import pytest

from metricx_observe import InputError
from metricx_observe.boundary import Boundary


def test_it_swallows_counts_and_logs_each_kind_once(caplog: pytest.LogCaptureFixture) -> None:
    """An exception ends at the boundary: counted each time, logged the first time, by its type only."""
    boundary = Boundary()
    for _ in range(3):
        with boundary("track"):
            raise ValueError("hunter2")
    assert boundary.counts == {"track: ValueError": 3}
    assert [record.getMessage() for record in caplog.records] == [
        "track: ValueError at test_boundary.py:18 (counted in status() from now on, not logged again)"
    ]


def test_what_is_no_fault_goes_on() -> None:
    """KeyboardInterrupt and the like are not ours to swallow."""
    with pytest.raises(KeyboardInterrupt), Boundary()("track"):
        raise KeyboardInterrupt


def test_strict_raises_with_the_cause() -> None:
    """METRICX_STRICT=true raises an InputError that names the call and the kind, chained to what it was."""
    boundary = Boundary(strict=True)
    with pytest.raises(InputError, match=r"^track: ValueError$") as raised, boundary("track"):
        raise ValueError("hunter2")
    assert isinstance(raised.value.__cause__, ValueError)
    with pytest.raises(InputError, match="identify: no id"), boundary("outer"):
        boundary.note("identify", ["no id"])


def test_deliverys_threads_never_raise(caplog: pytest.LogCaptureFixture) -> None:
    """`count` logs in strict mode, where there is nobody to raise to."""
    boundary = Boundary(strict=True)
    boundary.count("track", ["too large"])
    assert boundary.counts == {"track: too large": 1}
    assert (caplog.records[0].levelno, caplog.records[0].getMessage()) == (logging.WARNING, "track: too large")


def test_kinds_are_bounded() -> None:
    """Event names that the application makes up without end take no memory without end."""
    boundary = Boundary()
    for n in range(2_000):
        boundary.note(f"track event-{n}", ["bad name"])
    assert len(boundary.counts) <= 501
    assert sum(boundary.counts.values()) == 2_000
    assert boundary.counts["other"] > 1_000
