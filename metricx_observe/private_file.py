"""Files that only their owner may read and write, and that nobody else can have laid out for us.

SQLite's own files are looked at by name and never opened: closing one would drop the locks that SQLite holds on it for
the whole process. That is as good as a descriptor where nobody else may rename in the directory, which is asked first.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from .exceptions import ConfigurationError

Identity = tuple[int, int]
"""Device and inode: another file under the same name has another one."""
_FLAGS = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class UnsafeFileError(ConfigurationError):
    """A file is not used, because somebody else could read or replace it. Says why, never what is in it."""


def identity(path: str, *, empty: bool = False) -> Identity | None:
    """Which file is at `path`; None: there is none, or (without `empty`) it is empty. A link is not followed."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found.st_size or empty else None


def secure_database(path: str) -> None:
    """Make an SQLite file and its side files private; a missing one is created, its directory (0700) too.

    Raises:
        UnsafeFileError: a link, a second name, not a regular file, another user's, or where everybody may rename.
        OSError: it cannot be created.
    """
    directory = os.path.dirname(os.path.abspath(path))
    os.makedirs(directory, mode=0o700, exist_ok=True)
    mode = os.stat(directory).st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise UnsafeFileError("everybody may write in the directory of the file; take that right away (chmod o-w)")
    with suppress(FileExistsError):  # before SQLite does it, for the mode
        os.close(os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600))
    for suffix in ("", "-wal", "-shm", "-journal"):
        with suppress(FileNotFoundError):
            found = os.lstat(path + suffix)
            _check(found, os.path.basename(path) + suffix)
            if found.st_mode & 0o077:
                os.chmod(path + suffix, 0o600)


def open_private(path: str, *, create: bool = False) -> int:
    """A descriptor of a private file that is not SQLite's. Raises UnsafeFileError, OSError."""
    name = os.path.basename(path)
    if create:
        return os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
    _check(os.lstat(path), name)  # what O_NOFOLLOW says of a link differs between systems
    descriptor = os.open(path, _FLAGS)
    try:
        _check(os.fstat(descriptor), name)
        os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check(found: os.stat_result, name: str) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise UnsafeFileError(f"{name} is a symbolic link")
    if not stat.S_ISREG(found.st_mode):
        raise UnsafeFileError(f"{name} is not a regular file")
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        raise UnsafeFileError(f"{name} belongs to another user")
    if found.st_nlink > 1:
        raise UnsafeFileError(f"{name} has a second name (a hard link)")
