"""The courier of one vendor: takes rows from the outbox, posts them, and acts on the answer."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING

from .channel import Channel, Importance, Limits
from .outbox import Outbox, OutboxError, Row
from .spool import Spool
from .tally import Tally, logger
from .threads import LOADING, Isolate, start_thread

if TYPE_CHECKING:
    from .post import Answer, Line

LINGER_S = 0.5
"""A batch waits this long to fill: a post costs the same for one message as for a hundred."""
BACKOFF_S = 0.5
"""The first backoff is at most this; it doubles with each failure."""


class Verdict(Enum):
    """What an answer means for the messages."""

    DELIVERED = auto()
    REFUSED = auto()
    RETRY = auto()
    LIMITED = auto()
    STOPPED = auto()


def verdict(status: int) -> Verdict:
    """What a status means. A redirect is no success and no refusal: the address is wrong, the messages are not."""
    if 200 <= status < 300:
        return Verdict.DELIVERED
    if status in (401, 403):
        return Verdict.STOPPED
    if status == 429:
        return Verdict.LIMITED
    if status in (408, 425) or not 400 <= status < 500:
        return Verdict.RETRY
    return Verdict.REFUSED


class Courier:
    """Posts of one channel, on as many lanes as are needed. A lane is a thread with one connection."""

    def __init__(self, channel: Channel, spool: Spool, tally: Tally, limits: Limits, isolate: Isolate) -> None:
        self.channel, self._spool, self._tally, self._limits, self._isolate = channel, spool, tally, limits, isolate
        self._state = threading.Condition()
        self._taking = threading.Lock()
        self._taken: set[int] = set()
        self._lines: dict[Line, tuple[int, float]] = {}  # busy ones: the epoch in which, and when they started
        self._lanes = self._idle = 0
        self._starting = False  # a lane that starts looks for work by itself
        self._epoch = 0  # grows when the breaker opens or closes: an answer from before says nothing about now
        self._failures = 0
        self._probe_at = 0.0
        self._ready_at: float | None = None
        self._fresh = 0
        self._quiet: dict[str, float] = {}
        self._hurry = self._closing = False
        self.stopped = ""

    # --- what delivery asks

    @property
    def breaker(self) -> str:
        """closed, open (failing; probes go on) or stopped (the credentials are refused)."""
        return "stopped" if self.stopped else "open" if self._failures else "closed"

    @property
    def answers(self) -> bool:
        """Whether waiting for this vendor makes sense."""
        return not self.stopped and not self._failures and not self._quiet

    def wake(self, messages: int = 0) -> None:
        """There may be something to take: `messages` that were just stored, or (0) whatever was found otherwise."""
        with self._state:
            self._fresh += messages
            batched = 0 < self._fresh < self.channel.max_messages and not self._hurry
            at = time.monotonic() + (LINGER_S if batched else 0.0)
            self._ready_at = at if self._ready_at is None else min(at, self._ready_at)
            self._call_lane()

    def hurry(self, on: bool) -> None:
        """Whether batches go without waiting to fill."""
        self._hurry = on
        if on:
            self.wake()

    def check(self, now: float) -> None:
        """Abort posts that are over their deadline, and pass by those that hang."""
        for line in list(self._lines):
            line.check(now)
        with self._state:
            if self._ready_at is not None:
                self._call_lane()

    def close(self, *, abort: bool = True) -> None:
        """Take nothing more, and abort what runs. Rows that were not accepted stay in the outbox."""
        with self._state:
            self._closing = True
            self._state.notify_all()
        for line in list(self._lines) if abort else ():
            line.abort()

    @property
    def busy(self) -> bool:
        """Whether a post is running."""
        return bool(self._lines)

    # --- lanes

    def _call_lane(self) -> None:
        """Wake an idle lane, else start one if another may run."""
        if self._idle:
            self._state.notify()
            return
        full = not self._failures and len(self._running(time.monotonic())) >= self.channel.concurrency
        if self._starting or self._closing or full or self._lanes >= self.channel.concurrency + self._probes:
            return
        self._lanes, self._starting = self._lanes + 1, True
        with suppress(RuntimeError):  # the interpreter is ending
            start_thread(self.channel.vendor, self._lane, self._isolate)

    def _running(self, now: float) -> list[float]:
        """When the posts started that count against the concurrency.

        Not those that hang since before the breaker moved, nor those that take longer than a probe may be away: a
        connection that is stuck must not hold up the rows behind it until its deadline.
        """
        young = now - self._limits.probe_every_s
        return [at for epoch, at in self._lines.values() if epoch == self._epoch and at > young]

    @property
    def _probes(self) -> int:
        """Probes that a hanging vendor may hold at once, one started every `probe_every_s`."""
        return math.ceil(self._limits.post_deadline_s / self._limits.probe_every_s)

    def _lane(self) -> None:
        with LOADING:
            from .post import Line  # httpx is loaded when the first post is due, not with the package

        line = Line()
        while True:
            try:
                if not self._turn(line):
                    break
                with self._spool.use() as outbox:
                    self._carry(line, outbox)
            except OutboxError:
                pass  # busy, or there is another outbox by now
            except Exception as error:  # nothing may end a lane
                self._failed(line, type(error).__name__)
            finally:
                self._release(line)
        line.close()

    def _turn(self, line: Line) -> bool:
        """Wait until this lane may post. False: the courier is closing."""
        with self._state:
            self._starting = False
            while not self._closing:
                now = time.monotonic()
                wait = self._wait_s(now)
                if wait is not None and wait <= 0:
                    self._lines[line] = (self._epoch, now)
                    self._ready_at, self._fresh = None, 0
                    self._probe_at = now + self._limits.probe_every_s  # only counts while the breaker is open
                    return True
                self._idle += 1
                self._state.wait(wait)
                self._idle -= 1
            return False

    def _wait_s(self, now: float) -> float | None:
        """Seconds until something may be posted; None: until somebody calls."""
        for kind in [kind for kind, until in self._quiet.items() if until <= now]:
            del self._quiet[kind]
            self._ready_at = now
        if self.stopped:
            return None
        running = self._running(now)
        if not self._failures and len(running) >= self.channel.concurrency:
            return min(running) + self._limits.probe_every_s - now
        until = [at for kind, at in self._quiet.items() if kind]
        if self._ready_at is not None:
            until.append(max(self._ready_at, self._quiet.get("", 0.0), self._probe_at if self._failures else 0.0))
        return min(until) - now if until else None

    def _release(self, line: Line) -> None:
        with self._state:
            self._lines.pop(line, None)
            if self._ready_at is not None:
                self._call_lane()

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
            self._taken -= ids
            if work:
                self.wake()  # only now: a lane that looked earlier would have found them taken

    def _take(self, outbox: Outbox) -> list[Row]:
        channel, quiet = self.channel, set(self._quiet)
        # By Sentry's protocol a limited category is to be discarded; what matters more waits for the limit to pass.
        unwanted = {kind for kind in quiet if kind and channel.importance(kind) is Importance.TRANSACTION}
        with self._taking:
            rows, more = outbox.take(
                channel.destination,
                max_messages=channel.max_messages,
                max_bytes=channel.max_bytes,
                skip=self._taken,
                without=quiet - unwanted,
            )
            self._taken.update(row.id for row in rows)
        if more:
            self.wake()
        if not unwanted:
            return rows
        discarded = [row for row in rows if row.kind in unwanted]
        self._remove(outbox, discarded)
        self._taken.difference_update(row.id for row in discarded)
        self._count("dropped", discarded, "rate limited")
        return [row for row in rows if row.kind not in unwanted]

    def _post(self, line: Line, rows: Sequence[Row]) -> Answer | None:
        from .post import Answer

        try:
            post = self.channel.post([payload for row in rows for payload in row.payloads])
        except Exception as error:  # a message that cannot be joined is treated as one that is refused
            return Answer(0, {"error": type(error).__name__})
        self._lines[line] = (self._epoch, time.monotonic())
        try:
            return line.post(post, self._limits.post_deadline_s)
        except Exception as error:
            self._count("retried", rows)
            self._failed(line, type(error).__name__)
            return None

    def _settle(self, line: Line, outbox: Outbox, rows: Sequence[Row], answer: Answer) -> Verdict:
        """Act on the answer, before its body is read: a body may never end."""
        from .post import retry_after_s

        said = verdict(answer.status) if answer.status else Verdict.REFUSED
        n = sum(len(row.payloads) for row in rows)
        logger.debug("%s: posted %d messages, HTTP %d", self.channel.vendor, n, answer.status)
        if said is Verdict.DELIVERED:
            self._remove(outbox, rows)
            self._count("delivered", rows)
            self._succeeded(line)
        limits = dict(self.channel.rate_limits(answer.status, answer.headers)) if answer.status else {}
        if not limits and said in (Verdict.LIMITED, Verdict.RETRY):
            seconds = retry_after_s(answer.headers.get("retry-after"))
            limits = {} if seconds is None else {"": seconds}
        self._limit(limits)
        if said is Verdict.STOPPED:
            self._stop(answer.status)
        elif said in (Verdict.LIMITED, Verdict.RETRY):
            self._count("retried", rows)
            if limits:
                self._tally.error(self.channel.vendor, f"HTTP {answer.status}")
            else:
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
            rows = outbox.split(rows[0])
        if len(rows) > 1:
            middle = len(rows) // 2
            return [list(rows[:middle]), list(rows[middle:])]
        for row in rows:
            reason = body[:300].decode("utf-8", "replace") or answer.headers.get("error", "")
            outbox.bury(row, answer.status, reason)
            self._count("died", rows)
            self._tally.error(self.channel.vendor, f"HTTP {answer.status}: refused")
            self._tally.say(
                logging.WARNING,
                ("refused", self.channel.vendor),
                "%s refused a message (%s) with status %d; it is among the dead letters",
                self.channel.vendor,
                row.kind,
                answer.status,
            )
        return []

    # --- the state of the vendor

    def _count(self, what: str, rows: Sequence[Row], reason: str = "") -> None:
        if rows:
            self._tally.count(self.channel.vendor, what, reason, n=sum(len(row.payloads) for row in rows))

    def _limit(self, limits: dict[str, float]) -> None:
        now = time.monotonic()
        with self._state:
            for kind, seconds in limits.items():
                until = now + min(seconds, self._limits.max_retry_after_s)
                self._quiet[kind] = max(until, self._quiet.get(kind, 0.0))

    def _succeeded(self, line: Line) -> None:
        with self._state:
            hung = self._lines[line][1] - self._limits.probe_every_s
            stuck = [other for other, (_, at) in self._lines.items() if at < hung]
            recovered, self._failures = self._failures > 0, 0
            if recovered or stuck:
                self._epoch += 1
        for other in stuck:  # a later post was answered: these never will be, and their rows need not wait for it
            other.abort()
        if recovered:
            logger.info("%s accepts again", self.channel.vendor)
            self.wake()

    def _failed(self, line: Line, text: str) -> None:
        vendor = self.channel.vendor
        self._tally.error(vendor, text)
        with self._state:
            if self._closing or self._lines.get(line, (-1,))[0] != self._epoch:
                return
            self._failures += 1
            if self._failures == 1:
                self._epoch += 1
            most = min(self._limits.backoff_cap_s, BACKOFF_S * 2.0 ** min(self._failures - 1, 16))
            wait = min(random.uniform(0.0, most), self._limits.probe_every_s)
            self._probe_at = time.monotonic() + wait
        self._tally.say(logging.WARNING, ("down", vendor), "%s cannot be reached (%s); its rows wait", vendor, text)

    def _stop(self, status: int) -> None:
        self.stopped = f"HTTP {status}: the credentials are refused"
        self._tally.error(self.channel.vendor, self.stopped)
        self._tally.say(
            logging.ERROR,
            ("stopped", self.channel.vendor),
            "%s refuses the credentials (HTTP %d): its rows are kept and nothing is sent until the next start",
            self.channel.vendor,
            status,
        )
