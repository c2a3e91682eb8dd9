"""Numbers of payment cards go by their look; the many other numbers that pass for one stay."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from metricx_observe.scrubber import Scrubber

CARDS = (
    "4111111111111111", "5555555555554444", "2223003122003222", "6011111111111117", "378282246310005", "30569309025904",
)  # fmt: skip
OTHERS = (
    "order_number", "orderNumber", "order_no", "order-nr", "OrderNo", "orderid", "ordernumber", "order", "order_ref",
    "purchase_order", "invoice_number", "invoiceNo", "receipt_number", "booking_reference", "confirmation_number",
    "reservation_code", "ticket_number", "case_number", "tracking_number", "trackingNo", "shipment_number", "parcel",
    "awb_number", "po_number", "sku", "ean", "gtin", "upc", "barcode", "imei", "serial_number", "lot_number",
    "part_number", "product_code", "customer_number", "member_no", "loyalty_number", "policy_number", "claim_number",
    "contract_number", "reference_number", "rrn", "transaction_number", "timestamp", "timestamp_us", "created_ts",
    "time_ns", "epoch_nanos", "event_time_micros", "snowflake", "tweet", "campaign_id", "order_ids", "user_ids",
    "Bestellnummer", "Rechnungsnummer", "Sendungsnummer", "offset", "sequence_number", "version", "size_bytes",
    "total_count", "checksum", "seed", "trace_number", "X-Order-Number",
)  # fmt: skip


def scrub(value: object) -> Any:
    return Scrubber().scrub(value, "track", "properties")


@pytest.mark.parametrize("name", OTHERS)
def test_a_number_of_something_else_stays(name: str) -> None:
    """An order's, a parcel's or a product's number, a time in nanoseconds: as a number and a text, in any nesting."""
    for number in CARDS:
        for given in (
            {name: int(number)}, {name: number}, {name: [number, int(number)]}, {"a": [{name: number, "n": 1}]},
            {"name": name, "value": number}, json.dumps({name: int(number)}), json.dumps({"n": 5, name: number}),
            json.dumps({"body": json.dumps({name: number})}), f"/a?page=2&{name}={number}&n=1", f"{name}: {number}, n",
            f"done: {name}={number}.", repr({"n": 1, name: number}), repr(f"x\n{name}: {number}\ny"),
        ):  # fmt: skip
            assert scrub(given) == given
        assert scrub({name: number.encode()}) == {name: number}


@pytest.mark.parametrize(
    "text",
    [
        "Order {} has shipped", "your order with the number {} is late", "order no. {} is late", "Order #{} was paid",
        "the invoice number is {}", "tracking number: {}", "Orders {}, then", "GET /orders/{}/items", "took {} ns",
        "gid://shopify/Order/{}", "<orderNumber>{}</orderNumber>", "Order(number={}, kind='a')", "device IMEI {}",
        "waited {} microseconds", "booking reference {}", "order[number]={}", "Bestellung Nr. {}", "112-{}",
    ],
)  # fmt: skip
def test_a_sentence_says_what_a_number_is_of(text: str) -> None:
    """The words right before it, and a unit behind it."""
    for number in CARDS:
        assert scrub(text.format(number)) == text.format(number)


@pytest.mark.parametrize(
    "text",
    [
        "paid with {}", "my card is {}", "card number: {}", "Visa {} was declined", "pan={}", "upstream said {} is bad",
        "order 55 was charged to {}", "Thank you for your order. {} is the card", "ValueError('cannot use {}')",
        "credit card no. {}", "cardNumber={}", "order: 5, note: {}", "{}", "the number is {}", "debit card order {}",
        "user=5 entered {}.", "amex {} exp 12/27", "cc: {}; cvv", "refund to {}", "charged {}, thanks",
        '{{"order": 5, "card": {{"number": {}}}}}', "message: {}", "Kreditkarte {}", "payment reference {}",
    ],
)  # fmt: skip
def test_a_cards_number_goes(text: str) -> None:
    """Whatever stands around it, when nothing right before it says that it is something else."""
    for number in CARDS:
        assert number not in scrub(text.format(number))
        assert number not in str(scrub({"note": text.format(number)}))


@pytest.mark.parametrize(
    "grouped", ["4111 1111 1111 1111", "5555-5555-5555-4444", "3782 822463 10005", "3056-930902-5904"]
)
def test_a_number_in_a_cards_groups_goes_whatever_it_is_called(grouped: str) -> None:
    """Nobody writes an order's number as an issuer's prefix in groups of four that pass Luhn's check."""
    for given in (
        {"order_number": grouped},
        f"order number {grouped}",
        {"note": grouped},
        json.dumps({"order_id": grouped}),
    ):
        assert re.search(r"\[scrubbed card str len=\d+ #\w{4}\]", str(scrub(given)))
        assert grouped not in str(scrub(given))


def test_names_of_cards_are_secret_whatever_the_number() -> None:
    """Luhn's check matters only where no name says it."""
    given = {"card_number": 4111111111111112, "pan": "4111111111111112", "cc_number": "1", "cardNo": 42}
    assert [name for name, value in scrub(given).items() if not str(value).startswith("[scrubbed name")] == []


def test_a_number_without_a_name_is_judged_by_itself() -> None:
    """As a value under a plain name, as an item, as a name."""
    for given in (
        {"amount": 4111111111111111},
        {"ref_note": "4111111111111111"},
        ["a", 4111111111111111],
        {4111111111111111: 1},
    ):
        assert "[scrubbed card" in str(scrub(given))


def test_times_and_ids_of_services_stay() -> None:
    """Micro- and nanoseconds of our years, snowflakes, EANs, IMEIs and uuids of digits under any name at all."""
    numbers = (1795996800123456, 1795996800123456789, 1862345678901234567, 4006381333931, 490154203237518, 1 << 62)
    for number in numbers:
        for given in ({"n": number}, {"n": str(number)}, f"n {number}", [number]):
            assert scrub(given) == given
    for text in (
        "550e8400-4111-4111-1111-111111111111",
        "112-3715551-3456781",
        "0.4111111111111111",
        "a4111111111111111",
    ):
        assert scrub(text) == text


def test_a_pattern_of_the_users_is_read_in_an_orders_number_too() -> None:
    """What is not a card can still be what the user calls a secret."""
    scrubbed = Scrubber(patterns=[r"4111\d+"]).scrub({"order_number": "4111111111111111"}, "track", "properties")
    assert "4111" not in scrubbed["order_number"]
