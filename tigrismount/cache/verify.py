"""Compare what is in a cache directory with what its index vouches for: every block, read past the page cache.

A version is held open meanwhile, as a reader holds it, so no daemon evicts it under the check. A block that fails and
is still recorded as it was when the check began is a fault, and forgotten; one that is not was only evicted or written
anew at that moment.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.cache.datafile import LockedError
from tigrismount.cache.inspect import ObjectReport, report_of
from tigrismount.cache.reclaim import data_files
from tigrismount.cache.records import digest_of, valid_block_bytes
from tigrismount.cache.storage import FileGoneError, StoredVersion
from tigrismount.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.cache.directory import CacheDirectory
    from tigrismount.cache.index import CacheIndex
    from tigrismount.cache.records import BlockRecord, ObjectRecord
    from tigrismount.cache.storage import Trust


@dataclass(frozen=True, slots=True)
class BlockFault:
    """One block that was not what the index said."""

    index: int
    """The block; -1 for the version as a whole."""
    start: int
    """Its first byte in the object."""
    length_bytes: int
    """Its length, as recorded."""
    reason: str
    """What is wrong, in a few words."""


@dataclass(frozen=True, slots=True)
class ObjectVerified:
    """What the check of one version found."""

    report: ObjectReport
    """The version, as it was before."""
    checked_bytes: int
    """Bytes compared, faults included."""
    faults: tuple[BlockFault, ...]
    """What was wrong and is forgotten now."""


def verify_object(
    directory: CacheDirectory,
    index: CacheIndex,
    digest: bytes,
    record: ObjectRecord,
    trust: Trust,
    on_progress: Callable[[int], None],
) -> ObjectVerified | None:
    """Check every block of a version and forget those that fail; None when it is evicted meanwhile.

    Args:
        directory: The cache directory.
        index: Its index.
        digest: The version's name.
        record: The version, as recorded under that name.
        trust: Whose records need no check.
        on_progress: Called with the number of bytes just checked.

    Raises:
        CacheError: The index failed, or is not the directory's any more.
    """
    report = report_of(record)
    directory.check_same()
    storage = StoredVersion(directory, index, digest, record, trust)
    try:
        reason = _fault_of_whole(storage, digest, record)
        if not reason:
            checked_bytes, faults = _verify_blocks(storage, index, on_progress)
            return ObjectVerified(report, checked_bytes, tuple(faults))
    except (FileGoneError, LockedError):
        return None
    finally:
        storage.file.close()
    if index.object(digest) is None:
        return None
    dropped_bytes = index.drop_object(digest)
    return ObjectVerified(report, 0, (BlockFault(-1, 0, dropped_bytes, reason),))


def _fault_of_whole(storage: StoredVersion, digest: bytes, record: ObjectRecord) -> str:
    """Open the file; return what is wrong with the version as a whole, empty when nothing is.

    Raises:
        LockedError: It is being evicted.
    """
    if digest_of(record) != digest:
        return "its record names another object"
    if not valid_block_bytes(record.block_bytes):
        return f"its blocks have {record.block_bytes} bytes"
    try:
        return "" if storage.file.open_existing() else "its data file is missing"
    except LockedError:
        raise
    except CacheError as error:
        return error.detail
    except OSError as error:
        return f"its data file cannot be opened: {error.strerror}"


def _verify_blocks(
    storage: StoredVersion, index: CacheIndex, on_progress: Callable[[int], None]
) -> tuple[int, list[BlockFault]]:
    recorded = index.blocks(storage.digest)  # before it is looked which of them fit: what comes meanwhile is no fault
    blocks = storage.load()
    block_bytes, checked_bytes, faults = storage.record.block_bytes, 0, []
    buffer = memoryview(mmap.mmap(-1, max(block_bytes, mmap.PAGESIZE)))
    for number, block in sorted(recorded.items()):
        reason = _fault(storage, number, block, buffer) if number in blocks else "its record does not fit the object"
        if reason and index.drop_block(storage.digest, number, block):
            faults.append(BlockFault(number, number * block_bytes, block.length_bytes, reason))
        checked_bytes += block.length_bytes
        on_progress(block.length_bytes)
    return checked_bytes, faults


def _fault(storage: StoredVersion, number: int, block: BlockRecord, buffer: memoryview) -> str:
    try:
        storage.compare(number, block, buffer)
    except CacheError as error:
        return error.detail
    return ""


def find_strays(directory: CacheDirectory, index: CacheIndex) -> list[str]:
    """Return the paths of data files that no record speaks of.

    Raises:
        CacheError: The index failed.
        OSError: The directory cannot be read.
    """
    found = data_files(directory)  # before the records: what is new meanwhile is no stray
    recorded = index.objects()
    return sorted(directory.object_path(digest) for digest in found if digest not in recorded)
