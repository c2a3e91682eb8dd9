"""A token bucket: at most so many a second, per process."""

from __future__ import annotations

from time import monotonic


class TokenBucket:
    """Lets `per_second` calls through each second, with one second's worth in hand. 0 lets none through.

    Not locked: two threads at the same instant may let one more through, which no limit here minds.
    """

    __slots__ = ("_at", "_tokens", "per_second")

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self._tokens = max(per_second, 1.0) if per_second else 0.0
        self._at = monotonic()

    def take(self) -> bool:
        """Whether one more may go now."""
        now = monotonic()
        most = max(self.per_second, 1.0) if self.per_second else 0.0
        self._tokens = min(most, self._tokens + (now - self._at) * self.per_second)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
