"""When one vendor may be posted to: a circuit breaker, and the rate limits that it asks for.

The breaker opens with the first failure, so that a vendor that is down, or resets what it accepted, gets one batch at
a time: a probe, with exponential backoff, of which the second half is random. Probes also go on while an earlier one
hangs. What becomes of a post that began before the breaker last opened or closed says nothing about now.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

from .channel import Limits

LEAST_LIMIT_S = 1.0
"""A limit that asks for less than this asks for this: headers count in whole seconds, and a millisecond would take the
place of a longer backoff."""


class Breaker:
    """Closed, open (the vendor fails) or stopped (it refuses everything). One per courier, whose lock guards it."""

    def __init__(self, limits: Limits) -> None:
        self.failures = 0
        self.stopped = ""
        """Why; empty while it is not stopped."""
        self.changed_at = self.probe_at = 0.0
        self._limits = limits

    @property
    def state(self) -> str:
        """closed, open (probes go on) or stopped (probes are far apart)."""
        return "stopped" if self.stopped else "open" if self.failures else "closed"

    def begin(self) -> None:
        """A post begins. If it is a probe, this is when the next one may follow although it hangs."""
        limits = self._limits
        self.probe_at = time.monotonic() + (limits.stopped_probe_every_s if self.stopped else limits.probe_every_s)

    def fail(self, began: float) -> bool:
        """A post that began then has failed. Returns whether that counts."""
        if self.stopped or began < self.changed_at:
            return False
        now = time.monotonic()
        self.failures += 1
        if self.failures == 1:
            self.changed_at = now
        wait_s = min(self._limits.longest_backoff_s, self._limits.backoff_s * 2.0 ** min(self.failures - 1, 16))
        self.probe_at = now + wait_s * random.uniform(0.5, 1.0)
        return True

    def stop(self, why: str) -> bool:
        """From now on there are only probes, far apart. Returns whether it was not stopped before."""
        changes, self.stopped = not self.stopped, why
        if changes:
            self.changed_at = time.monotonic()
        self.begin()
        return changes

    def succeed(self, began: float) -> bool:
        """A post that began then was accepted. Returns whether the vendor is back with it."""
        if not self.stopped and (not self.failures or began < self.changed_at):
            return False
        self.failures, self.stopped, self.changed_at = 0, "", time.monotonic()
        return True


class RateLimits:
    """What a vendor forbids for some time, by kind of message; "" is every kind."""

    def __init__(self, most_s: float) -> None:
        self._until: dict[str, float] = {}
        self._most_s = most_s

    def add(self, seconds_by_kind: Mapping[str, float]) -> set[str]:
        """Obey limits. Returns the kinds that wait because of them."""
        asked = {kind: seconds for kind, seconds in seconds_by_kind.items() if seconds > 0.0}  # which NaN is not
        for kind, seconds in asked.items():
            until = time.monotonic() + min(max(seconds, LEAST_LIMIT_S), self._most_s)
            self._until[kind] = max(until, self._until.get(kind, 0.0))
        return set(asked)

    def active(self) -> dict[str, float]:
        """The kinds that are limited now, and until when."""
        now = time.monotonic()
        return {kind: until for kind, until in self._until.items() if until > now}
