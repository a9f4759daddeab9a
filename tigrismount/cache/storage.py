"""What one process does on disk for one object version: load, read and verify, write and record.

``StoredVersion`` ties a data file to what the index vouches for in it. Its methods block and run in worker threads;
its ``blocks`` are changed by the event loop alone (``disk``), so that asking what is there needs no lock. Blocks are
only ever known of an open file: the locked descriptor is what keeps them from being evicted.

The order that keeps every promise: data is written before it is recorded, and forgotten before it is removed. So a
record without data can only come from a machine that went down, or from a hand in the directory. Both are met by the
checksum: a block is verified at its first use after a start, whoever wrote it, and one that fails is forgotten.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import xxhash

from tigrismount.cache.base import Claim, block_length_bytes
from tigrismount.cache.datafile import DataFile
from tigrismount.cache.records import BlockRecord, digest_of, valid_block_bytes
from tigrismount.errors import CacheCorruptError, CacheError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import trio

    from tigrismount.cache.directory import CacheDirectory
    from tigrismount.cache.index import CacheIndex
    from tigrismount.cache.records import ObjectRecord

Verify = Literal["always", "once", "off"]

PIECE_BYTES = 1 << 20
"""Bytes copied out of the page cache at once to be hashed: 256 KiB take more calls, a whole block does not stay in the
processor's cache."""


class FileGoneError(Exception):
    """The data file was removed while open: what is written to it now is lost. Never leaves the cache."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose records are believed without a look at the bytes."""

    boot: bytes
    """This boot: what was written in it is in the kernel's hands, synced or not."""
    epoch: int
    """Unclean ends so far: an index that lived through one may tell old tales."""

    def covers(self, block: BlockRecord) -> bool:
        """Tell whether a record is as good as the disk itself."""
        return block.epoch == self.epoch and (block.synced or block.boot == self.boot)

    def confirmed(self, block: BlockRecord) -> BlockRecord:
        """Return the record of a block whose bytes were found right: if it was old, they came from the disk."""
        return block._replace(boot=self.boot, epoch=self.epoch, synced=block.synced or block.boot != self.boot)


