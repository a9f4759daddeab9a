"""Flights: parts that are queued, fetched into their blocks, and landed.

A part is queued when a read finds bytes missing, or starts at once from a version's plan when a slot and memory are
left. It runs in the store's nursery, so that a reader that gives up leaves its flight to the others, and lands in the
trio thread: blocks note what they have, readers wake, whole blocks go to the disk cache.

Everything between two ``await``s is atomic; :meth:`Flights.pump` runs after every change that may let a part start.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from tigrismount.blocks.buffers import PAGE_BYTES
from tigrismount.blocks.claims import Claims
from tigrismount.blocks.diskreads import DiskReads, LateError
from tigrismount.blocks.part import NEVER, Part
from tigrismount.blocks.queue import FlightQueue
from tigrismount.blocks.writes import DiskWrites
from tigrismount.core import loadlog
from tigrismount.core.types import Priority
from tigrismount.errors import CacheCorruptError, CacheError, ObjectError, ObjectUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.blocks.memory import BlockMemory
    from tigrismount.blocks.options import BlocksConfig
    from tigrismount.blocks.part import Block, ObjectState
    from tigrismount.blocks.statistics import BlocksCounters
    from tigrismount.core.loadlog import LoadLog
    from tigrismount.core.types import ObjectId
    from tigrismount.objects.client import ObjectClient

log = logging.getLogger(__name__)

APART_BYTES = 512 << 10
"""Bytes that a reader may have to wait for before its own: a GET of its own costs as much as they take to come."""
LOOKS_MAX = 64
"""Plans of one priority looked at in a row that all wait for a flight to land: as long as a drive is idle each may be
one for it."""


class Flights:
    """Starts, flies and lands the parts of all object versions.

    Args:
        client: Where bytes come from.
        config: Limits.
        memory: Gives blocks their buffers.
        counters: Counted up here.
        load_log: Told of GETs and blocks from disk.
        nursery: Gives the nursery that flights run in.
        retire: Told a version for which something has ended.
        on_complete: Told the version and the index of each block that becomes complete.
        on_whole: Told a version when its last block has come into the disk cache.
        on_lost: Told a block that the disk was too busy for.
        on_refused: Called when the disk cache takes nothing more.
        is_pressed: Tells whether this machine is short of memory now.
    """

    def __init__(
        self,
        client: ObjectClient,
        config: BlocksConfig,
        memory: BlockMemory,
        counters: BlocksCounters,
        load_log: LoadLog,
        *,
        nursery: Callable[[], trio.Nursery],
        retire: Callable[[ObjectState], None],
        on_complete: Callable[[ObjectId, int], None] | None = None,
        on_whole: Callable[[ObjectId], None],
        on_lost: Callable[[Block], None],
        on_refused: Callable[[], None],
        is_pressed: Callable[[], bool],
    ) -> None:
        self.queue = FlightQueue(config.concurrency, config.disk_concurrency)
        self.writes = DiskWrites(
            nursery, on_done=self._written, on_behind=self.pump, on_lost=on_lost, on_refused=on_refused
        )
        self.disk_reads = DiskReads(memory, nursery, self._close)
        self._claims = Claims(self.queue, memory, self.pump)
        self._client = client
        self._config = config
        self._memory = memory
        self._counters = counters
        self._log = load_log
        self.starved = 0
        """Times a part that somebody waits for found no memory."""
        self.has_given_way = False
        """Whether something did not start for want of memory, so that nothing else may happen that lets it start."""
        self._nursery = nursery
        self._retire = retire
        self._on_complete = on_complete
        self._on_whole = on_whole
        self._is_pressed = is_pressed
        self._closing = False
        self._token: trio.lowlevel.TrioToken | None = None

    def attach(self) -> None:
        """Learn the thread to wake readers in: the one that calls this."""
        self._token = trio.lowlevel.current_trio_token()

    @property
    def slow_downs(self) -> int:
        """Answers so far that asked for fewer requests."""
        return self._client.statistics().slow_downs

    @property
    def degraded(self) -> str:
        """Why the disk cache gives less than it should; empty where it does not."""
        return self.disk_reads.pace.complaint()

    # ------------------------------------------------------------------ wanting

    def want(self, block: Block, start: int, stop: int, priority: Priority) -> bool:
        """Queue parts for what is neither there nor on its way, and move up what is queued.

        Returns:
            Whether everything was there or on its way.
        """
        if block.buffer is not None:
            self._memory.touch(block)
        missing = block.claimed().gaps(start, stop)
        if priority is Priority.DEMAND:
            self._part_early(block, start)
        for part in block.parts:
            if not part.started and part.priority > priority and part.start < stop and part.stop > start:
                part.priority = priority
                self.queue.push(part)
        if not missing:
            return True
        cached = block.state.cached
        if cached is not None and not block.have.total and not block.parts and cached.has(block.index):
            self._enqueue(block, block.start, block.stop, priority, drive=cached.drive)
            return False
        first = max(block.start, missing[0][0] // PAGE_BYTES * PAGE_BYTES)
        later = max(priority, Priority.READAHEAD)
        claimed = block.claimed()
        for part_start, part_stop in self._part_ranges(claimed.gaps(first, block.stop)):
            self._enqueue(block, part_start, part_stop, priority if part_start < stop else later)
        for part_start, part_stop in self._part_ranges(claimed.gaps(block.start, first)):
            self._enqueue(block, part_start, part_stop, later)
        return False

    def _part_early(self, block: Block, start: int) -> None:
        """Let what is read from *start* on not wait for what a part that was not asked for yet brings before it.

        The kernel reads around a page that is touched: several READs come at once, and the page is in none but one.
        Only while a GET of its own would start at once: behind others it would be one request more, and no sooner.
        """
        if not self.queue.slot(Priority.DEMAND, None):
            return
        page = start // PAGE_BYTES * PAGE_BYTES
        for part in list(block.parts):
            if part.start + APART_BYTES <= page < part.stop and (stop := part.leave(page)) is not None:
                self._enqueue(block, page, stop, Priority.DEMAND)
                for waiter in block.waiters:
                    if waiter.stop > page:
                        block.parts[-1].expect(waiter.stop)

    def _part_ranges(self, gaps: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return *gaps* cut to the size of a part."""
        size = self._config.part_bytes
        return [(a, min(a + size, stop)) for start, stop in gaps for a in range(start, stop, size)]

    def _enqueue(self, block: Block, start: int, stop: int, priority: Priority, *, drive: str | None = None) -> None:
        self.queue.push(self._part(block, start, stop, priority, drive=drive))

    def _part(
        self,
        block: Block,
        start: int,
        stop: int,
        priority: Priority,
        *,
        drive: str | None = None,
        planned: bool = False,
    ) -> Part:
        return Part(block, start, stop, priority=priority, drive=drive, notify=self._notify, planned=planned)

    # ------------------------------------------------------------------ watermarks

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

    def pump(self) -> None:
        """Start every part that has a slot and memory."""
        self.has_given_way = False
        self.queue.network_limit = min(self._config.concurrency, self._client.get_limit)
        while not self._closing and (
            any(self._start_queued(source) for source in self.queue.sources) or self._start_planned()
        ):
            pass

    def _start_queued(self, source: str | None) -> bool:
        part = self.queue.peek(source)
        if part is None:
            return False
        if not self.queue.slot(part.priority, source):
            if part.priority is Priority.DEMAND and source is None:
                for useless in self.queue.beyond():
                    self._give_up(useless)
            return False
        # What is queued without memory was queued by a read, whatever its priority: plans queue nothing before they
        # have a buffer. So nothing that is queued has to wait for what a plan holds.
        if not self._memory.allocate(part.blocks[0], demand=True):
            self.starved += 1
            self.writes.give_way()
            part = self.queue.peek_ready(source)
            if part is None or not self.queue.slot(part.priority, source):
                self.has_given_way = True  # it may be the kernel that has none, and then nothing here gives some back
                return False
        self._launch(part)
        return True

    def _start_planned(self) -> bool:
        """Start the next part of the most urgent plan that can; of plans of one priority, of each in turn."""
        if self.queue.full():
            return False
        for planners in self.queue.lanes.values():
            waiting = 0
            for state in list(planners.values()):
                if state.lane is not Priority.READAHEAD and self._is_pressed():
                    self.has_given_way = True
                    return False  # what no reader is near gives way first; the next read or landing looks again
                launched = self._launch_planned(state)
                if launched is None:
                    return False
                self.queue.turn_over(state)
                if launched:
                    return True
                self._retire(state)  # all that was planned may have come by other ways
                waiting += state.lane is not None
                if waiting == LOOKS_MAX:
                    break  # what they wait for lands, and the next have their turn
        return False

    def _launch_planned(self, state: ObjectState) -> bool | None:
        """Start the next part of *state*'s plan.

        Returns:
            Whether there was one, with a slot for it; None where there was no memory, which no other plan has either.
        """
        if not state.opened.is_set():
            return False
        while (lane := state.lane) is not None:
            pending, spare = (state.pending, False) if state.pending else (state.later, True)
            block = state.block(pending[-1])
            on_disk = state.cached is not None and not block.have.total and state.cached.has(block.index)
            drive = state.cached.drive if state.cached is not None and on_disk else None
            if block.complete or block.parts or (spare and (on_disk or not state.wants_later(block.index))):
                self._memory.forget_if_empty(block)
                pending.pop()
                continue
            if not self.queue.slot(lane, drive):
                self._memory.forget_if_empty(block)
                return False
            if not self._allocate_planned(block, spare=spare):
                self._memory.forget_if_empty(block)
                if not spare:
                    self.writes.give_way(read_only=True)
                return None
            pending.pop()
            if on_disk:
                self._launch(self._part(block, block.start, block.stop, lane, drive=drive, planned=True))
            else:
                self._launch_gaps(block, lane, pending)
            return True
        return False

    def _allocate_planned(self, block: Block, *, spare: bool) -> bool:
        if not spare:
            return self._memory.allocate(block, demand=False)
        if not self._memory.allocate_spare(block):
            return False
        block.state.later_tried.add(block.index)
        return True

    def _launch_gaps(self, block: Block, lane: Priority, pending: list[int]) -> None:
        """Start fetching what a planned block lacks, in one part with blocks behind it or in as many as it needs."""
        (start, stop), *rest = self._part_ranges(block.have.gaps(block.start, block.stop))
        part = self._part(block, start, stop, lane, planned=True)
        part.refetch = pending is block.state.later and block.index in block.state.refetching
        block.state.refetching.discard(block.index)
        self._launch(part)
        for piece_start, piece_stop in rest:  # queued together, so that it completes
            piece = self._part(block, piece_start, piece_stop, lane, planned=True)
            piece.refetch = part.refetch
            self.queue.push(piece)
        if stop == block.stop:
            self._extend(part, pending)

    def _extend(self, part: Part, pending: list[int]) -> None:
        """Let *part* run on through the planned blocks behind it, as far as they fit it and have memory."""
        state, index = part.state, part.blocks[-1].index + 1
        while pending and pending[-1] == index:
            block = state.block(index)
            on_disk = state.cached is not None and state.cached.has(index)
            spare = pending is state.later
            wanted = not (block.complete or block.parts or block.have.total or on_disk)
            wanted = wanted and (not spare or state.wants_later(index))
            fits = block.stop - part.start <= self._config.part_bytes
            if not wanted or not fits or not self._allocate_planned(block, spare=spare):
                self._memory.forget_if_empty(block)
                return
            part.add_block(block)
            pending.pop()
            index += 1

    def _launch(self, part: Part) -> None:
        self.queue.start(part)
        self._nursery().start_soon(self._fly, part)

    # ------------------------------------------------------------------ flying and landing

    def cut(self, state: ObjectState) -> None:
        """End the GETs that only a plan of *state* wanted, and wants no more; what has arrived of them stays.

        A reader that comes while one ends is woken when it has landed, and asks for itself.
        """
        for block in list(state.blocks.values()):
            for part in list(block.parts):
                if part.from_disk or not part.idle or any(b.index in state.planned for b in part.blocks):
                    continue
                if part.started:
                    self._give_up(part)
                    if part.priority is Priority.LATER:  # not before they are said again, and then once more
                        state.later_tried.difference_update(each.index for each in part.blocks)
                else:
                    part.drop()
            self._memory.forget_if_empty(block)

    def _give_up(self, part: Part) -> None:
        self._counters.cut_parts += not part.scope.cancel_called
        part.scope.cancel()

    async def _fly(self, part: Part) -> None:
        error: ObjectError | None = None
        try:
            with part.scope:  # cancelled by cut(); what has arrived stays
                if part.from_disk:
                    await self._read_from_disk(part)
                else:
                    is_ours = await self._claims.fetch_is_ours(part)
                    await trio.lowlevel.checkpoint_if_cancelled()  # another part has taken the block meanwhile
                    await (self._fetch(part) if is_ours else self._read_cached_elsewhere(part))
        except ObjectError as exc:
            error = exc
        except (trio.Cancelled, BaseExceptionGroup):  # a group of them where a task watches the GET
            self._close()
            raise
        finally:
            self.queue.land(part)
            self._land(part, error)

    def _close(self) -> None:
        """Start nothing new: the mount ends."""
        self._closing = True

    async def _fetch(self, part: Part) -> None:
        self._counters.parts += 1
        part.asked = True
        since_s, began_s = self._log.clock(), trio.current_time()
        try:
            await self._client.fetch(part.state.obj, part.start, part.stop, part)
        finally:
            got = part.start + part.done
            if part.refetch:  # for no load: those that read it are done
                self._counters.refetched_bytes += part.done
            else:
                self._log.note((loadlog.GET, part.state.obj, part.start, got, since_s, self._log.clock(), "", ""))
        if part.start + part.done != part.stop:
            raise ObjectUnavailableError(
                f"fetch of bytes {part.start}-{part.stop} ended after {part.done} bytes",
                bucket=part.state.obj.bucket,
                key=part.state.obj.key,
            )
        if part.stop - part.start >= part.blocks[0].length_bytes:
            self.disk_reads.pace.note_fetch(trio.current_time() - began_s)

    async def _read_from_disk(self, part: Part) -> None:
        block, drive = part.blocks[0], part.drive
        since_s = self._log.clock()
        try:
            await self.disk_reads.read(block)
        except CacheError as exc:
            if isinstance(exc, CacheCorruptError):
                log.warning("%s; fetching it again", exc)
            self.queue.move(part, None)  # the same waiters, and a buffer, filled from the store
            with self.disk_reads.late(exc, block) as has_come:
                try:
                    await self._fetch(part)
                finally:
                    self._counters.raced_bytes += part.done if isinstance(exc, LateError) else 0
            if not has_come():
                return
            self.queue.move(part, drive)
        self._log.note((loadlog.DISK, block.state.obj, block.start, block.stop, since_s, self._log.clock(), "", ""))
        self._counters.from_disk(block.length_bytes)
        part.done = block.length_bytes

    async def _read_cached_elsewhere(self, part: Part) -> None:
        """Read a block that another process has cached, in place of fetching some of it."""
        if not part.take_block():
            await self._fetch(part)
            return
        assert part.state.cached is not None
        self.queue.move(part, part.state.cached.drive)
        await self._read_from_disk(part)

    def _land(self, part: Part, error: ObjectError | None) -> None:
        for block in part.blocks:
            block.fold(part)
            block.parts.remove(part)
            if not block.complete and block.have.covers(block.start, block.stop):
                block.complete, block.on_disk = True, part.from_disk
                block.state.later_tried.add(block.index)
                self.writes.keep(block)
                if self._on_complete is not None:
                    self._on_complete(block.state.obj, block.index)
            self._claims.settle(block)
            for waiter in block.waiters:
                if block.covers(waiter.start, waiter.stop):
                    waiter.event.set()
                elif part.start + part.done < waiter.stop and part.stop > waiter.start:
                    waiter.error = error
                    waiter.event.set()
            self._memory.forget_if_empty(block)
        if error is None:
            self._plan_again(part)
        else:
            self._counters.failed_parts += 1
            self.stop_speculation(part.state)
        self.pump()
        self._retire(part.state)

    def _plan_again(self, part: Part) -> None:
        """Let blocks come again that are still wanted, after a GET for them was given up, if it was.

        Those for the disk alone as long as somebody has the version open: they may not be said again.
        """
        state = part.state
        for block in reversed(part.blocks):
            if block.complete or block.parts or block.index in state.pending:
                continue
            if block.index in state.planned:
                state.pending.append(block.index)
                self.queue.plan(state)
            elif part.priority is Priority.LATER and state.users and block.index in state.later_tried:
                state.later_tried.discard(block.index)
                state.later.append(block.index)
                self.queue.plan(state)

    def stop_speculation(self, state: ObjectState) -> None:
        """Drop what is planned or queued without a reader: what failed once would only fail for long again."""
        state.planned, state.pending, state.later = {}, [], []
        self.queue.plan(state)
        for block in list(state.blocks.values()):
            for part in list(block.parts):
                if not part.started and part.priority is not Priority.DEMAND:
                    part.drop()
            for waiter in block.waiters:
                waiter.event.set()  # who waits without hurry asks for itself
            self._memory.forget_if_empty(block)

    def _written(self, block: Block) -> None:
        obj, cached = block.state.obj, block.state.cached
        if block.on_disk and cached is not None and cached.count() == -(-obj.size_bytes // cached.block_bytes):
            self._on_whole(obj)
        self._claims.settle(block)
        self.unpin(block)
        self.pump()
        self._retire(block.state)

    def unpin(self, block: Block) -> None:
        """Take back one pin."""
        block.pins -= 1
        self.abandon(block)

    def abandon(self, block: Block) -> None:
        """Take back what is queued for a block that nobody waits for any more and that has no memory yet."""
        if not block.pins and block.buffer is None:
            block.drop_queued()
        self._memory.forget_if_empty(block)
