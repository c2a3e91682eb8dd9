"""The scrubber, under the name by which applications import it."""

from __future__ import annotations

from .scrubber import Personal, Scrubber, ScrubReport, one_signal

__all__ = ["Personal", "ScrubReport", "Scrubber", "one_signal"]
