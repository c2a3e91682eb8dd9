"""What delivery counts and says: counters by vendor, and log lines that cannot become a flood."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import Any

logger = logging.getLogger("metricx_observe.delivery")

QUIET_S = 60.0
"""The same line at most once a minute: a vendor that is down is no news 20 times a second."""


class Stats:
    """Counters of one process, by vendor, what happened, and why."""

    def __init__(self) -> None:
        # Reentrant: a finaliser or a signal handler may put a signal while this thread counts one.
        self.lock = threading.RLock()
        self.counters: Counter[tuple[str, str, str]] = Counter()
        self.puts: Counter[str] = Counter()
        """By vendor, apart: the event loop counts these."""
        self.errors: dict[str, str] = {}
        """The last error by vendor, without content and without secrets."""
        self._logged_until: dict[object, float] = {}

    def count(self, vendor: str, what: str, reason: str = "", n: int = 1) -> None:
        """Add to a counter, under a reason where one is given."""
        with self.lock:
            self.counters[vendor, what, reason] += n

    def of(self, vendor: str) -> dict[str, Any]:
        """The counters of a vendor: a number, or numbers by reason."""
        counted: dict[str, Any] = {
            "put": self.puts[vendor], "committed": 0, "delivered": 0, "retried": 0, "dropped": {},
        }  # fmt: skip
        with self.lock:
            for (name, what, reason), n in self.counters.items():
                if name == vendor and reason:
                    counted.setdefault(what, {})[reason] = n
                elif name == vendor:
                    counted[what] = n
        return {**counted, "last_error": self.errors.get(vendor)}

    def say(self, level: int, key: object, text: str, *values: object) -> None:
        """Log a line, unless the same `key` was logged within the last minute."""
        now = time.monotonic()
        with self.lock:
            if now < self._logged_until.get(key, now):
                return
            self._logged_until[key] = now + QUIET_S
        logger.log(level, text, *values)
