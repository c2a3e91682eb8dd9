"""The scrubber that every signal passes before it is stored: nothing secret leaves, and nothing secret is on disk.

How it decides, of each value from the outermost inwards (`walk`):

1. A name says what its value is (`names`, by the words in `words.tsv`): secret, so all below it is replaced; secret if
   random; personal; source code; or nothing. A name may stand beside its value: `{"name": "password", "value": …}`.
2. A text is first looked at for hints (`hints`); most have none. Where there is one it is read (`read`): for names
   before separators and beside values (`named`), for patterns of looks, markup and tools (`rules`, by
   `rules.tsv` and `issuers.tsv`), for the user's (`patterns`), and for all of this percent-encoded or in base64.
3. What was found is replaced by `[scrubbed <rule> <type> len=<n> #<hash>]`, by which equal values are told to be so.
4. A signal has 100 ms of CPU and so many characters (`budget`), looked at between values and pieces of a
   text; what is left then is replaced by `[cut]`. Each rule's time is linear in the length of the text.
5. What cannot be read is replaced by `[unreadable <type>]`: nothing that was not read goes through.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import Any

from .budget import Budget, current, one_signal
from .names import ID, Names
from .patterns import Pattern
from .read import LONGEST, Reader
from .report import ScrubReport
from .values import MARKER, unquoted
from .walk import Pass, Personal

__all__ = ["MARKER", "Personal", "ScrubReport", "Scrubber", "one_signal"]


class Scrubber:
    """Replaces secrets by markers in anything that is to be sent. Safe to use from several threads."""

    def __init__(
        self,
        *,
        names: Iterable[str] = (),
        patterns: Iterable[str] = (),
        safe_names: Iterable[str] = (),
        key: bytes | None = None,
    ) -> None:
        """Add to the built-in rules. Raises ValueError for a pattern that is wrong or whose time has no bound.

        Args:
            names: Names whose values are secret, in any spelling, also as a part of a longer name.
            patterns: Regular expressions of secret values, without a repeated group that repeats something itself.
            safe_names: Whole names whose values are not judged by their name.
            key: For the hash in markers; random per process when None.
        """
        self.report = ScrubReport()
        self._names = Names(names, safe_names)
        self._reader = Reader(self._names, [Pattern(pattern) for pattern in patterns])
        self._key = (key or os.urandom(16))[:64]

    def scrub(self, value: object, signal: str, place: str, *, personal: Personal = "keep") -> Any:
        """A scrubbed copy of `value` as dict, list, str, int, float, bool and None. Never raises, changes nothing.

        Takes 100 ms of CPU at most: what is left then is replaced by `[cut]` and counted as `cut`. Calls in a block of
        `with one_signal():` are one signal and share that time.

        Args:
            value: Anything; models and other objects are made plain first.
            signal: What it belongs to, for the report: error, transaction, track, generation, …
            place: Where it stands there, for the report: request.headers, properties, input, …
            personal: What becomes of e-mail addresses, phone numbers and IP addresses.
        """
        # a short text alone costs little, and may be a name without which the signal says nothing
        short = type(value) is str and len(value) <= LONGEST
        if short and value in self._reader.clean[personal != "keep", False]:  # as `Pass` would find
            return value
        run = Pass(self._names, self._reader, self._marker, personal, Budget() if short else current())
        scrubbed = run.value(value)
        if run.counts:
            self.report.add(signal, place, run.counts)
        return scrubbed

    def text(self, text: str, signal: str, place: str, *, personal: Personal = "keep") -> str:
        """The same for one text: of another type, which an application may give as well, its text."""
        return str(self.scrub(text, signal, place, personal=personal))

    def is_telling(self, name: str) -> bool:
        """Whether a name says of its value that it is secret, personal, or to be judged by more than its look."""
        return self._names.verdict(name) > ID

    def _marker(self, value: str | float, rule: str) -> str:
        """What stands in a secret's place: `[scrubbed name str len=20 #a1b2]`."""
        text = unquoted(value) if isinstance(value, str) else str(value)
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), key=self._key, digest_size=2).hexdigest()
        return f"[scrubbed {rule} {type(value).__name__} len={len(text)} #{digest}]"
