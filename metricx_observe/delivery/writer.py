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

from .channel import Codec, Limits, Message
from .outbox import OutboxError, Store, Stream
from .tally import Tally, logger
from .threads import Isolate, start_thread

GROUP = 500
"""Records in a group commit: large enough that a commit costs little of each, small enough to hold few in two forms."""
TURN_S, PAUSE_S = 0.000_2, 0.000_05
"""The event loop waits 5 ms for an interpreter that another thread does not let go of (`sys.getswitchinterval`), with
each system call that it makes: the writer lets go of it after each fifth of a millisecond of encoding (half of one:
p99 at half load 0.4 ms more, the same CPU)."""
RETRY_S = 0.05
"""Between two tries to store a group."""
TICK_S = 0.5
"""How often deadlines, bounds and dead processes' rows are looked at."""

Record = tuple[str, object, int]
"""A vendor, what to encode for it, and about how many bytes that holds."""


class Writer:
    """One per process. `stored` is called after a commit with the vendors in it, `tick` now and then."""

    def __init__(
        self, channels: Mapping[str, Codec], outbox: Store, tally: Tally, limits: Limits, isolate: Isolate,
        stored: Callable[[Container[str]], None], tick: Callable[[], None],
    ) -> None:  # fmt: skip
        self._channels, self._outbox, self._tally, self._limits = channels, outbox, tally, limits
        self._isolate, self._stored, self._tick = isolate, stored, tick
        # A future among the records is done when all that was put before it is committed.
        self._queue: deque[Record | Future[None]] = deque()
        self._group: list[Record | Future[None]] = []
        self._puts, self._lock, self._most = tally.puts, tally.lock, limits.memory_bytes
        self._streams: dict[tuple[str, str], Stream] = {}
        self._came = self._went = 0  # bytes; only who puts writes the first, only the writer the second
        self._wake = threading.Event()
        self.thread: threading.Thread | None = None
        self._hurry = self._closed = self._ended = False
        self._idle = True  # whether who puts has to wake the thread, or to start it
        self._took_at = self._tick_at = 0.0
        self.ending = self.at_exit
        """What a process of `multiprocessing` calls at its end."""
        self._let_go: Callable[[], None] = lambda: None

    def put(self, vendor: str, record: object, size: int) -> bool:
        """See `Delivery.put`. The lock is only ever held for a few assignments."""
        if vendor not in self._channels or self._closed or self._came - self._went + size > self._most:
            return self._refuse(vendor)
        with self._lock:
            self._queue.append((vendor, record, size))
            self._came += size
            self._puts[vendor] += 1
        if self._idle:
            self._idle = False
            self._wake.set()
            self.start()
        return True

    def _refuse(self, vendor: str) -> bool:
        why = "not configured" if vendor not in self._channels else "closed" if self._closed else "memory"
        self._tally.count(vendor, "dropped", why)
        return False

    def start(self) -> None:
        """Start the thread if it does not run yet."""
        with self._lock:
            if self.thread is None:
                try:
                    self.thread = start_thread("writer", self._run, self._isolate)
                except RuntimeError:  # too many threads; or the interpreter is ending, and `at_exit` does the work
                    self._idle = True  # the next put tries again
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
            self._hurry = True
            self._wake.set()
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
        while before < self._went and not wait([future], stall_s).done and time.monotonic() < give_up:
            before = self._went
        return future.done()

    def close(self, timeout_s: float) -> None:
        """Refuse what is put from now on, commit the rest and end the thread."""
        self._closed = True
        self.commit(timeout_s)
        self._ended = True
        self._wake.set()
        if self.thread is not None:
            self.thread.join(0.2)
        self._let_go()

    def _run(self) -> None:
        while not self._ended:
            try:
                self._tick_if_due()
                self._gather()
                while self._next_group() and self._store() and self._hurry:
                    self._tick_if_due()
            except OutboxError:
                pass  # busy: at the next tick; else there is another outbox by now
            except Exception as error:  # nothing may end this thread; the group stays and is tried again
                self._tally.say(logging.WARNING, ("writer", type(error)), "writer: %s", type(error).__name__)
                time.sleep(0.5)

    def _tick_if_due(self) -> None:
        if time.monotonic() >= self._tick_at:
            self._tick_at = time.monotonic() + TICK_S
            self._tick()

    def _gather(self) -> None:
        """Wait for what makes a group. While each wait brings something, nobody who puts has to wake this thread."""
        self._wait(self._took_at + self._limits.commit_every_s - time.monotonic())
        if not self._queue and not self._group:
            self._idle = True
            if not self._queue:  # asked again: whoever put before did not wake us
                self._wait(TICK_S)
            self._idle = False
            if self._queue:
                self._wait(self._limits.commit_every_s)

    def _wait(self, timeout_s: float) -> None:
        if timeout_s > 0 and not self._hurry and not self._ended:
            self._wake.wait(timeout_s)
            self._wake.clear()

    def _next_group(self) -> bool:
        self._took_at, self._hurry = time.monotonic(), False
        while self._queue and len(self._group) < GROUP:
            self._group.append(self._queue.popleft())
        if len(self._group) == GROUP:
            self._hurry = True  # there is more, or somebody waits for the end of it
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
                # busy too: the wait for the file holds the outbox's lock, and whoever asks for the status needs it
                time.sleep(RETRY_S)
                if error.busy:
                    self._tally.say(logging.WARNING, "busy", "The outbox waits: %s", error)
        stored = Counter(stream.vendor for stream, _ in messages)
        for vendor, n in stored.items():
            self._tally.count(vendor, "committed", n=n)
        for each in self._group:
            if not isinstance(each, Future):
                self._went += each[2]
            elif each.set_running_or_notify_cancel():
                each.set_result(None)
        self._group = []
        logger.debug("stored %s", dict(stored))
        self._stored(stored)
        return True

    def _encoded(self) -> list[tuple[Stream, bytes]]:
        messages: list[tuple[Stream, bytes]] = []
        turn_ends = time.monotonic() + TURN_S
        records = [each for each in self._group if not isinstance(each, Future)]
        # one vendor after the other: its codec stays in the processor's caches, which saves an eighth
        for vendor, record, _ in sorted(records, key=itemgetter(0)):
            if time.monotonic() > turn_ends and not self._hurry:
                time.sleep(PAUSE_S)
                turn_ends = time.monotonic() + TURN_S
            channel = self._channels[vendor]
            for kind, payload in self._encode(channel, record):
                if (vendor, kind) not in self._streams:
                    stream = Stream(vendor, channel.destination, kind, int(channel.importance(kind)))
                    self._streams[vendor, kind] = stream
                # Not the bytes that orjson returns: those keep about 4 KB each (measured).
                messages.append((self._streams[vendor, kind], b"%b" % payload))
        return messages

    def _encode(self, channel: Codec, record: Any) -> list[Message]:
        try:
            return [record] if isinstance(record, Message) else list(channel.encode(record))
        except Exception as error:
            kind, text = type(error).__name__, "%s: a record could not be encoded: %s"
            self._tally.count(channel.vendor, "dropped", "encode")
            self._tally.say(logging.WARNING, ("encode", channel.vendor, kind), text, channel.vendor, kind)
            return []
