"""The courier of one vendor: takes rows from the outbox, posts them in batches, and acts on the answers."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

from .answer import Answer, Verdict
from .breaker import Breaker, RateLimits
from .channel import Channel, Importance, Limits
from .clock import Clock
from .connection import Connection
from .outbox import Outbox, OutboxError, Row
from .refusals import Outcome, Refusals, stop_reason
from .stats import Stats, logger
from .threads import Isolate, start_thread

PREFETCH = 16
"""Messages that are read and deleted at once, also where a post holds only one: row by row costs as much as posting."""
JOIN_S = 0.005
"""How long batches wait before another worker joins: where one is enough, twenty would take the GIL from a request."""
LINGER_S = 0.3
"""How long new messages wait for more, so that one post, or where each is a post of its own one read, serves them."""


class Courier:
    """Workers that post to one vendor: threads, each with a connection, as many as are needed."""

    def __init__(
        self, channel: Channel, outbox: Outbox, stats: Stats, limits: Limits, isolate: Isolate, clock: Clock
    ) -> None:
        self.channel, self._outbox, self._stats, self._limits = channel, outbox, stats, limits
        self._isolate, self._clock = isolate, clock
        self._most_workers = channel.concurrency + math.ceil(limits.post_deadline_s / limits.probe_every_s)  # may hang
        self._changed = threading.Condition()  # guards all that follows
        self.breaker, self._refusals = Breaker(limits), Refusals()
        self._rate_limits = RateLimits(limits.max_retry_after_s)
        self._workers, self._joined_at, self._closing = 0, 0.0, False  # how many, and when the latest began to post
        self._ready_at = math.inf  # when there may be rows to read
        self._batches = deque[list[Row]]()  # read, and next to be posted
        self._accepted: list[Row] = []  # to be deleted
        self._taken: set[int] = set()  # ids of rows in batches, in posts and accepted ones
        self._posting: dict[Connection, float] = {}  # and since when
        self._failed_alone: dict[int, float] = {}  # ids of rows, and until when they wait

    @property
    def answers(self) -> bool:
        """Whether waiting for this vendor makes sense."""
        return self.breaker.state == "closed" and not self._rate_limits.active()

    @property
    def busy(self) -> bool:
        """Whether a post is running."""
        return bool(self._posting)

    def wake(self, *, linger: bool = False) -> None:
        """There may be something to take; with `linger` more may come that fits into the same post."""
        at = time.monotonic() + (LINGER_S if linger else 0.0)
        with self._changed:
            if at < self._ready_at or not self._workers:  # else a worker waits for an earlier time already
                self._ready_at = min(at, self._ready_at)
                self._call_worker()

    def probe(self) -> None:
        """Try at once, whatever the last failure was: there may be no later."""
        with self._changed:
            self.breaker.probe_at = self._ready_at = time.monotonic()
            self._call_worker()

    def check(self) -> None:
        """Abort posts that are over their deadline."""
        for connection in list(self._posting):
            connection.check()

    def close(self, *, abort: bool = True) -> None:
        """Take nothing more, and abort what runs. Rows that were not accepted stay in the outbox."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for connection in list(self._posting) if abort else ():
            connection.abort()

    def _call_worker(self) -> None:
        """Let a worker look whether something is due; a new one if all are posting."""
        if self._closing or self._due_at() == math.inf:
            return
        if self._workers > len(self._posting):
            self._changed.notify()
        elif self._workers < self._most_workers:
            with suppress(RuntimeError):  # the interpreter is ending
                start_thread(self.channel.vendor, self._work, self._isolate)
                self._workers += 1

    def _due_at(self) -> float:
        """When something may be posted, as things stand; infinity: when something changes."""
        due_at = 0.0 if self._batches else self._ready_at
        if self.breaker.state != "closed":
            due_at = max(due_at, self.breaker.probe_at)
        elif len(self._posting) >= self.channel.concurrency:
            return math.inf
        return max(due_at, self._rate_limits.active().get("", 0.0))

    def _work(self) -> None:
        connection, joins = Connection(), True
        while rows := self._next_batch(connection, joins):
            joins = False  # who has just posted goes on at once
            try:
                self._deliver(connection, rows)
            except Exception as error:  # no connection, mostly; nothing may end a worker
                self._fail(connection, [row for row in rows if row not in self._accepted], type(error).__name__)
            self._delete_accepted()  # before the body is read, which may never end
            connection.finish()
            with self._changed:
                del self._posting[connection]
        connection.close()

    def _next_batch(self, connection: Connection, joins: bool) -> list[Row]:
        """Wait for what may be posted. Empty: the courier is closing. `joins`: it has not just posted."""
        with self._changed:
            while not self._closing:
                due_at = max(self._due_at(), self._joined_at + JOIN_S if joins and self._posting else 0.0)
                wait_s = due_at - time.monotonic()
                if wait_s > 0:
                    joins = True
                    self._changed.wait(min(wait_s, threading.TIMEOUT_MAX))
                elif self._batches or self._read():
                    now = time.monotonic()
                    self._joined_at = now if joins or not self._posting else self._joined_at
                    self._posting[connection] = now
                    self.breaker.begin()
                    rows = self._batches.popleft()
                    self._call_worker()
                    return rows
            return []

    def _read(self) -> bool:
        """Make batches of rows in the outbox, if there are any that may be posted."""
        limited, now, most = self._rate_limits.active(), time.monotonic(), self.channel.max_messages
        try:
            rows, more = self._take(limited)
            if dropped := [row for row in rows if row.kind in limited]:
                self._outbox.remove(dropped)
        except OutboxError:  # busy, or in memory by now
            self._ready_at = now + LINGER_S
            return False
        for row in dropped:
            self._stats.count(self.channel.vendor, "dropped", f"limit {row.kind}")
        self._ready_at = now if more else min([*limited.values(), *self._failed_alone.values()], default=math.inf)
        rows, refused = [row for row in rows if row.kind not in limited], self._refusals.refused_at
        fresh = [row for row in rows if row.id not in refused]
        self._batches.extend(fresh[at : at + most] for at in range(0, len(fresh), most))
        self._batches.extend([row] for row in rows if row.id in refused)  # each would have its batch refused again
        self._taken.update(row.id for row in rows)
        return bool(rows)

    def _take(self, limited: Mapping[str, float]) -> tuple[list[Row], bool]:
        """The next rows, and whether there are more. While the vendor fails, those that may be the reason come last."""
        now, suspects, state = time.monotonic(), self._refusals.suspects, self.breaker.state
        self._failed_alone = {row_id: until for row_id, until in self._failed_alone.items() if until > now}
        delayed = set(self._failed_alone)
        # Of the least important kind also what is limited, to be dropped.
        without = {kind for kind in limited if self.channel.importance(kind) > Importance.TRANSACTION}
        take = partial(self._outbox.take, self.channel.destination, max_bytes=self.channel.max_bytes, without=without)
        most = {"stopped": 1, "open": self.channel.max_messages}.get(state, max(self.channel.max_messages, PREFETCH))
        rows, more = take(max_messages=most, skip=self._taken | delayed | suspects)
        if not rows and (delayed or suspects):  # then one of these, unless a post that is running may decide
            skip = self._taken | (delayed if state == "closed" else set()) | (suspects if self._taken else set())
            rows, more = take(max_messages=1, skip=skip)
        return rows, more

    def _deliver(self, connection: Connection, rows: list[Row]) -> None:
        """Post a batch and act on the answer. Raises what kept it from being posted."""
        try:
            post = self.channel.post([row.payload for row in rows])
        except Exception as error:  # a message that cannot be joined is treated as one that is refused
            self._refuse(rows, 0, type(error).__name__)
            return
        answer = connection.post(post, self._limits.post_deadline_s)
        logger.debug("%s: posted %d messages, HTTP %d", self.channel.vendor, len(rows), answer.status)
        if answer.verdict is Verdict.DELIVERED:
            with self._changed:
                self._accepted += rows
        if not self.channel.local and (date := answer.date) is not None:  # a local receiver's clock is this machine's
            self._clock.compare(date)
        self._settle(connection, rows, answer)

    def _settle(self, connection: Connection, rows: list[Row], answer: Answer) -> None:
        limits = self.channel.rate_limits(answer.status, answer.headers)
        if not limits and answer.verdict is Verdict.RETRY and (after := answer.retry_after_s) is not None:
            limits = {"": after}
        with self._changed:
            limited = self._rate_limits.add(limits)
            if limited:
                self._give_back([], all_read=True)
            ids, began = [row.id for row in rows], self._posting[connection]
            outcome = self._refusals.outcome(answer, ids, began, stopped=self.breaker.state == "stopped")
            waits_alone = outcome is Outcome.SUSPECT and self._suspect(rows, began)
        if outcome is Outcome.DELIVERED:
            self._succeed(connection)
        elif outcome is Outcome.REFUSED:
            self._refuse(rows, answer.status, connection.finish()[:300].decode("utf-8", "replace"))
        elif outcome is Outcome.SUSPECT:
            if waits_alone:
                self._warn("%s refuses a message (%s), which waits for another", f"HTTP {answer.status}")
        elif outcome is Outcome.STOPPED:
            self._stop(rows, stop_reason(answer))
        else:
            waits = "" in limited or limited.issuperset(row.kind for row in rows)
            self._fail(connection, rows, f"HTTP {answer.status}", counts=not waits)

    def _succeed(self, connection: Connection) -> None:
        with self._changed:
            back = self.breaker.succeed(self._posting[connection])
            for other, began in self._posting.items() if back else ():
                if other is not connection:  # it hangs; what runs for less than a probe may be answered yet
                    other.deadline = min(other.deadline, began + self._limits.probe_every_s)
            if back or self._refusals.refused_at:
                self._ready_at = time.monotonic()
                self._call_worker()
        if back:
            logger.info("%s accepts again", self.channel.vendor)
            self.check()

    def _refuse(self, rows: list[Row], status: int, reason: str) -> None:
        """Halve a batch until the bad message stands alone, and make that one a dead letter."""
        with self._changed:
            self.breaker.probe_at = time.monotonic()  # what a message holds says nothing of the next probe
            if len(rows) > 1:
                middle = len(rows) // 2
                self._batches.extendleft([rows[middle:], rows[:middle]])
                return
        self._outbox.reject(rows[0], status, reason)
        with self._changed:
            self._give_back(rows)
        self._stats.count(self.channel.vendor, "died")
        self._warn("%s refused a message (%s); it is among the dead letters", f"{rows[0].kind}, HTTP {status}")

    def _suspect(self, rows: list[Row], began: float) -> bool:
        """Keep a message that was refused alone until another one's answer decides. Returns whether there is none yet.

        Called with the lock that the refusal was noted with: a post that begins in between would decide on the message
        and not close the breaker, which opens here.
        """
        is_last = not self._batches
        self._batches.rotate(-1)  # what decides is best not a neighbour, which may be as bad
        self._give_back(rows)
        return is_last and not self._closing and self.breaker.fail(began)

    def _stop(self, rows: list[Row], why: str) -> None:
        with self._changed:
            self._give_back(rows, all_read=True)
            is_new = self.breaker.stop(why)
        self._stats.errors[self.channel.vendor] = why
        if is_new:
            text = "%s is stopped (%s): its rows are kept, and one is tried every %g s and at each start"
            logger.error(text, self.channel.vendor, why, self._limits.stopped_probe_every_s)

    def _fail(self, connection: Connection, rows: Sequence[Row], what: str, *, counts: bool = True) -> None:
        """Try rows again later, and let the breaker open, unless the vendor only asked to wait."""
        self._stats.count(self.channel.vendor, "retried", n=len(rows))
        hint = self.channel.away_hint
        with self._changed:
            if counts and len(rows) == 1:  # it may be for what it holds: others go first
                self._failed_alone[rows[0].id] = time.monotonic() + self._limits.longest_backoff_s
            counts = counts and not self._closing and self.breaker.fail(self._posting[connection])
            self._give_back(rows, all_read=counts)  # once the breaker is open there are only probes
        if counts:
            self._warn(f"%s cannot be reached (%s): its messages wait{hint and f'; {hint}'}", what)
        elif not self.breaker.stopped:  # else the error goes on saying why
            self._stats.errors[self.channel.vendor] = what

    def _give_back(self, rows: Sequence[Row], *, all_read: bool = False) -> None:
        """Let rows be read again, as far as the outbox still has them; with `all_read` also those of the batches."""
        self._ready_at = time.monotonic()
        self._taken.difference_update(row.id for row in rows)
        while all_read and self._batches:
            self._taken.difference_update(row.id for row in self._batches.popleft())

    def _delete_accepted(self) -> None:
        """Delete what was accepted, together where more is about to be posted."""
        with self._changed:
            if len(self._accepted) < PREFETCH and self._batches and not self._closing:
                return
            rows, self._accepted = self._accepted, []
        while rows:  # also where another process holds the outbox for long: they would else be posted once more
            try:
                self._outbox.remove(rows)
                self._stats.count(self.channel.vendor, "delivered", n=len(rows))
                break
            except OutboxError as error:
                if not error.busy or self._closing:
                    break
        with self._changed:
            self._taken.difference_update(row.id for row in rows)

    def _warn(self, text: str, what: str) -> None:
        """Log a line and keep it as the last error. `what` holds no content and no secret."""
        self._stats.errors[self.channel.vendor] = what
        self._stats.say(logging.WARNING, (text, self.channel.vendor), text, self.channel.vendor, what)
