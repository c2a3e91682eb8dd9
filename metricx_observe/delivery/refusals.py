"""What becomes of the messages of a post, and what a refusal says: about one message, or about all of them.

A firewall answers 403 to one body, a vendor answers 403 to a key: one refusal does not tell which. So a refused batch
is halved until a message is refused alone, and the answer to another message decides:

    refused alone: a suspect ──▶ another is accepted ──▶ tried once more, and refused again: a dead letter
                             └─▶ another is refused alone as well: the vendor is stopped

Of a batch, the refusal of the whole is the first one. No message becomes a dead letter by wrong credentials: between
its two refusals they were accepted. While a vendor is stopped all rows are kept, and a probe is posted now and then,
each time of a message that was not refused alone before. When one is accepted everything goes on. A wrong address or
proxy stops a vendor with its first answer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from enum import Enum

from .post import Answer, Verdict

MOST_REMEMBERED = 2_000
"""Rows; more are forgotten, the oldest first: a vendor that is stopped for days adds one with each probe."""
MANY = 7
"""So many others must have been refused alone where the credentials were accepted before in this process, unless
nothing else waits: somebody may send bad messages in a row."""
_STOPPED = {
    Verdict.FORBIDDEN: "the credentials are refused",
    Verdict.MISDIRECTED: "the address is wrong",
    407: "the proxy on the way refuses",
}

Outcome = Enum("Outcome", "DELIVERED SPLIT DEAD SUSPECT RETRY STOPPED")
"""SUSPECT: kept until another message's answer decides. RETRY, STOPPED: all rows are kept."""


class Refusals:
    """One per courier, whose lock guards it. Times are monotonic."""

    def __init__(self) -> None:
        self.stopped = ""
        """Why nothing but probes is posted; empty while the vendor is not stopped."""
        self._alone: dict[int, float] = {}  # rows that were refused alone, and when that was so first
        self._together: dict[int, float] = {}  # rows of posts that were refused, and when that was so last
        self._accepted_at = -math.inf  # when the last accepted post began
        self._doubted_at = math.inf  # when what stopped the vendor began
        self._went_on = False

    def __contains__(self, row_id: int) -> bool:
        """Whether a row was refused alone: it is posted alone from then on."""
        return row_id in self._alone

    def __len__(self) -> int:
        """How many rows were refused alone."""
        return len(self._alone)

    @property
    def suspects(self) -> set[int]:
        """Rows that were refused alone, when nothing was accepted since."""
        return {row_id for row_id, at in self._alone.items() if at >= self._accepted_at}

    def outcome(self, answer: Answer, row_ids: Sequence[int], began: float) -> Outcome:
        """What an answer to a post of these rows, which began then, means for them."""
        verdict = answer.verdict
        if verdict is Verdict.DELIVERED:
            self._accepted(row_ids, began)
            return Outcome.DELIVERED
        if verdict is Verdict.RETRY:
            return Outcome.RETRY
        if verdict is Verdict.MISDIRECTED and not self._went_on:
            if len(row_ids) == 1:
                self._remember(self._alone, row_ids)  # the next probe is another message
            return self._stop(answer, time.monotonic())
        if len(row_ids) > 1:
            if verdict is not Verdict.REFUSED:
                self._forget(row_ids)  # they become the youngest
                self._remember(self._together, row_ids)
            return Outcome.SPLIT
        if verdict is Verdict.REFUSED or self._refused_before(row_ids[0]) < self._accepted_at:
            self._forget(row_ids)
            return Outcome.DEAD
        again = row_ids[0] in self._alone
        # A post that was under way when another was refused says nothing new.
        others = [at for row_id, at in self._alone.items() if row_id != row_ids[0] and self._accepted_at <= at < began]
        self._remember(self._alone, row_ids)
        enough = again or len(others) >= (1 if self._accepted_at == -math.inf else MANY)
        if self.stopped or (others and enough):
            return self._stop(answer, min(others, default=began))
        return Outcome.SUSPECT

    def _accepted(self, row_ids: Sequence[int], began: float) -> None:
        self._forget(row_ids)
        self._accepted_at = max(self._accepted_at, began)
        if self.stopped and began > self._doubted_at:
            self.stopped, self._went_on = "", True

    def _refused_before(self, row_id: int) -> float:
        return min(self._alone.get(row_id, math.inf), self._together.get(row_id, math.inf))

    def _forget(self, row_ids: Sequence[int]) -> None:
        for row_id in row_ids:
            self._alone.pop(row_id, None)
            self._together.pop(row_id, None)

    def _remember(self, refused: dict[int, float], row_ids: Sequence[int]) -> None:
        for row_id in row_ids:
            refused.setdefault(row_id, time.monotonic())
        for row_id in [*refused][: max(0, len(refused) - MOST_REMEMBERED)]:
            del refused[row_id]

    def _stop(self, answer: Answer, doubted_at: float) -> Outcome:
        if not self.stopped:
            self._doubted_at = doubted_at
        why = _STOPPED.get(answer.status) or _STOPPED[answer.verdict]
        self.stopped = f"HTTP {answer.status}: {why}"
        return Outcome.STOPPED
