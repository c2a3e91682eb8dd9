"""The courier against a vendor on loopback that fails in the ways that vendors fail."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metricx_observe.delivery import Delivery, Importance, Limits
from metricx_observe.delivery.answer import Answer
from tests.faults import OUTAGES, FaultyVendor, LineChannel, said, until

FAST = Limits(post_deadline_s=1.0, probe_every_s=0.3)
"""Deadlines in the proportion of the real ones, so that tests end soon."""

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

    def start_one(*channels: LineChannel, limits: Limits = FAST, **options: Any) -> Delivery:
        started.append(Delivery(channels, url="memory://", limits=limits, **options))
        return started[-1]

    yield start_one
    for delivery in started:
        delivery.close(0.0)


def numbers(vendor: FaultyVendor) -> list[int]:
    return [json.loads(message)["n"] for message in vendor.accepted]


def put(delivery: Delivery, count: int, first: int = 0, **fields: object) -> None:
    for n in range(first, first + count):
        assert delivery.put("rudderstack", {"n": n, **fields}, size=100)


def test_messages_are_posted_in_batches_within_the_bounds(vendor: FaultyVendor, start: Start) -> None:
    """Stored bytes are joined up to the channel's messages a post, each once and in order."""
    delivery = start(LineChannel(vendor.url, max_messages=30))
    put(delivery, 100)
    assert delivery.flush(5)
    assert numbers(vendor) == list(range(100))
    assert all(len(body.split(b"\n")) <= 30 for _, body in vendor.requests)
    assert len(vendor.requests) <= 7


def test_posts_stay_within_the_bytes_of_a_post(vendor: FaultyVendor, start: Start) -> None:
    """A batch is bounded by bytes; a single message over the bound is still tried, alone."""
    delivery = start(LineChannel(vendor.url, max_bytes=1000))
    put(delivery, 20, text="x" * 200)
    put(delivery, 1, first=20, text="x" * 3000)
    assert delivery.flush(5)
    assert sorted(numbers(vendor)) == list(range(21))
    assert [len(body) for _, body in vendor.requests if len(body) > 1000] == [len(vendor.accepted[-1])]


def test_small_batches_wait_to_fill_and_flush_hurries_them(vendor: FaultyVendor, start: Start) -> None:
    """One post serves what came within the linger; nobody who flushes waits for it."""
    delivery = start(LineChannel(vendor.url))
    for n in range(5):
        put(delivery, 1, first=n)
        assert delivery.commit(5)
    until(lambda: len(vendor.accepted) == 5)
    assert len(vendor.requests) == 1
    put(delivery, 1, first=5)
    assert delivery.flush(5)
    assert len(vendor.requests) == 2


@pytest.mark.parametrize("mode", OUTAGES)
def test_nothing_is_lost_in_an_outage(vendor: FaultyVendor, start: Start, mode: str) -> None:
    """Whatever way a vendor is down, all arrives when it is back; only reset-after-accept can double, one batch."""
    delivery = start(LineChannel(vendor.url, max_messages=20))
    put(delivery, 50)
    assert delivery.flush(5)
    vendor.mode = mode
    before = len(vendor.requests)
    put(delivery, 50, first=50)
    failed = (lambda: delivery.status()["rudderstack"]["last_error"]) if mode == "refused" else None
    until(failed or (lambda: len(vendor.requests) >= before + 2))
    put(delivery, 50, first=100)
    assert not delivery.flush(0.2)
    vendor.mode = "ok"
    assert delivery.flush(10)
    counts = Counter(numbers(vendor))
    assert set(counts) == set(range(150))
    doubled = sum(count > 1 for count in counts.values())
    assert doubled <= 20 if mode == "reset" else doubled == 0
    status = delivery.status()["rudderstack"]
    assert (status["delivered"], status["pending"], status["breaker"]) == (150, 0, "closed")
    assert status["retried"] > 0
    assert status["last_error"]


