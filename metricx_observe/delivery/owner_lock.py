"""Whether a process lives: it holds a lock on a file of its own, which the kernel frees however the process ends."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from metricx_observe.private_file import UnsafeFileError, open_private

try:
    import fcntl
except ImportError:  # Windows: the outbox runs in memory
    fcntl = None  # type: ignore[assignment]

MISSING_S = 5.0
"""A lock file that somebody removed proves nothing: its owner makes another one at its next tick, ten times in this."""


class OwnerLock:
    """This process's own."""

    def __init__(self, path: str) -> None:
        """Raises OSError where there are no locks."""
        self._path = path
        self._descriptor = open_private(path, create=True)
        try:
            _lock(self._descriptor)  # nobody else knows the name
        except BaseException:
            self.close(remove=True)
            raise

    def stands(self) -> bool:
        """Whether others still find the lock: its file is neither removed nor replaced."""
        try:
            return os.path.samestat(os.lstat(self._path), os.fstat(self._descriptor))
        except OSError:
            return False

    def close(self, *, remove: bool = False) -> None:
        """Let go of it. In a forked child this closes a copy, which leaves the parent's lock as it is."""
        if remove and self.stands():
            with suppress(OSError):
                os.unlink(self._path)
        os.close(self._descriptor)


class OtherLocks:
    """Those of other processes."""

    def __init__(self) -> None:
        self._missing: dict[str, float] = {}

    def take(self, path: str) -> int | None:
        """A descriptor that holds a dead process's lock, to be closed; None: it lives, or nobody knows yet.

        Raises OSError where there are no locks.
        """
        try:
            descriptor = open_private(path)
        except FileNotFoundError:
            if time.monotonic() - self._missing.setdefault(path, time.monotonic()) < MISSING_S:
                return None
            return self._take_missing(path)
        except (UnsafeFileError, PermissionError):  # it is not ours to judge
            return None
        self._missing.pop(path, None)
        return _taken(descriptor)

    def _take_missing(self, path: str) -> int | None:
        now = time.monotonic()
        if now - self._missing.setdefault(path, now) < MISSING_S:
            return None
        try:
            return _taken(open_private(path, create=True))
        except FileExistsError:  # another process is just as patient
            return None


def _taken(descriptor: int) -> int | None:
    try:
        if _lock(descriptor):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _lock(descriptor: int) -> bool:
    if fcntl is None:
        raise OSError(95, "no file locks")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
