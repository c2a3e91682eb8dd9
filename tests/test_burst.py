"""Bursts of identical errors: what is let through, what is counted, and which id the others are given."""

from __future__ import annotations

import os
import threading
import timeit

import pytest
import sentry_sdk
from sentry_sdk.utils import event_from_exception

from metricx_observe.vendors.sentry import burst as module
from metricx_observe.vendors.sentry.burst import IDENTICAL, Burst, error_key


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
    monkeypatch.setattr(module, "monotonic", found)
    return found


@pytest.fixture
def burst(clock: Clock) -> Burst:
    """Thirty errors a second at most."""
    return Burst(30)


def test_the_first_ten_of_a_second_are_sent(burst: Burst, clock: Clock) -> None:
    """The others are counted, and have the id of the last one that was sent; in the next second it begins anew."""
    assert all(burst.admit("key", f"event {n}") == (True, f"event {n}") for n in range(IDENTICAL))
    assert [burst.admit("key", "more") for _ in range(5)] == [(False, "event 9")] * 5
    assert burst.refused("key") == (False, "event 9")
    assert burst.merged == 6
    clock.now += 1.1
    assert burst.refused("key") is None
    assert all(burst.admit("key", "later").sent for _ in range(IDENTICAL))
    burst.reset()
    assert burst.admit("key", "after a flush") == (True, "after a flush")


def test_keys_are_apart(burst: Burst) -> None:
    """Another error is not counted as this one."""
    for _ in range(IDENTICAL + 3):
        burst.admit("one", "1")
    assert burst.admit("two", "2").sent


def test_the_total_is_counted_in_the_same_way(burst: Burst) -> None:
    """Beyond the total rate an error has the id of the last identical one, else of the last one at all."""
    for n in range(30):
        assert burst.admit(f"key {n}", f"event {n}").sent
    assert burst.admit("key 7", "more") == (False, "event 7")
    assert burst.admit("another", "more") == (False, "event 29")


def test_asking_uses_nothing_up(burst: Burst) -> None:
    """Whoever asks may still drop the error."""
    assert all(burst.refused("key") is None for _ in range(IDENTICAL + 1))
    assert burst.admit("key", "event").sent


def test_a_total_of_zero_lets_nothing_through() -> None:
    """METRICX_ERRORS_MAX_PER_SECOND=0: no event, so no id."""
    burst = Burst(0)
    assert burst.admit("key", "event") == (False, None)
    assert burst.merged == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_begins_anew(burst: Burst) -> None:
    """Also where another thread of the parent holds the lock at the fork, and in the same second."""
    read, write = os.pipe()
    for _ in range(IDENTICAL):
        burst.admit("key", "event")
    with burst._lock:
        child = os.fork()
        if child == 0:
            os.write(write, b"admitted" if burst.admit("key", "event").sent else b"refused")
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"admitted"
    assert not burst.admit("key", "event").sent
    os.close(read)
    os.close(write)


def test_many_threads_lose_none() -> None:
    """Whatever the threads do, each error is admitted or counted."""
    total, burst, admitted = 4_000, Burst(1_000_000), list[bool]()

    def work() -> None:
        for _ in range(total // 4):
            if burst.admit("key", "event").sent:
                admitted.append(True)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) + burst.merged == total


def raised(text: str, deep: int = 0) -> ValueError:
    """An exception from so deep."""
    try:
        return raised(text, deep - 1) if deep else _raise(text)
    except ValueError as error:
        return error


def _raise(text: str) -> ValueError:
    raise ValueError(text)


def test_what_makes_errors_identical() -> None:
    """Type, message and innermost lines; a message that cannot be read is no reason to fail."""

    class Loud(ValueError):
        """Its text cannot be had."""

        def __str__(self) -> str:
            raise RuntimeError

    assert error_key(raised("a")) == error_key(raised("a"))
    assert error_key(raised("a")) != error_key(raised("b"))
    assert error_key(raised("a")) != error_key(ValueError("a"))
    assert error_key(Loud()) == error_key(Loud())


def test_recognising_costs_a_fraction_of_building() -> None:
    """An error that is only counted takes far less time than one that is built."""
    error = raised("a", 20)
    options = sentry_sdk.Client().options
    burst = Burst(30)
    building = min(timeit.repeat(lambda: event_from_exception(error, client_options=options), number=5))
    recognising = min(timeit.repeat(lambda: burst.admit(error_key(error), "event"), number=5))
    assert recognising < building / 5
