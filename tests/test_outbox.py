"""What every outbox must do; run against each that there is. Nothing here names a storage."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metricx_observe.delivery import Importance, Limits
from metricx_observe.delivery.outbox import Outbox, Row, Stream, outbox_path
from metricx_observe.delivery.outbox.sqlite import SqliteOutbox

TRACK = Stream("rudderstack", "a", "track", Importance.SIGNAL)
PAGE = Stream("rudderstack", "a", "page", Importance.SIGNAL)
ERROR = Stream("sentry", "b", "error", Importance.ERROR)
TRANSACTION = Stream("sentry", "b", "transaction", Importance.TRANSACTION)

Open = Callable[[], Outbox]


@pytest.fixture(params=["memory", "file"])
def open_outbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens an outbox; each call is another process's view of the same one, where processes can share it."""
    url = "memory://" if request.param == "memory" else f"sqlite://{tmp_path}/state/outbox.db"
    opened: list[Outbox] = []

    def open_one() -> Outbox:
        opened.append(SqliteOutbox(outbox_path(url)))
        return opened[-1]

    yield open_one
    for outbox in opened:
        outbox.close()


@pytest.fixture
def outbox(open_outbox: Open) -> Outbox:
    return open_outbox()


def take(
    outbox: Outbox, destination: str = "a", messages: int = 100, size: int = 10_000, skip: set[int] | None = None
) -> list[Row]:
    rows, _ = outbox.take(destination, max_messages=messages, max_bytes=size, skip=skip or set(), without=set())
    return rows


def dead(outbox: Outbox) -> dict[str, int]:
    return {stream.vendor: depth.messages for stream, depth in outbox.depths() if depth.dead}


def payloads(rows: list[Row]) -> list[bytes]:
    return [row.payload for row in rows]


def test_rows_come_back_in_order_with_the_exact_bytes(outbox: Outbox) -> None:
    """What was added is taken oldest first, byte for byte, across kinds."""
    outbox.add([(TRACK, b"1"), (TRACK, b""), (TRACK, b"\x00\n2"), (PAGE, b"3" * 300)])
    outbox.add([(TRACK, b"4")])
    assert payloads(take(outbox)) == [b"1", b"", b"\x00\n2", b"3" * 300, b"4"]
    assert [row.kind for row in take(outbox)] == ["track", "track", "track", "page", "track"]


def test_take_is_bounded_by_messages_and_by_bytes(outbox: Outbox) -> None:
    """A post's bounds hold, except for a single row that is over them alone; `more` says that rows are left."""
    outbox.add([(TRACK, b"x" * 100) for _ in range(5)])
    assert len(take(outbox, messages=3)) == 3
    assert len(take(outbox, size=250)) == 2
    assert len(take(outbox, size=1)) == 1
    assert outbox.take("a", max_messages=3, max_bytes=9999, skip=set(), without=set())[1] is True
    assert outbox.take("a", max_messages=5, max_bytes=9999, skip=set(), without=set())[1] is False


def test_take_leaves_out_rows_kinds_and_other_destinations(outbox: Outbox) -> None:
    """A courier sees neither what another lane carries, nor a limited kind, nor another destination's rows."""
    outbox.add([(TRACK, b"1"), (PAGE, b"2"), (ERROR, b"3")])
    first = take(outbox, messages=1)
    assert payloads(take(outbox, skip={first[0].id})) == [b"2"]
    rows, _ = outbox.take("a", max_messages=9, max_bytes=99, skip=set(), without={"track"})
    assert payloads(rows) == [b"2"]
    assert payloads(take(outbox, "b")) == [b"3"]
    assert take(outbox, "elsewhere") == []


def test_taken_rows_stay_until_they_are_removed(outbox: Outbox) -> None:
    """Taking is no promise of delivery: only removing forgets, and removing twice is no error."""
    outbox.add([(TRACK, b"1")])
    rows = take(outbox)
    assert take(outbox) == rows
    outbox.remove(rows)
    outbox.remove(rows)
    assert take(outbox) == []
    assert outbox.depths() == []


def test_an_id_is_never_used_again(outbox: Outbox) -> None:
    """A lane that removes a row late can hit no newer one."""
    outbox.add([(TRACK, b"1")])
    old = take(outbox)
    outbox.remove(old)
    outbox.add([(TRACK, b"2")])
    outbox.remove(old)
    assert payloads(take(outbox)) == [b"2"]


