"""The face of delivery: hand over records, ask what became of them, end well.

Everything that belongs to one process (threads, locks, the queue, the outbox) is in one `_Process`, which is made
anew in a forked child: nothing of the parent's can be half locked there.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

from .channel import Channel, Limits, Message
from .courier import Courier
from .outbox import Outbox, OutboxError
from .spool import Spool
from .tally import Tally
from .threads import LOADING, Isolate
from .writer import Writer

ABORT_S = 0.3
"""Posts are aborted this long before the deadline of `close`, so that the last answers are still committed."""
TRIM_EACH = 100
"""Messages after which the bounds are looked at, and each tick: a hundredth of the smallest bound."""
ACKNOWLEDGED_S = 0.25
"""METRICX_DURABILITY=acknowledged lets a response go after this long."""


class _Process:
    def __init__(self, channels: Sequence[Channel], url: str, limits: Limits, deliver: bool, isolate: Isolate) -> None:
        self.tally = Tally()
        self.spool = Spool(url, self.tally)
        self.limits = limits
        self._memory_limits = replace(limits, outbox_bytes=min(limits.outbox_bytes, limits.memory_bytes))
        self.couriers = {
            channel.vendor: Courier(channel, self.spool, self.tally, limits, isolate) for channel in channels if deliver
        }
        self.channels = {channel.vendor: channel for channel in channels}
        self._untrimmed = 0
        self._local = {channel.destination for channel in channels if channel.local}
        self.writer = Writer(self.channels, self.spool, self.tally, limits, isolate, self._stored, self._tick)

    def _stored(self, messages: Mapping[str, int]) -> None:
        for vendor, n in messages.items():
            if vendor in self.couriers:
                self.couriers[vendor].wake(n)
        self._untrimmed += sum(messages.values())
        if self._untrimmed >= TRIM_EACH:
            self._trim()

    def _trim(self) -> None:
        self._untrimmed = 0
        with self.spool.use() as outbox:
            limits = self._memory_limits if outbox.kind == "memory" else self.limits
            dropped = outbox.trim(limits, self._local)
        for (stream, reason), n in dropped.items():
            self.tally.count(stream.vendor, "dropped", f"{reason} {stream.kind}", n)
            key = ("dropped", stream.vendor, reason)
            self.tally.say(logging.WARNING, key, "%s: %d messages dropped (%s)", stream.vendor, n, reason)

    def _tick(self) -> None:
        for courier in self.couriers.values():
            courier.check(time.monotonic())
        self._trim()
        self.adopt()

    def adopt(self) -> None:
        """Take over what dead processes left for our vendors."""
        with self.spool.use() as outbox:
            adopted = outbox.adopt([courier.channel.destination for courier in self.couriers.values()])
        if adopted:
            for courier in self.couriers.values():
                courier.wake()

    def pending(self, couriers: Sequence[Courier]) -> bool:
        """Whether rows of this process wait for one of these."""
        wanted = {courier.channel.destination for courier in couriers}
        try:
            with self.spool.use() as outbox:
                return any(depth.mine and stream.destination in wanted for stream, depth in outbox.depths())
        except OutboxError:
            return not self.spool.closed  # asked again soon, of another outbox if this one failed


class Delivery:
    """Durable delivery of records to vendors. Nothing starts before the first `put` or `start` of a process."""

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        url: str,
        limits: Limits | None = None,
        deliver: bool = True,
        isolate: Isolate = nullcontext,
    ) -> None:
        """`url`: sqlite:///absolute/path or memory://. `deliver=False`: rows stay in the outbox, nothing is sent.

        Each thread of delivery runs inside `isolate()`: the place to keep instrumentation away from it.
        """
        self._made_of = (tuple(channels), url, limits or Limits(), deliver, isolate)
        self._process = _Process(*self._made_of)
        self._closed = False
        self._resting: Outbox | None = None
        _alive.add(self)

    def start(self) -> None:
        """Start the threads now, so that rows of an earlier process are delivered although nothing is put."""
        self._process.writer.start()

    def put(self, vendor: str, record: object, *, size: int = 0) -> bool:
        """Hand a record over to be encoded, stored and delivered. Never blocks, never raises.

        `size`: about how many bytes it holds in memory. False: refused (memory bound, closed), which is counted.
        """
        return self._process.writer.put(vendor, record, size)

    def commit(self, timeout_s: float) -> bool:
        """Wait until everything that was put before this call is committed. False: not within the time."""
        return self._process.writer.commit(timeout_s)

    async def committed(self) -> None:
        """Wait, without blocking the loop, until what was put is committed; at most 250 ms. Never raises."""
        process = self._process
        try:
            await asyncio.wait_for(process.writer.committed(asyncio.get_running_loop()), ACKNOWLEDGED_S)
        except TimeoutError:
            process.tally.count("outbox", "unacknowledged")

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is committed and delivered to every vendor that is not stopped."""
        process, give_up = self._process, time.monotonic() + timeout_s
        self.start()
        if not self.commit(timeout_s):
            return False
        couriers = list(process.couriers.values())
        for courier in couriers:
            courier.hurry(True)
        try:
            with suppress(OutboxError):
                process.adopt()
            return process.tally.wait_for(
                lambda: not process.pending([each for each in couriers if each.breaker != "stopped"]),
                give_up - time.monotonic(),
            )
        finally:
            for courier in couriers:
                courier.hurry(False)

    def close(self, deadline_s: float) -> None:
        """Commit, deliver until the deadline, leave the rest for the next start. Again: nothing happens.

        Waits only for vendors that answer, never for local ones beyond the commit.
        """
        if self._closed:
            return
        self._closed = True
        _alive.discard(self)
        process, give_up = self._process, time.monotonic() + deadline_s
        process.writer.close(deadline_s)
        couriers = list(process.couriers.values())
        for courier in couriers:
            courier.hurry(not courier.channel.local)
        if process.spool.opened is not None:
            process.tally.wait_for(
                lambda: not process.pending([c for c in couriers if c.answers and not c.channel.local]),
                give_up - time.monotonic() - ABORT_S,
            )
        for courier in couriers:
            courier.close()
        process.tally.wait_for(lambda: not any(courier.busy for courier in couriers), 0.1)
        process.spool.close()

    def count(self, vendor: str, what: str, reason: str = "", n: int = 1) -> None:
        """Add to a counter that `status` shows."""
        self._process.tally.count(vendor, what, reason, n)

    def rows(self, vendor: str) -> list[Message]:
        """What waits in the outbox for a vendor, after a commit."""
        self.commit(5.0)
        return [
            Message(row.kind, payload)
            for _, row in self._process.spool.outbox.scan(vendor)
            for payload in row.payloads
        ]

    def status(self) -> dict[str, dict[str, Any]]:
        """By vendor: counters of this process, what waits in the outbox (of all processes), breaker and last error."""
        process = self._process
        status: dict[str, dict[str, Any]] = {}
        outbox = process.spool.opened
        depths, dead = [], dict[str, int]()
        stranded: dict[str, int] = {}
        if outbox is not None:
            try:
                depths, dead = outbox.depths(), outbox.dead_count()
            except OutboxError:
                pass  # closed, or failed just now: the counters are still true
        for vendor, channel in process.channels.items():
            mine = [depth for stream, depth in depths if stream.destination == channel.destination]
            courier = process.couriers.get(vendor)
            status[vendor] = {
                **process.tally.of(vendor),
                "dead": dead.get(vendor, 0),
                "pending": sum(depth.messages for depth in mine),
                "oldest_s": round(max((depth.oldest_s for depth in mine), default=0.0), 3),
                "breaker": courier.breaker if courier else "closed",
            }
        known = {channel.destination for channel in process.channels.values()}
        for stream, depth in depths:
            if stream.destination not in known:
                stranded[stream.vendor] = stranded.get(stream.vendor, 0) + depth.messages
        status["outbox"] = {
            "kind": outbox.kind if outbox else "not opened",
            "fallback": process.spool.fallback,
            "stranded": stranded,
            "unacknowledged": process.tally.counters["outbox"]["unacknowledged"],
        }
        return status

    def _at_exit(self) -> None:
        """Commit, never deliver: 0.5 s when nothing moves, 2 s at most. Answers on their way are waited for briefly."""
        process = self._process
        for courier in process.couriers.values():
            courier.close(abort=False)
        process.writer.at_exit()
        process.tally.wait_for(lambda: not any(courier.busy for courier in process.couriers.values()), 0.2)
        process.spool.close()

    def _before_fork(self) -> None:
        self._resting = self._process.spool.opened
        if self._resting is not None:
            self._resting.before_fork()

    def _after_fork(self, *, child: bool) -> None:
        if self._resting is not None:
            self._resting.after_fork(child=child)
        if child:
            self._process = _Process(*self._made_of)


_alive: set[Delivery] = set()
"""Until they are closed: a script may let go of its delivery before it ends."""


_forking = False
"""Whether LOADING is ours while this process forks: it is not when somebody forks in the middle of an import."""


def _each_before_fork() -> None:
    global _forking
    _forking = LOADING.acquire(timeout=5.0)
    for delivery in list(_alive):
        delivery._before_fork()


def _each_after_fork(child: bool) -> None:
    for delivery in list(_alive):
        delivery._after_fork(child=child)
    if _forking:
        LOADING.release()


@atexit.register
def _each_at_exit() -> None:
    for delivery in list(_alive):
        delivery._at_exit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_each_before_fork,
        after_in_parent=lambda: _each_after_fork(child=False),
        after_in_child=lambda: _each_after_fork(child=True),
    )
