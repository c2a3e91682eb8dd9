"""A lock that lives exactly as long as the process that holds it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

try:
    import fcntl
except ImportError:  # Windows: the outbox runs in memory
    fcntl = None  # type: ignore[assignment]


class LockFile:
    """An exclusive lock on a file. The kernel frees it when the process ends, however it ends."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock if nobody holds it. Raises OSError where there are no locks."""
        if fcntl is None:
            raise OSError(95, "no file locks")
        descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    @contextmanager
    def held(self, timeout_s: float) -> Iterator[None]:
        """Hold the lock for a block. Raises TimeoutError when another process keeps it for `timeout_s`."""
        give_up = time.monotonic() + timeout_s
        while not self.acquire():
            if time.monotonic() > give_up:
                raise TimeoutError(110, "lock held by another process")
            time.sleep(0.01)
        try:
            yield
        finally:
            self.release()

    def unlink(self) -> None:
        """Remove the file, while holding the lock."""
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass

    def release(self) -> None:
        """Let go. In a forked child this closes a copy, which leaves the parent's lock as it is."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
