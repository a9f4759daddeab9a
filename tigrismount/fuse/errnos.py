"""Exception to errno: the one table of what a process sees (docs/reference/errors.md).

The most specific class wins, so that a new subclass inherits a sensible errno until it is given its own.
"""

from __future__ import annotations

import errno

from tigrismount.errors import (
    CacheError,
    ConfigError,
    EntryNotFoundError,
    FormatError,
    InvalidNameError,
    IsDirectoryError,
    MountError,
    NameTooLongError,
    NotDirectoryError,
    ObjectAccessError,
    ObjectArchivedError,
    ObjectError,
    ObjectNotFoundError,
    PathError,
    StaleObjectError,
    TigrisMountError,
    UnknownNodeError,
)

ERRNOS: dict[type[TigrisMountError], int] = {
    ObjectNotFoundError: errno.ENOENT,
    EntryNotFoundError: errno.ENOENT,
    ObjectAccessError: errno.EACCES,
    ObjectArchivedError: errno.EACCES,
    StaleObjectError: errno.ESTALE,
    UnknownNodeError: errno.ESTALE,
    ObjectError: errno.EIO,  # unavailable, or an answer that is not what was asked: retries are spent
    NotDirectoryError: errno.ENOTDIR,
    IsDirectoryError: errno.EISDIR,
    InvalidNameError: errno.EINVAL,
    NameTooLongError: errno.ENAMETOOLONG,
    PathError: errno.EINVAL,
    # Never meant to reach the kernel: the cache and the formats cost speed, configuration is checked before mounting.
    CacheError: errno.EIO,
    FormatError: errno.EIO,
    ConfigError: errno.EIO,
    MountError: errno.EIO,
}


def errno_of(error: TigrisMountError) -> int:
    """Return the errno that *error* means to a process.

    Args:
        error: Any of ours.
    """
    for kind in type(error).__mro__:
        if kind in ERRNOS:
            return ERRNOS[kind]
    raise LookupError(f"{type(error).__name__} has no errno")
