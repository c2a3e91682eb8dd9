"""The writer thread: from a bounded queue, through the vendors' codecs, in group commits to the outbox."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Container, Mapping
from concurrent.futures import Future, wait
from operator import itemgetter
from typing import Any

from .channel import Channel, Limits, Message
from .outbox import OutboxError, Store, Stream
from .stats import Stats, logger
from .threads import Isolate, start_thread

GROUP = 500
"""Records in a group commit: large enough that a commit costs little of each, small enough to hold few in two forms."""
YIELD_EVERY_S, YIELD_S = 0.000_2, 0.000_05
"""While it encodes, the writer lets the event loop have the interpreter so often: Python itself would after 5 ms."""
RETRY_S = 0.05
"""Between two tries to store a group. The outbox's lock is free meanwhile, for a `status`."""
TICK_S = 0.5
"""How often deadlines, bounds and dead processes' rows are looked at."""

Record = tuple[str, object, int]
"""A vendor, what to encode for it, and about how many bytes that holds."""


class Writer:
    """One per process. `stored` is called after a commit with the vendors in it, `tick` now and then."""

    def __init__(
        self, channels: Mapping[str, Channel], outbox: Store, stats: Stats, limits: Limits, isolate: Isolate,
        stored: Callable[[Container[str]], None], tick: Callable[[], None],
    ) -> None:  # fmt: skip
        self._channels, self._outbox, self._stats, self._limits = channels, outbox, stats, limits
        self._isolate, self._stored, self._tick = isolate, stored, tick
        # A future among the records is done when all that was put before it is committed.
        self._queue: deque[Record | Future[None]] = deque()
        self._group: list[Record | Future[None]] = []  # of the queue, until they are committed
        self._bytes = 0  # in both
        self._commits = 0
        self._arrived, self._urgent = threading.Event(), threading.Event()
        # Whether who puts has to set `_arrived`. An event's own flag will not do: a signal handler or a finaliser may
        # put while this thread is inside of `set`, and would wait for its lock.
        self._is_idle = True
        self._closed = self._ended = False
        self._tick_at = 0.0
        self.thread: threading.Thread | None = None
        self.ending = self.at_exit
        """What a process of `multiprocessing` calls at its end."""
        self._let_go: Callable[[], None] = lambda: None

    def put(self, vendor: str, record: object, size: int) -> bool:
        """See `Delivery.put`. The lock is only ever held for a few assignments."""
        if vendor not in self._channels:
            return self._refuse(vendor, "not configured")
        if self._closed:
            return self._refuse(vendor, "closed")
        with self._stats.lock:
            if self._bytes + size > self._limits.memory_bytes:
                return self._refuse(vendor, "memory")
            self._queue.append((vendor, record, size))
            self._bytes += size
            self._stats.puts[vendor] += 1
        if self._is_idle:
            self._is_idle = False
            self._arrived.set()
            self.start()
        return True

    def _refuse(self, vendor: str, why: str) -> bool:
        self._stats.count(vendor, "dropped", why)
        return False

    def start(self) -> None:
        """Start the thread if it does not run yet."""
        with self._stats.lock:
            if self.thread is None:
                try:
                    self.thread = start_thread("writer", self._run, self._isolate)
                except RuntimeError:  # too many threads; or the interpreter is ending, and `at_exit` does the work
                    self._is_idle = True  # the next put tries again
                    return
                pools = sys.modules.get("multiprocessing.process")
                if pools is not None and pools.parent_process():  # its processes end without `atexit`
                    util = sys.modules["multiprocessing.util"]
                    self._let_go = util.Finalize(None, self.ending, exitpriority=0).cancel

    def committed(self) -> Future[None]:
        """Is done when all that was put before is committed; all that wait share one group commit."""
        future: Future[None] = Future()
        if self.thread is None or not self.thread.is_alive():
            future.set_result(None)
        else:
            self._queue.append(future)
            self._urgent.set()
            self._arrived.set()
        return future

    def commit(self, timeout_s: float) -> bool:
        """Wait until everything that was put before this call is committed."""
        return bool(wait([self.committed()], timeout_s).done)

    def at_exit(self) -> None:
        """Commit at the end of the interpreter: 2 s at most, and half a second when nothing moves."""
        while self.thread is None and self._next_group() and self._store():
            pass
        self.settled(stall_s=0.5, most_s=2.0)
        self._ended = True

    def settled(self, *, stall_s: float, most_s: float) -> bool:
        """`commit` that waits `most_s` at most, and `stall_s` when nothing moves."""
        give_up, before, future = time.monotonic() + most_s, -1, self.committed()
        while before < self._commits and not wait([future], stall_s).done and time.monotonic() < give_up:
            before = self._commits
        return future.done()

    def close(self, timeout_s: float) -> None:
        """Refuse what is put from now on, commit the rest and end the thread."""
        self._closed = True
        self.commit(timeout_s)
        self._ended = True
        self._arrived.set()
        if self.thread is not None:
            self.thread.join(0.2)
        self._let_go()

    def _run(self) -> None:
        while not self._ended or self._urgent.is_set():
            try:
                self._tick_if_due()
                if self._arrived.wait(TICK_S):
                    self._urgent.wait(self._limits.commit_every_s)  # so much makes a group
                    self._store_groups()
            except OutboxError:
                pass  # of the tick, and busy: at the next one
            except Exception as error:  # nothing may end this thread; the group stays and is tried again
                self._stats.say(logging.WARNING, ("writer", type(error)), "writer: %s", type(error).__name__)
                time.sleep(TICK_S)

    def _tick_if_due(self) -> None:
        if time.monotonic() >= self._tick_at:
            self._tick_at = time.monotonic() + TICK_S
            self._tick()

    def _store_groups(self) -> None:
        """Commit what has come. Less than a group is left to wait for more, unless somebody waits for its end."""
        self._arrived.clear()
        self._is_idle = more = True
        try:
            while more:
                self._urgent.clear()
                more = self._next_group() and self._store()
                more = more and (self._urgent.is_set() or len(self._queue) >= GROUP)
                self._tick_if_due()
        finally:
            if self._queue or self._group:
                self._arrived.set()

    def _next_group(self) -> bool:
        while self._queue and len(self._group) < GROUP:
            self._group.append(self._queue.popleft())
        if self._queue and isinstance(self._queue[-1], Future):
            self._urgent.set()  # somebody waits for the end of it
        return bool(self._group)

    def _store(self) -> bool:
        """Encode the group and commit it. It leaves `self._group` only then, so that no failure in between loses it."""
        messages = self._encoded()
        while messages:
            try:
                self._outbox.add(messages)
                break
            except OutboxError as error:
                if self._ended:
                    return False
                time.sleep(RETRY_S)
                if error.busy:
                    self._stats.say(logging.WARNING, "busy", "The outbox waits: %s", error)
        stored = Counter(stream.vendor for stream, _ in messages)
        for vendor, n in stored.items():
            self._stats.count(vendor, "committed", n=n)
        with self._stats.lock:
            self._bytes -= sum(each[2] for each in self._group if not isinstance(each, Future))
        for each in self._group:
            if isinstance(each, Future) and each.set_running_or_notify_cancel():
                each.set_result(None)
        self._group = []
        self._commits += 1
        logger.debug("stored %s", dict(stored))
        self._stored(stored)
        return True

    def _encoded(self) -> list[tuple[Stream, bytes]]:
        messages: list[tuple[Stream, bytes]] = []
        yield_at = time.monotonic() + YIELD_EVERY_S
        records = [each for each in self._group if not isinstance(each, Future)]
        for vendor, record, _ in sorted(records, key=itemgetter(0)):  # a codec stays in the processor's caches
            if time.monotonic() > yield_at and not self._urgent.is_set():
                time.sleep(YIELD_S)
                yield_at = time.monotonic() + YIELD_EVERY_S
            channel = self._channels[vendor]
            for kind, payload in self._encode(channel, record):
                stream = Stream(vendor, channel.destination, kind, int(channel.importance(kind)))
                # A copy: the bytes that orjson returns keep about 4 KB each.
                messages.append((stream, b"%b" % payload))
        return messages

    def _encode(self, channel: Channel, record: Any) -> list[Message]:
        try:
            return [record] if isinstance(record, Message) else list(channel.encode(record))
        except Exception as error:
            kind, text = type(error).__name__, "%s: a record could not be encoded: %s"
            self._stats.count(channel.vendor, "dropped", "encode")
            self._stats.say(logging.WARNING, ("encode", channel.vendor, kind), text, channel.vendor, kind)
            return []
