"""Filling the disk cache with what versions lack: how many GETs, how much memory, and what ends it.

A block's GET makes room for the next one as soon as its bytes are in memory: the disk is waited for beside the
network, and a bounded number of blocks may wait for it. A block counts when the disk has it.

It begins with a few GETs; each one that comes back is followed by two, so they double in each round trip as TCP's
do: many machines that start in the same second find the store's limit from below. That is only the way up to as many
as are worth having, and as the store bears, which is for the client to find (``core.adaptive``): it is asked after each
GET, and where it takes fewer again, blocks wait for their turn there.

A version that fails ends with a line and the others go on; a store or a disk that takes no more ends all of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from tigrismount.cache.base import block_length_bytes
from tigrismount.errors import CacheError, ObjectError, ObjectUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tigrismount.blocks.base import BlockFiller
    from tigrismount.core.types import ObjectId

FIRST_JOBS = 4
"""Requests to begin with: enough to fill a link of a few hundred MB/s, and 50 machines make 200 of them."""
WAITING_BLOCKS = 16
"""Blocks that may wait for the disk beside those on their way: what it writes in a tenth of a second. More would not
make it faster, and fresh memory costs more than the bytes in it (``blocks.buffers``)."""


@dataclass(slots=True)
class Work:
    """What one version lacks."""

    obj: ObjectId
    block_bytes: int
    missing: list[int] = field(default_factory=list)
    """Blocks not in the cache."""
    left: int = 0
    """Of those, how many are not filled yet."""
    failed: bool = False
    lacking: set[int] = field(default_factory=set)
    """Of those, the ones that the disk has not got yet."""
    changed: trio.Event = field(default_factory=trio.Event)
    """Set, and replaced, when a block has arrived or none will any more."""
    ended: bool = False
    """Whether no more blocks will arrive."""

    def length_bytes(self, index: int) -> int:
        """Return the length of a block."""
        return block_length_bytes(self.obj.size_bytes, self.block_bytes, index)

    def tell(self) -> None:
        """Wake who waits for blocks."""
        self.changed.set()
        self.changed = trio.Event()

    async def wait_for(self, index: int) -> None:
        """Wait until a block is on the disk.

        Raises:
            CacheError: It will not come.
        """
        while index in self.lacking:
            if self.ended:
                raise CacheError(f"block {index} was not fetched", bucket=self.obj.bucket, key=self.obj.key)
            await self.changed.wait()


class Filling:
    """Brings in what is missing.

    Args:
        store: Brings blocks.
        jobs: Most GETs at once.
        get_limit: GETs worth having now, as the client has found.
        most_held: Most blocks in memory at once.
        why_full: Says why the disk cache takes no more.
        on_begun: Told a version before its first block.
        on_block: Told a version and the length of one of its blocks that the disk has now.
        on_whole: Told a version when the disk has the last block of it.
        on_failed: Told a version that fails, and why; once.
    """

    def __init__(
        self,
        store: BlockFiller,
        *,
        jobs: int,
        get_limit: Callable[[], int],
        most_held: int,
        why_full: Callable[[], str],
        on_begun: Callable[[Work], None],
        on_block: Callable[[Work, int], None],
        on_whole: Callable[[Work], None],
        on_failed: Callable[[Work, str], None],
    ) -> None:
        self._store = store
        self._most_jobs = jobs
        self._get_limit = get_limit
        self._most_held = most_held
        self._why_full = why_full
        self._on_begun = on_begun
        self._on_block = on_block
        self._on_whole = on_whole
        self._on_failed = on_failed
        self._blocks: Iterator[tuple[Work, int]] = iter(())
        self._workers = 0
        self._held = trio.CapacityLimiter(min(FIRST_JOBS, most_held))
        self._retained: set[ObjectId] = set()
        self.stopped = ""
        """Why it ended before its end; empty where it did not."""

    async def run(self, works: Sequence[Work]) -> None:
        """Bring in what *works* lack; return when all of it is on the disk or was given up."""
        self._blocks = self._in_turn(works)
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(FIRST_JOBS):
                    self._hire(nursery)
        finally:
            for obj in list(self._retained):
                self._release(obj)
            for work in works:
                work.ended = True
                work.tell()

    def _in_turn(self, works: Sequence[Work]) -> Iterator[tuple[Work, int]]:
        for work in works:
            if work.missing and not self.stopped:
                self._store.retain(work.obj)  # open until its last block is done
                self._retained.add(work.obj)
                self._on_begun(work)
            for index in work.missing:
                if self.stopped:
                    return
                if work.failed:
                    break
                yield work, index

    def _release(self, obj: ObjectId) -> None:
        self._retained.discard(obj)
        self._store.release(obj)

    def _hire(self, nursery: trio.Nursery) -> None:
        jobs = min(self._most_jobs, self._get_limit())
        self._held.total_tokens = min(jobs + WAITING_BLOCKS, self._most_held)
        if self._workers < jobs:
            self._workers += 1
            nursery.start_soon(self._fetch_in_turn, nursery)

    async def _fetch_in_turn(self, nursery: trio.Nursery) -> None:
        """Bring in one block after the other; the next one once the bytes of the last are in memory."""
        for work, index in self._blocks:
            await nursery.start(self._fill, work, index)
            self._hire(nursery)

    async def _fill(self, work: Work, index: int, *, task_status: trio.TaskStatus[None]) -> None:
        fetched = False

        def tell() -> None:
            nonlocal fetched
            if not fetched:
                fetched = True
                task_status.started()

        async with self._held:
            try:
                await self._bring(work, index, tell)
            finally:
                tell()
        work.left -= 1
        if not work.left:
            self._release(work.obj)
            if not work.failed:
                self._on_whole(work)
        if work.failed or not work.left:
            work.ended = True
            work.tell()

    async def _bring(self, work: Work, index: int, on_fetched: Callable[[], None]) -> None:
        try:
            kept = await self._store.fill(work.obj, index, on_fetched)
        except ObjectError as exc:
            self._fail(work, exc.detail)
            if isinstance(exc, ObjectUnavailableError):  # it was tried again for minutes already
                self.stopped = exc.detail
            return
        except CacheError as exc:  # of this version alone
            self._fail(work, exc.detail)
            return
        if kept:
            work.lacking.discard(index)
            work.tell()
            self._on_block(work, work.length_bytes(index))
        else:
            self.stopped = self._why_full()
            self._fail(work, self.stopped)

    def _fail(self, work: Work, reason: str) -> None:
        if not work.failed:
            work.failed = True
            self._on_failed(work, reason)
