"""What a refusal says: that one message is bad, or that all are refused.

A firewall answers 403 to one body, a vendor answers 403 to a key: one refusal does not tell which. So a refused batch
is halved until a message is refused alone, and the answer to another message decides:

    refused alone: a suspect ──▶ another is accepted ──▶ tried once more, and refused again: a dead letter
                             └─▶ another is refused alone as well: the vendor is stopped

No message becomes a dead letter by wrong credentials: between its two refusals they were accepted. While a vendor is
stopped all rows are kept, and a probe is posted now and then, each time of a message that was not refused alone before.
When one is accepted everything goes on. A wrong address or proxy stops a vendor with its first answer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from enum import Enum

from .answer import Answer, Verdict

MOST_REMEMBERED = 2_000
"""Rows; more are forgotten, the oldest first: a vendor that is stopped for days adds one with each probe."""
MANY = 8
"""So many messages must be refused alone where the credentials were accepted before in this process, unless nothing
else waits: somebody may send bad messages in a row."""
_REASONS = {
    Verdict.FORBIDDEN: "the credentials are refused",
    Verdict.MISDIRECTED: "the address is wrong",
    407: "the proxy on the way refuses",
}

Outcome = Enum("Outcome", "DELIVERED REFUSED SUSPECT RETRY STOPPED")
"""What becomes of a post's messages. REFUSED: at least one is bad. SUSPECT: a single one is kept until another one's
answer decides. RETRY, STOPPED: all are kept."""


def stop_reason(answer: Answer) -> str:
    """Why a vendor is stopped by this answer."""
    return f"HTTP {answer.status}: {_REASONS.get(answer.status) or _REASONS[answer.verdict]}"


class Refusals:
    """One per courier, whose lock guards it. Times are monotonic."""

    def __init__(self) -> None:
        self.refused_at: dict[int, float] = {}
        """Rows that were refused alone, and when that was so first; until they are accepted or dead."""
        self._accepted_at = -math.inf  # when the latest post began of which something was accepted
        self._address_is_right = False  # a probe of a stopped vendor was accepted: MISDIRECTED is as FORBIDDEN then

    @property
    def suspects(self) -> set[int]:
        """Rows that were refused alone, when nothing was accepted since."""
        return {row_id for row_id, at in self.refused_at.items() if at >= self._accepted_at}

    def outcome(self, answer: Answer, row_ids: Sequence[int], began: float, *, stopped: bool) -> Outcome:
        """What an answer means for the rows of a post that began then. `stopped`: the vendor was, until now."""
        verdict, row_id = answer.verdict, row_ids[0]
        if verdict is Verdict.DELIVERED:
            self._accepted_at = max(self._accepted_at, began)
            self._address_is_right |= stopped
            self._forget(row_ids)
            return Outcome.DELIVERED
        if verdict is Verdict.RETRY:
            return Outcome.RETRY
        misdirected = verdict is Verdict.MISDIRECTED and not self._address_is_right
        if len(row_ids) > 1:
            return Outcome.STOPPED if misdirected else Outcome.REFUSED
        accepted_since = self.refused_at.get(row_id, math.inf) < self._accepted_at
        if verdict is Verdict.REFUSED or (accepted_since and not misdirected):
            self._forget(row_ids)
            return Outcome.REFUSED
        again, others = row_id in self.refused_at, len(self.suspects - {row_id})
        self.refused_at.setdefault(row_id, time.monotonic())
        while len(self.refused_at) > MOST_REMEMBERED:
            del self.refused_at[next(iter(self.refused_at))]
        enough = again or self._accepted_at == -math.inf or others >= MANY - 1
        return Outcome.STOPPED if misdirected or stopped or (others and enough) else Outcome.SUSPECT

    def _forget(self, row_ids: Sequence[int]) -> None:
        for row_id in row_ids:
            self.refused_at.pop(row_id, None)
