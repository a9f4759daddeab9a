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

import logging
from typing import TYPE_CHECKING

import trio

from tigrismount.blocks.buffers import PAGE_BYTES
from tigrismount.blocks.memory import BlockMemory
from tigrismount.blocks.part import NEVER, Block, ObjectState, Part, Waiter
from tigrismount.blocks.queue import FlightQueue
from tigrismount.blocks.statistics import BlocksCounters, BlocksStatistics
from tigrismount.core.types import Extent, Priority
from tigrismount.errors import CacheCorruptError, CacheError, ObjectError, ObjectUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tigrismount.blocks.base import Buffer
    from tigrismount.blocks.options import BlocksConfig
    from tigrismount.cache.base import BlockCache
    from tigrismount.core.types import ObjectId
    from tigrismount.objects.client import ObjectClient

log = logging.getLogger(__name__)


class BlockStore:
    """Blocks of all object versions; implements ``blocks.base.BlockSource``.

    Args:
        client: Where bytes come from in the end.
        cache: The disk cache; ``cache.none.NoCache`` when there is none.
        config: Limits.
    """

    def __init__(self, client: ObjectClient, cache: BlockCache, config: BlocksConfig) -> None:
        self._client = client
        self._cache = cache
        self._config = config
        self._memory = BlockMemory(config, on_evicted=self._retire)
        self._queue = FlightQueue(config.concurrency, config.disk_concurrency)
        self._states: dict[ObjectId, ObjectState] = {}
        self._counters = BlocksCounters()
        self._largest_block_bytes = max(config.block_bytes, config.memory_limit_bytes // 4)
        """Largest blocks that the disk cache may count in; of larger ones too few would fit into memory."""
        self._closing = False
        self._writes = 0
        """Blocks on their way to the disk cache."""
        self._written = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the flights until cancelled; reads work only while this runs."""
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

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
            if found is not None:
                return found
            return await self._read_missing(state, start, stop, priority)
        finally:
            state.users -= 1
            self._retire(state)

    async def _read_missing(self, state: ObjectState, start: int, stop: int, priority: Priority) -> Buffer:
        pieces = list(_pieces(state.block_bytes, start, stop))
        joined = [self._want(state.block(index), a, b, priority) for index, a, b in pieces]
        parts: list[Buffer] = []
        try:
            for (index, a, b), was_joined in zip(pieces, joined, strict=True):
                view = await self._read_piece(state.block(index), a, b, priority, joined=was_joined)
                # A piece is copied before its block is let go, so that a read across blocks needs one buffer at a time.
                parts.append(bytes(view) if len(pieces) > 1 else view)
        finally:
            for index, _, _ in pieces[len(parts) :]:
                self._abandon(state.block(index))
            self._pump()
        self._counters.miss(stop - start, joined=all(joined))
        # No flight can start writing into a buffer freed just now before the caller awaits again.
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _read_piece(self, block: Block, start: int, stop: int, priority: Priority, *, joined: bool) -> memoryview:
        """Wait for bytes of one block.

        Only the block that a read waits for is pinned, never one that it will want next: reads that hold a block and
        wait for another one could hold all the memory between them.
        """
        block.pins += 1
        try:
            return await self._wait_for(block, start, stop, priority, joined=joined)
        finally:
            self._unpin(block)

    def plan(self, obj: ObjectId, extents: Sequence[Extent], priority: Priority) -> None:
        """Replace what is wanted next of *obj*; see ``BlockSource.plan``."""
        state = self._states.get(obj)
        if state is None:
            if not extents:
                return
            state = self._state(obj)
        state.priority = priority
        self._set_plan(state, extents)
        if state.pending:
            self._open(state)
        self._queue.plan(state)
        self._pump()
        self._retire(state)

    def _set_plan(self, state: ObjectState, extents: Iterable[Extent]) -> None:
        planned: dict[int, None] = {}
        for extent in extents:
            stop = min(extent.stop, state.obj.size_bytes)
            if extent.start < stop:
                indexes = range(extent.start // state.block_bytes, -(-stop // state.block_bytes))
                planned.update(dict.fromkeys(indexes))
        blocks = state.blocks
        state.planned = planned
        state.pending = [i for i in planned if (b := blocks.get(i)) is None or not (b.complete or b.parts)]
        state.pending.reverse()

    async def drain(self) -> None:
        """Wait until every complete block is on the disk, or the cache has refused it."""
        while self._writes:
            await self._written.wait()

    def statistics(self) -> BlocksStatistics:
        """Return counters and gauges."""
        return self._counters.snapshot(
            evicted_blocks=self._memory.evicted_blocks,
            memory_limit_bytes=self._memory.pool.limit_bytes,
            memory_used_bytes=self._memory.pool.used_bytes,
            memory_held_bytes=self._memory.pool.held_bytes,
            flights=self._queue.in_flight[False],
            disk_flights=self._queue.in_flight[True],
            queued=self._queue.queued(),
            objects=len(self._states),
        )

    def check_invariants(self) -> None:
        """Raise AssertionError where the books do not agree; for tests."""
        blocks = [block for state in self._states.values() for block in state.blocks.values()]
        self._memory.check_invariants(blocks)
        for block in blocks:
            block.check_invariants()
        flying = {part for block in blocks for part in block.parts if part.started}
        for from_disk, in_flight in self._queue.in_flight.items():
            assert in_flight == sum(1 for part in flying if part.from_disk is from_disk)
        for state in self._states.values():
            state.check_invariants()

    def check_idle(self) -> None:
        """Raise AssertionError unless nothing is going on and nothing is held but bytes; for tests."""
        self.check_invariants()
        for state in self._states.values():
            assert (state.users, state.pending, state.opening) == (0, [], False)
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
            self._set_plan(state, planned)
        self._queue.plan(state)
        self._pump()
        self._retire(state)

    def _retire(self, state: ObjectState) -> None:
        """Let the disk cache evict a version nobody uses, and forget it once none of its blocks is in memory."""
        if state.users or state.pending or state.opening:
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

    def _want(self, block: Block, start: int, stop: int, priority: Priority) -> bool:
        """Queue parts for what is neither there nor on its way, and move up what is queued.

        Returns:
            Whether everything was there or on its way.
        """
        if block.buffer is not None:
            self._memory.touch(block)
        missing = block.claimed().gaps(start, stop)
        for part in block.parts:
            if not part.started and part.priority > priority and part.start < stop and part.stop > start:
                part.priority = priority
                self._queue.push(part)
        if not missing:
            return True
        cached = block.state.cached
        if cached is not None and not block.have.total and not block.parts and cached.has(block.index):
            self._enqueue(block, block.start, block.stop, priority, from_disk=True)
            return False
        first = max(block.start, missing[0][0] // PAGE_BYTES * PAGE_BYTES)
        later = max(priority, Priority.READAHEAD)
        claimed = block.claimed()
        for part_start, part_stop in self._part_ranges(claimed.gaps(first, block.stop)):
            self._enqueue(block, part_start, part_stop, priority if part_start < stop else later)
        for part_start, part_stop in self._part_ranges(claimed.gaps(block.start, first)):
            self._enqueue(block, part_start, part_stop, later)
        return False

    def _part_ranges(self, gaps: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return *gaps* cut to the size of a part."""
        size = self._config.part_bytes
        return [(a, min(a + size, stop)) for start, stop in gaps for a in range(start, stop, size)]

    def _enqueue(self, block: Block, start: int, stop: int, priority: Priority, *, from_disk: bool = False) -> None:
        self._queue.push(self._part(block, start, stop, priority, from_disk=from_disk))

    def _part(self, block: Block, start: int, stop: int, priority: Priority, *, from_disk: bool = False) -> Part:
        return Part(block, start, stop, priority=priority, from_disk=from_disk, notify=self._notify)

    async def _wait_for(self, block: Block, start: int, stop: int, priority: Priority, *, joined: bool) -> memoryview:
        """Return the bytes once they are there; the block is pinned by the caller.

        A flight that was *joined* may have begun long before this read, so its deadline was not ours: when it fails
        for a passing reason, one of our own follows.
        """
        while not (block.buffer is not None and block.covers(start, stop)):
            self._want(block, start, stop, priority)
            waiter = Waiter(start, stop)
            block.waiters.append(waiter)
            try:
                for part in block.parts:
                    if part.start < stop and part.stop > start:
                        part.expect(stop)
                if block.buffer is not None and block.covers(start, stop):
                    break  # it arrived between looking and asking to be told
                self._pump()
                await waiter.event.wait()
            finally:
                block.waiters.remove(waiter)
            if waiter.error is not None:
                if not (joined and waiter.error.transient):
                    raise _again(waiter.error) from waiter.error
                joined = False
        self._memory.delivered(block, stop - start)
        return block.view(start, stop)

    def _notify(self, part: Part) -> None:
        """Called from a fetching thread."""
        assert self._token is not None
        self._token.run_sync_soon(self._progress, part, idempotent=True)

    def _progress(self, part: Part) -> None:
        """Wake the readers whose bytes have arrived, and wait for the next of them."""
        while True:
            done = part.done
            wake_at = NEVER
            for block in part.blocks:
                for waiter in block.waiters:
                    if block.covers(waiter.start, waiter.stop):
                        waiter.event.set()
                    elif part.start < waiter.stop and part.stop > waiter.start:
                        mark = min(waiter.stop, part.stop) - part.start
                        # A reader whose bytes this part has brought already waits for another part's.
                        wake_at = min(wake_at, mark) if mark > done else wake_at
            part.wake_at = wake_at
            if part.done < wake_at:
                return  # else the thread passed the mark while it was being set

    # ------------------------------------------------------------------ starting flights

    def _pump(self) -> None:
        """Start every part that has a slot and memory."""
        self._queue.limits[False] = min(self._config.concurrency, self._client.get_limit)
        while not self._closing and (
            self._start_queued(from_disk=True) or self._start_queued(from_disk=False) or self._start_planned()
        ):
            pass

    def _start_queued(self, *, from_disk: bool) -> bool:
        part = self._queue.peek(from_disk=from_disk)
        if part is None or not self._queue.slot(part.priority, from_disk=from_disk):
            return False
        # What is queued without memory was queued by a read, whatever its priority: plans queue nothing before they
        # have a buffer. So nothing that is queued has to wait for what a plan holds.
        if not self._memory.allocate(part.blocks[0], demand=True):
            part = self._queue.peek_ready(from_disk=from_disk)
            if part is None or not self._queue.slot(part.priority, from_disk=from_disk):
                return False
        self._launch(part)
        return True

    def _start_planned(self) -> bool:
        for state in list(self._queue.planners.values()):
            launched = self._launch_planned(state)
            self._queue.turn_over(state)
            if launched:
                return True
            self._retire(state)  # all that was planned may have come by other ways
        return False

    def _launch_planned(self, state: ObjectState) -> bool:
        """Start the next part of *state*'s plan; return whether there was one, with a slot and memory for it."""
        if not state.opened.is_set():
            return False
        priority = state.priority or Priority.PREFETCH
        while state.pending:
            block = state.block(state.pending[-1])
            if block.complete or block.parts:
                state.pending.pop()
                continue
            from_disk = state.cached is not None and not block.have.total and state.cached.has(block.index)
            if not self._queue.slot(priority, from_disk=from_disk) or not self._memory.allocate(block, demand=False):
                self._memory.forget_if_empty(block)
                return False
            state.pending.pop()
            if from_disk:
                self._launch(self._part(block, block.start, block.stop, priority, from_disk=True))
            else:
                self._launch_gaps(block, priority)
            return True
        return False

    def _launch_gaps(self, block: Block, priority: Priority) -> None:
        """Start fetching what a planned block lacks, in one part with blocks behind it or in as many as it needs."""
        (start, stop), *rest = self._part_ranges(block.have.gaps(block.start, block.stop))
        part = self._part(block, start, stop, priority)
        self._launch(part)
        for piece_start, piece_stop in rest:  # queued together, so that it completes
            self._enqueue(block, piece_start, piece_stop, priority)
        if stop == block.stop:
            self._extend(part)

    def _extend(self, part: Part) -> None:
        """Let *part* run on through the planned blocks behind it, as far as they fit it and have memory."""
        state, index = part.state, part.blocks[-1].index + 1
        while state.pending and state.pending[-1] == index:
            block = state.block(index)
            on_disk = state.cached is not None and state.cached.has(index)
            wanted = not (block.complete or block.parts or block.have.total or on_disk)
            fits = block.stop - part.start <= self._config.part_bytes
            if not wanted or not fits or not self._memory.allocate(block, demand=False):
                self._memory.forget_if_empty(block)
                return
            part.add_block(block)
            state.pending.pop()
            index += 1

    def _launch(self, part: Part) -> None:
        self._queue.start(part)
        self._running.start_soon(self._fly, part)

    # ------------------------------------------------------------------ flying and landing

    async def _fly(self, part: Part) -> None:
        error: ObjectError | None = None
        try:
            if part.from_disk:
                await self._read_from_disk(part)
            else:
                await self._fetch(part)
        except ObjectError as exc:
            error = exc
        except trio.Cancelled:
            self._closing = True  # the mount ends: nothing new starts
            raise
        finally:
            self._queue.land(part)
            self._land(part, error)

    async def _fetch(self, part: Part) -> None:
        self._counters.parts += 1
        await self._client.fetch(part.state.obj, part.start, part.stop, part)
        if part.start + part.done != part.stop:
            raise ObjectUnavailableError(
                f"fetch of bytes {part.start}-{part.stop} ended after {part.done} bytes",
                bucket=part.state.obj.bucket,
                key=part.state.obj.key,
            )

    async def _read_from_disk(self, part: Part) -> None:
        block = part.blocks[0]
        assert part.state.cached is not None
        assert block.buffer is not None
        try:
            await part.state.cached.read_block(block.index, block.buffer)
        except CacheError as exc:
            if isinstance(exc, CacheCorruptError):
                log.warning("%s; fetching it again", exc)
            part.from_disk = False  # the same buffer and the same waiters, filled from the store
            self._queue.in_flight[True] -= 1
            self._queue.in_flight[False] += 1
            await self._fetch(part)
            return
        self._counters.from_disk(block.length_bytes)
        part.done = block.length_bytes

    def _land(self, part: Part, error: ObjectError | None) -> None:
        for block in part.blocks:
            block.fold(part)
            block.parts.remove(part)
            if not block.complete and block.have.covers(block.start, block.stop):
                self._complete(block, from_disk=part.from_disk)
            for waiter in block.waiters:
                if block.covers(waiter.start, waiter.stop):
                    waiter.event.set()
                elif part.start + part.done < waiter.stop and part.stop > waiter.start:
                    waiter.error = error
                    waiter.event.set()
            self._memory.forget_if_empty(block)
        if error is not None:
            self._counters.failed_parts += 1
            self._stop_speculation(part.state)
        self._pump()
        self._retire(part.state)

    def _stop_speculation(self, state: ObjectState) -> None:
        """Drop what is planned or queued without a reader: what failed once would only fail for long again."""
        state.planned, state.pending = {}, []
        self._queue.plan(state)
        for block in list(state.blocks.values()):
            for part in list(block.parts):
                if not part.started and part.priority is not Priority.DEMAND:
                    part.drop()
            for waiter in block.waiters:
                waiter.event.set()  # who waits without hurry asks for itself
            self._memory.forget_if_empty(block)

    def _complete(self, block: Block, *, from_disk: bool) -> None:
        block.complete = True
        block.on_disk = from_disk
        cached = block.state.cached
        if not from_disk and cached is not None and not cached.has(block.index):
            block.pins += 1
            self._writes += 1
            self._running.start_soon(self._persist, block)

    async def _persist(self, block: Block) -> None:
        assert block.buffer is not None
        assert block.state.cached is not None
        try:
            block.on_disk = await block.state.cached.write_block(block.index, block.buffer, block.length_bytes)
        except CacheError as exc:
            log.warning("not cached: %s", exc)
        finally:
            self._writes -= 1
            if not self._writes:
                self._written.set()
                self._written = trio.Event()
            self._unpin(block)
            self._pump()
            self._retire(block.state)

    def _unpin(self, block: Block) -> None:
        block.pins -= 1
        self._abandon(block)

    def _abandon(self, block: Block) -> None:
        """Take back what is queued for a block that nobody waits for any more and that has no memory yet."""
        if not block.pins and block.buffer is None:
            block.drop_queued()
        self._memory.forget_if_empty(block)


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
