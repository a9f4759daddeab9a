"""The block store: exact bytes of object versions from memory, a flight, the disk cache or the store, in that order.

A read finds out synchronously what is missing, queues parts for it, and waits for *its* bytes only. Each byte has at
most one part on its way, whoever asks: readers join. A demand part starts at the page that was asked for; the head
of its block follows as a second part. Plans fill what flights and memory are left over.

Everything between two ``await``s is atomic, and all state changes happen in the trio thread; fetching threads touch
only their part (see ``blocks.part``). Fetches run in the store's own nursery: a reader that gives up leaves its
flight to the others.

Nothing waits for memory while it holds memory that others wait for: a read pins only the block whose bytes it waits
for, parts in the queue hold nothing, and what has its memory starts before what has not (see ``blocks.memory`` for
who gives way to whom).
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import trio

from tigrismount.blocks.flights import Flights
from tigrismount.blocks.leftovers import Leftovers
from tigrismount.blocks.lending import LENT_SHARE, Loan
from tigrismount.blocks.memory import TURN_S, BlockMemory
from tigrismount.blocks.part import Block, ObjectState, Waiter
from tigrismount.blocks.pieces import Pieces
from tigrismount.blocks.statistics import BlocksCounters, BlocksStatistics
from tigrismount.core import loadlog
from tigrismount.core.types import Extent, Priority
from tigrismount.errors import CacheError, ObjectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tigrismount.blocks.base import Buffer
    from tigrismount.blocks.options import BlocksConfig
    from tigrismount.cache.base import BlockCache
    from tigrismount.core.loadlog import LoadLog
    from tigrismount.core.types import ObjectId
    from tigrismount.objects.client import ObjectClient
    from tigrismount.objects.fetchers.memory import SharedMemory

log = logging.getLogger(__name__)


class BlockStore:
    """Blocks of all object versions; implements ``blocks.base.BlockSource``.

    Args:
        client: Where bytes come from in the end.
        cache: The disk cache; ``cache.none.NoCache`` when there is none.
        config: Limits.
        log: Told what load reports are made of; None where nobody wants them.
        on_complete: Told the version and the index of each block that becomes complete in memory.
        on_whole: Told a version when its last block has come into the disk cache.
        is_pressed: Tells whether this machine is short of memory now.
        shared: Where buffers come from that fetch processes see; None for memory of our own.
        completes: Whether blocks that the disk was too busy for are brought in later, see ``leftovers``.
    """

    def __init__(
        self,
        client: ObjectClient,
        cache: BlockCache,
        config: BlocksConfig,
        log: LoadLog | None = None,
        *,
        on_complete: Callable[[ObjectId, int], None] | None = None,
        on_whole: Callable[[ObjectId], None] = lambda _: None,
        is_pressed: Callable[[], bool] = lambda: False,
        shared: SharedMemory | None = None,
        completes: bool = False,
    ) -> None:
        self._cache = cache
        self._completes = completes
        self._is_pressed = is_pressed
        self._leftovers = Leftovers(self._is_at_rest, self._offer_again, self._withdraw_offers)
        self._config = config
        self._log = log or loadlog.NoLog()
        self._memory = BlockMemory(config, on_evicted=self._retire, shared=shared)
        self._states: dict[ObjectId, ObjectState] = {}
        self._counters = BlocksCounters()
        self._largest_block_bytes = max(config.block_bytes, config.memory_limit_bytes // 4)
        """Largest blocks that the disk cache may count in; of larger ones too few would fit into memory."""
        self._nursery: trio.Nursery | None = None
        self._lent_bytes = 0
        self._flights = Flights(
            client,
            config,
            self._memory,
            self._counters,
            self._log,
            nursery=lambda: self._running,
            retire=self._retire,
            on_complete=on_complete,
            on_whole=on_whole,
            on_lost=self._note_lost,
            on_refused=self._leftovers.forget,
            is_pressed=is_pressed,
        )
        self._pieces = Pieces(self._flights.disk_reads, self._counters, self._log, self._has_room)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the flights until cancelled; reads work only while this runs."""
        self._flights.attach()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._leftovers.run)
            task_status.started()
            while True:
                await trio.sleep(TURN_S)
                self._memory.grow_old()
                if self._flights.has_given_way:
                    self._flights.pump()  # nothing else may happen that would

    def _has_room(self, size_bytes: int) -> bool:
        return self._memory.pool.can_take(size_bytes) and not self._is_pressed()

    # ------------------------------------------------------------------ what readers call

    def retain(self, obj: ObjectId) -> None:
        """Say that *obj* is open: the disk cache will not evict it."""
        self._state(obj).users += 1

    def release(self, obj: ObjectId) -> None:
        """Take back one :meth:`retain`."""
        state = self._states.get(obj)
        if state is not None:
            state.users -= 1
            self._retire(state)

    def try_read(self, obj: ObjectId, start: int, stop: int) -> Buffer | None:
        """Return bytes that are in memory; see ``BlockSource.try_read``."""
        if start >= stop:
            return b""
        state = self._states.get(obj)
        if state is None:
            return None
        index = start // state.block_bytes
        block = state.blocks.get(index)
        if block is None or block.buffer is None:
            return None
        if stop > block.stop:
            return self._try_read_across(state, start, stop)
        if not block.covers(start, stop):
            return None
        self._memory.delivered(block, stop - start)
        self._counters.hit(stop - start)
        return block.view(start, stop)

    def _try_read_across(self, state: ObjectState, start: int, stop: int) -> bytes | None:
        pieces = []
        for index, piece_start, piece_stop in _pieces(state.block_bytes, start, stop):
            block = state.blocks.get(index)
            if block is None or block.buffer is None or not block.covers(piece_start, piece_stop):
                return None
            pieces.append((block, piece_start, piece_stop))
        for block, piece_start, piece_stop in pieces:
            self._memory.delivered(block, piece_stop - piece_start)
        self._counters.hit(stop - start)
        return b"".join(block.view(a, b) for block, a, b in pieces)

    async def read(self, obj: ObjectId, start: int, stop: int, priority: Priority = Priority.DEMAND) -> Buffer:
        """Return exactly the bytes asked for; see ``BlockSource.read``."""
        state = self._state(obj)
        state.users += 1
        try:
            await state.opened.wait()
            found = self.try_read(obj, start, stop)
            if found is not None:  # it came between the look that found it missing and this one
                if priority is Priority.DEMAND:
                    now_s = self._log.clock()
                    self._log.note((loadlog.HIT, obj, start, stop, now_s, now_s, loadlog.RAM, ""))
                return found
            if priority is Priority.DEMAND:
                return await self._pieces.read(
                    state, start, stop, partial(self._read_missing, state, start, stop, priority)
                )
            return await self._read_missing(state, start, stop, priority)
        finally:
            state.users -= 1
            self._retire(state)

    async def _read_missing(self, state: ObjectState, start: int, stop: int, priority: Priority) -> Buffer:
        pieces = list(_pieces(state.block_bytes, start, stop))
        joined = [self._flights.want(state.block(index), a, b, priority) for index, a, b in pieces]
        parts: list[Buffer] = []
        with self._noted(state, start, stop, priority, joined=all(joined)):
            try:
                for (index, a, b), was_joined in zip(pieces, joined, strict=True):
                    view = await self._read_piece(state.block(index), a, b, priority, joined=was_joined)
                    # A piece is copied before its block is let go: a read across blocks needs one buffer at a time.
                    parts.append(bytes(view) if len(pieces) > 1 else view)
            finally:
                for index, _, _ in pieces[len(parts) :]:
                    self._flights.abandon(state.block(index))
                self._flights.pump()
        self._counters.miss(stop - start, joined=all(joined))
        # No flight can start writing into a buffer freed just now before the caller awaits again.
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @contextlib.contextmanager
    def _noted(self, state: ObjectState, start: int, stop: int, priority: Priority, *, joined: bool) -> Iterator[None]:
        """Tell the load reports of a process that waits, and in the end what for; speculation is not noted."""
        if priority is not Priority.DEMAND:
            yield
            return
        note, since_s = self._log.note, self._log.clock()
        starved, slow_downs = self._flights.starved, self._flights.slow_downs
        block = state.blocks.get(start // state.block_bytes)
        from_disk = block is not None and any(part.from_disk for part in block.parts)
        source = loadlog.FLIGHT if joined else loadlog.NVME if from_disk else loadlog.REMOTE
        cause = loadlog.DISK_CAUSE if from_disk else loadlog.STORE if joined else loadlog.PLAN
        kind = loadlog.GAVE_UP
        note((loadlog.WAIT, state.obj, start, stop, since_s, since_s, "", ""))
        try:
            yield
            kind = loadlog.ANSWER
        finally:
            if self._flights.slow_downs > slow_downs:
                cause = loadlog.SLOW_DOWN
            elif self._flights.starved > starved:
                cause = loadlog.MEMORY
            note((kind, state.obj, start, stop, since_s, self._log.clock(), source, cause))

    async def _read_piece(self, block: Block, start: int, stop: int, priority: Priority, *, joined: bool) -> memoryview:
        """Wait for bytes of one block.

        Only the block that a read waits for is pinned, never one that it will want next: reads that hold a block and
        wait for another one could hold all the memory between them.
        """
        block.pins += 1
        try:
            return await self._wait_for(block, start, stop, priority, joined=joined)
        finally:
            self._flights.unpin(block)

    def plan(
        self,
        obj: ObjectId,
        extents: Sequence[Extent],
        priority: Priority,
        *,
        later: Sequence[Extent] | None = (),
        cut: bool = False,
    ) -> None:
        """Replace what is wanted next of *obj*; see ``BlockSource.plan``."""
        state = self._states.get(obj)
        if state is None:
            if not (extents or later):
                return
            state = self._state(obj)
        state.priority = priority
        self._set_plan(state, extents, later)
        if state.lane is not None:
            self._open(state)
        self._flights.queue.plan(state)
        if cut:
            self._flights.cut(state)
        self._flights.pump()
        self._retire(state)

    def _set_plan(self, state: ObjectState, extents: Iterable[Extent], later: Iterable[Extent] | None = ()) -> None:
        blocks = state.blocks
        state.planned = planned = _indexes(state, extents)
        state.pending = [i for i in planned if (b := blocks.get(i)) is None or not (b.complete or b.parts)]
        state.pending.reverse()
        if later is None:
            return
        wanted_later = [i for i in _indexes(state, later) if i not in planned and i not in state.later_tried]
        state.later = [i for i in wanted_later if (b := blocks.get(i)) is None or not (b.complete or b.parts)]
        state.later.reverse()

    async def fill(self, obj: ObjectId, index: int, on_fetched: Callable[[], None] = lambda: None) -> bool:
        """Bring one block into the disk cache; see ``BlockFiller.fill``."""
        state = self._state(obj)
        state.users += 1
        try:
            await state.opened.wait()
            if state.cached is None:
                detail = "the disk cache keeps it in blocks that are too large for --memory-limit, or cannot be read"
                raise CacheError(detail, bucket=obj.bucket, key=obj.key)
            if index * state.block_bytes >= obj.size_bytes:
                # It was counted before the version was evicted, and is kept in larger blocks now: there is none to wait
                # for, and whoever counted looks once more.
                return True
            if state.cached.has(index) or await self._fill_missing(state, state.block(index), on_fetched):
                return True
            if state.cached.kept_otherwise:
                detail = "another process has begun it in blocks of another size: warm it again"
                raise CacheError(detail, bucket=obj.bucket, key=obj.key)
            return False
        finally:
            state.users -= 1
            self._retire(state)

    async def _fill_missing(self, state: ObjectState, block: Block, on_fetched: Callable[[], None]) -> bool:
        assert state.cached is not None
        delivered_bytes = block.delivered_bytes
        block.pins += 1
        try:
            await self._wait_for(block, block.start, block.stop, Priority.PREFETCH, joined=False)
            on_fetched()
            if block.complete and not (block.writing or state.cached.has(block.index)):
                self._flights.writes.keep(block)  # it was refused when it came
            while not block.complete or block.writing:
                if block.settled is None:
                    block.settled = trio.Event()
                await block.settled.wait()
            return state.cached.has(block.index)
        finally:
            self._flights.unpin(block)
            if block.on_disk and block.evictable and block.delivered_bytes == delivered_bytes + block.length_bytes:
                self._memory.forget(block)  # nobody but us wanted it in memory
            self._flights.pump()

    def forget(self, obj: ObjectId) -> bool:
        """Drop what is in memory of *obj*, whose bytes are known to be wrong; return whether nothing of it is left.

        Blocks that somebody holds or fetches stay: ask again.
        """
        state = self._states.get(obj)
        for block in list(state.blocks.values()) if state is not None else ():
            if block.evictable:
                block.drop_queued()
                self._memory.forget(block)
        if state is not None:
            self._retire(state)
        return state is None or not state.blocks

    # ------------------------------------------------------------------ what the disk was too busy for

    def _note_lost(self, block: Block) -> None:
        if self._completes:
            self._leftovers.note(block)

    def _is_at_rest(self) -> bool:
        """Tell whether nobody wants anything of the store, the disk or the memory."""
        queue = self._flights.queue
        busy = queue.queued() or queue.planners() or not self._flights.writes.idle
        return self.quiet and not busy and not self._is_pressed()

    async def _offer_again(self, obj: ObjectId, indexes: Sequence[int], most_bytes: int) -> tuple[int, set[int]]:
        """Offer blocks to the disk, from memory or fetched at the lowest priority; see ``Leftovers``.

        Returns:
            Bytes that will be fetched for it, and the blocks that are on the disk or cannot be brought there.
        """
        state = self._state(obj)
        state.users += 1
        try:
            await state.opened.wait()
            cached, fetched_bytes, done = state.cached, 0, set()
            for index in indexes:
                block = state.blocks.get(index)
                length_bytes = min(state.block_bytes, obj.size_bytes - index * state.block_bytes)
                if cached is None or length_bytes <= 0 or cached.has(index):
                    done.add(index)
                elif block is not None and block.complete:
                    if not block.writing:
                        self._flights.writes.keep(block)
                elif fetched_bytes + length_bytes > most_bytes:
                    done.add(index)
                elif index not in state.later and index not in state.planned:
                    state.later.insert(0, index)
                    state.refetching.add(index)
                    fetched_bytes += length_bytes
            self._flights.queue.plan(state)
            self._flights.pump()
            return fetched_bytes, done
        finally:
            state.users -= 1
            self._retire(state)

    def _withdraw_offers(self) -> None:
        for state in list(self._states.values()):
            if state.refetching:
                state.later = [index for index in state.later if index not in state.refetching]
                state.refetching.clear()
                self._flights.queue.plan(state)
                self._retire(state)

    # ------------------------------------------------------------------ lending

    def block_bytes(self, obj: ObjectId) -> int | None:
        """Return the block size of a version in use; None while that is not known."""
        state = self._states.get(obj)
        return state.block_bytes if state is not None and state.opened.is_set() else None

    def holds(self, obj: ObjectId, index: int) -> bool:
        """Tell whether a block is complete in memory."""
        state = self._states.get(obj)
        block = state.blocks.get(index) if state is not None else None
        return block is not None and block.complete

    def lend(self, obj: ObjectId, index: int) -> Loan | None:
        """Lend a complete block until :meth:`take_back`; None when it is not there, or too much is lent."""
        state = self._states.get(obj)
        block = state.blocks.get(index) if state is not None else None
        # A version that is closed may be opened again in another block size, which forgets its blocks.
        if block is None or not (block.complete and block.state.opened.is_set()):
            return None
        if self._lent_bytes + block.length_bytes > self._config.memory_limit_bytes // LENT_SHARE:
            return None
        self._lent_bytes += block.length_bytes
        block.pins += 1
        return Loan(block, block.start, block.view(block.start, block.stop))

    def take_back(self, loan: Loan, *, delivered: bool) -> None:
        """Take back what was lent; nobody looks at its memory any more.

        Args:
            loan: What :meth:`lend` returned.
            delivered: Whether its reader needs it no more.
        """
        block = loan.block
        self._lent_bytes -= block.length_bytes
        if delivered:
            self._memory.delivered(block, block.length_bytes)
        self._flights.unpin(block)
        self._flights.pump()
        self._retire(block.state)

    # ------------------------------------------------------------------ all of it

    async def drain(self) -> None:
        """Wait until every complete block is on the disk, or the cache has refused it."""
        await self._flights.writes.drain()

    @property
    def quiet(self) -> bool:
        """Whether nothing is on its way, from the store or from the disk cache."""
        return not any(self._flights.queue.in_flight.values())

    @property
    def degraded(self) -> str:
        """Why the disk cache gives less than it should; empty where it does not."""
        return self._flights.degraded

    def statistics(self) -> BlocksStatistics:
        """Return counters and gauges."""
        in_flight = self._flights.queue.in_flight
        return self._counters.snapshot(
            left_over_bytes=self._leftovers.bytes,
            evicted_blocks=self._memory.evicted_blocks,
            memory_limit_bytes=self._memory.pool.limit_bytes,
            memory_used_bytes=self._memory.pool.used_bytes,
            memory_held_bytes=self._memory.pool.held_bytes,
            flights=in_flight[None],
            disk_flights=in_flight.total() - in_flight[None],
            queued=self._flights.queue.queued(),
            objects=len(self._states),
        )

    def check_invariants(self) -> None:
        """Raise AssertionError where the books do not agree; for tests."""
        blocks = [block for state in self._states.values() for block in state.blocks.values()]
        self._memory.check_invariants(blocks)
        for block in blocks:
            block.check_invariants()
        flying = {part for block in blocks for part in block.parts if part.started and not part.waits_elsewhere}
        assert {source: count for source, count in self._flights.queue.in_flight.items() if count} == Counter(
            part.drive for part in flying
        )
        for state in self._states.values():
            state.check_invariants()

    def check_idle(self) -> None:
        """Raise AssertionError unless nothing is going on and nothing is held but bytes; for tests."""
        self.check_invariants()
        for state in self._states.values():
            assert (state.users, state.lane, state.opening) == (0, None, False)
            assert state.blocks, "a version without bytes in memory is forgotten"
            assert state.cached is None, "the disk cache may evict what nobody uses"
            for block in state.blocks.values():
                assert (block.pins, block.parts, block.waiters) == (0, [], [])

    # ------------------------------------------------------------------ object versions

    def _state(self, obj: ObjectId) -> ObjectState:
        state = self._states.get(obj)
        if state is None:
            state = self._states[obj] = ObjectState(obj, self._config.block_bytes)
            if not obj.cacheable:
                state.opened.set()
        self._open(state)
        return state

    def _open(self, state: ObjectState) -> None:
        """Ask the disk cache what it holds of a version, unless that is known or being asked."""
        if not (state.opened.is_set() or state.opening):
            state.opening = True
            self._running.start_soon(self._open_cached, state)

    @property
    def _running(self) -> trio.Nursery:
        assert self._nursery is not None, "the block store is used while run() is running"
        return self._nursery

    async def _open_cached(self, state: ObjectState) -> None:
        try:
            state.cached = await self._cache.open_object(state.obj)
        except CacheError as exc:
            log.warning("reading without the disk cache: %s", exc)
        finally:
            state.opening = False
            state.opened.set()
        if state.cached is not None and state.cached.block_bytes > self._largest_block_bytes:
            log.info("%s: reading without the disk cache: its blocks there are too large for memory", state.obj.key)
            state.cached.close()
            state.cached = None
        if state.cached is not None and state.cached.block_bytes != state.block_bytes:
            # Blocks and plans count in the other size. Nothing is pinned: readers wait for this.
            size_bytes = state.block_bytes
            planned = [Extent(index * size_bytes, (index + 1) * size_bytes) for index in state.planned]
            for block in list(state.blocks.values()):
                self._memory.forget(block)
            state.block_bytes = state.cached.block_bytes
            state.pieces.clear()
            state.piece_counts.clear()
            self._set_plan(state, planned)
        if state.cached is None:
            state.later = []  # there is no disk to fill
        else:
            self._flights.queue.know(state.cached.drive)
        self._flights.queue.plan(state)
        self._flights.pump()
        self._retire(state)

    def _retire(self, state: ObjectState) -> None:
        """Let the disk cache evict a version nobody uses, and forget it once none of its blocks is in memory."""
        if state.users or state.lane is not None or state.opening:
            return
        if any(block.pins or block.parts for block in state.blocks.values()):
            return
        if state.cached is not None:
            state.cached.close()
            state.cached = None
            state.opened = trio.Event()
        if not state.blocks and self._states.get(state.obj) is state:
            del self._states[state.obj]

    # ------------------------------------------------------------------ wanting and waiting

    async def _wait_for(self, block: Block, start: int, stop: int, priority: Priority, *, joined: bool) -> memoryview:
        """Return the bytes once they are there; the block is pinned by the caller.

        A flight that was *joined* may have begun long before this read, so its deadline was not ours: when it fails
        for a passing reason, one of our own follows.
        """
        while not (block.buffer is not None and block.covers(start, stop)):
            self._flights.want(block, start, stop, priority)
            waiter = Waiter(start, stop)
            block.waiters.append(waiter)
            try:
                for part in block.parts:
                    if part.start < stop and part.stop > start:
                        part.expect(stop)
                if block.buffer is not None and block.covers(start, stop):
                    break  # it arrived between looking and asking to be told
                self._flights.pump()
                await waiter.event.wait()
            finally:
                block.waiters.remove(waiter)
            if waiter.error is not None:
                if not (joined and waiter.error.transient):
                    raise _again(waiter.error) from waiter.error
                joined = False
        self._memory.delivered(block, stop - start)
        return block.view(start, stop)


def _indexes(state: ObjectState, extents: Iterable[Extent]) -> dict[int, None]:
    """Return the blocks that *extents* touch, in order, each once."""
    indexes: dict[int, None] = {}
    for extent in extents:
        stop = min(extent.stop, state.obj.size_bytes)
        if extent.start < stop:
            indexes.update(dict.fromkeys(range(extent.start // state.block_bytes, -(-stop // state.block_bytes))))
    return indexes


def _pieces(block_bytes: int, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield (block index, start, stop) for each block that ``[start, stop)`` touches."""
    while start < stop:
        index = start // block_bytes
        piece_stop = min(stop, (index + 1) * block_bytes)
        yield index, start, piece_stop
        start = piece_stop


def _again(error: ObjectError) -> ObjectError:
    """Return a fresh exception like *error*: one instance must not be raised in several tasks."""
    return type(error)(error.detail, bucket=error.bucket, key=error.key)
