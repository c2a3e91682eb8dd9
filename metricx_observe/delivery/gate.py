"""When the courier of one vendor may post: what waits, how the vendor answers, what it forbids.

The breaker opens with the first failure, so that a vendor that is down, or resets what it accepted, gets one batch at
a time; it probes with exponential backoff, of which the second half is random, at least every `probe_every_s`, and also
while an earlier probe hangs. What becomes of a post that started before the breaker last moved says nothing about now.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping

from .channel import Channel, Limits
from .post import Line
from .refusals import Refusals

LINGER_S = 0.5
"""A batch waits this long to fill: a post costs the same for one message as for a hundred."""
LINGER_ALONE_S = 0.1
"""The same where each message is a post: for what is read and deleted together."""
LEAST_LIMIT_S = 1.0
"""A limit that asks for less than this asks for this: headers count in whole seconds, and a millisecond would take the
place of a longer backoff."""
HELD_S = 60.0
"""How long it is remembered how often a row failed alone."""


class Gate:
    """One per courier, whose lock guards it."""

    def __init__(self, channel: Channel, limits: Limits) -> None:
        self.failures = 0
        self.refusals = Refusals()
        self.running: dict[Line, float] = {}  # since when: the beginning of its last post
        self.most = channel.concurrency + math.ceil(limits.post_deadline_s / limits.probe_every_s)
        """Posts at once while the vendor hangs: its concurrency, and the probes."""
        self._quiet: dict[str, float] = {}  # rate limits: until when, by kind; "" is every kind
        self._held: dict[int, tuple[int, float]] = {}  # rows that failed alone: how often, and until when they wait
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
        probes = self.failures or self.refusals.stopped
        if not probes and counted >= self._channel.concurrency:
            return math.inf
        # A kind that is free again may have rows, which nobody took for it.
        again = [until for kind, until in self._quiet.items() if kind]
        ready = min([self._ready_at, *again])
        return max(ready, self._quiet.get("", 0.0), self._probe_at if probes else 0.0)

    def begin(self, line: Line) -> None:
        """A line has the turn."""
        limits = self._limits
        self.running[line] = now = time.monotonic()
        self._ready_at = min((until for _, until in self._held.values() if until > now), default=math.inf)
        self._quiet = {kind: until for kind, until in self._quiet.items() if until > now}
        # only counts while probes are all that is posted
        self._probe_at = now + (limits.stopped_probe_every_s if self.refusals.stopped else limits.probe_every_s)

    def posting(self, line: Line) -> bool:
        """A line is about to post. False: the breaker has opened since it took its rows, which are now for probes."""
        if (self.failures or self.refusals.stopped) and self.running[line] < self._moved_at:
            return False
        self.running[line] = time.monotonic()
        return True

    def hold(self, row_id: int) -> None:
        """A row that failed alone waits longer each time: others that are accepted would else hurry it."""
        now = time.monotonic()
        self._held = {each: held for each, held in self._held.items() if held[1] > now - HELD_S}
        failures = self._held.get(row_id, (0, 0.0))[0] + 1
        self._held[row_id] = failures, now + self._backoff_s(failures)

    def held(self) -> set[int]:
        """Rows that failed alone and wait now."""
        now = time.monotonic()
        return {row_id for row_id, (_, until) in self._held.items() if until > now}

    def doubtful(self) -> set[int]:
        """Rows that are best not the next probe, since it may be for what they hold that the vendor fails."""
        return {*self.refusals.suspects, *(self._held if self.failures else ())}

    def _backoff_s(self, failures: int) -> float:
        limits = self._limits
        most = min(limits.backoff_cap_s, limits.probe_every_s, limits.backoff_s * 2.0 ** min(failures - 1, 16))
        return most * random.uniform(0.5, 1.0)

    def limit(self, seconds_by_kind: Mapping[str, float]) -> set[str]:
        """The vendor forbids kinds for some time. Returns those that wait because of it."""
        asked = {kind: seconds for kind, seconds in seconds_by_kind.items() if seconds > 0.0}  # which NaN is not
        for kind, seconds in asked.items():
            until = time.monotonic() + min(max(seconds, LEAST_LIMIT_S), self._limits.max_retry_after_s)
            self._quiet[kind] = max(until, self._quiet.get(kind, 0.0))
        return set(asked)

    def succeeded(self, line: Line, *, goes_on: bool) -> bool:
        """Whether the vendor is back with this answer. `goes_on`: it was stopped until this answer."""
        if not goes_on and (not self.failures or self.running[line] < self._moved_at):
            return False
        self.failures, self._moved_at = 0, time.monotonic()
        return True

    def hanging(self) -> list[Line]:
        """Lines to cut: they hang since the vendor was away, and it is back.

        What runs for less than from one probe to the next may be answered yet: cut, it would be sent twice.
        """
        if self.failures or self.refusals.stopped:
            return []
        since = min(self._moved_at, time.monotonic() - self._limits.probe_every_s)
        return [line for line, at in list(self.running.items()) if at <= since]

    def failed(self, line: Line) -> bool:
        """Whether this failure counts; then nothing is posted until the next probe is due."""
        now = time.monotonic()
        if self.refusals.stopped or self.running.get(line, -1.0) < self._moved_at:
            return False
        self.failures += 1
        if self.failures == 1:
            self._moved_at = now
        self._probe_at = now + self._backoff_s(self.failures)
        return True

    def probe_again(self) -> None:
        """A probe found nothing to post, or a message that was refused for what it holds: neither tells of others."""
        self._probe_at = time.monotonic()

    def stop(self) -> None:
        """From now on there are only probes, far apart."""
        self._moved_at = time.monotonic()
        self._probe_at = self._moved_at + self._limits.stopped_probe_every_s
