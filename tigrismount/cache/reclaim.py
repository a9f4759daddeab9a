"""Giving disk space back: evicting versions, and sweeping up what a crash left behind. Blocking; for worker threads.

An eviction forgets the records, then removes the file, with the file locked: whoever opens the version meanwhile
waits, sees that the file has lost its name and starts anew. A version that any process has open is passed over. Once a
file is locked it is looked whether the cache is still ours: else it belongs to another one of the same name.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from tigrismount.cache.datafile import punch_holes, remove_file
from tigrismount.cache.records import DIGEST_BYTES, valid_block_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tigrismount.cache.directory import CacheDirectory
    from tigrismount.cache.index import CacheIndex
    from tigrismount.cache.records import ObjectRecord

_UNRECORDED_SLACK_BYTES = 64 << 10
"""What a file may take beyond its blocks: rounding up of the last one, and the filesystem's own."""


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
    held_bytes = 0

    def forget() -> bool:
        nonlocal held_bytes
        directory.check_same()
        held_bytes = index.drop_object(digest, hold=True)
        return True

    try:
        return remove_file(directory.object_path(digest), forget)
    finally:
        index.release(held_bytes)  # only now is there room on the disk


def trim_version(
    directory: CacheDirectory, index: CacheIndex, digest: bytes, need_bytes: int, *, slack_bytes: int = 0
) -> int:
    """Remove the last blocks of a version, as many as hold *need_bytes*, unless some process has it open.

    The head stays, so that the next load begins from the disk while the rest comes from the network.

    Args:
        directory: The cache directory.
        index: Its index.
        digest: The version.
        need_bytes: At least so much goes.
        slack_bytes: At most so much goes on top, where whole blocks fit into it.

    Returns:
        How many bytes went; 0 when the version is open, or the filesystem cannot give back parts of a file.

    Raises:
        CacheError: The index failed.
        OSError: The file cannot be opened.
    """
    freed_bytes = 0

    def choose() -> list[tuple[int, int]]:
        nonlocal freed_bytes
        directory.check_same()
        record, chosen_bytes, chosen = index.object(digest), 0, []
        if record is not None:
            for number, block in sorted(index.blocks(digest).items(), reverse=True):
                if chosen_bytes >= need_bytes and chosen_bytes + block.length_bytes > need_bytes + slack_bytes:
                    break
                chosen.append(number)
                chosen_bytes += block.length_bytes
            freed_bytes = index.drop_blocks(digest, chosen, hold=True)
            return _runs(chosen, record.block_bytes)
        return []

    try:
        punch_holes(directory.object_path(digest), choose)
    except OSError as error:
        # A full disk may have no room for the note of a hole, and gives room for the removal of a file.
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSPC, errno.EDQUOT):
            raise
        return 0  # and what was forgotten goes with the rest of the version
    finally:
        index.release(freed_bytes)
    return freed_bytes


def _runs(numbers: Iterable[int], block_bytes: int) -> list[tuple[int, int]]:
    """Return the byte ranges of blocks, neighbours together."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        start = number * block_bytes
        if runs and runs[-1][1] == start:
            start = runs.pop()[0]
        runs.append((start, (number + 1) * block_bytes))
    return runs


def _gaps(numbers: Iterable[int], record: ObjectRecord) -> list[tuple[int, int]]:
    """Return the byte ranges of a version between blocks; by the few there are, and not by all there could be."""
    gaps: list[tuple[int, int]] = []
    position, count = 0, -(-record.size_bytes // record.block_bytes)
    for number in [*sorted(number for number in numbers if number < count), count]:
        if position < number:
            gaps.append((position * record.block_bytes, number * record.block_bytes))
        position = number + 1
    return gaps


def sweep(directory: CacheDirectory, index: CacheIndex) -> None:
    """Remove files that no record speaks of, and records of files that are gone.

    Args:
        directory: The cache directory.
        index: Its index.

    Raises:
        CacheError: The index failed.
        OSError: The directory cannot be read, or a file not be removed; all others are.
    """
    recorded = set(index.objects())
    found = set(data_files(directory))
    failures = []
    for digest in found - recorded:
        try:
            # Asked again with the file locked: its first block may just have been recorded.
            remove_file(directory.object_path(digest), partial(_is_unknown, directory, index, digest))
        except OSError as error:  # one that cannot be opened does not keep the others
            failures.append(error)
    for digest in found & recorded:
        _punch_unrecorded(directory, index, digest)
    for digest in recorded - found:
        if not os.path.lexists(directory.object_path(digest)):
            index.drop_object(digest)
    if failures:
        raise failures[0]


def _punch_unrecorded(directory: CacheDirectory, index: CacheIndex, digest: bytes) -> None:
    """Give back what a killed process wrote and did not record, or forgot and did not punch; no bound counts it."""
    record, path = index.object(digest), directory.object_path(digest)
    with suppress(OSError):  # a filesystem that cannot punch, or a file that has just gone
        if record is None or os.stat(path).st_blocks * 512 <= record.cached_bytes + _UNRECORDED_SLACK_BYTES:
            return

        def choose() -> list[tuple[int, int]]:
            directory.check_same()
            record = index.object(digest)  # anew: it may have been made again, in blocks of another size
            if record is None or not valid_block_bytes(record.block_bytes):
                return []
            return _gaps(index.blocks(digest), record)

        punch_holes(path, choose)


def _is_unknown(directory: CacheDirectory, index: CacheIndex, digest: bytes) -> bool:
    directory.check_same()
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
