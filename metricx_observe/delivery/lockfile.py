"""A lock that lives exactly as long as the process that holds it."""

from __future__ import annotations

import os

try:
    import fcntl
except ImportError:  # Windows: the outbox runs in memory
    fcntl = None  # type: ignore[assignment]


class LockFile:
    """An exclusive lock on a file. The kernel frees it when the process ends, however it ends."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock if nobody holds it. Raises OSError where there are no locks."""
        if fcntl is None:
            raise OSError(95, "no file locks")
        if self._descriptor is None:
            descriptor = os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if isinstance(error, BlockingIOError):
                    return False
                raise
            self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Let go. In a forked child this closes a copy, which leaves the parent's lock as it is."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
