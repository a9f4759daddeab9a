"""Proves versions for who opens them, and those that will be opened next, through the page cache.

A file can be left to the kernel once nothing of it needs a look any more (``fuse.passthrough``). What is wholly in the
cache was loaded whole before, or warmed for that: so while such a file is being opened, the cache's own file is read,
through the page cache and at the disk's pace, and each block compared with its checksum. Its reader then finds in
memory what was compared, and neither the disk nor this process has anything more to do with it. While it is being read
the next shards of the model are proven in the same way.

Whoever opens a file waits for this as long as it gets on; it is not begun where it would take longer than people wait
for a file to open. It takes memory, too: where what was proven in the last minutes would not fit beside the file, those
pages would have to be read a second time.
"""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from typing import TYPE_CHECKING

import trio

from tigrismount.core import loadlog
from tigrismount.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tigrismount.cache.base import BlockCache, CachedObject
    from tigrismount.core.loadlog import LoadLog
    from tigrismount.core.types import ObjectId

log = logging.getLogger(__name__)

AHEAD_BYTES = 4 << 30
"""How far the shards behind the one that was opened are proven: one file at least, and no more once it is so far."""
LONGEST_S = 10.0
"""How long a proof may be expected to take."""
FIRST_BYTES_S = 1e9
"""How fast a disk is taken to be, in bytes per second, until a proof has shown it; an NVMe drive gives two to seven
times as much."""
_LEAST_TIMED_BYTES = 64 << 20
"""Shortest proof that says how fast the disk is."""
_SILENCE_S = 2.0
"""How long one block may take until who waits opens the file in the usual way; it takes milliseconds."""
_MOST_PATIENCE_S = 2 * LONGEST_S
"""The same for all of them, where the disk is not what it was: whoever opens a file is not kept longer."""
_RECENT_S = 600.0
"""How long what was proven is taken to be in memory, or wanted there."""
_MEMORY_SHARE = 2
"""What was proven lately may take one byte of so many that are free."""


class _Job:
    """The proof of one version of *left_bytes*."""

    def __init__(self, left_bytes: int) -> None:
        self.left_bytes = left_bytes
        """What is not compared yet; it will be in memory as what is."""
        self.proven: bool | None = None
        """How it ended; None until then."""
        self._moved = trio.Event()

    def move(self) -> None:
        """Tell who waits that it gets on."""
        self._moved.set()
        self._moved = trio.Event()

    async def wait(self, patience_s: float) -> bool:
        """Return whether the version is proven, False as well once it has taken too long, all of it or one block."""
        until_s = trio.current_time() + min(patience_s, _MOST_PATIENCE_S)
        while self.proven is None:
            with trio.move_on_at(min(until_s, trio.current_time() + _SILENCE_S)) as scope:
                await self._moved.wait()
            if scope.cancelled_caught:
                return False
        return self.proven


