"""The courier of one vendor: takes rows from the outbox, posts them, and acts on the answer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from .answers import Suspects, Verdict, retry_after_s, verdict
from .channel import Channel, Importance, Limits
from .gate import Gate
from .outbox import Outbox, OutboxError, Row
from .spool import Spool
from .tally import Tally, logger
from .threads import LOADING, Isolate, start_thread

if TYPE_CHECKING:
    from .post import Answer, Line


class Courier:
    """Posts of one channel, on as many lanes as are needed. A lane is a thread with one connection."""

    def __init__(self, channel: Channel, spool: Spool, tally: Tally, limits: Limits, isolate: Isolate) -> None:
        self.channel, self._spool, self._tally, self._limits, self._isolate = channel, spool, tally, limits, isolate
        self._gate = Gate(channel, limits)
        self._taking = threading.Lock()
        self._taken: set[int] = set()
        self._suspects = Suspects()
        self._lines: set[Line] = set()  # those that carry something
        self._lanes = self._idle = 0
        self._starting = False  # a lane that starts looks for work by itself
        self._closing = False

    # --- what delivery asks

    @property
    def breaker(self) -> str:
        """closed, open (failing; probes go on) or stopped (the credentials are refused)."""
        return "stopped" if self._gate.stopped else "open" if self._gate.failures else "closed"

    @property
    def answers(self) -> bool:
        """Whether waiting for this vendor makes sense."""
        return self._gate.answers

    @property
    def busy(self) -> bool:
        """Whether a post is running."""
        return bool(self._lines)

    def wake(self, messages: int = 0) -> None:
        """There may be something to take: `messages` that were just stored, or (0) whatever was found otherwise."""
        with self._gate.state:
            self._gate.stored(messages)
            self._call_lane()

    def hurry(self, on: bool) -> None:
        """Whether batches go without waiting to fill."""
        self._gate.hurry = on
        if on:
            self.wake()

    def check(self, now: float) -> None:
        """Abort posts that are over their deadline, and pass by those that hang."""
        for line in list(self._lines):
            line.check(now)
        with self._gate.state:
            self._call_lane()

    def close(self, *, abort: bool = True) -> None:
        """Take nothing more, and abort what runs. Rows that were not accepted stay in the outbox."""
        with self._gate.state:
            self._closing = True
            self._gate.state.notify_all()
        for line in list(self._lines) if abort else ():
            line.abort()

    # --- lanes

    def _call_lane(self) -> None:
        """Wake an idle lane when there is work, else start one if another may run."""
        if self._closing or not self._gate.has_work:
            return
        if self._idle:
            self._gate.state.notify()
        elif not self._starting and self._lanes < self._gate.most:
            self._lanes, self._starting = self._lanes + 1, True
            with suppress(RuntimeError):  # the interpreter is ending
                start_thread(self.channel.vendor, self._lane, self._isolate)

    def _lane(self) -> None:
        with LOADING:
            from .post import Line  # httpx is loaded when the first post is due, not with the package

        line = Line()
        while self._turn(line):
            try:
                with self._spool.use() as outbox:
                    self._carry(line, outbox)
            except OutboxError:
                pass  # busy, or there is another outbox by now
            except Exception as error:  # nothing may end a lane
                self._failed(line, type(error).__name__)
            finally:
                with self._gate.state:
                    self._lines.discard(line)
                    self._gate.running.pop(line, None)
                    self._call_lane()
        line.close()

    def _turn(self, line: Line) -> bool:
        """Wait until this lane may post. False: the courier is closing."""
        with self._gate.state:
            self._starting = False
            while not self._closing:
                now = time.monotonic()
                wait = self._gate.wait_s(now)
                if wait is not None and wait <= 0:
                    self._lines.add(line)
                    self._gate.taken(line, now)
                    return True
                self._idle += 1
                self._gate.state.wait(wait)
                self._idle -= 1
            return False

    def _carry(self, line: Line, outbox: Outbox) -> None:
        """Post one batch, in halves as long as it is refused."""
        rows = self._take(outbox)
        ids = {row.id for row in rows}
        work = [rows] if rows else []
        try:
            while work and not self._closing:
                answer = self._post(line, work[-1])
                if answer is None:
                    break
                said = self._settle(line, outbox, work[-1], answer)
                body = line.finish()
                if said is Verdict.REFUSED:
                    halves = self._halves(outbox, work[-1], answer, body)
                    ids.update(row.id for half in halves for row in half)
                    self._taken.update(ids)
                    work[-1:] = reversed(halves)
                elif said is Verdict.DELIVERED:
                    work.pop()
                else:
                    break
        finally:
            self._taken.difference_update(ids)
            if work:
                self.wake()  # only now: a lane that looked earlier would have found them taken

    def _take(self, outbox: Outbox) -> list[Row]:
        channel, quiet = self.channel, set(self._gate.quiet)
        # By Sentry's protocol a limited category is to be discarded; what matters more waits for the limit to pass.
        unwanted = {kind for kind in quiet if kind and channel.importance(kind) is Importance.TRANSACTION}
        with self._taking:
            rows, more = outbox.take(
                channel.destination,
                max_messages=channel.max_messages,
                max_bytes=channel.max_bytes,
                skip=self._taken | self._suspects.aside,
                without=quiet - unwanted,
            )
            self._taken.update(row.id for row in rows)
        if more or (not rows and self._suspects.aside):
            self.wake()
        if not rows:
            self._suspects.aside = set()  # there are no others to try
        discarded = [row for row in rows if row.kind in unwanted]
        if discarded:
            self._remove(outbox, discarded)
            self._count("dropped", discarded, "rate limited")
            self._taken.difference_update(row.id for row in discarded)
        return [row for row in rows if row.kind not in unwanted]

    # --- one post

    def _post(self, line: Line, rows: Sequence[Row]) -> Answer | None:
        from .post import Answer

        try:
            post = self.channel.post([payload for row in rows for payload in row.payloads])
        except Exception as error:  # a message that cannot be joined is treated as one that is refused
            return Answer(0, {"error": type(error).__name__})
        self._gate.began(line)
        try:
            return line.post(post, self._limits.post_deadline_s)
        except Exception as error:
            self._count("retried", rows)
            self._failed(line, type(error).__name__)
            return None

    def _settle(self, line: Line, outbox: Outbox, rows: Sequence[Row], answer: Answer) -> Verdict:
        """Act on the answer, before its body is read: a body may never end."""
        if not answer.status:
            return Verdict.REFUSED
        said, vendor = verdict(answer.status), self.channel.vendor
        logger.debug("%s: posted %d messages, HTTP %d", vendor, _messages(rows), answer.status)
        if said is Verdict.DELIVERED:
            self._remove(outbox, rows)
            self._count("delivered", rows)
            self._succeeded(line, rows)
        elif answer.status >= 500:
            said = self._suspects.failed(rows)
        limits = self.channel.rate_limits(answer.status, answer.headers)
        if not limits and said is Verdict.RETRY:
            seconds = retry_after_s(answer.headers.get("retry-after"))
            limits = {} if seconds is None else {"": seconds}
        with self._gate.state:
            self._gate.limit(limits)
        if said is Verdict.STOPPED:
            self._stop(answer.status)
        elif said is Verdict.RETRY:
            self._count("retried", rows)
            self._tally.error(vendor, f"HTTP {answer.status}")
            if not limits:
                self._failed(line, f"HTTP {answer.status}")
        return said

    def _remove(self, outbox: Outbox, rows: Sequence[Row]) -> None:
        while True:
            try:
                return outbox.remove(rows)
            except OutboxError as error:
                if not error.busy or self._closing:
                    raise

    def _halves(self, outbox: Outbox, rows: Sequence[Row], answer: Answer, body: bytes) -> list[list[Row]]:
        """What to post instead of a refused batch: its halves, or nothing when it is one message, which is buried."""
        if len(rows) == 1 and len(rows[0].payloads) > 1:
            guilty = self._suspects.guilty.intersection((rows[0].id,))
            rows = outbox.split(rows[0])
            self._suspects.guilty.update(row.id for row in rows if guilty)
        if len(rows) > 1:
            middle = len(rows) // 2
            return [list(rows[:middle]), list(rows[middle:])]
        for row in rows:
            reason = body[:300].decode("utf-8", "replace") or answer.headers.get("error", "")
            outbox.bury(row, answer.status, reason)
            self._count("died", rows)
            text = "%s refused a message (%s) with status %d; it is among the dead letters"
            self._say(logging.WARNING, "refused", text, row.kind, answer.status)
            self._tally.error(self.channel.vendor, f"HTTP {answer.status}: refused")
        return []

    # --- how the vendor does

    def _count(self, what: str, rows: Sequence[Row], reason: str = "") -> None:
        self._tally.count(self.channel.vendor, what, reason, n=_messages(rows))

    def _say(self, level: int, what: str, text: str, *values: object) -> None:
        self._tally.say(level, (what, self.channel.vendor), text, self.channel.vendor, *values)

    def _succeeded(self, line: Line, rows: Sequence[Row]) -> None:
        with self._gate.state:
            recovered, stuck = self._gate.succeeded(line)
        for other in self._lines.intersection(stuck):
            other.abort()  # its rows need not wait for its deadline
        if recovered:
            logger.info("%s accepts again", self.channel.vendor)
        if self._suspects.delivered(rows) or recovered:
            self.wake()

    def _failed(self, line: Line, text: str) -> None:
        self._tally.error(self.channel.vendor, text)
        with self._gate.state:
            counts = not self._closing and self._gate.failed(line)
        if counts:
            self._say(logging.WARNING, "down", "%s cannot be reached (%s); its rows wait", text)

    def _stop(self, status: int) -> None:
        self._gate.stopped = f"HTTP {status}: the credentials are refused"
        self._tally.error(self.channel.vendor, self._gate.stopped)
        text = "%s refuses the credentials (HTTP %d): its rows are kept, and nothing is sent until the next start"
        self._say(logging.ERROR, "stopped", text, status)


def _messages(rows: Sequence[Row]) -> int:
    return sum(len(row.payloads) for row in rows)