class StoredVersion:
    """One object version on disk, as this process knows it.

    Args:
        directory: The cache directory.
        index: Its index.
        digest: The version's name in both.
        record: The version, as recorded when it is new.
        trust: Whose records need no check.
    """

    def __init__(
        self, directory: CacheDirectory, index: CacheIndex, digest: bytes, record: ObjectRecord, trust: Trust
    ) -> None:
        self.digest = digest
        """Name in the index and on disk."""
        self.record = record
        """The version; its ``block_bytes`` is the one in force."""
        self.blocks: dict[int, BlockRecord] = {}
        """Blocks known to be on disk. Changed in the event loop only."""
        self.unsynced: set[int] = set()
        """Blocks whose data may not have been synced, as far as is known here. Changed in the event loop only."""
        self.verified: set[int] = set()
        """Blocks found right since this process started. Changed in the event loop only."""
        self.unverified: set[int] = set()
        """The other blocks; kept, as who opens a file asks for them, and it may have a million. Event loop only."""
        self.doubted: set[int] = set()
        """Blocks whose records are not believed. Changed in the event loop only."""
        self.suspect: set[int] = set()
        """Blocks that could not be synced: no record of them is believed. Changed in the event loop only."""
        self.claimed: set[int] = set()
        """Blocks that this process has claimed. Changed in the event loop only."""
        self.asking: dict[int, trio.Event] = {}
        """Blocks that are being claimed; set once that is answered. Event loop only."""
        self.kept_otherwise = False
        """Whether another process keeps the version in blocks of another size: so it stays while the file is open."""
        self.users = 1
        """Who still needs the file: the version, and every operation in a thread."""
        self.file = DataFile(directory.object_path(digest), record.size_bytes, check=directory.check_same)
        """The data file; open when there are blocks."""
        self._directory = directory
        self._index = index
        self._trust = trust

    def load(self, block_bytes: int | None = None) -> dict[int, BlockRecord]:
        """Open the file and return what the index knows to be in it; for the event loop to keep.

        Args:
            block_bytes: The block size in force while the version is open, None to take the recorded one.

        Raises:
            FileGoneError: The file was removed.
            CacheError: The index or the file cannot be read.
            OSError: The file cannot be opened.
        """
        known = self._index.object(self.digest)
        if known is None:
            return {}
        if digest_of(known) != self.digest:
            self._index.drop_object(self.digest)  # damage that nothing else would notice: it names another object
            return {}
        if not self.file.open_existing():
            # Removed by hand. Or just being made by another process, which will not mind recording once more.
            self._index.drop_object(self.digest)
            return {}
        # Asked again: before the file was open it may have been evicted, and made anew in blocks of another size.
        known, blocks = self._index.version(self.digest)
        if known is None or not valid_block_bytes(known.block_bytes) or block_bytes not in (None, known.block_bytes):
            return {}
        self.record = replace(self.record, block_bytes=known.block_bytes)
        if not self.file.linked():
            raise FileGoneError  # and what was just read may be of the file that took its place
        return {index: block for index, block in blocks.items() if self._plausible(index, block)}

    def _plausible(self, index: int, block: BlockRecord) -> bool:
        try:
            return block.length_bytes == block_length_bytes(self.record.size_bytes, self.record.block_bytes, index)
        except ValueError:
            return False

    def needs_check(self, index: int, block: BlockRecord, verify: Verify) -> bool:
        """Tell whether a block must be compared with its checksum when it is read."""
        if verify == "always":
            return True
        if index in self.verified:
            return False
        return verify == "once" or index in self.suspect or not self._trust.covers(block)

    def unproven(self, verify: Verify) -> list[int]:
        """Return the blocks that ``needs_check`` tells so of, in their order, at no cost where there are none."""
        if verify == "always":
            return sorted(self.blocks)
        if verify == "once":
            return sorted(self.unverified)
        return sorted(index for index in self.doubted | self.suspect if index in self.unverified)

    def begin(self, blocks: dict[int, BlockRecord]) -> None:
        """Know of blocks, and no others; before anybody else knows of this object."""
        self.blocks = blocks
        self.unsynced = {index for index, block in blocks.items() if not block.synced}
        self.unverified = set(blocks)
        self.doubted = {index for index, block in blocks.items() if not self._trust.covers(block)}

    def believe(self, verified: set[int]) -> None:
        """Take over what was found right in these blocks when they were open before. Event loop only."""
        self.verified = verified & self.blocks.keys()
        self.unverified -= self.verified

    def note_verified(self, index: int) -> None:
        """Note that a block was found right. Event loop only."""
        self.verified.add(index)
        self.unverified.discard(index)

    def know(self, index: int, block: BlockRecord) -> None:
        """Know of a block, unless it is known already. Event loop only."""
        if self.blocks.setdefault(index, block) is block:
            self._note(index, block)

    def exchange(self, index: int, old: BlockRecord, new: BlockRecord) -> None:
        """Know more of a block, unless another record of it is known by now. Event loop only."""
        if self.blocks.get(index) is old:
            self.blocks[index] = new
            self._note(index, new)

    def _note(self, index: int, block: BlockRecord) -> None:
        (self.unsynced.discard if block.synced else self.unsynced.add)(index)
        (self.doubted.discard if self._trust.covers(block) else self.doubted.add)(index)
        if index not in self.verified:
            self.unverified.add(index)

    def forget(self, index: int, block: BlockRecord) -> None:
        """Know no more of a block, unless it has been written anew since *block* was looked up. Event loop only."""
        if self.blocks.get(index) is block:
            del self.blocks[index]
            self.verified.discard(index)
            for others in (self.unverified, self.doubted, self.unsynced):
                others.discard(index)

    def read(self, index: int, block: BlockRecord, buffer: memoryview, *, check: bool) -> None:
        """Read a block and compare it with its record; forget it when that fails.

        Raises:
            CacheCorruptError: Its bytes are not those that were written.
            CacheError: It cannot be read.
        """
        with self._dropping(index, block):
            self._read(index, block, buffer)
            if check:
                self._check(index, block, xxhash.xxh3_64_intdigest(buffer[: block.length_bytes]))

    def prove(self, index: int, block: BlockRecord, fd: int) -> None:
        """Compare a block with its record as the page cache has it; forget it when that fails.

        Args:
            index: The block.
            block: Its record.
            fd: The data file, opened for reading through the page cache.

        Raises:
            FileGoneError: *fd* is of a file that another has replaced; the index is left as it is.
            CacheCorruptError: Its bytes are not those that were written.
            CacheError: It cannot be read.
        """
        with self._dropping(index, block):
            try:
                if not self.file.is_same(fd):
                    raise FileGoneError
                found = self._digest(fd, index * self.record.block_bytes, block.length_bytes)
            except OSError as error:
                raise CacheError(f"block {index} cannot be read back: {error.strerror}", **self._where) from error
            self._check(index, block, found)

    @contextmanager
    def _dropping(self, index: int, block: BlockRecord) -> Iterator[None]:
        try:
            if index in self.suspect:  # found right in memory, it would be believed to be so on the disk
                self.file.drop_pages(index * self.record.block_bytes, block.length_bytes)
            yield
        except CacheError:
            with suppress(CacheError):  # an index that fails as well will be told by the next one who reads
                self._index.drop_block(self.digest, index, block)
            raise

    def _digest(self, fd: int, offset: int, length_bytes: int) -> int:
        """Return the checksum of a range, read in pieces that stay in the processor's cache."""
        digest = xxhash.xxh3_64()
        piece = memoryview(bytearray(min(PIECE_BYTES, length_bytes)))
        done = 0
        while done < length_bytes:
            count = os.preadv(fd, [piece[: length_bytes - done]], offset + done)
            if not count:
                break
            digest.update(piece[:count])
            done += count
        return digest.intdigest()

    def read_piece(self, index: int, start: int, stop: int) -> bytes:
        """Return bytes ``[start, stop)`` of a block, unverified; the index is left as it is.

        Raises:
            CacheError: They cannot be read.
        """
        try:
            return self.file.read_bytes(index * self.record.block_bytes + start, stop - start)
        except OSError as error:
            raise CacheError(f"block {index} cannot be read back: {error.strerror}", **self._where) from error

    def compare(self, index: int, block: BlockRecord, buffer: memoryview) -> None:
        """Read a block and compare it with its record; the index is left as it is.

        Raises:
            CacheCorruptError: Its bytes are not those that were written.
            CacheError: It cannot be read.
        """
        self._read(index, block, buffer)
        self._check(index, block, xxhash.xxh3_64_intdigest(buffer[: block.length_bytes]))

    def _read(self, index: int, block: BlockRecord, buffer: memoryview) -> None:
        try:
            self.file.read(index * self.record.block_bytes, buffer, block.length_bytes)
        except OSError as error:
            raise CacheError(f"block {index} cannot be read back: {error.strerror}", **self._where) from error

    def _check(self, index: int, block: BlockRecord, found: int) -> None:
        if found != block.checksum:
            raise CacheCorruptError(f"block {index} fails its checksum", **self._where)

    @property
    def _where(self) -> dict[str, str]:
        return {"bucket": self.record.bucket, "key": self.record.key}

    def claim(self, indexes: Sequence[int]) -> tuple[Claim, dict[int, BlockRecord], int]:
        """Claim blocks, and find those that another process has recorded meanwhile.

        Returns:
            How it is about the first one; the record of the first one when it is on disk; and for how many blocks from
            there on it is like that.

        Raises:
            CacheError: The index failed.
            OSError: The file cannot be made or locked.
        """
        self._ensure_file()
        for count, index in enumerate(indexes):
            if not self.file.try_claim(*self._range(index)):
                return (Claim.OURS, {}, count) if count else (Claim.ELSEWHERE, {}, 1)
            # Only now: whoever held the claim until this moment let it go after recording.
            block = self._index.block(self.digest, index, self.record.block_bytes)
            if block is not None and self._plausible(index, block):
                self.unclaim(index)
                return (Claim.OURS, {}, count) if count else (Claim.ON_DISK, {index: block}, 1)
        return Claim.OURS, {}, len(indexes)

    def _ensure_file(self) -> None:
        try:
            is_new = self.file.ensure()
        except FileNotFoundError:
            self._directory.make_objects()
            is_new = self.file.ensure()
        if is_new and self._index.object(self.digest) is not None:
            self._index.drop_object(self.digest)  # of a file that is no more

    def unclaim(self, index: int) -> None:
        """Take back a claim. Never blocks."""
        self.file.unclaim(*self._range(index))

    def _range(self, index: int) -> tuple[int, int]:
        return index * self.record.block_bytes, self.record.block_bytes

    def write(self, index: int, buffer: memoryview, length_bytes: int, now_ms: int) -> BlockRecord | None:
        """Write a block and record it, in this order, which takes back what was set aside for it in the index.

        Returns:
            What the index says of the block now; None when another process keeps the version in other blocks.

        Raises:
            FileGoneError: The file was removed; nothing is recorded.
            CacheError: The index failed.
            OSError: The disk failed or is full.
        """
        self._ensure_file()
        checksum = xxhash.xxh3_64_intdigest(buffer[:length_bytes])
        self.file.write(index * self.record.block_bytes, buffer, length_bytes)
        if not self.file.linked():
            raise FileGoneError
        block = BlockRecord(length_bytes, checksum, self._trust.boot, self._trust.epoch, synced=False)
        used = replace(self.record, last_used_ms=now_ms)
        recorded = self._index.put_block(self.digest, used, index, block, reserved_bytes=length_bytes)
        self.kept_otherwise |= recorded is None
        return recorded
