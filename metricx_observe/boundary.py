"""The one boundary between telemetry and the application: nothing of ours raises into a request.

It counts what went wrong by call and kind, logs each kind once without any content, and raises instead when
METRICX_STRICT is set.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from .exceptions import InputError

logger = logging.getLogger(__name__)

_MAX_KINDS = 500
"""Kinds of fault hold names that the application chose, which may be without number."""


class Boundary:
    """`with boundary("track"): ...` swallows, counts and logs. `note` does so for faults that were mended."""

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.counts: Counter[str] = Counter()

    @contextmanager
    def __call__(self, call: str) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            self.note(call, [type(error).__name__], error)

    def count(self, call: str, faults: Iterable[str]) -> None:
        """`note` for delivery's threads, where there is nobody to raise to."""
        try:
            self.note(call, faults)
        except InputError:
            logger.warning("%s: %s", call, ", ".join(faults))

    def note(self, call: str, faults: Iterable[str], cause: BaseException | None = None) -> None:
        """Count each fault of a call; log it the first time.

        Raises:
            InputError: With METRICX_STRICT only.
        """
        for fault in faults:
            kind = f"{call}: {fault}"
            if kind not in self.counts and len(self.counts) >= _MAX_KINDS:
                kind = "other"
            self.counts[kind] += 1
            if self.strict:
                raise InputError(kind) from cause
            if self.counts[kind] == 1:
                logger.warning("%s (counted in status() from now on, not logged again)", kind)
