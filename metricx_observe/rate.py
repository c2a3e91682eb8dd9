"""A token bucket: at most so many a second, per process."""

from __future__ import annotations

from time import monotonic


class TokenBucket:
    """Lets `per_second` calls through each second, with one second's worth in hand. 0 lets none through.

    Not locked: two threads at the same instant may let one more through, which no limit here minds.
    """

    def __init__(self, per_second: float) -> None:
        self._rate = per_second
        self._tokens = self._most = max(per_second, 1.0) if per_second else 0.0
        self._at = monotonic()

    def take(self) -> bool:
        """Whether one more may go now."""
        now = monotonic()
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
