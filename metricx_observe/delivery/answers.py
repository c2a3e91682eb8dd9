"""What a vendor's answer means for the messages that were posted."""

from __future__ import annotations

import email.utils
import time
from contextlib import suppress
from enum import Enum, auto


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
    with suppress(ValueError):
        return None if value is None else max(0.0, float(value))
    with suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(str(value)).timestamp() - time.time())
    return None
