"""Giving disk space back: evicting versions, and sweeping up what a crash left behind. Blocking; for worker threads.

An eviction forgets the records, then removes the file, with the file locked: whoever opens the version meanwhile
waits, sees that the file has lost its name and starts anew. A version that any process has open is passed over.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from tigrismount.cache.datafile import remove_file
from tigrismount.cache.records import DIGEST_BYTES

if TYPE_CHECKING:
    from tigrismount.cache.directory import CacheDirectory
    from tigrismount.cache.index import CacheIndex


def evict_version(directory: CacheDirectory, index: CacheIndex, digest: bytes) -> bool:
    """Remove a version from the cache unless some process has it open; return whether it is gone.

    Args:
        directory: The cache directory.
        index: Its index.
        digest: The version.

    Raises:
        CacheError: The index failed.
        OSError: The file cannot be removed.
    """

    def forget() -> bool:
        index.drop_object(digest)
        return True

    return remove_file(directory.object_path(digest), forget)


def sweep(directory: CacheDirectory, index: CacheIndex) -> None:
    """Remove files that no record speaks of, and records of files that are gone.

    Args:
        directory: The cache directory.
        index: Its index.

    Raises:
        CacheError: The index failed.
        OSError: The directory cannot be read, or a file not be removed.
    """
    recorded = set(index.objects())
    found = set(data_files(directory))
    for digest in found - recorded:
        # Asked again with the file locked: its first block may just have been recorded.
        remove_file(directory.object_path(digest), partial(_is_unknown, index, digest))
    for digest in recorded - found:
        if not os.path.lexists(directory.object_path(digest)):
            index.drop_object(digest)


def _is_unknown(index: CacheIndex, digest: bytes) -> bool:
    return index.object(digest) is None


def data_files(directory: CacheDirectory) -> list[bytes]:
    """Return the digests that there are data files of.

    Args:
        directory: The cache directory.

    Raises:
        OSError: The directory cannot be read.
    """
    digests = []
    for shelf in os.scandir(directory.objects_path):
        if shelf.is_dir(follow_symlinks=False):
            digests += [bytes.fromhex(name) for name in os.listdir(shelf.path) if _is_digest(name, shelf.name)]
    return digests


def _is_digest(name: str, shelf: str) -> bool:
    return len(name) == 2 * DIGEST_BYTES and name.startswith(shelf) and set(name) <= set("0123456789abcdef")


def disk_room_bytes(directory: CacheDirectory, floor_fraction: float) -> int:
    """Return the bytes that may still be written to the filesystem; negative below its floor.

    Args:
        directory: The cache directory.
        floor_fraction: Share of the filesystem to leave free.

    Raises:
        OSError: The filesystem does not answer.
    """
    status = os.statvfs(directory.path)
    floor_bytes = int(status.f_blocks * status.f_frsize * floor_fraction)
    return status.f_bavail * status.f_frsize - floor_bytes
