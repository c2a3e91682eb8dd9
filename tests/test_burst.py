"""Bursts of identical errors: what is let through, what is counted, and on which event."""

from __future__ import annotations

import os
import threading
import timeit

import pytest
import sentry_sdk
from sentry_sdk.utils import event_from_exception

from metricx_observe.vendors import burst as module
from metricx_observe.vendors.burst import IDENTICAL, Burst, error_key


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
def sent() -> list[tuple[str, int]]:
    """What was sent after it was held, with how many more it stands for."""
    return []


@pytest.fixture
def burst(clock: Clock, sent: list[tuple[str, int]]) -> Burst[str]:
    """Thirty errors a second at most."""
    return Burst[str](30, lambda event, more: sent.append((event, more)))


def test_the_last_that_is_sent_carries_the_count(burst: Burst[str], sent: list[tuple[str, int]], clock: Clock) -> None:
    """Ten are admitted; the tenth is held, the others have its id; when the second is over it says how many."""
    admitted = [burst.admit("key") for _ in range(IDENTICAL)]
    assert all(each.sent for each in admitted)
    assert len({each.event_id for each in admitted}) == IDENTICAL
    ids = [str(each.event_id) for each in admitted]
    assert [burst.hold(event_id, event_id) for event_id in ids] == [False] * 9 + [True]
    assert [burst.admit("key") for _ in range(5)] == [(False, ids[-1])] * 5
    assert burst.merged == 5
    assert sent == []
    clock.now += 1.1
    assert burst.admit("key").sent
    assert sent == [(ids[-1], 5)]


def test_keys_are_apart(burst: Burst[str]) -> None:
    """Another error is not counted on this one's event."""
    for _ in range(IDENTICAL + 3):
        burst.admit("one")
    assert burst.admit("two").sent


def test_the_total_is_counted_in_the_same_way(burst: Burst[str], sent: list[tuple[str, int]]) -> None:
    """The last event below the total rate carries the count of all that came after it, whatever they were."""
    ids = [str(burst.admit(f"key {n}").event_id) for n in range(30)]
    assert burst.hold(ids[-1], "last")
    assert [burst.admit(f"more {n}") for n in range(7)] == [(False, ids[-1])] * 7
    burst.turn()
    assert sent == [("last", 7)]


def test_an_event_that_is_built_late_is_sent_when_it_is_there(burst: Burst[str], sent: list[tuple[str, int]]) -> None:
    """The second may be over before the event that counts was built."""
    ids = [str(burst.admit("key").event_id) for _ in range(IDENTICAL)]
    burst.admit("key")
    burst.turn()
    assert sent == []
    assert burst.hold(ids[-1], "late")
    assert sent == [("late", 1)]
    assert not burst.hold(ids[-1], "again")


def test_an_event_that_never_comes_is_forgotten(burst: Burst[str], sent: list[tuple[str, int]]) -> None:
    """The application may drop the event that would have counted: nothing is kept for it."""
    for _ in range(IDENTICAL):
        burst.admit("key")
    burst.turn()
    burst.turn()
    assert burst._held == {}
    assert sent == []


def test_a_total_of_zero_lets_nothing_through() -> None:
    """METRICX_ERRORS_MAX_PER_SECOND=0: no event, so no id."""
    burst = Burst[str](0, lambda event, more: None)
    assert burst.admit("key") == (False, None)
    assert burst.merged == 1


def test_the_timer_ends_the_second(sent: list[tuple[str, int]]) -> None:
    """Without another error the held event leaves by itself, on a thread that nobody has to wait for."""
    left = threading.Event()

    def send(event: str, more: int) -> None:
        sent.append((event, more))
        left.set()

    burst = Burst[str](30, send)
    ids = [str(burst.admit("key").event_id) for _ in range(IDENTICAL)]
    burst.hold(ids[-1], "last")
    assert left.wait(10)
    assert sent == [("last", 0)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_begins_anew() -> None:
    """What is held is the parent's to send: the child admits its own errors, and sends nothing twice."""
    read, write = os.pipe()
    parent, mine = os.getpid(), list[str]()

    def sends(event: str, more: int) -> None:
        if os.getpid() == parent:  # by its timer, at any time
            mine.append(event)
        else:
            os.write(write, b"sent")

    burst = Burst[str](30, sends)
    ids = [str(burst.admit("key").event_id) for _ in range(IDENTICAL)]
    burst.hold(ids[-1], "last")
    child = os.fork()
    if child == 0:
        admitted = burst.admit("key").sent
        burst.turn()
        os.write(write, b"admitted" if admitted else b"refused")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"admitted"
    burst.turn()
    assert mine == ["last"]
    os.close(read)
    os.close(write)


def test_many_threads_lose_none() -> None:
    """Whatever the threads do, each error is admitted or counted."""
    total, events = 4_000, list[int]()
    burst = Burst[str](1_000_000, lambda event, more: events.append(more))
    admitted = list[str]()

    def work() -> None:
        for _ in range(total // 4):
            admission = burst.admit("key")
            if admission.sent:
                admitted.append(str(admission.event_id))
                burst.hold(str(admission.event_id), "event")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    burst.turn()
    assert len(admitted) + burst.merged == total
    assert sum(events) == burst.merged


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
    burst = Burst[str](30, lambda event, more: None)
    building = min(timeit.repeat(lambda: event_from_exception(error, client_options=options), number=5))
    recognising = min(timeit.repeat(lambda: burst.admit(error_key(error)), number=5))
    assert recognising < building / 5
