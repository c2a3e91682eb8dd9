"""The face of delivery: hand over records, ask what became of them, end well."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from anyio import fail_after, sleep

from .channel import Channel, Limits, Message
from .clock import Clock, iso_time
from .courier import Courier
from .outbox import Depth, Outbox, OutboxError, Stream, outbox_path
from .stats import Stats
from .threads import Isolate, alive
from .writer import Writer

ABORT_S = 0.3
"""Posts are aborted this long before the deadline of `close`, so that the last answers are still committed."""
LOCAL_S = 0.5
"""So long `close` waits for a local receiver that answers: whoever runs a script looks at its page next."""
ACKNOWLEDGED_S = 0.25
"""METRICX_DURABILITY=acknowledged lets a response go after this long."""


class Delivery:
    """Durable delivery of records to vendors. Nothing starts before the first `put` or `start` of a process."""

    def __init__(
        self, channels: Sequence[Channel], *, url: str, limits: Limits | None = None, deliver: bool = True,
        shared: bool = False, isolate: Isolate = nullcontext,
    ) -> None:  # fmt: skip
        """`url`: sqlite:///absolute/path or memory://. `deliver=False`: rows stay in the outbox, nothing is sent.

        `shared`: rows belong to the outbox. Without `deliver` others deliver what is put here; with it this process
        delivers what others put, and must be the only one (see `consumer.py`).
        Each thread of delivery runs inside `isolate()`: the place to keep instrumentation away from it.
        """
        self._channels = {channel.vendor: channel for channel in channels}
        self._url, self._limits, self._deliver, self._isolate = url, limits or Limits(), deliver, isolate
        self._shared = shared
        self._closed = False
        self._begin()
        alive[self] = None

    def _begin(self) -> None:
        """Make what belongs to one process; again in a forked child, where the parent's may be half locked."""
        from .outbox.sqlite import SqliteOutbox  # sqlite3 is loaded with the first Delivery, not with the package

        self._stats, self._clock, self._began_at = Stats(), Clock(), time.time()
        self._left: list[tuple[Stream, Depth]] = []
        """What waited when this process let go of the outbox."""
        self._fallback = self._healed = self._idle_since = ""
        self._outbox: Outbox = SqliteOutbox(outbox_path(self._url), self._fell_back, shared=self._shared)
        common = self._outbox, self._stats, self._limits, self._isolate
        posting = self._channels.values() if self._deliver else ()
        self._couriers = [Courier(channel, *common, self._clock) for channel in posting]
        self._writer = Writer(self._channels, *common, self._stored, self._tick)

    def start(self) -> None:
        """Start the threads now, so that rows of an earlier process are delivered although nothing is put."""
        self._writer.start()

    def put(self, vendor: str, record: object, size: int = 0) -> bool:
        """Hand a record over to be encoded, stored and delivered. Never blocks, never raises.

        `size`: about how many bytes it holds in memory. False: refused (memory bound, closed), which is counted.
        """
        return self._writer.put(vendor, record, size)

    def commit(self, timeout_s: float) -> bool:
        """Wait until everything that was put before this call is committed. False: not within the time."""
        return self._writer.commit(timeout_s)

    async def committed(self) -> None:
        """Wait, without blocking the loop, until what was put is committed; at most 250 ms. Never raises."""
        future = self._writer.committed()
        try:
            try:
                asyncio.get_running_loop()
            except RuntimeError:  # trio cannot wait for it, and a thread for each request would be the application's
                with fail_after(ACKNOWLEDGED_S):
                    while not future.done():  # noqa: ASYNC110
                        await sleep(0.002)  # a commit takes about as long
            else:
                await asyncio.wait_for(asyncio.wrap_future(future), ACKNOWLEDGED_S)
        except TimeoutError:
            self.count("outbox", "unacknowledged")

    def flush(self, timeout_s: float, *, patient: bool = True) -> bool:
        """Wait until everything is committed and delivered to every vendor that is not stopped.

        Without `patient` only to those that answer now, as `close` does.
        """
        give_up = time.monotonic() + timeout_s
        self.start()
        if not self.commit(timeout_s):
            return False
        with suppress(OutboxError):
            self.wake(claim=True)
        return _until(partial(self.drained, closing=not patient), give_up)

    def close(self, deadline_s: float) -> None:
        """Commit, deliver until the deadline, leave the rest for the next start. Again: nothing happens.

        Waits only for vendors that answer, for a local receiver half a second at most; where the outbox is ephemeral
        for each that may yet answer.
        """
        if self._closed:
            return
        self._closed = True
        alive.pop(self, None)
        give_up = time.monotonic() + deadline_s
        self._writer.close(deadline_s)
        if self._writer.thread:
            with suppress(OutboxError):
                self.wake(claim=False)
            for courier in self._couriers if self._limits.ephemeral else ():
                courier.probe()
            give_up -= ABORT_S
            if not _until(partial(self.drained, closing=True), min(give_up, time.monotonic() + LOCAL_S)):
                _until(partial(self.drained, closing=True, local=False), give_up)
        self._end(0.1, abort=True)

    def count(self, vendor: str, what: str, reason: str = "", n: int = 1) -> None:
        """Add to a counter that `status` shows."""
        self._stats.count(vendor, what, reason, n)

    def rows(self, vendor: str) -> list[Message]:
        """What waits in the outbox for a vendor, after a commit."""
        self.commit(5.0)
        return [Message(row.kind, row.payload) for _, row in self._outbox.scan(vendor)]

    def status(self) -> dict[str, dict[str, Any]]:
        """By vendor: counters of this process, what waits in the outbox (of all processes), breaker and last error."""
        depths = self._left
        with suppress(OutboxError):  # closed, or failed just now: the counters are still true
            depths = self._outbox.depths() if self._writer.thread else []
        breakers = {courier.channel.vendor: courier.breaker.state for courier in self._couriers}
        known = {channel.destination for channel in self._channels.values()}
        dead, stranded = Counter[str](), Counter[str]()
        for stream, depth in depths:
            dead[stream.vendor] += depth.messages if depth.dead else 0
            if not depth.dead and stream.destination not in known:
                stranded[stream.vendor] += depth.messages
        status: dict[str, dict[str, Any]] = {}
        for vendor, channel in self._channels.items():
            own = [each for stream, each in depths if stream.destination == channel.destination and not each.dead]
            status[vendor] = {
                **self._stats.of(vendor),
                "dead": dead[vendor],
                "pending": sum(depth.messages for depth in own),
                "oldest_s": round(max((depth.oldest_s for depth in own), default=0.0), 3),
                "breaker": breakers.get(vendor, "closed"),
            }
        status["outbox"] = {
            "kind": self._outbox.kind if self._writer.thread else "not opened",
            "fallback": self._fallback,
            "healed": self._healed,
            "would_lose": self._would_lose(status),
            "stranded": dict(stranded),
            "nobody_delivers_since": self._idle_since,
            "unacknowledged": self._stats.counters["outbox", "unacknowledged", ""],
        }
        return status

    def _would_lose(self, status: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
        """Messages by vendor that a restart would lose now: none where the outbox is a file that stays."""
        lasts = self._outbox.kind != "memory" and not self._limits.ephemeral
        return {} if lasts else {vendor: shown["pending"] for vendor, shown in status.items() if shown["pending"]}

    def _fell_back(self, why: str) -> None:
        self._fallback = why
        text = "The outbox is in memory from now on, so a crash loses what waits: %s"
        self._stats.say(logging.ERROR, "fallback", text, why)

    def _stored(self, vendors: Container[str]) -> None:
        for courier in self._couriers:
            if courier.channel.vendor in vendors:
                courier.wake(linger=True)

    def _tick(self) -> None:
        for courier in self._couriers:
            courier.check()
        if healed := self._outbox.check():
            self._fallback, self._healed = "", healed
            self._stats.say(logging.WARNING, ("healed", healed), "The outbox was put right: %s", healed)
        limits = self._limits
        if self._outbox.kind == "memory":
            limits = replace(limits, outbox_bytes=min(limits.outbox_bytes, limits.memory_bytes))
        local = {each.destination for each in self._channels.values() if each.local}
        dropped = self._outbox.trim(self._clock.trusted(limits), local)
        for (stream, reason), n in dropped.items():
            self.count(stream.vendor, "dropped", f"{reason} {stream.kind}", n)
            key = ("dropped", stream.vendor, reason)
            self._stats.say(logging.WARNING, key, "%s: %d messages dropped (%s)", stream.vendor, n, reason)
        if self._shared and not self._deliver:
            self._check_consumer()
        elif self._claim() or self._shared:  # what others have put here
            self.wake(claim=False)

    def _check_consumer(self) -> None:
        since = self._outbox.idle_since()
        self._idle_since = "" if since is None else iso_time(since or self._began_at)
        if self._idle_since:
            text = "Nobody delivers the outbox since %s: run `metricx-observe deliver` where the application runs"
            self._stats.say(logging.WARNING, "idle", text, self._idle_since)

    def _claim(self) -> int:
        """Take over what dead processes left for our vendors. Returns how many messages. Raises OutboxError."""
        return self._outbox.claim([courier.channel.destination for courier in self._couriers])

    def wake(self, *, claim: bool) -> None:
        """Post what waits at once, with `claim` also what dead processes left. Raises OutboxError."""
        try:
            if claim:
                self._claim()
        finally:
            for courier in self._couriers:
                courier.wake()

    def drained(self, *, closing: bool, local: bool = True) -> bool:
        """Whether nothing of this process waits for a vendor that takes it; when closing, only for those that answer.

        `local`: the local receivers count too. Never raises.
        """
        patient = not closing or self._limits.ephemeral
        couriers = [each for each in self._couriers if local or not each.channel.local]
        taking = [each for each in couriers if (each.breaker.state != "stopped" if patient else each.answers)]
        wanted = {courier.channel.destination for courier in taking}
        with suppress(OutboxError):  # asked again soon
            depths = self._outbox.depths()
            return not any(depth.mine and stream.destination in wanted for stream, depth in depths)
        return False

    def _end(self, timeout_s: float, *, abort: bool) -> None:
        """Let the couriers end, wait for answers that are on their way, then let go of the outbox."""
        for courier in self._couriers:
            courier.close(abort=abort)
        _until(lambda: not any(courier.busy for courier in self._couriers), time.monotonic() + timeout_s)
        with suppress(OutboxError):
            self._left = self._outbox.depths() if self._writer.thread else []
        self._outbox.close()

    def before_fork(self) -> None:
        self._outbox.before_fork()

    def after_fork(self, *, child: bool) -> None:
        self._outbox.after_fork(child=child)
        if child:
            self._begin()

    def at_exit(self) -> None:
        """Commit, never deliver: 0.5 s when nothing moves, 2 s at most. Answers on their way are waited for briefly."""
        for courier in self._couriers:
            courier.close(abort=False)
        self._writer.at_exit()
        self._end(0.2, abort=False)


def _until(done: Callable[[], bool], give_up: float) -> bool:
    while not (ended := done()) and time.monotonic() < give_up:
        time.sleep(0.005)
    return ended
