"""Numbers of payment cards, and the many other numbers that pass for one."""

from __future__ import annotations

import re

from .issuers import in_base64

PATTERN = r"(?:(?<![\w.])|(?<=\\[nrt]))(?<!\d[\-])[2-6]\d{3}(?:[ \-\xa0]?\d){10,15}+(?!\w)"
"""13 to 19 digits, in groups or not."""
_ISSUED = re.compile(
    r"62\d{12,17}|3[47]\d{13}|3[068]\d{12}|4\d{18}"
    r"|(?=\d{16}\Z)(?:4|5[1-5]|65|6011|35(?:2[89]|[3-8])|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720))\d+"
).fullmatch
_GROUPED = re.compile(r"\d{4}([ \-\xa0])\d{4}\1\d{4}\1\d{2,4}(?:\1\d{1,3})?|\d{4}([ \-\xa0])\d{6}\2\d{4,5}").fullmatch
# One in fifty numbers of 16 digits has an issuer's prefix and passes Luhn's check. What these name are numbers, too.
_NUMBERED = re.compile(
    r"(?:order|purchase|invoice|receipt|quote|quotation|offer|contract|policy|claim|case|ticket|booking|reservation"
    r"|confirmation|reference|ref|rrn|arn|stan|trace|tracking|track|parcel|package|shipment|shipping|delivery|consignment"
    r"|waybill|awb|container|return|rma|po|sku|ean|gtin|upc|isbn|issn|barcode|article|product|item|variant|listing|offer"
    r"|asset|lot|part|model|serial|imei|imeisv|imsi|iccid|meid|msisdn|device|sensor|meter|vin|user|customer|client|member"
    r"|membership|loyalty|subscriber|patient|student|employee|vendor|supplier|partner|store|warehouse|location|tenant"
    r"|workspace|organisation|organization|team|project|campaign|adset|adgroup|ad|creative|audience|pixel|catalog|video"
    r"|channel|guild|tweet|status|snowflake|subscription|fulfillment|fulfilment|checkout|cart|lead|deal|opportunity"
    r"|document|doc|file|page|record|row|entry|entity|node|object|block|job|task|batch|run|build|version|revision"
    r"|sequence|seq|offset|cursor|lsn|xid|txn|nonce|seed|checksum|crc|fingerprint|timestamp|ts|time|date|epoch|nanos|micros"
    r"|nanosecond|microsecond|millisecond|ns|us|ms|byte|size|length|count|counter|total|tax|vat|ein|registration|permit"
    r"|licence|license|licensing|transaction|request|correlation|span|session|visitor|uid|uuid|guid|id"
    r"|bestell|bestellung|bestellungs|auftrag|auftrags|rechnung|rechnungs|sendung|sendungs|kunden|artikel|serien"
    r"|liefer|vorgangs|commande|facture|colis|pedido|factura|envio)"
    r"(?:e?s)?(?:number|num|no|nr|nummer|id|code)?s?"
).fullmatch
_OF_A_CARD = re.compile(
    r"cards?|cc|pan|visa|master(?:card)?|amex|discover|diners|jcb|maestro|unionpay|credit|debit|pa(?:y|id|ying|yment)s?"
    r"|charged?|kreditkarten?(?:nummer)?|karten?(?:nummer)?|carte|tarjeta"
).fullmatch
_BETWEEN = re.compile(r"code|numbers?|num|nos?|nr|nummer|numero|n|is|was|are|were|the|with|of|an?|for|to").fullmatch
_WORD = re.compile(r"[A-Z]++(?![a-z])|[A-Z]?[a-z]++|[A-Z]")
_BEFORE = re.compile(r"\\[nrt]|(?<!no)(?<!nr)(?<!num)[.!?;]\s", re.I)
_UNIT = re.compile(r"\s?(?:n|u|µ|m)s(?!\w)|\s?(?:nano|micro|milli)seconds|\s?bytes").match


def is_card(text: str, start: int, end: int) -> bool:
    """Whether digits are a card's number: an issuer's prefix and length, Luhn's check, and nothing that says otherwise.

    In a card's groups they are one whatever the context says.
    """
    number = re.sub(r"\D", "", text[start:end])
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in number[-2::-2])
    if _ISSUED(number) is None or (doubled + sum(map(int, number[::-2]))) % 10 or in_base64(text, start):
        return False
    if _GROUPED(text, start, end) is not None:
        return True
    before = _BEFORE.split(text[max(0, start - 80) : start])[-1]
    return not (_UNIT(text, end) or numbers_something_else(_WORD.findall(before)))


def numbers_something_else(words: list[str]) -> bool:
    """Whether the last words before a number, or those of its name, say what it numbers: an order, a parcel, a time."""
    last = [word.lower() for word in words[-8:]]
    while last and _BETWEEN(last[-1]):
        last.pop()
    return bool(last) and _NUMBERED(last[-1]) is not None and not any(map(_OF_A_CARD, last[-3:]))
