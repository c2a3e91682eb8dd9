"""The courier of one vendor: takes rows from the outbox, posts them, and acts on the answer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from .channel import Channel, Importance, Limits
from .gate import Gate
from .outbox import Outbox, OutboxError, Row
from .post import Answer, Line, Verdict
from .tally import Tally, logger
from .threads import Isolate, start_thread

TURN = 16
"""Messages that a lane takes at once, also where a post holds only one: reading and deleting rows one by one costs as
much as posting them."""
SLOW_S = 0.05
"""A vendor that takes longer gets its messages one by one on many lanes, where posts hold only one."""


class Courier:
    """Posts of one channel, on as many lanes as are needed. A lane is a thread with one connection."""

    def __init__(self, channel: Channel, outbox: Outbox, tally: Tally, limits: Limits, isolate: Isolate) -> None:
        self.channel, self._outbox, self._tally, self._limits, self._isolate = channel, outbox, tally, limits, isolate
        self._gate = Gate(channel, limits)
        self._changed = threading.Condition()  # guards the gate and the lanes
        self._lanes = self._idle = 0
        self._closing = self._slow = False
        self._taking = threading.Lock()
        self._taken: set[int] = set()

    @property
    def breaker(self) -> str:
        """closed, open (failing; probes go on) or stopped (the credentials are refused)."""
        return "stopped" if self._gate.stopped else "open" if self._gate.failures else "closed"

    @property
    def answers(self) -> bool:
        """Whether waiting for this vendor makes sense."""
        return self.breaker == "closed" and not self._gate.quiet()

    @property
    def busy(self) -> bool:
        """Whether a post is running."""
        return bool(self._gate.running)

    def wake(self, *, linger: bool = False) -> None:
        """There may be something to take; with `linger` more may come that fits into the same post."""
        with self._changed:
            news = self._gate.ready(linger=linger) or not self._lanes  # else a lane waits for that time already:
            if not news or self._closing or self._gate.due_at() == float("inf"):  # waking it costs more than a post
                return
            if self._idle:
                self._changed.notify()
            elif self._lanes < self._gate.most:
                with suppress(RuntimeError):  # the interpreter is ending
                    start_thread(self.channel.vendor, self._lane, self._isolate)
                    self._lanes, self._idle = self._lanes + 1, 1

    def check(self, now: float) -> None:
        """Abort posts that are over their deadline."""
        for line in list(self._gate.running):
            line.check(now)

    def close(self, *, abort: bool = True) -> None:
        """Take nothing more, and abort what runs. Rows that were not accepted stay in the outbox."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for line in list(self._gate.running) if abort else ():
            line.abort()

    def _lane(self) -> None:
        line = Line()
        while self._turn(line):
            try:
                self._carry(line)
            except OutboxError:  # busy, or in memory by now
                self.wake(linger=True)
            except Exception as error:  # nothing may end a lane
                self._failed(line, type(error).__name__)
            finally:
                with self._changed:
                    del self._gate.running[line]
                    self._idle += 1
        line.close()

    def _turn(self, line: Line) -> bool:
        """Wait until this lane may post. False: the courier is closing."""
        with self._changed:
            while not self._closing:
                wait_s = self._gate.due_at() - time.monotonic()
                if wait_s <= 0:
                    self._idle -= 1
                    self._gate.begin(line)
                    return True
                self._changed.wait(min(wait_s, threading.TIMEOUT_MAX))
            return False

    def _carry(self, line: Line) -> None:
        """Post what is taken in one turn, a refused batch in halves until the bad message stands alone."""
        taken, most = self._take(), self.channel.max_messages
        work = [taken[at : at + most] for at in range(0, len(taken), most)][::-1]
        accepted: list[Row] = []
        try:
            while work and not self._closing and self._gate.quiet().isdisjoint(["", *(row.kind for row in work[-1])]):
                began = time.monotonic()
                rows = work.pop()
                said, status, reason = self._post(line, rows, accepted)
                if not work:
                    self._remove(accepted)  # before the body is read, which may never end
                self._slow = time.monotonic() - began > SLOW_S
                reason = reason or line.finish()[:300].decode("utf-8", "replace")
                if said is Verdict.REFUSED and len(rows) > 1:
                    middle = len(rows) // 2
                    work += [rows[middle:], rows[:middle]]
                elif said is Verdict.REFUSED:
                    self._outbox.bury(rows[0], status, reason)
                    self._count("died", rows)
                    text = "%s refused a message (%s); it is among the dead letters"
                    self._say(logging.WARNING, text, f"{rows[0].kind}, HTTP {status}")
                elif said is not Verdict.DELIVERED:
                    work.append(rows)
                    break
                if self._slow and most == 1:
                    break  # other lanes post the rest at the same time
        finally:
            try:
                self._remove(accepted)
            finally:
                self._taken.difference_update(row.id for row in taken)
                if work:
                    self.wake()  # only now: a lane that looked earlier would have found them taken

    def _take(self) -> list[Row]:
        """What to post in one turn. What the vendor forbids now waits; of the least important kind it is dropped."""
        quiet = self._gate.quiet()
        waits = {kind for kind in quiet if self.channel.importance(kind) > Importance.TRANSACTION}
        most = max(self.channel.max_messages, 1 if self._gate.failures or self._slow else TURN)  # a probe is one post
        with self._taking:
            rows, more = self._outbox.take(
                self.channel.destination, max_messages=most, max_bytes=self.channel.max_bytes, skip=self._taken,
                without=waits,
            )  # fmt: skip
            forbidden = [row for row in rows if row.kind in quiet]
            if forbidden:
                self._outbox.remove(forbidden)
            rows = [row for row in rows if row.kind not in quiet]
            self._taken.update(row.id for row in rows)
        for row in forbidden:
            self._tally.count(self.channel.vendor, "dropped", f"limit {row.kind}")
        if more:
            self.wake()
        return rows

    def _post(self, line: Line, rows: list[Row], accepted: list[Row]) -> tuple[Verdict, int, str]:
        """Post rows and act on the status. Returns what it means, the status, and the reason if that is ours."""
        try:
            post = self.channel.post([row.payload for row in rows])
        except Exception as error:  # a message that cannot be joined is treated as one that is refused
            return Verdict.REFUSED, 0, type(error).__name__
        try:
            answer = line.post(post, self._limits.post_deadline_s)
        except Exception as error:
            self._count("retried", rows)
            self._failed(line, type(error).__name__)
            return Verdict.RETRY, 0, ""
        logger.debug("%s: posted %d messages, HTTP %d", self.channel.vendor, len(rows), answer.status)
        accepted += rows if answer.verdict is Verdict.DELIVERED else ()
        return self._settle(line, rows, answer), answer.status, ""

    def _settle(self, line: Line, rows: Sequence[Row], answer: Answer) -> Verdict:
        said, what = answer.verdict, f"HTTP {answer.status}"
        limits = self.channel.rate_limits(answer.status, answer.headers)
        if not limits and said is Verdict.RETRY and (after := answer.retry_after_s) is not None:
            limits = {"": after}
        with self._changed:
            self._gate.limit(limits)
        if said is Verdict.DELIVERED:
            self._succeeded(line)
        elif said is Verdict.RETRY:
            self._count("retried", rows)
            self._failed(line, what, counts=not limits)
        elif said is Verdict.STOPPED:
            self._gate.stopped = True
            text = "%s refuses the credentials (%s): its rows are kept, and nothing is sent until the next start"
            self._say(logging.ERROR, text, what)
        return said

    def _remove(self, rows: list[Row]) -> None:
        while rows:  # or they are sent again
            try:
                self._outbox.remove(rows)
                self._count("delivered", rows)
                rows.clear()
            except OutboxError as error:
                if not error.busy or self._closing:
                    raise

    def _count(self, what: str, rows: Sequence[Row]) -> None:
        self._tally.count(self.channel.vendor, what, n=len(rows))

    def _say(self, level: int, text: str, what: str) -> None:
        """Log a line and keep it as the last error. `what` holds no content and no secret."""
        self._tally.errors[self.channel.vendor] = what
        self._tally.say(level, (text, self.channel.vendor), text, self.channel.vendor, what)

    def _succeeded(self, line: Line) -> None:
        with self._changed:
            hanging = self._gate.succeeded(line)
        if hanging is not None:
            logger.info("%s accepts again", self.channel.vendor)
            for other in hanging:
                other.abort()  # its rows need not wait for its deadline
            self.wake()

    def _failed(self, line: Line, what: str, *, counts: bool = True) -> None:
        with self._changed:
            counts = counts and not self._closing and self._gate.failed(line)
        if counts:
            self._say(logging.WARNING, "%s cannot be reached (%s); its rows wait", what)
        else:
            self._tally.errors[self.channel.vendor] = what
