"""What a vendor's HTTP response says about the messages of its request."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC
from enum import Enum
from typing import NamedTuple

Verdict = Enum("Verdict", "DELIVERED REFUSED RETRY FORBIDDEN MISDIRECTED")
"""What a status says about the messages. FORBIDDEN may mean one of them or the credentials (a firewall answers 403 to a
body, a vendor to a key), MISDIRECTED the address or the proxy on the way."""
_FORBIDDEN = 401, 403
_MISDIRECTED = 404, 407, 421
_PASSING = 408, 425, 429
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")


def seconds_asked(value: str) -> float | None:
    """Seconds that the number in a header asks to wait; 0.0 where it asks for nothing, None where it is not a number.

    It asks for something as RFC 9110 writes delay-seconds, with a fraction allowed because Sentry sends some: ASCII
    digits, without a sign or an exponent. Whatever else Python takes for a number (-1, nan, inf) asks for nothing.
    """
    number = value.strip()
    if _SECONDS.fullmatch(number):
        return float(number)
    with suppress(ValueError):
        float(number)
        return 0.0
    return None


class Answer(NamedTuple):
    """The status and the headers, with lower-case names."""

    status: int
    headers: Mapping[str, str]

    @property
    def verdict(self) -> Verdict:
        """What the status says; a redirect and what is not an HTTP status are neither a success nor a refusal."""
        if 200 <= self.status < 300:
            return Verdict.DELIVERED
        if self.status in _FORBIDDEN:
            return Verdict.FORBIDDEN
        if self.status in _MISDIRECTED:
            return Verdict.MISDIRECTED
        if self.status in _PASSING or not 400 <= self.status < 500:
            return Verdict.RETRY
        return Verdict.REFUSED

    @property
    def retry_after_s(self) -> float | None:
        """Seconds that a `Retry-After` header asks to wait: a number, or an HTTP date. 0.0: for nothing; None: no such.

        A date is compared with the answer's own `Date`: this machine's clock may be wrong.
        """
        value = self.headers.get("retry-after", "")
        if (until := _timestamp(value)) is None:
            return seconds_asked(value)
        now = self.date
        return max(0.0, until - (time.time() if now is None else now))

    @property
    def date(self) -> float | None:
        """Seconds since 1970 when the vendor answered, as its `Date` header says; None where it says nothing."""
        return _timestamp(self.headers.get("date", ""))


def _timestamp(value: str) -> float | None:
    """Seconds since 1970 of an HTTP date; None for what is not one."""
    with suppress(ValueError, TypeError, IndexError, OverflowError):
        found = email.utils.parsedate_to_datetime(value)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()  # HTTP's dates are in UTC
    return None
