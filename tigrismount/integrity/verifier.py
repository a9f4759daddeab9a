"""Verifies versions once they are wholly in the disk cache, so that those are refused that are not what they should be.

It is told of each version whose last block was written, and takes them one at a time when the store is quiet: no
request and no disk read on its way. Between two blocks it looks again, so a reader waits for one block's hash at most,
and that in another thread. It reads nothing but the cache, and asks the store only what ``finder`` does.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from tigrismount.errors import CacheError, ObjectError
from tigrismount.integrity.finder import ChecksumFinder
from tigrismount.integrity.sums import sums_of
from tigrismount.integrity.verdicts import Compared

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tigrismount.cache.base import BlockCache
    from tigrismount.core.types import ObjectId
    from tigrismount.integrity.verdicts import Verdicts
    from tigrismount.objects.client import ObjectClient

log = logging.getLogger(__name__)

LEAST_BYTES = 32 << 20
"""Smallest version that is verified without being asked for: weights are larger, and a HEAD for each of a million
small files would be what nobody asked for."""
_MOST_WAITING = 10_000
"""Versions that may wait to be verified; beyond it the oldest is left out."""
_QUIET_LOOK_S = 0.25
"""How often it is looked whether the store is quiet."""
_PATIENCE_S = 300.0
"""How long a version waits for the store to be quiet: one that never is must not hide a poisoned model for ever."""
_RELOAD_S = 60.0
"""How often verdicts of other daemons are learned."""


@dataclass(frozen=True, slots=True)
class VerifierStatistics:
    """Counters since start; gauges say so."""

    verified: int = 0
    """Versions whose bytes are what they should be."""
    mismatched: int = 0
    """Versions whose bytes are not."""
    unknown: int = 0
    """Versions of which no checksum is known."""
    waiting: int = 0
    """Gauge: versions that wait to be verified."""
    refused: tuple[str, ...] = ()
    """Gauge: versions that cannot be opened for it."""


class Verifier:
    """Verifies versions of one store.

    Args:
        client: The store.
        cache: Where the bytes are.
        verdicts: What was found.
        quiet: Tells whether nobody is fetching or reading at the moment.
        least_bytes: Smallest version verified without being asked for.
    """

    def __init__(
        self,
        client: ObjectClient,
        cache: BlockCache,
        verdicts: Verdicts,
        *,
        quiet: Callable[[], bool] = lambda: True,
        least_bytes: int = LEAST_BYTES,
    ) -> None:
        self._cache = cache
        self.verdicts = verdicts
        """What was found."""
        self.least_bytes = least_bytes
        """Smallest version verified without being asked for."""
        self._quiet = quiet
        self._waiting: OrderedDict[ObjectId, int] = OrderedDict()
        """Versions that were noted, and when their last block came."""
        self._current: ObjectId | None = None
        self._woken = trio.Event()
        self._finder = ChecksumFinder(client)
        self._verified = self._mismatched = self._unknown = 0

    def note_whole(self, obj: ObjectId) -> None:
        """Take note that *obj* is wholly in the cache. Never waits."""
        if obj.size_bytes < self.least_bytes:
            return
        self._waiting[obj] = self.verdicts.now_s()
        if len(self._waiting) > _MOST_WAITING:
            self._waiting.popitem(last=False)
        self._woken.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Verify what is noted, until cancelled."""
        await self.verdicts.load()
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reload)
            while True:
                await self._woken.wait()
                self._woken = trio.Event()
                while self._waiting:
                    self._current, whole_s = self._waiting.popitem(last=False)
                    await self._verify_quietly(self._current, whole_s)
                    self._current = None
                self._finder.forget()

    def is_waiting(self, obj: ObjectId) -> bool:
        """Tell whether a version will be verified, or is being verified now."""
        return obj in self._waiting or obj == self._current

    def statistics(self) -> VerifierStatistics:
        """Return counters and gauges."""
        refused = tuple(sorted(f"s3://{obj.bucket}/{obj.key}" for obj in self.verdicts.refused))
        return VerifierStatistics(self._verified, self._mismatched, self._unknown, len(self._waiting), refused)

    async def verify(
        self,
        obj: ObjectId,
        on_block: Callable[[int], Awaitable[None]],
        *,
        anew: bool = False,
        since_s: int = 0,
        before_block: Callable[[int], Awaitable[None]] | None = None,
    ) -> list[Compared]:
        """Compare a version that is wholly cached with what is known of it, and keep the verdict.

        Args:
            obj: The version.
            on_block: Called with the length of each block that was read back.
            anew: Whatever is remembered: ask the store again, and read back every block even if nothing is known.
            since_s: When some of its bytes came, as of ``Verdicts.now_s``: that others were right before says nothing.
            before_block: Where it is not wholly cached yet: waits until a block is, or raises CacheError.

        Returns:
            What was compared; nothing where no checksum is known.

        Raises:
            ObjectError: The store could not say what is known.
            CacheError: A block is missing, or damaged and dropped.
        """
        earlier = None if anew else await self.verdicts.find(obj, since_s)
        if earlier is not None:
            return earlier
        known = await self._finder.find(obj)
        compared: list[Compared] = []
        if known or anew:
            cached = await self._cache.open_object(obj)
            try:
                algorithms = {one.algorithm for one in known}
                found = await sums_of(obj, cached, algorithms, on_block=on_block, before_block=before_block)
            finally:
                cached.close()
            compared = [Compared(one.algorithm, one.expected, found[one.algorithm], one.origin) for one in known]
        await self._conclude(obj, compared)
        return compared

    async def _conclude(self, obj: ObjectId, compared: list[Compared]) -> None:
        if not compared:
            self._unknown += 1
            await self.verdicts.forget(obj)
            return
        if all(one.matches for one in compared):
            self._verified += 1
            log.info("s3://%s/%s: matches its %s", obj.bucket, obj.key, compared[0].algorithm)
        else:
            self._mismatched += 1
        await self.verdicts.keep(obj, compared)

    async def _verify_quietly(self, obj: ObjectId, whole_s: int) -> None:
        deadline_s = trio.current_time() + _PATIENCE_S

        async def let_others_go_first(_length_bytes: int = 0) -> None:
            await trio.lowlevel.checkpoint()
            # A look now and then: reads must not pay for telling us that they ended.
            while not self._quiet() and trio.current_time() < deadline_s:  # noqa: ASYNC110
                await trio.sleep(_QUIET_LOOK_S)

        await let_others_go_first()
        try:
            await self.verify(obj, let_others_go_first, since_s=whole_s)
        except (CacheError, ObjectError) as exc:
            log.info("not verified: %s", exc)

    async def _reload(self) -> None:
        while True:
            await trio.sleep(_RELOAD_S)
            await self.verdicts.load()
