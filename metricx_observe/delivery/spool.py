"""The outbox of this process, and what happens when it fails: go on in memory and say so once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from metricx_observe.exceptions import ConfigurationError

from .outbox import Outbox, OutboxError
from .tally import Tally
from .threads import LOADING


class Spool:
    """Holds the outbox that `url` names; after its first failure one in memory. Opens nothing until it is asked."""

    def __init__(self, url: str, tally: Tally) -> None:
        scheme, _, path = url.partition("://")
        if scheme not in ("sqlite", "memory") or (scheme == "sqlite" and not path.startswith("/")):
            raise ConfigurationError("METRICX_OUTBOX_URL: expected sqlite:///absolute/path or memory://")
        self._path = path if scheme == "sqlite" else None
        self._tally, self._lock, self._closed = tally, threading.Lock(), False
        self.opened: Outbox | None = None
        """The outbox if it was used in this process."""
        self.fallback = ""
        """Why the outbox is in memory although it was to be a file."""

    @property
    def outbox(self) -> Outbox:
        """The outbox in use."""
        with self._lock:
            if self.opened is None:
                self.opened = _sqlite(self._path)
            return self.opened

    @contextmanager
    def use(self) -> Iterator[Outbox]:
        """The outbox for a block. Its failure ends the block with OutboxError; there is another one from then on."""
        outbox = self.outbox
        try:
            yield outbox
        except OutboxError as error:
            if not error.busy:
                self._fall_back(outbox, str(error))
            raise

    def _fall_back(self, failed: Outbox, why: str) -> None:
        with self._lock:
            if self.opened is not failed or self._closed:
                return
            self.opened, self.fallback = _sqlite(None), why
        failed.close()
        text = "The outbox is in memory from now on, so a crash loses what waits: %s"
        self._tally.say(logging.ERROR, "fallback", text, why)

    def close(self) -> None:
        """Close the outbox; what is left in a file stays there."""
        self._closed = True
        if self.opened is not None:
            self.opened.close()


def _sqlite(path: str | None) -> Outbox:
    with LOADING:
        from .sqlite import SqliteOutbox  # sqlite3 is loaded when the first signal is put, not with the package

    return SqliteOutbox(path)
