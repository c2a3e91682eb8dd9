"""What a courier makes of refusals on the wire: one bad message, or wrong credentials, address or proxy."""

from __future__ import annotations

import itertools
import json
import logging
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator

import pytest

from metricx_observe.delivery import Delivery, Limits
from tests.faults import FaultyVendor, LineChannel, said, until

FAST = Limits(
    post_deadline_s=60.0, probe_every_s=10.0, backoff_s=0.1, backoff_cap_s=0.3, stopped_probe_every_s=0.2
)  # fmt: skip
"""Short times, so that tests end soon; but no post that is slow on a busy machine is taken for one that hangs."""
RARE = Limits(post_deadline_s=5.0, probe_every_s=0.3, backoff_s=0.1)
"""Here no vendor that is stopped is probed while the test lasts."""
SHAPES = {"batches": (100, 1, 0.0), "one by one": (1, 20, 0.0), "one by one, slowly": (1, 20, 0.06)}
"""Messages a post, posts at once, and how long the vendor takes."""

Start = Callable[..., Delivery]


@pytest.fixture
def vendor() -> Iterator[FaultyVendor]:
    vendor = FaultyVendor()
    yield vendor
    vendor.close()


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a delivery in memory; closes it after the test."""
    started: list[Delivery] = []

    def start_one(*channels: LineChannel, limits: Limits = RARE, url: str = "memory://") -> Delivery:
        started.append(Delivery(channels, url=url, limits=limits))
        return started[-1]

    yield start_one
    for delivery in started:
        delivery.close(0.0)


def channel_of(vendor: FaultyVendor, shape: str = "batches") -> LineChannel:
    most, concurrency, vendor.delay_s = SHAPES[shape]
    return LineChannel(vendor.url, max_messages=most, concurrency=concurrency)


def put(delivery: Delivery, numbers: Collection[int]) -> None:
    for n in numbers:
        assert delivery.put("rudderstack", {"n": n}, size=50)
    assert delivery.commit(5)


def numbers_in(body: bytes) -> list[int]:
    return [json.loads(message)["n"] for message in body.split(b"\n")]


def arrived(vendor: FaultyVendor) -> list[int]:
    return sorted(json.loads(message)["n"] for message in vendor.accepted)


def refusing(bad: Collection[int], status: int = 403) -> Callable[[bytes], int]:
    """A firewall that does not like some messages."""
    return lambda body: status if not set(numbers_in(body)).isdisjoint(bad) else 0


def dead(delivery: Delivery) -> dict[int, tuple[int | None, str | None]]:
    return {
        json.loads(letter.payload)["n"]: (letter.status, letter.reason)
        for _, letter in delivery._outbox.scan(dead=True)
    }


def until_dead(delivery: Delivery, bad: Collection[int]) -> int:
    """Put good messages, from 120 on, until each bad one is a dead letter; returns how many there are in all.

    A bad one that is refused for the first time after the last good one waits for another, and that is right.
    """
    numbers = itertools.count(120)

    def found() -> bool:
        if set(dead(delivery)) == set(bad):
            return True
        put(delivery, [next(numbers)])
        return False

    until(found, 30, every_s=0.3)
    return next(numbers)


def breaker(delivery: Delivery) -> str:
    return str(delivery.status()["rudderstack"]["breaker"])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bad", [{0}, {119}, {0, 1}, {59, 60}, {0, 1, 2}, {17, 18, 90}], ids=str)
def test_a_body_that_is_forbidden_takes_no_other_with_it(
    vendor: FaultyVendor, start: Start, shape: str, bad: set[int]
) -> None:
    """A firewall's 403 to some of 120 bodies: all the others arrive once, those are dead letters with the reason."""
    vendor.refuses = refusing(bad)
    delivery = start(channel_of(vendor, shape), limits=FAST)
    put(delivery, range(120))
    until(lambda: set(arrived(vendor)) == set(range(120)) - bad)
    good = until_dead(delivery, bad)
    assert delivery.flush(5)
    assert arrived(vendor) == sorted(set(range(good)) - bad)
    assert set(dead(delivery).values()) == {(403, "no")}
    assert breaker(delivery) == "closed"


