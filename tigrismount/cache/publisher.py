"""What the index is told late: that data is synced, when versions were used, which old records were found right.

Blocks are recorded as soon as they are written, so that other processes see them, but with the note that a power cut
may still take their data. ``publish`` puts the data on the disk, then changes the notes, then puts the index on the
disk, in this order: no record ever claims more than the disk holds. Several calls are one after the other; what
comes in while one runs waits for the next.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from tigrismount import threads
from tigrismount.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.cache.directory import CacheDirectory
    from tigrismount.cache.index import CacheIndex
    from tigrismount.cache.records import BlockRecord

Change = tuple[bytes, int, "BlockRecord", "BlockRecord"]
"""Digest, block index, the record as it is, the record to be."""

_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
"""What keeps a file from being opened, and says nothing of it; no sync fails so."""


class Publisher:
    """Notes that wait for the index; filled by the event loop.

    Args:
        directory: The cache directory.
        index: Its index.
        on_lost: Called with each block whose data could not be synced: what is read of it may be anything.
    """

    def __init__(
        self, directory: CacheDirectory, index: CacheIndex, *, on_lost: Callable[[bytes, int, BlockRecord], None]
    ) -> None:
        self._directory = directory
        self._index = index
        self._on_lost = on_lost
        self._written: dict[bytes, dict[int, BlockRecord]] = {}
        self._confirmed: list[Change] = []
        self._used_ms: dict[bytes, int] = {}
        self._under_way: dict[bytes, dict[int, BlockRecord]] = {}
        """What is being synced now."""
        self._publishing = trio.Lock()

    @property
    def used_ms(self) -> dict[bytes, int]:
        """When versions were used that the index does not know of yet."""
        return dict(self._used_ms)

    def used(self, digest: bytes, now_ms: int) -> None:
        """Note that a version was opened or closed."""
        self._used_ms[digest] = now_ms

    def written(self, digest: bytes, index: int, block: BlockRecord) -> None:
        """Note that a block has been written and recorded, and is not synced."""
        self._written.setdefault(digest, {})[index] = block

    def has(self, digest: bytes) -> bool:
        """Tell whether blocks of a version wait to be synced, or are being synced now."""
        return digest in self._written or digest in self._under_way

    def confirmed(self, digest: bytes, index: int, old: BlockRecord, new: BlockRecord) -> None:
        """Note that a block was found right whose record could not be trusted."""
        self._confirmed.append((digest, index, old, new))

    async def publish(self) -> None:
        """Tell the index everything noted so far, and put it on the disk.

        Raises:
            CacheError: The index failed.
            OSError: Data could not be synced; its records are dropped.
        """
        async with self._publishing:
            if not (self._written or self._confirmed or self._used_ms):
                return
            work = self._written, self._confirmed, self._used_ms
            self._written, self._confirmed, self._used_ms = {}, [], {}
            self._under_way = work[0]
            lost: list[tuple[bytes, int, BlockRecord]] = []
            unopened: dict[bytes, dict[int, BlockRecord]] = {}
            try:
                await threads.run_sync(partial(self._publish, *work, lost, unopened))
            except (trio.Cancelled, threads.NoThreadError):  # it did not even begin
                self._put_back(*work)
                raise
            finally:
                self._under_way = {}
                self._put_back(unopened, [], {})
                for digest, index, block in lost:
                    self._on_lost(digest, index, block)

    def _put_back(
        self, written: dict[bytes, dict[int, BlockRecord]], changes: list[Change], used_ms: dict[bytes, int]
    ) -> None:
        """Leave what was taken to the next call; what came in meanwhile is newer."""
        for digest, blocks in written.items():
            self._written[digest] = blocks | self._written.get(digest, {})
        self._confirmed = changes + self._confirmed
        self._used_ms = used_ms | self._used_ms

    def _publish(
        self,
        written: dict[bytes, dict[int, BlockRecord]],
        changes: list[Change],
        used_ms: dict[bytes, int],
        lost: list[tuple[bytes, int, BlockRecord]],
        unopened: dict[bytes, dict[int, BlockRecord]],
    ) -> None:
        failures = []
        for digest, blocks in written.items():
            try:
                if self._sync_data(digest):
                    changes += [(digest, i, block, block._replace(synced=True)) for i, block in blocks.items()]
            except OSError as error:
                failures.append(error)
                if error.errno in _NO_DESCRIPTOR:
                    unopened[digest] = blocks
                    continue
                lost += [(digest, i, block) for i, block in blocks.items()]
                with suppress(CacheError):  # it is on the same disk; who reads them here looks at their bytes
                    for i, block in blocks.items():
                        self._index.drop_block(digest, i, block)
        if changes:
            self._index.replace_blocks(changes)
        if used_ms:
            self._index.touch(used_ms)
        self._index.sync()
        if failures:
            raise failures[0]

    def _sync_data(self, digest: bytes) -> bool:
        """Put a version's data on the disk; return False when it has been evicted meanwhile."""
        try:
            fd = os.open(self._directory.object_path(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)
        return True