def test_the_breaker_probes_with_one_batch(vendor: FaultyVendor, start: Start) -> None:
    """A vendor that is down gets one batch at a time, again and again, not every lane's."""
    vendor.mode = "hang"
    limits = Limits(post_deadline_s=60.0, probe_every_s=60.0, backoff_s=0.1, backoff_cap_s=0.3)  # no probe hangs
    delivery = start(LineChannel(vendor.url, max_messages=1, concurrency=8), limits=limits)
    put(delivery, 200)
    until(lambda: vendor._at_once == 8)  # each lane posts: none is on its way that the vendor has not seen
    vendor.mode = "500"  # cuts them
    until(lambda: vendor._at_once == 0)
    vendor.most_at_once = 0
    before = len(vendor.requests)
    until(lambda: len(vendor.requests) >= before + 3)
    assert vendor.most_at_once == 1
    vendor.mode = "ok"
    assert delivery.flush(5)
    assert sorted(numbers(vendor)) == list(range(200))


def test_what_was_taken_before_the_breaker_opened_is_for_probes(vendor: FaultyVendor, tmp_path: Path) -> None:
    """A worker stops posting when another worker's failure opens the breaker."""
    waits, release, posts = threading.Event(), threading.Event(), list[int]()

    def refuses(body: bytes) -> int:
        posts.append(json.loads(body.split(b"\n")[0])["n"])
        if posts[-1] == 0:
            waits.set()
            release.wait(10)  # the first lane waits here, with another batch in its hands
            return 0
        waits.wait(10)
        return 500

    vendor.refuses = refuses
    limits = replace(FAST, post_deadline_s=60.0, probe_every_s=60.0, backoff_s=60.0, backoff_cap_s=60.0)
    channel, url = LineChannel(vendor.url, max_messages=8, concurrency=2), f"sqlite://{tmp_path}/outbox.db"
    earlier = Delivery([channel], url=url, deliver=False)  # all are there when the lanes begin
    put(earlier, 40)
    earlier.close(5.0)
    delivery = Delivery([channel], url=url, limits=limits)
    delivery.start()
    until(lambda: delivery.status()["rudderstack"]["breaker"] == "open")
    release.set()
    until(lambda: delivery.status()["rudderstack"]["delivered"] == 8)
    assert sorted(posts) == [0, 8]
    delivery.close(0.0)


def test_probes_that_hang_hold_up_nothing(vendor: FaultyVendor, start: Start) -> None:
    """An open breaker probes on while earlier probes hang, and gives those up when a later one is answered."""
    vendor.mode = "500"
    delivery = start(LineChannel(vendor.url, max_messages=1), limits=Limits(post_deadline_s=60.0, probe_every_s=0.3))
    put(delivery, 10)
    until(lambda: delivery.status()["rudderstack"]["breaker"] == "open")
    vendor.mode, before = "hang", len(vendor.requests)
    until(lambda: len(vendor.requests) >= before + 3)
    vendor._mode = "ok"  # for new requests: those that hang go on hanging
    assert delivery.flush(10)
    assert sorted(numbers(vendor)) == list(range(10))


def test_a_trickle_is_cut_at_the_deadline(vendor: FaultyVendor, start: Start) -> None:
    """A byte a second defeats read timeouts; the deadline counts for the whole post."""
    vendor.mode = "trickle"
    delivery = start(LineChannel(vendor.url))
    put(delivery, 1)
    until(lambda: delivery.status()["rudderstack"]["last_error"], 5)


def test_the_status_is_the_answer_although_the_body_never_ends(vendor: FaultyVendor, start: Start) -> None:
    """A 2xx counts as delivered at once, and the connection does not hold up the next post for long."""
    vendor.mode = "endless"
    delivery = start(LineChannel(vendor.url, max_messages=1))
    put(delivery, 3)
    assert delivery.flush(8)
    assert sorted(numbers(vendor)) == [0, 1, 2]
    assert delivery.status()["rudderstack"]["retried"] == 0


@pytest.mark.parametrize("status", ["408", "425", "500", "502", "302", "301"])
def test_what_may_pass_is_retried(vendor: FaultyVendor, start: Start, status: str) -> None:
    """These statuses say nothing against the messages: they stay and go out later. A redirect is no success."""
    vendor.mode = status
    delivery = start(LineChannel(vendor.url))
    put(delivery, 3)
    until(lambda: delivery.status()["rudderstack"]["last_error"] == f"HTTP {status}")
    assert delivery.status()["rudderstack"]["pending"] == 3
    vendor.mode = "ok"
    assert delivery.flush(5)
    assert sorted(numbers(vendor)) == [0, 1, 2]


