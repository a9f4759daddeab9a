"""The engine of warming: compares what is asked for with what is cached, and fills the difference block by block.

Blocks go through the block store at the lowest priority, so that a mount's readers come first and whoever wants the
same bytes shares one flight; from there straight to the disk, without FUSE and without staying in memory. A block
counts when the disk cache has it. Nothing is kept about a run: what is cached is skipped, so an interrupted run goes
on where it stopped.

Checksums that are known of a version are asked for when its first block is, and compared block by block as they come
to the disk, so little is left to do when the last one has.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from tigrismount.cache.base import block_memory
from tigrismount.config.units import format_size
from tigrismount.core.types import Priority
from tigrismount.errors import CacheError, ObjectError
from tigrismount.integrity.verdicts import refusal
from tigrismount.objects.archives import check_readable
from tigrismount.objects.client import restored
from tigrismount.warm.filling import Filling, Work
from tigrismount.warm.report import Failure, Progress, WarmReport
from tigrismount.warm.selection import Selector

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tigrismount.blocks.base import BlockFiller
    from tigrismount.cache.base import BlockCache, CachedObject
    from tigrismount.core.types import ObjectId
    from tigrismount.integrity.verifier import Verifier
    from tigrismount.objects.client import ObjectClient, ObjectInfo, ObjectStatistics
    from tigrismount.warm.selection import Target

_CHECKS_AT_ONCE = 4
"""Versions read back at once: as many blocks as the block store itself reads from the disk at once."""
_OPENS_AT_ONCE = 8
"""Versions compared with the cache at once; each waits for the index in a thread."""


class Warmer:
    """One run: made, run once, and read out.

    Args:
        client: The store.
        cache: Where the blocks go.
        store: Brings them there.
        verifier: Compares what came with known checksums.
        jobs: Most blocks on their way at once.
        most_held: Most blocks in memory at once, those that wait for the disk included.
        clock: Seconds that do not go backwards.
    """

    def __init__(
        self,
        client: ObjectClient,
        cache: BlockCache,
        store: BlockFiller,
        *,
        verifier: Verifier,
        jobs: int,
        most_held: int = 128,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._client = client
        self._cache = cache
        self._store = store
        self._verifier = verifier
        self._jobs = max(1, jobs)
        self._most_held = most_held
        self._clock = clock
        self._checks = trio.CapacityLimiter(_CHECKS_AT_ONCE)
        self._checked_bytes = self._to_check_bytes = 0
        self._failed: set[ObjectId] = set()
        self._uncompared: dict[ObjectId, str] = {}
        """Versions that could not be read back to be compared, and why."""
        self.progress = Progress()
        """How far it is."""
        self.report = WarmReport()
        """What came of it so far; complete when ``run`` has returned."""

    async def run(self, targets: Sequence[Target]) -> WarmReport:
        """Bring all that *targets* name into the cache; return how that went. What goes wrong is in the report."""
        started_s, before = self._clock(), self._client.statistics()
        infos = await self.select(targets)
        works = await self.compare(infos)
        self.report.cached_bytes = self.progress.cached_bytes
        if self._fits(works):
            async with trio.open_nursery() as beside:
                await self._fetch(works, beside)
                await self._confirm(works)
                self._show_checks()
            self._tell_refused(works)
        self._finish(started_s, before)
        return self.report

    async def check(self, targets: Sequence[Target]) -> WarmReport:
        """Read back all that is cached of *targets* and compare it with its checksums; fetch nothing.

        What fails its checksum leaves the cache, and it and what is missing are failures.
        """
        started_s, before = self._clock(), self._client.statistics()
        works = await self.compare(await self.select(targets))
        self.progress.phase = "checking"
        self.report.cached_bytes = self.progress.wanted_bytes = self.progress.cached_bytes
        rows = iter(works)

        async def read_back() -> None:
            for work in rows:
                await self._check(work)

        async with trio.open_nursery() as nursery:
            for _ in range(_CHECKS_AT_ONCE):
                nursery.start_soon(read_back)
        self._finish(started_s, before)
        return self.report

    async def _check(self, work: Work) -> None:
        count = -(-work.obj.size_bytes // work.block_bytes)
        reasons = []
        if work.missing:
            reasons.append(f"{len(work.missing)} of {count} blocks are not cached: warm it without --check")
        elif await self._compare(work, anew=True):
            return
        damaged = 0
        missing = set(work.missing)
        cached = await self._cache.open_object(work.obj)
        try:
            is_same = cached.block_bytes == work.block_bytes
            if not is_same:  # its blocks have other places
                reasons.append("it was evicted meanwhile and begun anew: warm it again")
            with block_memory(work.block_bytes) as buffer:
                for index in range(count if is_same else 0):
                    if index not in missing:
                        damaged += not await _reads_back(cached, index, buffer)
                        await self._advance(work.length_bytes(index))
        except CacheError as exc:
            reasons.append(f"it cannot be read back: {exc.detail}")
        finally:
            cached.close()
        if damaged:
            reasons.append(f"{damaged} of {count} blocks were damaged and are dropped: warm it again")
        if reasons:
            self._fail(work.obj, "; ".join(reasons))

    def _is_checked(self, work: Work) -> bool:
        """Tell whether a version that was fetched is compared with what is known of it, without being asked for."""
        return work.obj.size_bytes >= self._verifier.least_bytes or work.obj in self._verifier.verdicts.refused

    async def _verify(self, work: Work) -> None:
        """Compare a version with the checksums that are known of it, block by block as it comes."""
        since_s = self._verifier.verdicts.now_s()
        async with self._checks:
            # What was refused and had to be fetched again is judged again.
            anew = work.obj in self._verifier.verdicts.refused
            await self._compare(work, anew=anew, since_s=since_s, before_block=work.wait_for)

    def _show_checks(self) -> None:
        """Everything is there: from now on progress is that of the checks that are not done."""
        if self._to_check_bytes > self._checked_bytes:
            self.progress.phase = "verifying"
            self.progress.done_bytes, self.progress.wanted_bytes = self._checked_bytes, self._to_check_bytes

    def _tell_refused(self, works: Sequence[Work]) -> None:
        """Tell of versions that were there and are not what they should be, and of those of which nobody can tell."""
        for work in works:
            was_checked = work.missing and not (work.failed or work.left) and self._is_checked(work)
            if was_checked and (why := self._uncompared.get(work.obj)):
                self._fail(work.obj, f"could not be compared with its checksums: {why}")
            if not was_checked and (reason := self._verifier.verdicts.refused.get(work.obj)):
                self._fail(work.obj, reason)

    async def _compare(
        self,
        work: Work,
        *,
        anew: bool,
        since_s: int = 0,
        before_block: Callable[[int], Awaitable[None]] | None = None,
    ) -> bool:
        """Compare a whole version with its known checksums; return whether every block of it could be read back."""
        advanced_bytes = 0

        async def advance(length_bytes: int) -> None:
            nonlocal advanced_bytes
            advanced_bytes += length_bytes
            await self._advance(length_bytes)

        try:
            compared = await self._verifier.verify(
                work.obj, advance, anew=anew, since_s=since_s, before_block=before_block
            )
        except CacheError as exc:
            self._uncompared[work.obj] = exc.detail
            await self._advance(-advanced_bytes)
            return False
        except ObjectError as exc:
            self._fail(work.obj, f"its checksums cannot be asked for: {exc.detail}")
            return True
        if not all(one.matches for one in compared):
            self._fail(work.obj, refusal(compared))
        return True

    async def _advance(self, length_bytes: int) -> None:
        await trio.lowlevel.checkpoint()
        self._checked_bytes += length_bytes
        self.report.checked_bytes += length_bytes
        if self.progress.phase != "fetching":
            self.progress.done_bytes += length_bytes

    def _finish(self, started_s: float, before: ObjectStatistics) -> None:
        after = self._client.statistics()
        self.report.requests = {
            "list": after.list_requests - before.list_requests,
            "head": after.head_requests - before.head_requests,
            "get": after.get_requests - before.get_requests,
        }
        self.report.seconds = self._clock() - started_s

    async def select(self, targets: Sequence[Target]) -> list[ObjectInfo]:
        """Return the versions that *targets* name; those that cannot be cached are failures already."""
        selector = Selector(self._client, self._read_small)
        for target in targets:
            await selector.add(target)
            self.progress.objects = len(selector.found)
        self.report.failures += selector.failures
        infos = [info for info in selector.found.values() if info.id.size_bytes > 0]
        self.progress.objects = self.report.objects = len(selector.found)
        self.progress.objects_done = len(selector.found) - len(infos)
        self.progress.bytes = self.report.bytes = sum(info.id.size_bytes for info in infos)
        infos = await self._look_for_restored(infos)
        # What has more than that cannot be there already; and a store may say a size whose blocks nobody can count.
        most_bytes = self._cache.statistics().largest_bytes
        refused = {info.id: reason for info in infos if (reason := _why_not(info, most_bytes))}
        for obj, reason in refused.items():
            self._fail(obj, reason)
        return [info for info in infos if info.id not in refused]

    async def _look_for_restored(self, infos: Sequence[ObjectInfo]) -> list[ObjectInfo]:
        """Return *infos* with what is found out of those in an archive class; a listing does not tell."""
        known = list(infos)
        rows = iter([(place, info) for place, info in enumerate(infos) if info.archived])

        async def look() -> None:
            for place, info in rows:
                with suppress(ObjectError):  # then it stays what the listing made of it
                    await check_readable(self._client, info.id)
                    known[place] = restored(info)

        async with trio.open_nursery() as nursery:
            for _ in range(_OPENS_AT_ONCE):
                nursery.start_soon(look)
        return known

    async def compare(self, infos: Sequence[ObjectInfo]) -> list[Work]:
        """Return what each version lacks in the cache, in the order given."""
        self.progress.phase = "comparing"
        works: list[Work | None] = [None] * len(infos)
        rows = iter(enumerate(infos))

        async def look() -> None:
            for place, info in rows:
                works[place] = await self._look(info.id)

        async with trio.open_nursery() as nursery:
            for _ in range(_OPENS_AT_ONCE):
                nursery.start_soon(look)
        return [work for work in works if work is not None]

    async def _look(self, obj: ObjectId) -> Work:
        cached = await self._cache.open_object(obj)
        try:
            work = Work(obj, cached.block_bytes)
            count = -(-obj.size_bytes // work.block_bytes)
            work.missing = [index for index in range(count) if not cached.has(index)]
        finally:
            cached.close()
        work.left, work.lacking = len(work.missing), set(work.missing)
        missing_bytes = sum(map(work.length_bytes, work.missing))
        self.progress.cached_bytes += obj.size_bytes - missing_bytes
        self.progress.wanted_bytes += missing_bytes
        self.progress.objects_done += not work.missing
        return work

    def _fits(self, works: Sequence[Work]) -> bool:
        """Tell whether the cache can hold all of *works*; filling it in vain would throw out what others warmed."""
        capacity_bytes = self._cache.statistics().capacity_bytes
        asked_bytes = sum(work.obj.size_bytes for work in works)
        if asked_bytes <= capacity_bytes or not self.progress.wanted_bytes:
            return True
        reason = (
            f"these {len(works)} files have {format_size(asked_bytes)} and it may hold "
            f"{format_size(capacity_bytes)}: raise --cache-size, or warm less"
        )
        self.report.failures.append(Failure("the disk cache", reason))
        return False

    # -- fetching ----------------------------------------------------------------------------------------------

    async def _fetch(self, works: Sequence[Work], beside: trio.Nursery) -> None:
        """Fill what *works* lack; what is asked and checked meanwhile runs *beside*."""
        began_s = self._clock()
        self.progress.phase = "fetching"

        def on_begun(work: Work) -> None:
            if self._is_checked(work):
                self._to_check_bytes += work.obj.size_bytes
                beside.start_soon(self._verify, work)

        def on_whole(_work: Work) -> None:
            self.progress.objects_done += 1

        filling = Filling(
            self._store,
            jobs=self._jobs,
            get_limit=lambda: self._client.get_limit,
            most_held=self._most_held,
            why_full=lambda: self._cache.statistics().degraded or "the disk cache takes no more of it",
            on_begun=on_begun,
            on_block=self._note_block,
            on_whole=on_whole,
            on_failed=lambda work, reason: self._fail(work.obj, reason),
        )
        await filling.run(works)
        self.report.fetch_seconds = self._clock() - began_s
        untried = sum(1 for work in works if work.left and not work.failed)
        if filling.stopped and untried:
            self.report.failures.append(Failure(f"{untried} more files", f"not tried any more: {filling.stopped}"))

    def _note_block(self, work: Work, length_bytes: int) -> None:
        self.progress.done_bytes += length_bytes
        self.report.fetched_bytes = self.progress.done_bytes

    async def _confirm(self, works: Sequence[Work]) -> None:
        """Look once more whether everything is there: other daemons share the cache, and its bounds hold for all."""
        for work in works:
            if work.failed or work.left:
                continue
            cached = await self._cache.open_object(work.obj)
            try:
                complete = cached.count() == -(-work.obj.size_bytes // cached.block_bytes)
            finally:
                cached.close()
            if not complete:
                self._fail(work.obj, "is not all there any more: the cache is too small for all that uses it")

    async def _read_small(self, obj: ObjectId) -> bytes:
        return bytes(await self._store.read(obj, 0, obj.size_bytes, Priority.READAHEAD))

    def _fail(self, obj: ObjectId, reason: str) -> None:
        """Tell of a version that fails; once, as each line counts as a file."""
        if obj in self._failed:
            return
        self._failed.add(obj)
        self.report.failures.append(Failure(f"s3://{obj.bucket}/{obj.key}", reason))


async def _reads_back(cached: CachedObject, index: int, buffer: memoryview) -> bool:
    try:
        await cached.read_block(index, buffer, check=True)
    except CacheError:
        return False
    return True


def _why_not(info: ObjectInfo, most_bytes: int) -> str:
    """Return why an object cannot be brought into a cache of *most_bytes*, or nothing."""
    if info.archived:
        return f"archived as {info.storage_class}: restore the object, then warm it again"
    if not info.id.cacheable:
        return "the store gives it no strong ETag, so it cannot be kept between reads"
    if info.id.size_bytes > most_bytes:
        size, most = format_size(info.id.size_bytes), format_size(most_bytes)
        return f"it has {size} and the disk cache may hold {most} of one file: raise --cache-size"
    return ""
