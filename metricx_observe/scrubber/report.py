"""What was replaced."""

from __future__ import annotations

from collections import Counter, defaultdict
from threading import Lock

_MAX_PLACES = 256


class ScrubReport:
    """Counts by signal, place and rule, never a value. Bounded: further places count as `other`."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)

    def add(self, signal: str, place: str, counts: dict[str, int]) -> None:
        """Count replacements by rule."""
        with self._lock:
            known = (signal, place) in self._counts or len(self._counts) < _MAX_PLACES
            self._counts[(signal, place) if known else ("other", "other")].update(counts)

    def as_dict(self) -> dict[str, dict[str, dict[str, int]]]:
        """The counts as `{"error": {"request.headers": {"name": 3}}}`."""
        result: defaultdict[str, dict[str, dict[str, int]]] = defaultdict(dict)
        with self._lock:
            for (signal, place), rules in self._counts.items():
                result[signal][place] = dict(rules)
        return dict(result)
