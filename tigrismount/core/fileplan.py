"""All that is planned of one file: what its own readers make likely, and what the model around it grants.

Four things say what comes next, most trusted first:

- the *order* learned from an earlier load of the same version, or of a file of the same shape: windows run along it
  (``core.orderplan``) instead of along the file;
- the order *observed* so far: by name or backwards, as the jumps between tensors show (``core.observedorder``);
- the layout: windows run along the file, tensor by tensor (``core.prefetchplan``);
- the reads alone (``core.readahead``);
- the model: the first bytes of a file that comes after the one being read are *granted* by ``core.modelplan`` before
  anybody reads it.

A read that begins a tensor away from where anybody was reading is somebody taking tensors in an order of their own:
that tensor is fetched whole, *aside* of the windows, so that each jump costs one wait and not one per block. A read
in the middle of a tensor says no such thing: it may be one of 64 that are scattered over the file.

The plan also notes which blocks were touched and in which order; that is what is learned for next time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from tigrismount.core.blockorder import BlockOrder
from tigrismount.core.observedorder import ObservedOrder
from tigrismount.core.orderplan import OrderPlan
from tigrismount.core.prefetchplan import CALM_WINDOW_BYTES, GROWTH, RAMP_BYTES, LoadPlan
from tigrismount.core.readahead import StreamTable
from tigrismount.core.types import Extent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tigrismount.core.layout import Layout
    from tigrismount.core.readahead import StreamPolicy

ASIDES = 4
"""Tensors fetched aside at once: transformers loads with four threads, each in a tensor of its own."""
EARNEST = 0.6
"""Share of a file's blocks that were touched from which its reader is taken to want all of it: readers who take half
of a file (pipeline stages) stay below."""
REST_SHARE = 8
"""One part in so many of what is left of a file is read between two times that it is said; see ``FilePlan.rest``."""
WHOLE = 0.9
"""The same from which it counts as read whole; kernel read-ahead and the page cache hide some blocks from us."""
ORDER_PROOF_BLOCKS = 8
"""Blocks read along a learned order that open its window, where its beginning was not read. Of reads scattered over
a file some lie within reach of wherever a reader is taken to be, but not so many before the order is disproved."""
UNSEEN_BLOCKS = 16
"""How far, in blocks, file order may look disturbed because a reader takes pushed pages unseen: two tripwires."""
UNSEEN_SHARE = 1 / 4
"""Share of the blocks in which tensors begin that may look out of order so; of a random order half are."""
LEAST_LEARNED_BLOCKS = 4
"""Blocks that must have been touched for their order to say anything."""


class FilePlan:
    """What is wanted next of one file.

    Args:
        size_bytes: Size of the file.
        policy: What windows may do as long as nothing else is known.
    """

    def __init__(self, size_bytes: int, policy: StreamPolicy) -> None:
        self._size_bytes = size_bytes
        self._policy = policy
        self._streams = StreamTable(size_bytes, policy)
        self._layout: Layout | None = None
        self._load: LoadPlan | None = None
        self._order: OrderPlan | None = None
        self._observed: ObservedOrder | None = None
        self._guessed = False
        """Whether the order comes from this reading, not from an earlier one."""
        self._last_read = 0
        """Last byte of the read before."""
        self._touched: dict[int, None] = {}
        """Blocks that were read of, in order."""
        self._read_bytes = 0
        self._rest_due = 0
        """Touched blocks from which the rest of the file is said again."""
        self._asides: deque[Extent] = deque(maxlen=ASIDES)
        self._granted_bytes = 0

    @property
    def layout(self) -> Layout | None:
        """Where its tensors lie, once that is known."""
        return self._layout

    @property
    def order(self) -> BlockOrder | None:
        """The order that is followed now."""
        return self._order.order if self._order is not None else None

    @property
    def touched_bytes(self) -> int:
        """Bytes of the blocks that were read of."""
        return min(self._size_bytes, len(self._touched) * self._policy.block_bytes)

    @property
    def earnest(self) -> bool:
        """Whether its reader is taken to want all of it."""
        return self.touched_bytes >= EARNEST * self._size_bytes

    @property
    def asides(self) -> bool:
        """Whether a tensor is wanted aside of the windows."""
        return bool(self._asides)

    @property
    def overflow_bytes(self) -> int:
        """How far the windows would reach behind the end of what is planned here."""
        return max(0, self._streams.overflow_bytes)

    @property
    def window_bytes(self) -> int:
        """The largest open window."""
        return self._streams.window_bytes

    def learn(self, layout: Layout, by_name: Sequence[int] = ()) -> None:
        """Plan by *layout* from now on; a learned order goes before it.

        Args:
            layout: Where tensors lie.
            by_name: Their numbers in the natural order of their names; empty where that is not worth knowing.
        """
        self._layout = layout
        self._observed = ObservedOrder(layout, by_name) if by_name else None
        if self._order is None:
            self._load = LoadPlan(layout, self._streams)

    def follow(self, order: BlockOrder, *, guessed: bool = False) -> None:
        """Plan along *order* from now on, until reads disprove it.

        Args:
            order: In blocks of any size.
            guessed: Whether it comes from this reading, not from an earlier one.
        """
        if order.blocks:
            self._load, self._guessed = None, guessed
            self._begin_order(order.in_blocks_of(self._policy.block_bytes))
            if not guessed and self._order is not None:  # what was read meanwhile shows whether it is being followed
                self._order.observe(self._touched, missed=True)
                if self._order.disproved:
                    self._forget_order()

    def expect(self, window_bytes: int, credit_bytes: int) -> None:
        """Begin with a window of that size once reading begins, since other files of the model were read whole.

        Args:
            window_bytes: Window of the file read before.
            credit_bytes: Bytes read of the model so far.
        """
        self._streams.policy = replace(
            self._streams.policy, trusted_window_bytes=window_bytes, credit_bytes=credit_bytes
        )

    def grant(self, stop_bytes: int) -> bool:
        """Want the first bytes of the file until its own readers say more; return whether that is new."""
        before, self._granted_bytes = self._granted_bytes, min(stop_bytes, self._size_bytes)
        return before != self._granted_bytes

    def observe(self, start: int, stop: int, *, missed: bool) -> bool:
        """Note a read of bytes ``[start, stop)``; see ``StreamTable.observe``."""
        self._read_bytes += stop - start
        fresh = self._fresh(start, stop)
        changed = bool(fresh) and self._layout is not None and self._set_aside(start, stop, fresh)
        self._touched.update(dict.fromkeys(fresh))
        self._last_read = stop - 1
        if self._order is not None:
            changed |= self._order.observe(fresh, missed=missed)
            if not self._order.disproved:
                return changed
            self._forget_order()
            return True
        return (self._load or self._streams).observe(start, stop, missed=missed) or changed

    def ahead(self) -> list[Extent]:
        """Return what is wanted now, whole blocks, each once, most urgent first."""
        if self._order is not None:
            windows = list(self._from_their_beginnings(self._order.ahead()))
        else:
            windows = list(self._blocks(self._streams.ahead()))
        if self._load is not None and self._load.combing:
            self._asides.clear()  # the comb plans all of them, in order
        wanted = dict.fromkeys(self._untouched(self._asides))
        wanted.update(dict.fromkeys(windows))
        if not windows:
            wanted.update(dict.fromkeys(self._untouched([Extent(0, self._granted_bytes)])))
        return self._extents(wanted)

    def rest(self) -> list[Extent] | None:
        """Return what a disk cache may be filled with: all that was not read, once reading is in earnest.

        Returns:
            None while it is what was said before but for what was read of it since: saying all that is left of a file
            of 30,000 blocks at each of them would take longer than fetching them.
        """
        if not self.earnest:
            self._rest_due = 0
            return []
        if len(self._touched) < self._rest_due:
            return None
        whole = [Extent(0, self._size_bytes)]
        blocks = self._order.order.blocks if self._order is not None else self._blocks(whole)
        left = [index for index in blocks if index not in self._touched]
        self._rest_due = len(self._touched) + max(1, len(left) // REST_SHARE)
        return self._extents(left)

    def learned(self) -> BlockOrder | None:
        """Return the order in which blocks were read since the last :meth:`begin_again`; None where it says nothing.

        Scattered small reads say nothing: whoever reads a file reads at least half of the blocks that it touches.
        """
        block_bytes = self._policy.block_bytes
        touched = len(self._touched)
        if touched < LEAST_LEARNED_BLOCKS or self._read_bytes < touched * block_bytes // 2:
            return None
        order = BlockOrder(self._in_order(), block_bytes, self._size_bytes)
        known = self.order
        if (
            known is not None
            and not self._guessed
            and (known.blocks == order.blocks or len(known.blocks) > 2 * touched)
        ):
            return None
        return order

    def _in_order(self) -> Iterable[int]:
        """Return the touched blocks in the order in which they are worth fetching.

        Whoever copies tensor after tensor out of a mapping touches the end of each before the rest, and takes pushed
        pages unseen. That is file order nevertheless, and so it is kept.
        """
        block_bytes, layout = self._policy.block_bytes, self._layout
        if layout is None:
            return self._touched
        begun = descents = 0
        highest = -1
        for index in self._touched:
            tensor = layout.first_from(index * block_bytes)
            if tensor is not None and tensor.start < (index + 1) * block_bytes:
                begun += 1
                descents += index < highest
                highest = max(highest, index)
                if highest - index > UNSEEN_BLOCKS:
                    return self._touched
        if descents > begun * UNSEEN_SHARE:
            return self._touched
        whole = self.touched_bytes >= WHOLE * self._size_bytes
        return range(-(-self._size_bytes // block_bytes)) if whole else sorted(self._touched)

    def begin_again(self) -> None:
        """Forget where readers were and what they had asked for, because all of them have gone.

        Who comes next may find all of it in the page cache, and must show again that they read on.
        """
        if self._touched:
            self._touched.clear()
            self._rest_due = 0
            self._read_bytes = 0
            if self._order is not None:
                self._begin_order(self._order.order)
            else:
                self._streams = StreamTable(self._size_bytes, self._policy)
            if self._load is not None and self._layout is not None:
                self._load = LoadPlan(self._layout, self._streams)
        self._asides.clear()

    def check_invariants(self) -> None:
        """Raise AssertionError unless all that is planned lies in the file, each block once."""
        self._streams.check_invariants()
        seen: set[int] = set()
        for extent in self.ahead():
            assert 0 <= extent.start < extent.stop <= self._size_bytes
            blocks = set(self._blocks([extent]))
            assert not blocks & seen, "each block once"
            seen |= blocks

    # ------------------------------------------------------------------ inside

    def _begin_order(self, order: BlockOrder) -> None:
        policy = replace(
            self._policy,
            proof_reads=ORDER_PROOF_BLOCKS,
            first_window_bytes=RAMP_BYTES,
            trusted_window_bytes=CALM_WINDOW_BYTES,
            calm_window_bytes=CALM_WINDOW_BYTES,
            ramp_bytes=RAMP_BYTES,
            growth=GROWTH,
            trust_start=False,
        )
        self._rest_due = 0
        read = self._touched if self._guessed else ()
        self._order = OrderPlan(order, policy, read, guessed=self._guessed)
        self._streams = self._order.streams

    def _from_their_beginnings(self, blocks: Iterable[int]) -> Iterable[int]:
        """Return *blocks* of an order, before each the one in which its tensor begins.

        That one may have been read with another tensor, long ago, and memory may have given it up since.
        """
        block_bytes, layout = self._policy.block_bytes, self._layout
        for index in blocks:
            number = layout.index_at(index * block_bytes) if layout is not None else -1
            if layout is not None and number >= 0:
                tensor = layout.tensors[number]
                first = tensor.start // block_bytes
                if first == index - 1 and tensor.stop > index * block_bytes and first in self._touched:
                    yield first
            yield index

    def _fresh(self, start: int, stop: int) -> Sequence[int]:
        """Return the blocks that a read is the first to touch."""
        block_bytes, touched = self._policy.block_bytes, self._touched
        index, last = start // block_bytes, (stop - 1) // block_bytes
        if index == last and index in touched:
            return ()
        return [block for block in range(index, last + 1) if block not in touched]

    def _set_aside(self, start: int, stop: int, fresh: Sequence[int]) -> bool:
        """Want a tensor whole that a read begins away from where anybody is; return whether there is such a tensor."""
        assert self._layout is not None
        if self._streams.near(start) if self._order is None else any(map(self._order.reaches, fresh)):
            return False
        tensor = self._layout.first_from(start // 4096 * 4096)
        block_bytes = self._policy.block_bytes
        if tensor is None or tensor.start >= stop or tensor.stop <= (stop // block_bytes + 1) * block_bytes:
            return False
        self._asides.append(Extent(tensor.start, min(tensor.stop, tensor.start + self._policy.max_window_bytes)))
        self._guess(tensor.start)
        return True

    def _guess(self, start: int) -> None:
        """Follow the order that explains the jumps up to the tensor at *start*, if one does."""
        assert self._layout is not None
        if self._observed is None or self._order is not None:
            return
        sequence = self._observed.jump(self._last_read, self._layout.index_at(start))
        if sequence is not None:
            tensors = self._layout.tensors
            blocks = self._blocks(Extent(tensors[number].start, tensors[number].stop) for number in sequence)
            self.follow(BlockOrder(blocks, self._policy.block_bytes, self._size_bytes), guessed=True)

    def _forget_order(self) -> None:
        """Go on without an order: it was another one that this reader has."""
        self._order = self._observed = None
        self._rest_due = 0
        self._streams = StreamTable(self._size_bytes, self._policy)
        if self._layout is not None:
            self._load = LoadPlan(self._layout, self._streams)

    def _blocks(self, extents: Iterable[Extent]) -> Iterable[int]:
        block_bytes = self._policy.block_bytes
        for extent in extents:
            stop = min(extent.stop, self._size_bytes)
            yield from range(extent.start // block_bytes, -(-stop // block_bytes))

    def _untouched(self, extents: Iterable[Extent]) -> Iterable[int]:
        return (index for index in self._blocks(extents) if index not in self._touched)

    def _extents(self, blocks: Iterable[int]) -> list[Extent]:
        """Return *blocks* as extents, in their order."""
        block_bytes = self._policy.block_bytes
        runs: list[list[int]] = []
        for index in blocks:
            if runs and runs[-1][1] == index:
                runs[-1][1] += 1
            else:
                runs.append([index, index + 1])
        return [Extent(start * block_bytes, min(stop * block_bytes, self._size_bytes)) for start, stop in runs]
