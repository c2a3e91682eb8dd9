"""When the courier of one vendor may post: what waits, how the vendor answers, what it forbids.

The breaker opens with the first failure, so that a vendor that is down, or resets what it accepted, gets one batch at
a time; it probes with exponential backoff and full jitter, at least every `probe_every_s`, and also while an earlier
probe hangs. What becomes of a post that started before the breaker last moved says nothing about now.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping

from .channel import Channel, Limits
from .post import Line

LINGER_S = 0.5
"""A batch waits this long to fill: a post costs the same for one message as for a hundred."""
LINGER_ALONE_S = 0.1
"""The same where each message is a post: for what is read and deleted together."""
BACKOFF_S = 0.5
"""The first backoff is at most this; it doubles with each failure."""


class Gate:
    """One per courier, whose lock guards it."""

    def __init__(self, channel: Channel, limits: Limits) -> None:
        self.failures = 0
        self.stopped = False
        self.running: dict[Line, float] = {}  # since when
        self.most = channel.concurrency + math.ceil(limits.post_deadline_s / limits.probe_every_s)
        """Posts at once while the vendor hangs: its concurrency, and the probes."""
        self._quiet: dict[str, float] = {}  # rate limits: until when, by kind; "" is every kind
        self._ready_at = math.inf  # when there is something to take
        self._moved_at = self._probe_at = 0.0
        self._channel, self._limits = channel, limits
        self._linger_s = LINGER_S if channel.max_messages > 1 else LINGER_ALONE_S

    def quiet(self) -> set[str]:
        """The kinds that the vendor forbids now."""
        now = time.monotonic()
        return {kind for kind, until in self._quiet.items() if until > now}

    def ready(self, *, linger: bool = False) -> bool:
        """There may be something to take; with `linger` more may come for the same post. Whether this is news."""
        before, at = self._ready_at, time.monotonic() + (self._linger_s if linger else 0.0)
        self._ready_at = min(before, at)
        return at < before

    def due_at(self) -> float:
        """When something may be posted, as things stand; `math.inf`: when something changes."""
        counted = sum(at >= self._moved_at for at in self.running.values())
        if self.stopped or (not self.failures and counted >= self._channel.concurrency):
            return math.inf
        # A kind that is free again may have rows, which nobody took for it.
        again = [until for kind, until in self._quiet.items() if kind]
        ready = min([self._ready_at, *again])
        return max(ready, self._quiet.get("", 0.0), self._probe_at if self.failures else 0.0)

    def begin(self, line: Line) -> None:
        """A line has the turn."""
        self.running[line] = now = time.monotonic()
        self._ready_at = math.inf
        self._quiet = {kind: until for kind, until in self._quiet.items() if until > now}
        self._probe_at = now + self._limits.probe_every_s  # only counts while the breaker is open

    def limit(self, seconds_by_kind: Mapping[str, float]) -> None:
        """The vendor forbids kinds for some time."""
        for kind, seconds in seconds_by_kind.items():
            until = time.monotonic() + min(seconds, self._limits.max_retry_after_s)
            self._quiet[kind] = max(until, self._quiet.get(kind, 0.0))

    def succeeded(self, line: Line) -> list[Line] | None:
        """None, or when the vendor is back with this answer: lines that hang since it was away, to be cut."""
        if not self.failures:
            return None
        self.failures, self._moved_at = 0, time.monotonic()
        return [other for other, at in self.running.items() if at < self.running[line]]

    def failed(self, line: Line) -> bool:
        """Whether this failure counts; then nothing is posted until the next probe is due."""
        now = time.monotonic()
        if self.running.get(line, -1.0) < self._moved_at:
            return False
        self.failures += 1
        if self.failures == 1:
            self._moved_at = now
        most = min(self._limits.backoff_cap_s, BACKOFF_S * 2.0 ** min(self.failures - 1, 16))
        self._probe_at = now + min(random.uniform(0.0, most), self._limits.probe_every_s)
        return True
