"""How long a run of the benchmark may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asked for."""

    quick: bool = False
    """Under two minutes in all, with wider middle halves."""
    only: tuple[str, ...] = ()
    """Variants; all of them when empty."""
    rounds: int = 0
    """Instead of each part's own number, where that makes sense."""
    requests: int = 300
    """A round, in process; enough that 10 % of them are some tens."""

    def pick(self, quick: T, full: T) -> T:
        """One of two values."""
        return quick if self.quick else full
