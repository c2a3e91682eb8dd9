"""What delivery counts and says: counters by vendor, and log lines that cannot become a flood."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable

logger = logging.getLogger("metricx_observe.delivery")

QUIET_S = 60.0
"""The same line at most once a minute: a vendor that is down is no news 20 times a second."""


class Tally:
    """Counters of one process. Waiting for one of them to move is waiting on `changed`."""

    def __init__(self) -> None:
        # Reentrant: a finaliser or a signal handler may put a signal while this thread counts one.
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.counters: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._reasons: defaultdict[str, defaultdict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
        self._errors: dict[str, str] = {}
        self._said: dict[object, float] = {}

    def count(self, vendor: str, what: str, reason: str = "", n: int = 1) -> None:
        """Add to a counter, under a reason where one is given, and wake whoever waits for progress."""
        with self.lock:
            if reason:
                reasons = self._reasons[vendor][what]
                reasons[reason] = reasons.get(reason, 0) + n
            else:
                self.counters[vendor][what] += n
            self.changed.notify_all()

    def error(self, vendor: str, text: str) -> None:
        """Remember the vendor's last error. `text` holds no content and no secret."""
        self._errors[vendor] = text

    def of(self, vendor: str) -> dict[str, object]:
        """The counters of a vendor: a number, or numbers by reason."""
        with self.lock:
            counted: dict[str, object] = {"put": 0, "committed": 0, "delivered": 0, "retried": 0, "dropped": {}}
            counted |= self.counters[vendor]
            counted |= {what: dict(reasons) for what, reasons in self._reasons[vendor].items()}
            return {**counted, "last_error": self._errors.get(vendor)}

    def wait_for(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `done()`, which is asked again whenever something was counted."""
        give_up = time.monotonic() + timeout_s
        while not done():
            left = give_up - time.monotonic()
            if left <= 0:
                return False
            with self.lock:
                self.changed.wait(min(left, 0.05))  # not trusted alone: `done` is asked without the lock
        return True

    def say(self, level: int, key: object, text: str, *values: object) -> None:
        """Log a line, unless the same `key` was logged within the last minute."""
        now = time.monotonic()
        with self.lock:
            if now < self._said.get(key, now):
                return
            self._said[key] = now + QUIET_S
        logger.log(level, text, *values)
