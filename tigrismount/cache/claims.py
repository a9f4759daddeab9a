"""Who fetches a block, among the daemons that share a directory.

A claim is a lock on the block's range in the version's data file (see ``datafile``), held from before the fetch until
the block is recorded, so whoever gets it afterwards finds the record. It dies with its process. Whoever does not get it
looks again every few milliseconds, for a while: a holder that hangs must not hang others, so after one wait in vain
nothing of that version is waited for, for a longer while.

A block is claimed once, however many parts it is fetched in: a page of a mapping that is touched makes up to five of
them at once, and the disk need not be asked for each.

Claims are a favour like all that the cache does: while nothing can be written, or the disk does not answer at once,
every block is ours.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from tigrismount.cache.base import Claim
from tigrismount.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tigrismount.cache.health import Health
    from tigrismount.cache.records import BlockRecord
    from tigrismount.cache.storage import StoredVersion
    from tigrismount.cache.versions import OpenVersion, OpenVersions

_WAIT_S = 5.0
"""Longest wait for one block of another process: a slow store takes about a second for it."""
_IMPATIENCE_S = 30.0
"""How long nothing of a version is waited for after a wait in vain."""
_ANSWER_S = 2.0
"""How long a disk may take to lock a range; it needs microseconds."""
_FIRST_LOOK_S = 0.005
_LAST_LOOK_S = 0.1
"""Looks at a claim that another process has: soon at first, then less often."""


@contextmanager
def _asking(storage: StoredVersion, indexes: Sequence[int]) -> Iterator[None]:
    """Let those who want to claim one of these blocks meanwhile wait for the answer."""
    answered = trio.Event()
    mine = [index for index in indexes if index not in storage.asking]
    storage.asking.update(dict.fromkeys(mine, answered))
    try:
        yield
    finally:
        for index in mine:
            del storage.asking[index]
        answered.set()


class Claims:
    """Claims of one process in one directory.

    Args:
        versions: The open versions.
        health: Told of failures.
        takes_writes: Tells whether what is fetched now has a chance to be written.
    """

    def __init__(self, versions: OpenVersions, health: Health, *, takes_writes: Callable[[], bool]) -> None:
        self._versions = versions
        self._health = health
        self._takes_writes = takes_writes
        self._impatient_until_s: dict[bytes, float] = {}
        self._limiter = trio.CapacityLimiter(8)

    async def claim(self, version: OpenVersion, indexes: Sequence[int]) -> tuple[Claim, int]:
        """Claim blocks, as in the protocol."""
        storage = version.storage
        while (asked := storage.asking.get(indexes[0])) is not None:  # for another part of the same block
            await asked.wait()
        # Only now: where the disk was silent then, nobody waits for it again.
        if storage.claimed.issuperset(indexes) or storage.kept_otherwise or not self._takes_writes():
            await trio.lowlevel.checkpoint()
            return Claim.OURS, len(indexes)
        with _asking(storage, indexes):
            answer = await self._ask(storage, indexes)
            if answer is None:
                return Claim.OURS, len(indexes)
            claim, found, count = answer
            if claim is Claim.OURS:
                storage.claimed.update(indexes[:count])
            for index, block in found.items():
                storage.know(index, block)
            return claim, count

    async def _ask(
        self, storage: StoredVersion, indexes: Sequence[int]
    ) -> tuple[Claim, dict[int, BlockRecord], int] | None:
        """Return what the disk says; None when it fails or is silent."""
        gave_up = threading.Event()

        def work() -> tuple[Claim, dict[int, BlockRecord], int]:
            answer = storage.claim(indexes)
            if gave_up.is_set():
                for index in indexes:
                    storage.unclaim(index)
            return answer

        # Shielded: a flight that is cut must not leave a thread behind that locks what nobody unlocks.
        with trio.move_on_after(_ANSWER_S, shield=True):
            try:
                return await self._versions.run_sync(storage, work, limiter=self._limiter)
            except (CacheError, OSError) as error:
                self._health.fail(error)
                return None
        gave_up.set()
        self._health.fail(CacheError(f"the disk has not answered for {_ANSWER_S:g} s"))
        return None

    async def wait(self, version: OpenVersion, index: int) -> Claim:
        """Wait for a block that another process has claimed, as in the protocol."""
        digest = version.digest
        give_up_s = trio.current_time() + _WAIT_S
        look_s = _FIRST_LOOK_S
        while self._impatient_until_s.get(digest, 0.0) <= trio.current_time() < give_up_s:
            await trio.sleep(look_s)
            look_s = min(1.5 * look_s, _LAST_LOOK_S)
            claim, _ = await self.claim(version, [index])
            if claim is not Claim.ELSEWHERE:
                return claim
        if trio.current_time() >= give_up_s:
            self._impatient_until_s[digest] = trio.current_time() + _IMPATIENCE_S
        return Claim.OURS

    def unclaim(self, version: OpenVersion, index: int) -> None:
        """Let others fetch a block, as in the protocol."""
        storage = version.storage
        if index in storage.claimed:
            storage.claimed.discard(index)
            storage.unclaim(index)

    def forget(self, digest: bytes) -> None:
        """Forget how patient to be with a version; nobody here uses it any more."""
        self._impatient_until_s.pop(digest, None)
