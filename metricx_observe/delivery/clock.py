"""Whether this machine's wall clock may be believed: by it rows of an earlier process are too old, or are not.

A clock that is days ahead at the start makes all of them look too old. Vendors say in each answer what time it is
(HTTP's `Date`); until one has, a row counts as no older than this process has been running, which its monotonic clock
knows. A jump while the process runs changes nothing: an age is the time at the start, and then monotonic.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from datetime import UTC, datetime

from .channel import Limits


class Clock:
    """One per process."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._wall_at_zero = time.time() - self._began
        self._ahead_s = math.inf

    def compare(self, date: float) -> None:
        """A vendor says what time it is: `date`, in seconds since 1970.

        The vendor by which this clock is the least ahead is believed. A clock that is behind makes rows look younger;
        to correct that could drop what this process itself has just put.
        """
        self._ahead_s = min(self._ahead_s, max(0.0, self._wall_at_zero + time.monotonic() - date))

    def trusted(self, limits: Limits) -> Limits:
        """The limits with ages by which rows may be dropped now; `math.inf` where none may."""
        remote, local = self._trusted_s(limits.max_age_s), self._trusted_s(limits.local_max_age_s)
        return replace(limits, max_age_s=remote, local_max_age_s=local)

    def _trusted_s(self, max_age_s: float) -> float:
        runs_longer = time.monotonic() - self._began > max_age_s
        return max_age_s if runs_longer and math.isinf(self._ahead_s) else max_age_s + self._ahead_s


def iso_time(seconds: float) -> str:
    """Seconds since 1970 as a time to be read, in whole seconds of UTC."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")
