"""The one memory of texts: names, versions and lines of source come again and again, and each costs microseconds.

What it is worth stands in docs/explanation/cost.md.
"""

from __future__ import annotations

LONGEST = 300
"""Characters of a text that is remembered."""
_MOST = 20_000


class CleanTexts(set[str]):
    """Short texts in which nothing was found, so never a secret. Bounded, since texts come from outside."""

    def add(self, text: str) -> None:
        """Remember a text that is not longer than `LONGEST`."""
        if len(self) >= _MOST:
            self.clear()
        super().add(text)
