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
from collections import Counter
from collections.abc import Callable, Container, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

from .channel import Channel, Limits, Message
from .courier import Courier
from .outbox import Outbox, OutboxError, outbox_path
from .tally import Tally
from .threads import LOADING, Isolate
from .writer import Writer

ABORT_S = 0.3
"""Posts are aborted this long before the deadline of `close`, so that the last answers are still committed."""
ACKNOWLEDGED_S = 0.25
"""METRICX_DURABILITY=acknowledged lets a response go after this long."""


class _Process:
    def __init__(self, channels: Sequence[Channel], url: str, limits: Limits, deliver: bool, isolate: Isolate) -> None:
        self.tally = Tally()
        self.channels = {channel.vendor: channel for channel in channels}
        self.couriers = [Courier(channel, self.outbox, self.tally, limits, isolate) for channel in channels if deliver]
        self.writer = Writer(self.channels, self.outbox, self.tally, limits, isolate, self._stored, self._tick)
        self.opened: Outbox | None = None
        """The outbox if it was used in this process."""
        self.fallback = ""
        """Why the outbox is in memory although it was to be a file."""
        self._path, self._limits = outbox_path(url), limits

    def outbox(self) -> Outbox:
        """The outbox of this process."""
        if self.opened is None:
            with LOADING:
                from .sqlite import SqliteOutbox  # sqlite3 is loaded when the first signal is put, not with the package

                self.opened = self.opened or SqliteOutbox(self._path, self._fell_back)
        return self.opened

    def _fell_back(self, why: str) -> None:
        self.fallback = why
        text = "The outbox is in memory from now on, so a crash loses what waits: %s"
        self.tally.say(logging.ERROR, "fallback", text, why)

    def _stored(self, vendors: Container[str]) -> None:
        for courier in self.couriers:
            if courier.channel.vendor in vendors:
                courier.wake(linger=True)

    def _trim(self) -> None:
        limits, outbox = self._limits, self.outbox()
        if outbox.kind == "memory":
            limits = replace(limits, outbox_bytes=min(limits.outbox_bytes, limits.memory_bytes))
        dropped = outbox.trim(limits, {each.destination for each in self.channels.values() if each.local})
        for (stream, reason), n in dropped.items():
            self.tally.count(stream.vendor, "dropped", f"{reason} {stream.kind}", n)
            key = ("dropped", stream.vendor, reason)
            self.tally.say(logging.WARNING, key, "%s: %d messages dropped (%s)", stream.vendor, n, reason)

    def _tick(self) -> None:
        for courier in self.couriers:
            courier.check(time.monotonic())
        self._trim()
        self.adopt()

    def adopt(self) -> None:
        """Take over what dead processes left for our vendors."""
        if self.outbox().adopt([courier.channel.destination for courier in self.couriers]):
            self.wake()

    def wake(self) -> None:
        """Let the couriers look now: nothing waits for a batch to fill."""
        for courier in self.couriers:
            courier.wake()

    def drain(self, waits_for: Callable[[Courier], bool], timeout_s: float) -> bool:
        """Wait until no row of this process is left for these couriers."""

        def drained() -> bool:
            wanted = {courier.channel.destination for courier in self.couriers if waits_for(courier)}
            with suppress(OutboxError):  # asked again soon
                depths = self.outbox().depths()
                return not any(depth.mine and stream.destination in wanted for stream, depth in depths)
            return False

        return self.tally.wait_for(drained, timeout_s)

    def rest(self, timeout_s: float) -> None:
        """Wait for answers that are on their way, then let go of the outbox."""
        self.tally.wait_for(lambda: not any(courier.busy for courier in self.couriers), timeout_s)
        if self.opened is not None:
            self.opened.close()


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
            await asyncio.wait_for(asyncio.wrap_future(process.writer.committed()), ACKNOWLEDGED_S)
        except TimeoutError:
            process.tally.count("outbox", "unacknowledged")

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is committed and delivered to every vendor that is not stopped."""
        process, give_up = self._process, time.monotonic() + timeout_s
        self.start()
        if not self.commit(timeout_s):
            return False
        with suppress(OutboxError):
            process.adopt()
        process.wake()
        return process.drain(lambda courier: courier.breaker != "stopped", give_up - time.monotonic())

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
        if process.opened is not None:
            process.wake()
            process.drain(
                lambda courier: courier.answers and not courier.channel.local, give_up - time.monotonic() - ABORT_S
            )
        for courier in process.couriers:
            courier.close()
        process.rest(0.1)

    def count(self, vendor: str, what: str, reason: str = "", n: int = 1) -> None:
        """Add to a counter that `status` shows."""
        self._process.tally.count(vendor, what, reason, n)

    def rows(self, vendor: str) -> list[Message]:
        """What waits in the outbox for a vendor, after a commit."""
        self.commit(5.0)
        return [Message(row.kind, row.payload) for _, row in self._process.outbox().scan(vendor)]

    def status(self) -> dict[str, dict[str, Any]]:
        """By vendor: counters of this process, what waits in the outbox (of all processes), breaker and last error."""
        process = self._process
        outbox = process.opened
        depths, dead = [], dict[str, int]()
        with suppress(OutboxError):  # closed, or failed just now: the counters are still true
            if outbox is not None:
                depths, dead = outbox.depths(), outbox.dead_count()
        breakers = {courier.channel.vendor: courier.breaker for courier in process.couriers}
        known = {channel.destination for channel in process.channels.values()}
        stranded: Counter[str] = Counter()
        for stream, depth in depths:
            if stream.destination not in known:
                stranded[stream.vendor] += depth.messages
        status: dict[str, dict[str, Any]] = {}
        for vendor, channel in process.channels.items():
            waiting = [depth for stream, depth in depths if stream.destination == channel.destination]
            status[vendor] = {
                **process.tally.of(vendor),
                "dead": dead.get(vendor, 0),
                "pending": sum(depth.messages for depth in waiting),
                "oldest_s": round(max((depth.oldest_s for depth in waiting), default=0.0), 3),
                "breaker": breakers.get(vendor, "closed"),
            }
        status["outbox"] = {
            "kind": outbox.kind if outbox else "not opened",
            "fallback": process.fallback,
            "stranded": dict(stranded),
            "unacknowledged": process.tally.counters["outbox", "unacknowledged", ""],
        }
        return status

    def _at_exit(self) -> None:
        """Commit, never deliver: 0.5 s when nothing moves, 2 s at most. Answers on their way are waited for briefly."""
        for courier in self._process.couriers:
            courier.close(abort=False)
        self._process.writer.at_exit()
        self._process.rest(0.2)

    def _before_fork(self) -> None:
        self._resting = self._process.opened
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
