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
        self._tally = tally
        self._lock = threading.Lock()
        self._outbox: Outbox | None = None
        self.closed = False
        self.fallback = ""
        """Why the outbox is in memory although it was to be a file."""

    @property
    def outbox(self) -> Outbox:
        """The outbox in use."""
        with self._lock:
            if self._outbox is None:
                self._outbox = _sqlite(self._path)
            return self._outbox

    @contextmanager
    def use(self) -> Iterator[Outbox]:
        """The outbox for a block. Its failure ends the block with OutboxError; there is another one from then on."""
        outbox = self.outbox
        try:
            yield outbox
        except OutboxError as error:
            if not error.busy:
                self._fall_back(outbox, error)
            raise

    def _fall_back(self, failed: Outbox, error: OutboxError) -> None:
        with self._lock:
            if self._outbox is not failed or self.closed:
                return
            self._outbox, self.fallback = _sqlite(None), str(error)
        failed.close()
        self._tally.say(
            logging.ERROR, "fallback", "The outbox is in memory from now on, so a crash loses what waits: %s", error
        )

    @property
    def opened(self) -> Outbox | None:
        """The outbox if it was used in this process."""
        return self._outbox

    def close(self) -> None:
        """Close the outbox; what is left in a file stays there."""
        self.closed = True
        if self._outbox is not None:
            self._outbox.close()


def _sqlite(path: str | None) -> Outbox:
    with LOADING:
        from .sqlite import SqliteOutbox  # sqlite3 is loaded when the first signal is put, not with the package

    return SqliteOutbox(path)