def test_buried_messages_are_dead_letters_with_status_and_reason(outbox: Outbox) -> None:
    """A refused message leaves the rows, can be listed, and comes back when it is revived."""
    outbox.add([(TRACK, b"bad"), (ERROR, b"worse")])
    [row] = take(outbox)
    outbox.reject(row, 400, "no")
    outbox.reject(row, 400, "no")
    assert take(outbox) == []
    [(stream, letter)] = outbox.scan("rudderstack", dead=True)
    assert (stream, letter.status, letter.reason) == (TRACK, 400, "no")
    assert (letter.payload, dead(outbox)) == (b"bad", {"rudderstack": 1})
    assert outbox.requeue([letter]) == 1
    assert outbox.requeue([letter]) == 0
    assert payloads(take(outbox)) == [b"bad"]
    assert list(outbox.scan(dead=True)) == []


def test_dead_letters_can_be_sent_elsewhere_or_forgotten(outbox: Outbox) -> None:
    """After a key was rotated a dead letter goes to the new destination; another one is purged."""
    outbox.add([(TRACK, b"1"), (PAGE, b"2")])
    for row in take(outbox):
        outbox.reject(row, 400, "")
    first, second = (letter for _, letter in outbox.scan(dead=True))
    outbox.requeue([first], "new")
    outbox.remove([second])
    assert payloads(take(outbox, "new")) == [b"1"]
    assert dead(outbox) == {}


def test_dead_letters_are_bounded_by_age(outbox: Outbox) -> None:
    """What nobody looked at within the age bound goes."""
    outbox.add([(TRACK, b"1")])
    outbox.reject(take(outbox)[0], 400, "")
    outbox.trim(Limits(), set())
    assert dead(outbox) == {"rudderstack": 1}
    assert outbox.trim(Limits(max_age_s=-1.0), set()) == {}
    assert dead(outbox) == {}


def test_at_the_bound_dead_letters_go_first(outbox: Outbox) -> None:
    """What was refused is worth less than what may still arrive; it was counted when it died."""
    outbox.add([(ERROR, b"1"), (TRACK, b"2")])
    outbox.reject(take(outbox, "b")[0], 400, "")
    assert outbox.trim(Limits(outbox_rows=1), set()) == {}
    assert (dead(outbox), payloads(take(outbox))) == ({}, [b"2"])


def test_depths_tell_messages_bytes_and_age(outbox: Outbox) -> None:
    """`status()` can be answered from the streams alone."""
    outbox.add([(TRACK, b"12"), (TRACK, b"345"), (ERROR, b"6")])
    outbox.add([(TRACK, b"7")])
    depths = dict(outbox.depths())
    assert depths[TRACK].messages == 3
    assert depths[TRACK].size >= 6
    assert depths[TRACK].mine
    assert 0 <= depths[TRACK].oldest_s < 60
    assert set(depths) == {TRACK, ERROR}


def test_at_the_bound_the_oldest_of_the_least_important_goes_first(outbox: Outbox) -> None:
    """Transactions go before events and events before errors, each from its oldest; what went is counted."""
    for n in range(10):
        outbox.add([(TRANSACTION, b"t%d" % n), (TRACK, b"e%d" % n), (ERROR, b"x%d" % n)])
    dropped = outbox.trim(Limits(outbox_rows=15), set())
    assert dropped == {(TRANSACTION, "full"): 10, (TRACK, "full"): 5}
    assert payloads(take(outbox)) == [b"e%d" % n for n in range(5, 10)]
    assert len(take(outbox, "b")) == 10


def test_the_byte_bound_holds(outbox: Outbox) -> None:
    """The outbox never holds more than its bytes."""
    outbox.add([(TRACK, b"x" * 1000) for _ in range(10)])
    assert outbox.trim(Limits(outbox_bytes=20_000), set()) == {}
    assert outbox.trim(Limits(outbox_bytes=5_000), set()).total() >= 5
    assert sum(depth.size for _, depth in outbox.depths()) <= 5_000


def test_local_destinations_have_shorter_bounds(outbox: Outbox) -> None:
    """A receiver that never runs fills nothing: its rows go first by number and by age, the others stay."""
    outbox.add([(TRACK, b"x") for _ in range(10)] + [(ERROR, b"y") for _ in range(10)])
    assert outbox.trim(Limits(local_rows=4), {"a"}) == {(TRACK, "full"): 6}
    assert outbox.trim(Limits(local_max_age_s=-1.0), {"a"}) == {(TRACK, "age"): 4}
    assert outbox.trim(Limits(max_age_s=-1.0), {"a"}) == {(ERROR, "age"): 10}


def test_trim_after_the_row_was_delivered_counts_nothing(outbox: Outbox) -> None:
    """A row that a courier removed in between is delivered, not dropped."""
    outbox.add([(TRACK, b"x")])
    outbox.remove(take(outbox))
    assert outbox.trim(Limits(outbox_rows=0), set()) == {}


