"""What to fetch of the shards that come after the one being read.

A model is one long file that was cut into shards. So a window that would reach behind the end of its shard *spills*
into the next ones, in the order of the index: the pipe does not drain where one shard ends, and the next one's reader
finds its first bytes there. What spills is bounded twice. By proof: nothing spills before most of this shard, or all
of another one, was read, since a reader may have come for a few tensors. By price: whoever stops after half a model
has paid for what spilled, so it stays below a share of what was read of the model.

The *heads* of all shards, one block each, are wanted from the start: every loader opens all shards before it reads
the first, or opens each when the one before it is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tigrismount.core.fileplan import EARNEST, WHOLE

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_SPILL_BYTES = 64 << 20
"""Bytes that may spill however little was read: eight GETs of 8 MiB keep most connections busy over the boundary."""
SPILL_SHARE = 8
"""One byte may spill per so many that were read of the model."""


class ModelPlan:
    """Spills between the shards of one model.

    Args:
        sizes_bytes: Sizes of the shards, in the order in which they are read.
        block_bytes: Granularity of plans.
        heads_bytes: Most bytes wanted of the heads of all shards.
        budget_bytes: Most bytes that may spill.
    """

    def __init__(self, sizes_bytes: Sequence[int], *, block_bytes: int, heads_bytes: int, budget_bytes: int) -> None:
        self._sizes_bytes = tuple(sizes_bytes)
        self._block_bytes = block_bytes
        self._budget_bytes = budget_bytes
        self._heads = heads_bytes // block_bytes
        self._heads_wanted = False
        self._touched_bytes = [0] * len(self._sizes_bytes)
        self._most_touched_bytes = [0] * len(self._sizes_bytes)
        """The same over all readings of a shard: loaders close each when they are through."""
        self._overflow_bytes = [0] * len(self._sizes_bytes)

    @property
    def read_bytes(self) -> int:
        """Bytes read of the model, each once."""
        return sum(self._most_touched_bytes)

    def open(self) -> None:
        """Want the heads: somebody has begun to load the model."""
        self._heads_wanted = True

    def observe(self, shard: int, touched_bytes: int, overflow_bytes: int) -> None:
        """Note how far a shard was read.

        Args:
            shard: Its number.
            touched_bytes: Bytes of its blocks that were read of.
            overflow_bytes: How far its windows would reach behind its end.
        """
        self._touched_bytes[shard] = touched_bytes
        self._most_touched_bytes[shard] = max(self._most_touched_bytes[shard], touched_bytes)
        self._overflow_bytes[shard] = overflow_bytes
        before = self._before(shard)
        if before is not None and overflow_bytes and self.whole(before):
            self._overflow_bytes[before] = 0  # its reader has gone on to this one

    def leave(self) -> None:
        """Nobody has a file of the model open: want nothing, and count anew."""
        self._heads_wanted = False
        self._touched_bytes = [0] * len(self._sizes_bytes)
        self._most_touched_bytes = [0] * len(self._sizes_bytes)
        self._overflow_bytes = [0] * len(self._sizes_bytes)

    def pause(self) -> None:
        """Let nothing spill until somebody reads on; the heads stay."""
        self._overflow_bytes = [0] * len(self._sizes_bytes)

    def whole(self, shard: int) -> bool:
        """Tell whether a shard was read whole."""
        return self._most_touched_bytes[shard] >= WHOLE * self._sizes_bytes[shard]

    def proven(self, shard: int) -> bool:
        """Tell whether the shards behind this one may be wanted: it, or another one, was read far enough."""
        if self._touched_bytes[shard] >= EARNEST * self._sizes_bytes[shard]:
            return True
        return any(self.whole(other) for other in range(len(self._sizes_bytes)) if other != shard)

    def spills(self) -> list[int]:
        """Return the bytes wanted of each shard, from its start, because windows of others reach into it."""
        wanted = [0] * len(self._sizes_bytes)
        left_bytes = self._allowance_bytes()
        for shard, overflow_bytes in enumerate(self._overflow_bytes):
            if overflow_bytes and self.proven(shard):
                left_bytes -= self._spill(shard, min(overflow_bytes, left_bytes), wanted)
        return wanted

    def heads(self) -> list[int]:
        """Return the bytes wanted of each shard, from its start, to know what is in it: of the first unread ones."""
        left = self._heads if self._heads_wanted else 0
        wanted = [0] * len(self._sizes_bytes)
        for shard, size_bytes in enumerate(self._sizes_bytes):
            if left and not self.whole(shard):
                wanted[shard] = min(self._block_bytes, size_bytes)
                left -= 1
        return wanted

    def check_invariants(self) -> None:
        """Raise AssertionError unless what spills is inside the shards and within its bounds."""
        spills = self.spills()
        assert sum(spills) <= self._budget_bytes
        for spill_bytes, head_bytes, size_bytes in zip(spills, self.heads(), self._sizes_bytes, strict=True):
            assert 0 <= spill_bytes <= size_bytes
            assert 0 <= head_bytes <= min(size_bytes, self._block_bytes)

    def _allowance_bytes(self) -> int:
        allowed_bytes = min(max(LEAST_SPILL_BYTES, self.read_bytes // SPILL_SHARE), self._budget_bytes)
        return allowed_bytes - allowed_bytes % self._block_bytes

    def _spill(self, shard: int, left_bytes: int, wanted: list[int]) -> int:
        """Put *left_bytes* onto the shards behind *shard*; return what was put."""
        put_bytes = 0
        for behind in range(shard + 1, len(wanted)):
            if put_bytes >= left_bytes:
                break
            if self.whole(behind):
                continue
            more_bytes = min(self._sizes_bytes[behind], left_bytes - put_bytes)
            put_bytes += max(0, more_bytes - wanted[behind])
            wanted[behind] = max(wanted[behind], more_bytes)
        return put_bytes

    def _before(self, shard: int) -> int | None:
        return shard - 1 if shard else None
