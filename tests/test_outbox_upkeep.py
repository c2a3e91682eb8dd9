"""Looking after an outbox from the command line's side, on a file that a service filled."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from metricx_observe.delivery import Delivery
from metricx_observe.delivery.outbox import OutboxError
from metricx_observe.delivery.outbox.upkeep import export, forget, listed, opened, purge, retry
from tests.faults import FaultyVendor, LineChannel, until


@pytest.fixture
def vendor() -> Iterator[FaultyVendor]:
    vendor = FaultyVendor()
    vendor.poison = b"POISON"
    yield vendor
    vendor.close()


@pytest.fixture
def url(tmp_path: Path, vendor: FaultyVendor) -> str:
    """An outbox with three waiting messages of two users, and one dead letter."""
    url = f"sqlite://{tmp_path}/state/outbox.db"
    delivery = Delivery([LineChannel(vendor.url)], url=url)
    delivery.put("rudderstack", {"n": 0, "id": "m0", "user": "ada", "text": "POISON"})
    assert delivery.flush(5)
    vendor.mode = "500"
    for n, user in ((1, "ada"), (2, "bob"), (3, "ada")):
        delivery.put("rudderstack", {"n": n, "id": f"m{n}", "user": user})
    delivery.close(0)
    vendor.mode = "ok"
    return url


def deliver(url: str, channel: LineChannel) -> None:
    delivery = Delivery([channel], url=url)
    assert delivery.flush(5)
    delivery.close(1)


def test_listing_shows_what_there_is_but_no_content(url: str, vendor: FaultyVendor) -> None:
    """Ids, names and the vendor's reason, of dead letters and of what waits."""
    with opened(url) as outbox:
        found = list(listed(outbox, [LineChannel(vendor.url)]))
        assert list(listed(outbox, [], "sentry")) == []
        assert [shown.id for _, _, shown in listed(outbox, [])] == [""] * 4
    assert [(shown.id, row.status, row.reason) for _, row, shown in found] == [
        ("m0", 400, "no"),
        ("m1", None, None),
        ("m2", None, None),
        ("m3", None, None),
    ]


def test_retry_sends_dead_letters_again(url: str, vendor: FaultyVendor) -> None:
    """After the vendor was mended, or the message accepted by other rules, it goes out."""
    vendor.poison = b""
    with opened(url) as outbox:
        assert retry(outbox, [], letters=[99]) == 0
        assert retry(outbox, []) == 1
    deliver(url, LineChannel(vendor.url))
    assert sorted(json.loads(message)["n"] for message in vendor.accepted) == [0, 1, 2, 3]


def test_retry_to_current_moves_rows_of_a_rotated_key(url: str, vendor: FaultyVendor) -> None:
    """With a new key nothing of the old one is sent until somebody says so."""
    current = LineChannel(vendor.url, destination="new key")
    deliver(url, current)
    assert vendor.accepted == []
    with opened(url) as outbox:
        assert retry(outbox, [current], to_current=True) == 4
    vendor.poison = b""
    deliver(url, current)
    assert len(vendor.accepted) == 4


def test_purge_deletes_dead_letters_and_only_on_demand_what_waits(url: str) -> None:
    """The default takes nothing that may still be delivered."""
    with opened(url) as outbox:
        assert purge(outbox) == 1
        assert purge(outbox) == 0
        assert purge(outbox, "rudderstack", pending=True) == 3
        assert outbox.depths() == []


def test_forget_deletes_the_messages_of_one_user(url: str, vendor: FaultyVendor) -> None:
    """Also out of a row that holds several users' messages; the others' go out."""
    with opened(url) as outbox:
        assert forget(outbox, [LineChannel(vendor.url)], "ada") == 3
        assert forget(outbox, [LineChannel(vendor.url)], "ada") == 0
    deliver(url, LineChannel(vendor.url))
    assert [json.loads(message)["user"] for message in vendor.accepted] == ["bob"]


def test_forget_leaves_nothing_of_a_user_in_the_files(url: str, vendor: FaultyVendor) -> None:
    """Neither in the database's free pages nor in its log, also of what was delivered, and while a service runs."""
    path = Path(url.removeprefix("sqlite://"))
    delivery = Delivery([LineChannel(vendor.url)], url=url)
    delivery.put("rudderstack", {"n": 4, "user": "eve", "text": "Eve's own words"})
    assert delivery.flush(5)
    assert b"Eve's own words" in b"".join(file.read_bytes() for file in path.parent.iterdir())
    with opened(url) as outbox:
        forget(outbox, [LineChannel(vendor.url)], "eve")
        assert b"Eve's own words" not in b"".join(file.read_bytes() for file in path.parent.iterdir())
    delivery.close(1)


def test_export_gives_every_message_whole(url: str) -> None:
    """What is exported can be read without us."""
    with opened(url) as outbox:
        exported = [json.loads(json.dumps(each)) for each in export(outbox)]
    assert sorted(json.loads(base64.b64decode(each["payload"]))["n"] for each in exported) == [0, 1, 2, 3]


def test_an_outbox_that_cannot_be_opened_is_an_error_here(tmp_path: Path) -> None:
    """The command line says so, where a service goes on in memory."""
    (tmp_path / "state").write_text("no directory")
    with opened(f"sqlite://{tmp_path}/state/outbox.db") as outbox, pytest.raises(OutboxError, match="FileExistsError"):
        outbox.depths()


def test_a_running_service_takes_up_what_was_retried(url: str, vendor: FaultyVendor) -> None:
    """No restart is needed after `outbox retry`."""
    delivery = Delivery([LineChannel(vendor.url)], url=url)
    assert delivery.flush(5)
    vendor.poison = b""
    with opened(url) as outbox:
        assert retry(outbox, [LineChannel(vendor.url)]) == 1
    until(lambda: len(vendor.accepted) == 4)
    delivery.close(1)