def test_a_clock_that_jumps_ages_no_row(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour more or less on the wall clock drops nothing and shows no negative age."""
    import time

    real = time.time
    outbox.add([(TRACK, b"x")])
    for jump in (3600.0, -3600.0):
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        outbox.add([(TRACK, b"y")])
        assert outbox.trim(Limits(local_max_age_s=600.0), {"a"}) == {}
        assert all(0.0 <= depth.oldest_s < 60.0 for _, depth in outbox.depths())
    assert len(take(outbox)) == 3


def test_scan_shows_every_waiting_row(outbox: Outbox) -> None:
    """What waits can be listed, also more than one page of it, and while rows go."""
    outbox.add([(TRACK, b"%d" % n) for n in range(250)])
    outbox.add([(ERROR, b"x")])
    assert [row.payload for _, row in outbox.scan("rudderstack")] == [b"%d" % n for n in range(250)]
    assert {stream for stream, _ in outbox.scan()} == {TRACK, ERROR}
    for _, row in outbox.scan():
        outbox.remove([row])
    assert list(outbox.scan()) == []


def test_a_failed_add_stores_nothing(outbox: Outbox) -> None:
    """A group is stored as a whole or not at all, so that trying again doubles nothing; later ones work."""

    def chunks() -> Iterator[tuple[Stream, bytes]]:
        yield TRACK, b"1"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        outbox.add(chunks())
    assert take(outbox) == []
    outbox.add([(TRACK, b"2")])
    assert payloads(take(outbox)) == [b"2"]


def test_threads_lose_and_double_nothing(outbox: Outbox) -> None:
    """Writer and couriers work on one outbox at the same time."""
    taken: list[bytes] = []

    def add(name: bytes) -> None:
        for n in range(100):
            outbox.add([(TRACK, b"%s-%d" % (name, n))])

    def drain() -> None:
        while len(taken) < 300:
            rows = take(outbox)
            taken.extend(payloads(rows))
            outbox.remove(rows)

    threads = [threading.Thread(target=add, args=(name,)) for name in (b"a", b"b", b"c")]
    threads.append(threading.Thread(target=drain))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(taken) == len(set(taken)) == 300


def test_counts_stay_right_when_rows_are_removed_twice_at_once(outbox: Outbox) -> None:
    """A purge in the middle of what a lane has posted: neither counts the other's rows."""
    outbox.add([(TRACK, b"%d" % n) for n in range(10)])
    rows = take(outbox)
    outbox.remove(rows[3:6])
    outbox.remove(rows[:8])
    assert [(depth.messages, depth.size) for _, depth in outbox.depths()] == [(2, 2)]
    assert take(outbox) == rows[8:]


def test_an_owner_that_lives_keeps_its_rows(open_outbox: Open) -> None:
    """Rows of a process that runs are nobody else's to take; when it is gone they are, at once."""
    one, other = open_outbox(), open_outbox()
    if one.kind == "memory":
        pytest.skip("memory is not shared")
    one.add([(TRACK, b"1"), (ERROR, b"2")])
    assert (other.claim(["a", "b"]), take(other)) == (0, [])
    assert not dict(other.depths())[TRACK].mine
    one.close()
    assert other.claim(["a"]) == 1
    assert payloads(take(other)) == [b"1"]
    assert other.claim(["a"]) == 0


def test_rows_of_another_service_are_left_to_it(open_outbox: Open) -> None:
    """Two services on one file take over only what they are configured for: 0 rows cross."""
    one, other, third = open_outbox(), open_outbox(), open_outbox()
    if one.kind == "memory":
        pytest.skip("memory is not shared")
    one.add([(TRACK, b"1"), (ERROR, b"2")])
    one.close()
    assert other.claim(["a"]) == 1
    assert third.claim(["b"]) == 1
    assert (payloads(take(other)), payloads(take(third, "b"))) == ([b"1"], [b"2"])
    assert take(other, "b") == []


def test_rows_for_a_rotated_key_can_be_redirected(open_outbox: Open) -> None:
    """`outbox retry --to-current`: what a dead process left for a destination that is gone goes to the new one."""
    one, other = open_outbox(), open_outbox()
    if one.kind == "memory":
        pytest.skip("memory is not shared")
    one.add([(TRACK, b"1")])
    assert other.redirect("rudderstack", "a", "new") == 0
    one.close()
    assert other.redirect("rudderstack", "a", "new") == 1
    other.claim(["new"])
    assert payloads(take(other, "new")) == [b"1"]
