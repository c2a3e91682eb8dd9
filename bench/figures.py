"""The arithmetic of the benchmark: medians and the middle half of rounds, ratios of one round, tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Table = tuple[Sequence[str], list[list[str]]]
"""Heads and rows."""


@dataclass(frozen=True, slots=True)
class Middle:
    """The median of a figure over the rounds, and the quartiles between which half of the rounds lie."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Middle:
        """Raises ValueError for no value at all; one value is its own middle half."""
        given = sorted(values)
        if len(given) < 2:
            (only,) = given
            return cls(only, only, only)
        low, median, high = statistics.quantiles(given, n=4, method="inclusive")
        return cls(median, low, high)

    def text(self, digits: int = 1, unit: str = "") -> str:
        """Median and middle half, e.g. `12.3 us (11.9 to 13.0)`."""
        return f"{self.median:,.{digits}f}{unit} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"


def added(values: Sequence[float], bare: Sequence[float]) -> list[float]:
    """What a variant adds to the bare one, round by round."""
    return [value - base for value, base in zip(values, bare, strict=True)]


def ratios(values: Sequence[float], others: Sequence[float]) -> Middle:
    """The middle of the ratios of each round: the two ran within seconds of each other, so the machine cancels out.

    A round in which the divisor is not above zero says nothing, and is left out.
    """
    return Middle.of(value / other for value, other in zip(values, others, strict=True) if other > 0)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure to reach."""

    name: str
    must: str
    limit: float
    measured: Middle
    at_least: bool = False
    note: str = ""

    @property
    def reached(self) -> bool:
        """By the median."""
        return self.measured.median >= self.limit if self.at_least else self.measured.median <= self.limit

    def row(self) -> list[str]:
        """Of the table of figures."""
        digits = 2 if abs(self.measured.median) < 20 else 0
        spread = f"{self.measured.low:.{digits}f} to {self.measured.high:.{digits}f}"
        verdict = "yes" if self.reached else "**no**"
        return [self.name, self.must, f"{self.measured.median:.{digits}f}", spread, verdict, self.note]

    def as_dict(self) -> dict[str, Any]:
        """For the JSON file."""
        return {**asdict(self), "reached": self.reached}


@dataclass(slots=True)
class Part:
    """What one part of the benchmark found."""

    tables: dict[str, Table] = field(default_factory=dict)
    """By title."""
    figures: list[Figure] = field(default_factory=list)
    measures: dict[str, Any] = field(default_factory=dict)
    """Every round's values, for the JSON file."""
    notes: list[str] = field(default_factory=list)
    """What was not measured, and why."""


FIGURE_HEADS = ("what", "must be", "measured", "middle half", "reached", "")


def markdown(table: Table) -> str:
    """A table as markdown."""
    heads, rows = table
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