class OpenProver:
    """Proves versions of one cache for their readers.

    Args:
        cache: Where they are.
        likely_whole: Tells whether all of a version will be read, as far as anybody can know.
        following: Returns the versions that are read after one, in order.
        load_log: Told of blocks that came from the disk.
        available_bytes: Returns how much memory is free, page cache that can be dropped included; None where nothing
            says so.
        is_pressed: Tells whether this machine is short of memory now.
        patience_s: Longest wait of who opens a file, where that is less than they have.
    """

    def __init__(
        self,
        cache: BlockCache,
        *,
        likely_whole: Callable[[ObjectId], Awaitable[bool]],
        following: Callable[[ObjectId], Awaitable[Sequence[ObjectId]]],
        load_log: LoadLog,
        available_bytes: Callable[[], int | None],
        is_pressed: Callable[[], bool],
        patience_s: float = _MOST_PATIENCE_S,
    ) -> None:
        self._cache = cache
        self._likely_whole = likely_whole
        self._following = following
        self._log = load_log
        self._available_bytes = available_bytes
        self._is_pressed = is_pressed
        self._patience_s = patience_s
        self._nursery: trio.Nursery | None = None
        self._jobs: dict[ObjectId, _Job] = {}
        self._recent: deque[tuple[float, int]] = deque()
        """When how many bytes were proven, oldest first."""
        self._timed = (-math.inf, FIRST_BYTES_S)
        """When a proof showed how fast the disk is, and how fast."""
        self._opened: ObjectId | None = None
        """What was opened last, until somebody looks what follows it."""
        self._woken = trio.Event()
        self.proven_bytes = 0
        """Bytes compared with their checksums so far."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the proofs until cancelled; without it nothing is proven."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await self._go_ahead()
            finally:
                self._nursery = None

    async def prove(self, obj: ObjectId) -> bool:
        """Prove *obj* for who is opening it, where that is worth a wait; return whether all of it is proven now."""
        if obj not in self._jobs and not await self._is_due(obj):
            return False
        return await self._job(obj).wait(self._patience_s)

    def note_opened(self, obj: ObjectId) -> None:
        """Note that the kernel begins to read *obj* by itself: what follows it comes next. Never waits."""
        self._opened = obj
        self._woken.set()

    # ------------------------------------------------------------------ deciding

    async def _is_due(self, obj: ObjectId) -> bool:
        """Tell whether all of *obj* is likely to be read, and finds room in memory."""
        if not self._may_begin(obj) or not await self._likely_whole(obj):
            return False
        # The second look is for what began or ended meanwhile; until the job is there nothing is awaited any more.
        return obj in self._jobs or self._may_begin(obj)

    def _may_begin(self, obj: ObjectId) -> bool:
        if self._nursery is None or self._is_pressed() or not self._has_room(obj.size_bytes):
            return False
        return obj.size_bytes + self._left_bytes <= LONGEST_S * self._pace_bytes_s()

    @property
    def _left_bytes(self) -> int:
        """Bytes that the proofs under way will compare: they share the disk, and will be in memory."""
        return sum(job.left_bytes for job in self._jobs.values())

    def _has_room(self, size_bytes: int) -> bool:
        since_s = trio.current_time() - _RECENT_S
        while self._recent and self._recent[0][0] < since_s:
            self._recent.popleft()
        wanted_bytes = size_bytes + self._left_bytes + sum(count for _, count in self._recent)
        available_bytes = self._available_bytes()
        return available_bytes is not None and wanted_bytes * _MEMORY_SHARE <= available_bytes

    def _pace_bytes_s(self) -> float:
        """Return how many bytes per second the disk gives; what it gave long ago, while it was busy, does not count."""
        timed_s, bytes_s = self._timed
        return bytes_s if trio.current_time() - timed_s < _RECENT_S else FIRST_BYTES_S

    async def _go_ahead(self) -> None:
        while True:
            await self._woken.wait()
            self._woken = trio.Event()
            opened, self._opened = self._opened, None
            if opened is not None:
                await self._prove_behind(opened)

    async def _prove_behind(self, opened: ObjectId) -> None:
        ahead_bytes = 0
        for obj in await self._behind(opened):
            # Whoever has gone on meanwhile is followed from there.
            if ahead_bytes >= AHEAD_BYTES or self._opened is not None:
                return
            ahead_bytes += obj.size_bytes
            if not await self.prove(obj):
                return

    async def _behind(self, opened: ObjectId) -> Sequence[ObjectId]:
        try:
            return await self._following(opened)
        except Exception:  # would end the worker
            log.exception("what follows cannot be told; what is opened is proven all the same")
            return ()

    # ------------------------------------------------------------------ proving

    def _job(self, obj: ObjectId) -> _Job:
        job = self._jobs.get(obj)
        if job is None:
            assert self._nursery is not None, "nothing is due while nobody owns the proofs"
            job = self._jobs[obj] = _Job(obj.size_bytes)
            self._nursery.start_soon(self._run_job, obj, job)
        return job

    async def _run_job(self, obj: ObjectId, job: _Job) -> None:
        proven = False
        try:
            proven = await self._prove(obj, job)
        except CacheError as exc:
            log.info("not proven for its reader: %s", exc)
        except Exception:  # would end the worker
            log.exception("%s is not proven for its reader, who goes on in the usual way", obj.key)
        finally:
            del self._jobs[obj]
            job.proven = proven
            job.move()

    async def _prove(self, obj: ObjectId, job: _Job) -> bool:
        cached = await self._cache.open_object(obj)
        try:
            unproven = cached.unproven()
            if unproven:
                await self._prove_blocks(obj, cached, unproven, job)
            return cached.unproven() == []
        finally:
            cached.close()

    async def _prove_blocks(self, obj: ObjectId, cached: CachedObject, unproven: Sequence[int], job: _Job) -> None:
        fd, began_s, before_bytes = await cached.open_file(), trio.current_time(), self.proven_bytes
        try:
            for index in unproven:
                if self._is_pressed():
                    return
                since_s, start = self._log.clock(), index * cached.block_bytes
                stop = min(start + cached.block_bytes, obj.size_bytes)
                job.left_bytes -= stop - start
                if cached.proven(index):  # whoever did not wait has read it meanwhile
                    continue
                await cached.prove_block(index, fd)
                self._log.note((loadlog.DISK, obj, start, stop, since_s, self._log.clock(), "", ""))
                self.proven_bytes += stop - start
                self._recent.append((trio.current_time(), stop - start))
                job.move()
        finally:
            os.close(fd)
        done_bytes = self.proven_bytes - before_bytes  # those of others who had the disk at the same time included
        if done_bytes >= _LEAST_TIMED_BYTES:
            self._timed = trio.current_time(), done_bytes / max(trio.current_time() - began_s, 1e-3)
