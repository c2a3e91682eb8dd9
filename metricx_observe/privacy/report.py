"""What the scrubber replaced: counts, never a value."""

from __future__ import annotations

from threading import Lock

_MAX_PLACES = 256


class ScrubReport:
    """Counts by signal, place and rule. Bounded: places beyond the first 256 count as `other`."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: dict[tuple[str, str], dict[str, int]] = {}

    def add(self, signal: str, place: str, rule: str) -> None:
        """Count one replacement."""
        with self._lock:
            at = (signal, place)
            if at not in self._counts and len(self._counts) >= _MAX_PLACES:
                at = ("other", "other")
            rules = self._counts.setdefault(at, {})
            rules[rule] = rules.get(rule, 0) + 1

    def as_dict(self) -> dict[str, dict[str, dict[str, int]]]:
        """The counts as `{"error": {"request.headers": {"name": 3}}}`."""
        result: dict[str, dict[str, dict[str, int]]] = {}
        with self._lock:
            for (signal, place), rules in self._counts.items():
                result.setdefault(signal, {})[place] = dict(rules)
        return result
