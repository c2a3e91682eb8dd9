"""The courier of one vendor: takes rows from the outbox, posts them, and acts on the answer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from .answers import Verdict, retry_after_s, verdict
from .channel import Channel, Limits
from .gate import Gate
from .outbox import Outbox, OutboxError, Row
from .tally import Tally, logger
from .threads import LOADING, Isolate, start_thread

if TYPE_CHECKING:
    from .post import Answer, Line


class Courier:
    """Posts of one channel, on as many lanes as are needed. A lane is a thread with one connection."""

    def __init__(
        self, channel: Channel, outbox: Callable[[], Outbox], tally: Tally, limits: Limits, isolate: Isolate
    ) -> None:
        self.channel, self._outbox, self._tally, self._limits, self._isolate = channel, outbox, tally, limits, isolate
        self._gate = Gate(channel, limits)
        self._changed = threading.Condition()  # guards the gate and the lanes
        self._lanes = self._idle = 0
        self._closing = False
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
            self._gate.ready(linger=linger)
            self._call_lane()

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

    def _call_lane(self) -> None:
        """Wake an idle lane, else start one, if there may be something to post soon."""
        if self._closing or self._gate.due_at() == float("inf"):
            return
        if self._idle:
            self._changed.notify()
        elif self._lanes < self._gate.most:
            self._lanes, self._idle = self._lanes + 1, 1
            with suppress(RuntimeError):  # the interpreter is ending
                start_thread(self.channel.vendor, self._lane, self._isolate)

    def _lane(self) -> None:
        with LOADING:
            from .post import Line  # httpx is loaded when the first post is due, not with the package

        line = Line()
        while self._turn(line):
            try:
                self._carry(line, self._outbox())
            except OutboxError:  # busy, or in memory by now
                self.wake(linger=True)
            except Exception as error:  # nothing may end a lane
                self._failed(line, type(error).__name__)
            finally:
                with self._changed:
                    del self._gate.running[line]
                    self._idle += 1
                    self._call_lane()
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

    def _carry(self, line: Line, outbox: Outbox) -> None:
        """Post one batch, in halves as long as it is refused, until the bad message stands alone."""
        rows = self._take(outbox)
        taken = {row.id for row in rows}
        work = [rows] if rows else []
        try:
            while work and not self._closing:
                rows = work[-1]
                said, status, reason = self._post(line, outbox, rows)
                if said is Verdict.REFUSED and len(rows) > 1:
                    middle = len(rows) // 2
                    work[-1:] = [rows[middle:], rows[:middle]]
                elif said is Verdict.REFUSED:
                    self._bury(outbox, rows[0], status, reason)
                    work.pop()
                elif said is Verdict.DELIVERED:
                    work.pop()
                else:
                    break
        finally:
            self._taken.difference_update(taken)
            if work:
                self.wake()  # only now: a lane that looked earlier would have found them taken

    def _take(self, outbox: Outbox) -> list[Row]:
        with self._taking:
            rows, more = outbox.take(
                self.channel.destination,
                max_messages=self.channel.max_messages,
                max_bytes=self.channel.max_bytes,
                skip=self._taken,
                without=self._gate.quiet(),
            )
            self._taken.update(row.id for row in rows)
        if more:
            self.wake()
        return rows

    def _post(self, line: Line, outbox: Outbox, rows: Sequence[Row]) -> tuple[Verdict, int, str]:
        """Post rows and act on the answer. Returns what it means, its status, and its text."""
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
        try:
            said = self._settle(line, outbox, rows, answer)  # before the body is read, which may never end
        finally:
            body = line.finish()
        return said, answer.status, body[:300].decode("utf-8", "replace")

    def _settle(self, line: Line, outbox: Outbox, rows: Sequence[Row], answer: Answer) -> Verdict:
        said = verdict(answer.status)
        logger.debug("%s: posted %d messages, HTTP %d", self.channel.vendor, len(rows), answer.status)
        if said is Verdict.DELIVERED:
            self._remove(outbox, rows)
            self._count("delivered", rows)
            self._succeeded(line)
        limits = self.channel.rate_limits(answer.status, answer.headers)
        after = retry_after_s(answer.headers.get("retry-after")) if said is Verdict.RETRY else None
        if not limits and after is not None:
            limits = {"": after}
        with self._changed:
            self._gate.limit(limits)
        if said is Verdict.RETRY:
            self._count("retried", rows)
            self._failed(line, f"HTTP {answer.status}", counts=not limits)
        elif said is Verdict.STOPPED:
            self._gate.stopped = True
            text = "%s refuses the credentials (%s): its rows are kept, and nothing is sent until the next start"
            self._say(logging.ERROR, text, f"HTTP {answer.status}")
        return said

    def _remove(self, outbox: Outbox, rows: Sequence[Row]) -> None:
        while True:  # or they are sent again
            try:
                return outbox.remove(rows)
            except OutboxError as error:
                if not error.busy or self._closing:
                    raise

    def _bury(self, outbox: Outbox, row: Row, status: int, reason: str) -> None:
        outbox.bury(row, status, reason)
        self._count("died", [row])
        text = "%s refused a message (%s); it is among the dead letters"
        self._say(logging.WARNING, text, f"{row.kind}, HTTP {status}")

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
