"""The courier of one vendor: takes rows from the outbox, posts them, and acts on the answer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from .channel import Channel, Importance, Limits
from .clock import Clock
from .gate import Gate
from .outbox import Outbox, OutboxError, Row
from .post import Answer, Line, Verdict
from .refusals import Outcome
from .tally import Tally, logger
from .threads import Isolate, start_thread

TURN = 16
"""Messages that a lane takes at once, also where a post holds only one: reading and deleting rows one by one costs as
much as posting them."""
SLOW_S = 0.05
"""A vendor that takes longer gets its messages one by one on many lanes, where posts hold only one."""


_AWAY = "%s cannot be reached (%s): its messages wait"
_PAGE_AWAY = "the local page cannot be reached for %s (%s): its messages wait; metricx-observe dev starts it"


class Courier:
    """Posts of one channel, on as many lanes as are needed. A lane is a thread with one connection."""

    def __init__(
        self, channel: Channel, outbox: Outbox, tally: Tally, limits: Limits, isolate: Isolate, clock: Clock
    ) -> None:
        self.channel, self._outbox, self._tally, self._limits, self._isolate = channel, outbox, tally, limits, isolate
        self._gate, self._clock = Gate(channel, limits), clock
        self._changed = threading.Condition()  # guards the gate and the lanes
        self._lanes = self._idle = 0
        self._closing = self._slow = False
        self._taking = threading.Lock()
        self._taken: set[int] = set()

    @property
    def breaker(self) -> str:
        """closed, open (failing; probes go on) or stopped (it refuses everything; probes are far apart)."""
        return "stopped" if self._gate.refusals.stopped else "open" if self._gate.failures else "closed"

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

    def hasten(self) -> None:
        """Try at once, whatever the last failure was: there may be no later."""
        with self._changed:
            self._gate.probe_again()
        self.wake()

    def check(self, now: float) -> None:
        """Abort posts that are over their deadline, and what hangs since the vendor was away."""
        for line in list(self._gate.running):
            line.check(now)
        self._cut()

    def _cut(self) -> None:
        with self._changed:
            hanging = self._gate.hanging()
        for line in hanging:
            line.abort()  # its rows need not wait for its deadline

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
        if not taken:
            with self._changed:
                self._gate.probe_again()
            return
        work, accepted = self._batches(taken), list[Row]()
        refused = 0  # the status with which a message was refused that another one's answer decides on
        try:
            while work and self._may_post(line, work[-1]):
                began = time.monotonic()
                rows = work.pop()
                outcome, status, reason = self._post(line, rows, accepted)
                if not work:
                    self._remove(accepted)  # before the body is read, which may never end
                self._slow = time.monotonic() - began > SLOW_S
                reason = reason or line.finish()[:300].decode("utf-8", "replace")
                if outcome is Outcome.SPLIT:
                    middle = len(rows) // 2
                    work += [rows[middle:], rows[:middle]]
                elif outcome is Outcome.DEAD:
                    self._make_dead_letter(rows[0], status, reason)
                elif outcome is Outcome.SUSPECT:
                    refused = status
                    work += [work.pop(0)] if work else []  # what decides is best not a neighbour, which may be as bad
                elif outcome is not Outcome.DELIVERED:
                    work.append(rows)
                    break
                if self._slow and most == 1 and not refused:
                    break  # other lanes post the rest at the same time
        finally:
            try:
                self._remove(accepted)
            finally:
                self._taken.difference_update(row.id for row in taken)
                if refused and not work and self._gate.refusals.suspects:  # nobody decided
                    self._failed(line, f"HTTP {refused}", text="%s refuses a message (%s), which waits for another")
                if work or self._gate.refusals:
                    self.wake()  # only now: a lane that looked earlier would have found them taken

    def _batches(self, rows: Sequence[Row]) -> list[list[Row]]:
        """What makes a post each, the first one last. What was refused alone before is posted alone, and at the end."""
        refusals, most = self._gate.refusals, self.channel.max_messages
        rest = [row for row in rows if row.id not in refusals]
        alone = [[row] for row in rows if row.id in refusals]
        return [*(rest[at : at + most] for at in range(0, len(rest), most)), *alone][::-1]

    def _may_post(self, line: Line, rows: Sequence[Row]) -> bool:
        with self._changed:
            free = self._gate.quiet().isdisjoint(["", *(row.kind for row in rows)])
            return free and not self._closing and self._gate.posting(line)

    def _make_dead_letter(self, row: Row, status: int, reason: str) -> None:
        with self._changed:
            self._gate.probe_again()
        self._outbox.bury(row, status, reason)
        self._count("died", [row])
        text = "%s refused a message (%s); it is among the dead letters"
        self._say(logging.WARNING, text, f"{row.kind}, HTTP {status}")

    def _take(self) -> list[Row]:
        """What to post in one turn. What the vendor forbids now waits; of the least important kind it is dropped."""
        with self._changed:
            quiet, held = self._gate.quiet(), self._gate.held()
            suspects, stopped = self._gate.refusals.suspects, self._gate.refusals.stopped
            doubtful = self._gate.doubtful()
        waits = {kind for kind in quiet if self.channel.importance(kind) > Importance.TRANSACTION}
        single = not (suspects or stopped) and (self._gate.failures or self._slow)
        most = max(self.channel.max_messages, 1 if single else TURN)  # a probe is one post
        with self._taking:
            aside = held | doubtful
            take = partial(
                self._outbox.take, self.channel.destination, max_bytes=self.channel.max_bytes, without=waits
            )
            rows, more = take(max_messages=most, skip=self._taken | aside if aside else self._taken)
            if suspects or stopped:  # one message decides: the last of them, which is best not a suspect's neighbour
                rows, more = rows[-1:], more or len(rows) > 1
            if doubtful and not rows:  # of suspects what is on its way decides
                rows, more = take(max_messages=1, skip=held | self._taken | (suspects if self._taken else set()))
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

    def _post(self, line: Line, rows: list[Row], accepted: list[Row]) -> tuple[Outcome, int, str]:
        """Post rows and act on the status. Returns what it means, the status, and the reason if that is ours."""
        try:
            post = self.channel.post([row.payload for row in rows])
        except Exception as error:  # a message that cannot be joined is treated as one that is refused
            return Outcome.SPLIT if len(rows) > 1 else Outcome.DEAD, 0, type(error).__name__
        try:
            answer = line.post(post, self._limits.post_deadline_s)
        except Exception as error:
            self._retry(line, rows, type(error).__name__)
            return Outcome.RETRY, 0, ""
        logger.debug("%s: posted %d messages, HTTP %d", self.channel.vendor, len(rows), answer.status)
        if not self.channel.local and (date := answer.date) is not None:  # a local receiver's clock is this machine's
            self._clock.compare(date)
        accepted += rows if answer.verdict is Verdict.DELIVERED else ()
        return self._settle(line, rows, answer), answer.status, ""

    def _settle(self, line: Line, rows: Sequence[Row], answer: Answer) -> Outcome:
        refusals = self._gate.refusals
        limits = self.channel.rate_limits(answer.status, answer.headers)
        if not limits and answer.verdict is Verdict.RETRY and (after := answer.retry_after_s) is not None:
            limits = {"": after}
        with self._changed:
            limited = self._gate.limit(limits)
            before = refusals.stopped
            outcome = refusals.outcome(answer, [row.id for row in rows], self._gate.running[line])
            if refusals.stopped and not before:
                self._gate.stop()
        if outcome is Outcome.DELIVERED:
            self._succeeded(line, goes_on=bool(before and not refusals.stopped))
        elif outcome is Outcome.RETRY:
            wait = "" in limited or limited.issuperset(row.kind for row in rows)
            self._retry(line, rows, f"HTTP {answer.status}", counts=not wait)
        elif outcome is Outcome.STOPPED:
            self._stopped(refusals.stopped, news=not before)
        return outcome

    def _stopped(self, why: str, *, news: bool) -> None:
        self._tally.errors[self.channel.vendor] = why
        if news:
            text = "%s is stopped (%s): its rows are kept, and one is tried every %g s and at each start"
            logger.error(text, self.channel.vendor, why, self._limits.stopped_probe_every_s)

    def _retry(self, line: Line, rows: Sequence[Row], what: str, *, counts: bool = True) -> None:
        self._count("retried", rows)
        if counts and len(rows) == 1:
            with self._changed:
                self._gate.hold(rows[0].id)
        self._failed(line, what, counts=counts)

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

    def _succeeded(self, line: Line, *, goes_on: bool) -> None:
        with self._changed:
            back = self._gate.succeeded(line, goes_on=goes_on)
            again = bool(self._gate.refusals)
        if back:
            logger.info("%s accepts again", self.channel.vendor)
            self._cut()
        if back or again:
            self.wake()

    def _failed(
        self, line: Line, what: str, *, counts: bool = True, text: str = ""
    ) -> None:
        with self._changed:
            counts = counts and not self._closing and self._gate.failed(line)
            stopped = self._gate.refusals.stopped
        if counts:
            self._say(logging.WARNING, text or (_PAGE_AWAY if self.channel.local else _AWAY), what)
        elif not stopped:  # the status goes on saying why
            self._tally.errors[self.channel.vendor] = what
