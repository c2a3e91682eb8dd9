"""The token bucket."""

from __future__ import annotations

import pytest

from metricx_observe import rate
from metricx_observe.rate import TokenBucket


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """In the place of the real one."""
    found = Clock()
    monkeypatch.setattr(rate, "monotonic", found)
    return found


def test_a_seconds_worth_is_in_hand(clock: Clock) -> None:
    """As many as a second allows go at once, and then as many as time has passed for."""
    bucket = TokenBucket(10)
    assert [bucket.take() for _ in range(12)] == [True] * 10 + [False] * 2
    clock.now += 0.5
    assert [bucket.take() for _ in range(7)] == [True] * 5 + [False] * 2
    clock.now += 3600
    assert sum(bucket.take() for _ in range(20)) == 10


@pytest.mark.parametrize(("per_second", "after_ten_seconds"), [(0, 0), (0.1, 1)])
def test_small_rates(clock: Clock, per_second: float, after_ten_seconds: int) -> None:
    """Zero lets none through, and less than one a second still lets one through when its time has come."""
    bucket = TokenBucket(per_second)
    assert sum(bucket.take() for _ in range(5)) == (1 if per_second else 0)
    clock.now += 10.0
    assert sum(bucket.take() for _ in range(5)) == after_ten_seconds
