"""What a vendor's answer means for the messages that were posted."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Sequence
from enum import Enum, auto

from .outbox import Row

SUSPICIOUS = 6
"""So many server errors in a row for the same rows, and others are tried: one message may be what breaks the vendor."""


class Verdict(Enum):
    """What an answer means for the messages."""

    DELIVERED = auto()
    REFUSED = auto()
    RETRY = auto()
    STOPPED = auto()


def verdict(status: int) -> Verdict:
    """What a status means. A redirect is no success and no refusal: the address is wrong, the messages are not."""
    if 200 <= status < 300:
        return Verdict.DELIVERED
    if status in (401, 403):
        return Verdict.STOPPED
    if status in (408, 425, 429) or not 400 <= status < 500:
        return Verdict.RETRY
    return Verdict.REFUSED


def retry_after_s(value: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for: a number, or an HTTP date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


class Suspects:
    """Rows that a vendor answers with server errors while it takes others: without this they would stop all of them.

    Rows that fail again and again are put aside for the next ones. If those are accepted, the vendor is well, and a
    further server error counts as a refusal of the rows, which are halved until the bad message stands alone.
    """

    def __init__(self) -> None:
        self.aside: set[int] = set()
        self.guilty: set[int] = set()
        self._first, self._times = 0, 0

    def failed(self, rows: Sequence[Row]) -> Verdict:
        """What a server error means for these rows."""
        if self.guilty.intersection(row.id for row in rows):
            return Verdict.REFUSED
        self._times = self._times + 1 if rows[0].id == self._first else 1
        self._first = rows[0].id
        if self._times >= SUSPICIOUS:
            self.aside, self._times = {row.id for row in rows}, 0
        return Verdict.RETRY

    def delivered(self, rows: Sequence[Row]) -> bool:
        """Whether these make rows guilty that can be tried again now."""
        self.guilty.difference_update(row.id for row in rows)
        self.guilty |= self.aside
        self.aside, found = set(), bool(self.aside)
        return found