@pytest.mark.parametrize("status", ["401", "403"])
def test_refused_credentials_stop_the_vendor(
    vendor: FaultyVendor, start: Start, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing more is sent, the rows stay, status and one ERROR line say why, and nobody waits for it."""
    vendor.mode = status
    delivery = start(LineChannel(vendor.url))
    put(delivery, 3)
    until(lambda: delivery.status()["rudderstack"]["breaker"] == "stopped")
    until(lambda: not any(courier.busy for courier in delivery._couriers))  # a post may have yet to begin
    vendor.mode = "ok"
    put(delivery, 3)
    assert delivery.flush(1)
    assert vendor.accepted == []
    shown = delivery.status()["rudderstack"]
    assert (shown["pending"], status in shown["last_error"]) == (6, True)
    until(lambda: said(caplog))  # the status shows it a moment earlier
    assert said(caplog) == ["ERROR"]
    assert "secret" not in caplog.text


def test_a_poison_message_takes_no_other_with_it(vendor: FaultyVendor, start: Start) -> None:
    """Of 500 messages with one that the vendor refuses 499 arrive, and one is a dead letter with status and reason."""
    vendor.poison = b"POISON"
    delivery = start(LineChannel(vendor.url, max_messages=500))
    put(delivery, 250)
    put(delivery, 1, first=1000, text="POISON")
    put(delivery, 249, first=250)
    assert delivery.flush(20)
    assert sorted(numbers(vendor)) == list(range(499))
    [(_, letter)] = delivery._outbox.scan(dead=True)
    assert (letter.status, letter.reason, b"POISON" in letter.payload) == (400, "no", True)
    status = delivery.status()["rudderstack"]
    assert (status["dead"], status["died"], status["delivered"], status["pending"]) == (1, 1, 499, 0)


def test_a_message_that_cannot_be_joined_is_a_dead_letter(vendor: FaultyVendor, start: Start) -> None:
    """A channel that fails on stored bytes loses that message only, to where it can be found."""
    delivery = start(LineChannel(vendor.url))
    put(delivery, 3)
    put(delivery, 1, first=3, text="unjoinable")
    put(delivery, 3, first=4)
    assert delivery.flush(5)
    assert sorted(numbers(vendor)) == [0, 1, 2, 4, 5, 6]
    assert [letter.reason for _, letter in delivery._outbox.scan(dead=True)] == ["ValueError"]


@pytest.mark.parametrize(("status", "value"), [("429", "1"), ("503", "1"), ("429", "date")])
def test_retry_after_is_kept(vendor: FaultyVendor, start: Start, status: str, value: str) -> None:
    """Seconds or a date: nothing is posted before, and it goes on right after."""
    from email.utils import formatdate

    vendor.retry_after = formatdate(time.time() + 3, usegmt=True) if value == "date" else value
    vendor.mode = status
    delivery = start(LineChannel(vendor.url))
    put(delivery, 3)
    until(lambda: delivery.status()["rudderstack"]["last_error"] == f"HTTP {status}")
    at = time.monotonic()
    vendor.mode = "ok"
    assert delivery.flush(8)
    assert vendor.times[0] - at > 0.7
    assert len(vendor.requests) == 2
    assert delivery.status()["rudderstack"]["breaker"] == "closed"


def test_429_without_retry_after_backs_off(vendor: FaultyVendor, start: Start) -> None:
    """A limit without a time is treated as a failure: probes, and nothing is refused."""
    vendor.mode, vendor.retry_after = "429", ""
    delivery = start(LineChannel(vendor.url))
    put(delivery, 3)
    until(lambda: delivery.status()["rudderstack"]["breaker"] == "open")
    vendor.mode = "ok"
    assert delivery.flush(5)


def test_a_rate_limit_holds_one_kind_only(vendor: FaultyVendor, start: Start) -> None:
    """A limited category waits until it may go, and the others go on."""
    vendor.answer_headers = {"X-Limits": json.dumps({"error": 1.5})}
    delivery = start(LineChannel(vendor.url, max_messages=1))
    put(delivery, 1)
    assert delivery.flush(5)
    vendor.answer_headers = {}
    put(delivery, 1, first=1, kind="error")
    put(delivery, 1, first=2)
    until(lambda: numbers(vendor) == [0, 2] and delivery.status()["rudderstack"]["pending"] == 1)
    assert delivery.flush(5)
    assert numbers(vendor) == [0, 2, 1]


def test_of_a_limited_kind_the_least_important_is_dropped_and_counted(vendor: FaultyVendor, start: Start) -> None:
    """Sentry asks for that: a transaction that waits for an hour is worth nothing, and would push out others."""
    vendor.answer_headers = {"X-Limits": json.dumps({"transaction": 60.0})}
    channel = LineChannel(vendor.url, max_messages=1, importances={"transaction": Importance.TRANSACTION})
    delivery = start(channel)
    put(delivery, 1)
    assert delivery.flush(5)
    put(delivery, 3, first=1, kind="transaction")
    put(delivery, 1, first=4)
    assert delivery.flush(5)
    assert numbers(vendor) == [0, 4]
    assert delivery.status()["rudderstack"]["dropped"] == {"limit transaction": 3}


def test_a_connection_that_the_server_gave_up_is_made_anew(vendor: FaultyVendor, start: Start) -> None:
    """A keep-alive connection that was closed meanwhile is no failure: nothing is retried."""
    delivery = start(LineChannel(vendor.url))
    put(delivery, 1)
    assert delivery.flush(5)
    for connection in list(vendor._connections):
        connection.shutdown(socket.SHUT_RDWR)
    until(lambda: not vendor._connections)
    put(delivery, 1, first=1)
    assert delivery.flush(5)
    assert numbers(vendor) == [0, 1]
    assert delivery.status()["rudderstack"]["retried"] == 0


def test_https_goes_through_a_tunnel_of_the_environments_proxy(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy gets the host and its own credentials, and nothing of the post."""
    proxy = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("https_proxy", f"http://ada:secret%21@127.0.0.1:{proxy.getsockname()[1]}")
    monkeypatch.setenv("no_proxy", "")
    delivery = start(LineChannel("https://vendor.example/batch"))
    put(delivery, 1)
    proxy.settimeout(10)
    connection, _ = proxy.accept()
    with proxy, connection:
        said = connection.recv(65536)
    assert said.startswith(b"CONNECT vendor.example:443 ")
    assert b"Proxy-Authorization: Basic " + b64encode(b"ada:secret!") in said
    until(lambda: delivery.status()["rudderstack"]["last_error"])


def test_posts_run_side_by_side_up_to_the_channels_concurrency(vendor: FaultyVendor, start: Start) -> None:
    """Envelopes cannot be joined, so several are in flight; never more than the channel allows."""
    vendor.delay_s = 0.05
    delivery = start(LineChannel(vendor.url, max_messages=1, concurrency=4))
    put(delivery, 40)
    assert delivery.flush(10)
    assert vendor.most_at_once == 4
    assert sorted(numbers(vendor)) == list(range(40))


def test_a_slow_vendor_gets_single_messages_side_by_side(vendor: FaultyVendor, start: Start) -> None:
    """What a lane took for one turn is given back when the first post was slow, for the other lanes to post."""
    vendor.delay_s = 0.2
    delivery = start(LineChannel(vendor.url, max_messages=1, concurrency=8))
    put(delivery, 24)
    assert delivery.flush(10)
    assert vendor.most_at_once > 4
    assert sorted(numbers(vendor)) == list(range(24))


def test_a_vendor_that_hangs_delays_no_other(vendor: FaultyVendor, start: Start) -> None:
    """Couriers are independent."""
    hanging = FaultyVendor()
    hanging.mode = "hang"
    delivery = start(
        LineChannel(vendor.url), LineChannel(hanging.url, vendor="sentry", destination="other", max_messages=1)
    )
    delivery.put("sentry", {"n": 0})
    until(lambda: hanging.requests)
    put(delivery, 10)
    until(lambda: len(vendor.accepted) == 10, 2)
    hanging.close()


def test_large_posts_are_compressed_where_it_pays(vendor: FaultyVendor, start: Start) -> None:
    """On loopback nothing is compressed: the CPU would cost more than the wire."""
    delivery = start(LineChannel(vendor.url))
    put(delivery, 1, text="x" * 10_000)
    assert delivery.flush(5)
    assert "content-encoding" not in vendor.requests[0][0]


def test_other_hosts_are_reached_through_the_environments_proxy(
    vendor: FaultyVendor, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the way out is a proxy the courier takes it, and compresses what is worth it; loopback it never is."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{vendor.port}")
    monkeypatch.setenv("no_proxy", "")
    delivery = start(LineChannel("http://vendor.example/batch"))
    put(delivery, 1, text="x" * 10_000)
    assert delivery.flush(5)
    headers, body = vendor.requests[0]
    assert (headers["host"], headers["content-encoding"]) == ("vendor.example", "gzip")
    assert json.loads(body)["n"] == 0


def test_a_vendor_that_does_not_speak_tls_gets_nothing(vendor: FaultyVendor, start: Start) -> None:
    """An https address is never answered in clear: that is a failure like any other."""
    delivery = start(LineChannel(vendor.url.replace("http:", "https:")))
    put(delivery, 1)
    until(lambda: delivery.status()["rudderstack"]["last_error"])
    assert vendor.accepted == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), ("7", 7.0), ("-1", 0.0), ("nonsense", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    """RFC 9110's two forms; what is neither is as if it were not there, what is past means now."""
    assert Answer(429, {} if value is None else {"retry-after": value}).retry_after_s == seconds


def test_a_large_body_is_not_read_to_its_end(vendor: FaultyVendor, start: Start) -> None:
    """At most 64 KiB of an answer are read; the connection is given up for the rest."""
    vendor.text = b"y" * 1_000_000
    delivery = start(LineChannel(vendor.url))
    put(delivery, 1)
    assert delivery.flush(5)
    put(delivery, 1, first=1)
    assert delivery.flush(5)
    assert numbers(vendor) == [0, 1]


def test_posts_carry_no_context_and_stay_out_of_the_applications_logs(
    vendor: FaultyVendor, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """A thread started in a request sees none of its context; httpx logs our posts nowhere."""
    request: ContextVar[str] = ContextVar("request", default="none")
    entered: list[str] = []
    seen: list[str] = []

    @contextmanager
    def isolate() -> Iterator[None]:
        entered.append(threading.current_thread().name)
        yield

    class Spying(LineChannel):
        def post(self, payloads: Any) -> Any:
            seen.append(request.get())
            return super().post(payloads)

    hook: Callable[[], AbstractContextManager[object]] = isolate
    request.set("of a user")
    caplog.set_level(logging.DEBUG)
    delivery = start(Spying(vendor.url), isolate=hook)
    put(delivery, 1)
    assert delivery.flush(5)
    assert seen == ["none"]
    assert entered == ["metricx-observe-writer", "metricx-observe-rudderstack"]
    assert [record.name for record in caplog.records if record.name.startswith(("httpx", "httpcore"))] == []


def test_a_bug_in_a_channel_ends_no_lane(vendor: FaultyVendor, start: Start) -> None:
    """An exception where none is expected is a failure of that post, and delivery goes on."""
    failing = [True]

    class Buggy(LineChannel):
        def rate_limits(self, status: int, headers: Any) -> Any:
            if failing.pop() if failing else False:
                raise KeyError("bug")
            return {}

    delivery = start(Buggy(vendor.url))
    put(delivery, 3)
    assert delivery.flush(5)
    assert numbers(vendor) == [0, 1, 2]
    put(delivery, 3, first=3)
    assert delivery.flush(5)
    assert numbers(vendor) == list(range(6))
    assert delivery.status()["rudderstack"]["last_error"] == "KeyError"
