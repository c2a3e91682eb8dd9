"""Files that only their owner may read and write, and that nobody else can have laid out for us.

SQLite's own files are looked at by name and never opened: closing one would drop the locks that SQLite holds on it for
the whole process. That is as good as a descriptor where nobody else may rename in the directory, which is asked first.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from .exceptions import ConfigurationError


class UnsafeFileError(ConfigurationError):
    """A file is not used, because somebody else could read or replace it. Says why, never what is in it."""


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
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    for suffix in ("", "-wal", "-shm", "-journal"):
        with suppress(FileNotFoundError):
            found = os.lstat(path + suffix)
            _check(found, os.path.basename(path) + suffix)
            if found.st_mode & 0o077:
                os.chmod(path + suffix, 0o600)


def _check(found: os.stat_result, name: str) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise UnsafeFileError(f"{name} is a symbolic link")
    if not stat.S_ISREG(found.st_mode):
        raise UnsafeFileError(f"{name} is not a regular file")
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        raise UnsafeFileError(f"{name} belongs to another user")
    if found.st_nlink > 1:
        raise UnsafeFileError(f"{name} has a second name (a hard link)")
