"""When the courier of one vendor may post: what waits, how the vendor answers, what it forbids.

The breaker opens with the first failure, so that a vendor that is down, or resets what it accepted, gets one batch at
a time; it probes with exponential backoff and full jitter, at least every `probe_every_s`, and also while an earlier
probe hangs. An epoch ends when the breaker moves: an answer to a post of an earlier epoch says nothing about now.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Hashable, Mapping

from .channel import Channel, Limits

LINGER_S = 0.5
"""A batch waits this long to fill: a post costs the same for one message as for a hundred."""
BACKOFF_S = 0.5
"""The first backoff is at most this; it doubles with each failure."""


class Gate:
    """One per courier. `state` guards it, and those who wait for their turn wait on it."""

    def __init__(self, channel: Channel, limits: Limits) -> None:
        self.state = threading.Condition()
        self.failures = 0
        self.stopped = ""
        self.hurry = False
        self.quiet: dict[str, float] = {}  # rate limits: until when, by kind; "" is every kind
        self.running: dict[Hashable, tuple[int, float]] = {}  # posts: the epoch in which, and when they started
        self._epoch = 0
        self._probe_at = 0.0
        self._ready_at: float | None = None
        self._fresh = 0
        self._channel, self._limits = channel, limits

    @property
    def answers(self) -> bool:
        """Whether waiting for this vendor makes sense."""
        return not self.stopped and not self.failures and not self.quiet

    @property
    def most(self) -> int:
        """Posts at once when a vendor hangs: its concurrency, and a probe each `probe_every_s`."""
        return self._channel.concurrency + math.ceil(self._limits.post_deadline_s / self._limits.probe_every_s)

    @property
    def has_work(self) -> bool:
        """Whether there may be something to take, for which another post may start."""
        may = self.failures > 0 or self._room(time.monotonic()) is None
        return may and self._ready_at is not None and not self.stopped

    def stored(self, messages: int) -> None:
        """There may be something to take: `messages` that were just stored, or (0) whatever was found otherwise."""
        self._fresh += messages
        batched = 0 < self._fresh < self._channel.max_messages and not self.hurry
        at = time.monotonic() + (LINGER_S if batched else 0.0)
        self._ready_at = at if self._ready_at is None else min(at, self._ready_at)

    def wait_s(self, now: float) -> float | None:
        """Seconds until something may be posted; None: until something changes."""
        for kind in [kind for kind, until in self.quiet.items() if until <= now]:
            del self.quiet[kind]
            self._ready_at = now
        if self.stopped:
            return None
        room = None if self.failures else self._room(now)
        if room is not None:
            return room - now
        until = [at for kind, at in self.quiet.items() if kind]
        if self._ready_at is not None:
            until.append(max(self._ready_at, self.quiet.get("", 0.0), self._probe_at if self.failures else 0.0))
        return min(until) - now if until else None

    def _room(self, now: float) -> float | None:
        """None when another post may start, else when the oldest is no longer counted.

        Not counted are posts of an earlier epoch, and those that take longer than a probe may be away: a connection
        that is stuck must not hold up the rows behind it until its deadline.
        """
        young = now - self._limits.probe_every_s
        counted = [at for epoch, at in self.running.values() if epoch == self._epoch and at > young]
        return min(counted) + self._limits.probe_every_s if len(counted) >= self._channel.concurrency else None

    def taken(self, post: Hashable, now: float) -> None:
        """Somebody has the turn."""
        self.began(post)
        self._ready_at, self._fresh = None, 0
        self._probe_at = now + self._limits.probe_every_s  # only counts while the breaker is open

    def began(self, post: Hashable) -> None:
        """A post starts, or the next one on the same line."""
        self.running[post] = (self._epoch, time.monotonic())

    def limit(self, seconds_by_kind: Mapping[str, float]) -> None:
        """The vendor forbids kinds for some time."""
        now = time.monotonic()
        for kind, seconds in seconds_by_kind.items():
            until = now + min(seconds, self._limits.max_retry_after_s)
            self.quiet[kind] = max(until, self.quiet.get(kind, 0.0))

    def succeeded(self, post: Hashable) -> tuple[bool, list[Hashable]]:
        """Whether the vendor is back with this answer, and the posts that will get none: a later one was answered."""
        hung = self.running[post][1] - self._limits.probe_every_s
        stuck = [other for other, (_, at) in self.running.items() if at < hung]
        recovered, self.failures = self.failures > 0, 0
        if recovered or stuck:
            self._epoch += 1
        return recovered, stuck

    def failed(self, post: Hashable) -> bool:
        """Whether this failure counts; then nothing is posted until the next probe is due."""
        if self.running.get(post, (-1, 0.0))[0] != self._epoch:
            return False
        self.failures += 1
        if self.failures == 1:
            self._epoch += 1
        most = min(self._limits.backoff_cap_s, BACKOFF_S * 2.0 ** min(self.failures - 1, 16))
        self._probe_at = time.monotonic() + min(random.uniform(0.0, most), self._limits.probe_every_s)
        return True
