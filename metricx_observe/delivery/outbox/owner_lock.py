"""Whether a process lives: it holds a lock on a file of its own, which the kernel frees however the process ends."""

from __future__ import annotations

import os
import time
from contextlib import suppress

try:
    import fcntl
except ImportError:  # Windows: the outbox runs in memory
    fcntl = None  # type: ignore[assignment]

MISSING_S = 5.0
"""A lock file that somebody removed proves nothing: its owner makes another one at its next tick, ten times in this."""


class OwnerLock:
    """This process's own, or with `stays` the one of a role that one process after the other has."""

    def __init__(self, path: str, *, stays: bool = False) -> None:
        """Raises BlockingIOError: another process has the role; another OSError where there are no locks."""
        self._path, self._stays = path, stays
        new = getattr(os, "O_NOFOLLOW", 0) if stays else os.O_EXCL  # nobody else knows the name of a process's own
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | new, 0o600)
        try:
            if not _lock(self._descriptor):
                raise BlockingIOError
            self.touch()
        except BaseException:
            self.close(remove=not stays)
            raise

    def stands(self) -> bool:
        """Whether others still find the lock: its file is neither removed nor replaced."""
        with suppress(OSError):
            return os.path.samestat(os.lstat(self._path), os.fstat(self._descriptor))
        return False

    def touch(self) -> None:
        """Say in the file when it was last held."""
        os.utime(self._descriptor)

    def close(self, *, remove: bool = False) -> None:
        """Let go of it. In a forked child this closes a copy, which leaves the parent's lock as it is."""
        if remove and not self._stays and self.stands():
            with suppress(OSError):
                os.unlink(self._path)
        os.close(self._descriptor)


def is_free(path: str, missing: dict[str, float]) -> bool:
    """Whether the process that held this lock has ended. False: it lives, or nobody can know yet.

    `missing` remembers since when a lock file has been missing.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        now = time.monotonic()
        return now - missing.setdefault(path, now) >= MISSING_S
    except OSError:  # a link, or another user's: it is not ours to judge
        return False
    missing.pop(path, None)
    try:
        return _lock(descriptor)
    finally:
        os.close(descriptor)


def shared_lock_path(path: str) -> str:
    """The lock of whoever delivers what belongs to the outbox at `path`, and to no process."""
    return f"{path}.shared.lock"


def free_since(path: str) -> float | None:
    """When a lock of a role was last held, in seconds since 1970; 0.0: never. None: it is held now."""
    try:
        held_at = os.lstat(path).st_mtime
        return held_at if is_free(path, {}) else None
    except FileNotFoundError:
        return 0.0


def _lock(descriptor: int) -> bool:
    if fcntl is None:
        raise OSError(95, "no file locks")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