def test_many_forbidden_bodies_are_found(vendor: FaultyVendor, start: Start) -> None:
    """Whatever lies beside what: every good message arrives, every bad one is a dead letter, and none is both."""
    for round_number in range(4):
        chosen = random.Random(round_number)
        bad = set(chosen.sample(range(120), chosen.randint(5, 40)))
        vendor.accepted.clear()
        vendor.refuses = refusing(bad, chosen.choice([401, 403]))
        delivery = start(channel_of(vendor, chosen.choice(list(SHAPES))), limits=FAST)
        put(delivery, range(120))
        until(lambda bad=bad: set(arrived(vendor)) == set(range(120)) - bad, 30)  # type: ignore[misc]
        good = until_dead(delivery, bad)
        assert delivery.flush(5)
        assert arrived(vendor) == sorted(set(range(good)) - bad)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("status", ["401", "403"])
def test_wrong_credentials_stop_the_vendor_and_cost_no_message(
    vendor: FaultyVendor, start: Start, shape: str, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Two messages are refused alone: a few posts, every row kept, one line and a status that say why."""
    vendor.mode = status
    delivery = start(channel_of(vendor, shape))
    put(delivery, range(120))
    until(lambda: breaker(delivery) == "stopped")
    until(lambda: said(caplog))  # the status shows it a moment earlier
    until(lambda: not any(courier.busy for courier in delivery._couriers))  # a post of theirs may have yet to begin
    vendor.mode = "ok"
    put(delivery, range(120, 130))
    assert delivery.flush(1), "nobody waits for a vendor that is stopped"
    shown = delivery.status()["rudderstack"]
    assert (shown["pending"], shown["dead"], vendor.accepted) == (130, 0, [])
    assert shown["last_error"] == f"HTTP {status}: the credentials are refused"
    assert len(vendor.requests) <= 50
    assert said(caplog) == ["ERROR"]
    assert "the credentials are refused" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("shape", SHAPES)
def test_credentials_that_are_mended_at_the_vendor_cost_no_message(
    vendor: FaultyVendor, start: Start, shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A stopped vendor is probed with one message at a time; with the first that is accepted all arrive, and one line
    says so."""
    caplog.set_level(logging.INFO, "metricx_observe.delivery")
    vendor.mode = "403"
    delivery = start(channel_of(vendor, shape), limits=FAST)
    put(delivery, range(120))
    until(lambda: breaker(delivery) == "stopped")
    before = len(vendor.requests)
    until(lambda: len(vendor.requests) >= before + 6)
    probes = [numbers_in(body) for _, body in vendor.requests[-4:]]
    assert [len(probe) for probe in probes] == [1] * 4
    assert len({*map(tuple, probes)}) == 4, "each time another"
    vendor.mode = "ok"
    until(lambda: breaker(delivery) == "closed")
    assert delivery.flush(10)
    assert arrived(vendor) == list(range(120))
    assert dead(delivery) == {}
    assert said(caplog) == ["ERROR", "INFO"]


def test_a_message_that_is_alone_waits_for_another_that_is_accepted(vendor: FaultyVendor, start: Start) -> None:
    """One message, refused: it is kept and posted again with backoff. What is accepted after it makes it a dead
    letter."""
    vendor.refuses = refusing({0})
    delivery = start(channel_of(vendor))
    put(delivery, [0])
    until(lambda: len(vendor.requests) >= 3)
    assert (breaker(delivery), dead(delivery)) == ("open", {})
    put(delivery, [1])
    until(lambda: dead(delivery) == {0: (403, "no")})
    assert arrived(vendor) == [1]
    assert delivery.flush(5)


def test_a_message_that_is_alone_and_another_that_is_refused_stop_the_vendor(
    vendor: FaultyVendor, start: Start
) -> None:
    """One refusal decides nothing, the one of a second message does: both are kept."""
    vendor.mode = "401"
    delivery = start(channel_of(vendor))
    put(delivery, [0])
    until(lambda: len(vendor.requests) >= 3)
    assert breaker(delivery) == "open"
    put(delivery, [1])
    until(lambda: breaker(delivery) == "stopped")
    assert (delivery.status()["rudderstack"]["pending"], dead(delivery)) == (2, {})


def test_a_forbidden_message_that_is_the_oldest_stops_nothing_at_the_next_starts(
    vendor: FaultyVendor, start: Start, tmp_path: object
) -> None:
    """Found by a new process as well: what is put after it arrives with each start."""
    url = f"sqlite://{tmp_path}/outbox.db"
    vendor.refuses = refusing({0})
    for first in (0, 40, 80):
        delivery = start(channel_of(vendor), url=url)
        put(delivery, range(first, first + 40))
        delivery.close(5.0)
    assert set(range(1, 120)) <= set(arrived(vendor))
    assert Counter(arrived(vendor)).most_common(1)[0][1] == 1


@pytest.mark.parametrize(
    ("status", "why"),
    [("404", "the address is wrong"), ("421", "the address is wrong"), ("407", "the proxy on the way refuses")],
)
def test_a_wrong_address_or_proxy_stops_the_vendor_at_once(
    vendor: FaultyVendor, start: Start, status: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One post is enough; rows are kept, and all arrive when a probe is accepted."""
    vendor.mode = status
    delivery = start(channel_of(vendor))
    put(delivery, range(20))
    until(lambda: breaker(delivery) == "stopped")
    assert delivery.status()["rudderstack"]["last_error"] == f"HTTP {status}: {why}"
    assert len(vendor.requests) == 1
    until(lambda: why in caplog.text)
    vendor.mode = "ok"
    again = start(channel_of(vendor), limits=FAST)
    vendor.mode = status
    put(again, range(20))
    until(lambda: breaker(again) == "stopped")
    vendor.mode = "ok"
    until(lambda: breaker(again) == "closed")
    assert again.flush(5)
    assert arrived(vendor) == list(range(20))
    assert dead(again) == {}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("status", [404, 407])
def test_one_body_that_is_not_found_stops_the_others_once(
    vendor: FaultyVendor, start: Start, shape: str, status: int
) -> None:
    """After a probe was accepted the address is right, so a further 404 is read like a 403."""
    vendor.refuses = refusing({0, 50}, status)
    delivery = start(channel_of(vendor, shape), limits=FAST)
    put(delivery, range(120))
    until(lambda: set(arrived(vendor)) == set(range(120)) - {0, 50}, 20)
    good = until_dead(delivery, {0, 50})
    assert delivery.flush(10)
    assert arrived(vendor) == sorted(set(range(good)) - {0, 50})


@pytest.mark.parametrize(("answer", "state"), [("407 Who", "stopped"), ("403 No", "stopped"), ("502 Bad", "open")])
def test_a_proxy_that_opens_no_tunnel_is_named(
    start: Start, monkeypatch: pytest.MonkeyPatch, answer: str, state: str
) -> None:
    """The proxy's refusal of a tunnel is not the vendor's answer: nothing was posted, and the text says proxy."""
    proxy = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
    monkeypatch.setenv("no_proxy", "")

    def serve() -> None:
        connection, _ = proxy.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n".encode())

    thread = threading.Thread(target=serve)
    thread.start()
    with proxy:
        delivery = start(LineChannel("https://vendor.example/batch"))
        put(delivery, [0])
        thread.join(10)
        until(lambda: breaker(delivery) == state)
    shown = delivery.status()["rudderstack"]
    assert (shown["pending"], "proxy" in shown["last_error"]) == (1, state == "stopped")


@pytest.mark.parametrize("status", [400, 402, 405, 409, 410, 411, 413, 415, 418, 422, 431, 451, 499])
def test_other_refusals_leave_one_dead_letter(vendor: FaultyVendor, start: Start, status: int) -> None:
    """Every other 4xx is about the message: halved, and the bad one is dead with its status."""
    vendor.refuses = refusing({7}, status)
    delivery = start(channel_of(vendor))
    put(delivery, range(20))
    assert delivery.flush(10)
    assert dead(delivery) == {7: (status, "no")}
    assert arrived(vendor) == [n for n in range(20) if n != 7]


@pytest.mark.parametrize("shape", ["one by one", "one by one, slowly"])
def test_a_message_that_fails_its_vendor_holds_up_no_other(vendor: FaultyVendor, start: Start, shape: str) -> None:
    """A 500 to one body among many that are accepted: those arrive, and their success does not hurry that one."""
    vendor.refuses = refusing({0}, 500)
    delivery = start(channel_of(vendor, shape), limits=Limits())
    began = time.monotonic()
    for first in range(0, 60, 3):
        put(delivery, range(first, first + 3))
        until(lambda first=first: set(arrived(vendor)) >= set(range(1, first + 3)))  # type: ignore[misc]
    tried = sum(numbers_in(body) == [0] for _, body in vendor.requests)
    assert 1 <= tried <= 2 + time.monotonic() - began
    assert dead(delivery) == {}
