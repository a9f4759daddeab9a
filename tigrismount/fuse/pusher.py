"""Puts pages into the kernel's page cache before anybody asks for them.

What to push is decided by a ``core.pushplan.PushPlan`` for each version that is read; here are its surroundings: the
blocks, lent by the store so that their memory stays, the kernel, and the room there is.

A store into the page cache waits for pages whose READ is under way. So it runs in a thread, of which there are a few
that nothing else uses, no READ ever waits for one, and the memory they hold is a small part of all. A thread that
waits so cannot be interrupted. Whoever ends the connection calls :meth:`Pusher.drain` first, while READs are still
answered; a block whose thread is left behind is never given back, so that its memory cannot become another block's.

A push that fails, comes late or is not made costs speed. It cannot do harm: a node id is one version, and the bytes
were checked to be that version's when they were fetched.

Source: kernel ``fs/fuse/dev.c``, ``fuse_notify_store``: pages are locked one by one, for as long as it takes.
"""

from __future__ import annotations

import errno
import logging
import mmap
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from tigrismount import threads
from tigrismount.core.loadlog import PUSH, NoLog
from tigrismount.core.pushplan import PAGE_BYTES, PushPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tigrismount.blocks.lending import Loan
    from tigrismount.core.loadlog import LoadLog
    from tigrismount.core.pushplan import Push
    from tigrismount.core.types import Extent, ObjectId
    from tigrismount.fuse.options import PushConfig

log = logging.getLogger(__name__)

STORE_BYTES = 1 << 20
"""Bytes per call: long enough to cost nothing, short enough to stop soon."""
MAX_KEPT = 256
"""Versions whose pushes are remembered; of those beyond, the ones not planned for longest go."""
HOLD_S = 0.05
"""Longest that a READ waits for the pages behind it to be pushed. Its reader has caught up with the source, and would
otherwise take what comes in READs of 128 KiB."""
STOPPED_HOLD_S = 0.005
"""The same where a push is under way that will come to wait for that very READ. Meanwhile the others get ahead, which
they would not while the event loop is busy with READs: one turn of the interpreter's lock."""
LOOK_AGAIN_S = 0.5
"""How long to wait when memory is short before looking again."""


class Lender(Protocol):
    """Lends complete blocks: ``blocks.store.BlockStore``."""

    def block_bytes(self, obj: ObjectId) -> int | None:
        """Return the block size of a version in use; None while that is not known."""

    def holds(self, obj: ObjectId, index: int) -> bool:
        """Tell whether a block is complete in memory."""

    def lend(self, obj: ObjectId, index: int) -> Loan | None:
        """Lend a complete block; None when it is not there, or too much is lent."""

    def take_back(self, loan: Loan, *, delivered: bool) -> None:
        """Take back what was lent."""


class Room(Protocol):
    """Tells whether there is memory: ``fuse.room.MemoryRoom``."""

    def holds(self, size_bytes: int) -> bool:
        """Tell whether a file of *size_bytes* and a margin would fit."""

    def is_pressed(self) -> bool:
        """Tell whether memory is short now."""


@dataclass(frozen=True, slots=True)
class PusherStatistics:
    """Counters since start."""

    pushes: int = 0
    """Blocks that the kernel took."""
    pushed_bytes: int = 0
    """Bytes that the kernel took."""
    failed: int = 0
    """Blocks that it did not take."""
    passed_bytes: int = 0
    """Pushed bytes that a reader was seen to have passed."""
    lost: int = 0
    """Times that the kernel had dropped what was pushed before it was read, or a reader did not look there."""
    refused: int = 0
    """Files that were not pushed because memory would not hold them."""
    paused: int = 0
    """Times that pushing waited because memory was short."""


class Pusher:
    """Pushes what is planned; sees plans and reads as ``reader.pushes.PushHook``.

    Args:
        config: Whether, and with how many threads.
        store_pages: Puts bytes into the kernel's cache, given node id, offset and bytes; called in threads.
        room: Tells whether there is memory.
        load_log: Told what was pushed; None where nobody wants to know.
    """

    def __init__(
        self,
        config: PushConfig,
        store_pages: Callable[[int, int, memoryview], None],
        room: Room,
        load_log: LoadLog | None = None,
    ) -> None:
        self._config = config
        self._store_pages = store_pages
        self._room = room
        self._log = load_log or NoLog()
        self._lender: Lender | None = None
        self._cached_node: Callable[[ObjectId], int | None] = lambda _: None
        self._plans: OrderedDict[ObjectId, PushPlan] = OrderedDict()
        """Least recently planned first."""
        self._has_room: dict[ObjectId, bool] = {}
        """Whether there was room for an open version when it was first planned."""
        self._threads = trio.CapacityLimiter(config.threads)
        self._wake = trio.Event()
        self._progress = trio.Event()
        self._busy: list[ObjectId] = []
        self._is_stopped = config.mode == "off"
        self._counts = dict.fromkeys(PusherStatistics.__dataclass_fields__, 0)

    async def run(
        self,
        lender: Lender,
        cached_node: Callable[[ObjectId], int | None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Push until cancelled; the connection must serve before and after.

        Args:
            lender: Where blocks are.
            cached_node: Returns the node of a version that is open and read through the page cache, None for others
                and for those that must not be pushed.
            task_status: Told when it runs.
        """
        self._lender, self._cached_node = lender, cached_node
        async with trio.open_nursery() as nursery:
            for _ in range(self._config.threads):
                nursery.start_soon(self._work)
            task_status.started()

    async def drain(self, timeout_s: float) -> bool:
        """Start no more pushes and wait for those under way; return whether none is left."""
        self._is_stopped = True
        with trio.move_on_after(timeout_s):
            while self._busy:
                await self._progress.wait()
        return not self.is_busy

    @property
    def is_busy(self) -> bool:
        """Whether a thread is in the kernel with pages."""
        return bool(self._busy)

    async def ended(self, obj: ObjectId) -> None:
        """Wait until no push of *obj* is under way; that no other begins is for ``cached_node`` to see to.

        What was kept of it for tripwires is forgotten.
        """
        while obj in self._busy:
            await self._progress.wait()
        self._plans.pop(obj, None)

    @property
    def remembered(self) -> int:
        """Versions whose pushes are remembered."""
        return len(self._plans)

    def statistics(self) -> PusherStatistics:
        """Return the counters."""
        return PusherStatistics(**self._counts)

    # ------------------------------------------------------------------ what readers and blocks say

    def planned(self, obj: ObjectId, extents: Sequence[Extent]) -> Sequence[Extent]:
        """Note what will be wanted next; see ``PushHook.planned``."""
        plan = self._plan_of(obj)
        if plan is None or self._lender is None:
            return extents
        lender = self._lender
        left = plan.want(extents, lambda index: lender.holds(obj, index))
        self._notify()
        return left

    def withdrawn(self, obj: ObjectId) -> None:
        """Note that nobody has *obj* open; see ``PushHook.withdrawn``."""
        self._has_room.pop(obj, None)
        if obj in self._plans:
            self._plans[obj].withdraw()

    def passed(self, obj: ObjectId, start: int, stop: int) -> int:
        """Note a read; see ``PushHook.passed``."""
        plan = self._plans.get(obj)
        if plan is None:
            return start
        losses = plan.losses
        since = plan.passed(start, stop)
        for position in (start, stop):
            self._look_at(obj, plan, position)
        self._counts["passed_bytes"] += start - since
        self._counts["lost"] += plan.losses - losses
        return since

    def _look_at(self, obj: ObjectId, plan: PushPlan, position: int) -> None:
        index = position // plan.block_bytes
        if self._lender is not None and self._lender.holds(obj, index) and plan.arrived(index):
            self._notify()

    def is_coming(self, obj: ObjectId, position: int) -> bool:
        """Tell whether what is behind a read is about to be pushed; see ``PushHook.is_coming``."""
        plan = self._plans.get(obj)
        return plan is not None and not self._is_stopped and plan.is_coming(position)

    async def wait_for(self, obj: ObjectId, start: int, stop: int) -> None:
        """Wait a little until what is behind a read is pushed; see ``PushHook.wait_for``."""
        plan = self._plans[obj]
        longest_s = STOPPED_HOLD_S if plan.is_stopped_by(start, stop) else HOLD_S
        with plan.waiting(start, stop), trio.move_on_after(longest_s):
            while self.is_coming(obj, stop):
                await self._progress.wait()

    def held(self, obj: ObjectId, start: int, stop: int) -> bytes | None:
        """Return a tripwire's bytes; see ``PushHook.held``."""
        plan = self._plans.get(obj)
        return plan.held(start, stop) if plan is not None else None

    def arrived(self, obj: ObjectId, index: int) -> None:
        """Note that a block is complete in memory."""
        plan = self._plans.get(obj)
        if plan is not None and plan.arrived(index):
            self._notify()

    def _plan_of(self, obj: ObjectId) -> PushPlan | None:
        """Return the plan of a version, a new one if need be; None where nothing is pushed."""
        block_bytes = self._lender.block_bytes(obj) if self._lender is not None else None
        if self._is_stopped or block_bytes is None or self._cached_node(obj) is None or not self._admits(obj):
            return None
        plan = self._plans.get(obj)
        if plan is None or plan.block_bytes != block_bytes:
            plan = self._plans[obj] = PushPlan(obj.size_bytes, block_bytes, max(PAGE_BYTES, mmap.PAGESIZE))
        self._plans.move_to_end(obj)
        while len(self._plans) > MAX_KEPT:
            self._plans.popitem(last=False)
        return plan

    def _admits(self, obj: ObjectId) -> bool:
        """Tell whether memory has room for a version; asked once for each time that it is opened."""
        admitted = self._has_room.get(obj)
        if admitted is None:
            admitted = self._has_room[obj] = self._config.mode == "on" or self._room.holds(obj.size_bytes)
            self._counts["refused"] += not admitted
        return admitted

    # ------------------------------------------------------------------ pushing

    def _notify(self) -> None:
        self._wake.set()
        self._wake = trio.Event()

    async def _work(self) -> None:
        while True:
            wake = self._wake
            if self._is_stopped or not await self._push_next():
                await wake.wait()

    async def _push_next(self) -> bool:
        """Push one block; return whether there was one."""
        if self._room.is_pressed():
            self._counts["paused"] += 1
            await trio.sleep(LOOK_AGAIN_S)
            return True
        assert self._lender is not None
        for obj in reversed(self._plans):  # the one planned last has the busiest reader
            plan = self._plans[obj]
            push = plan.next()
            if push is None:
                continue
            node_id = self._cached_node(obj)
            # A version that was closed may be opened again in another block size: then its indexes mean other bytes.
            is_same = self._lender.block_bytes(obj) == plan.block_bytes
            loan = self._lender.lend(obj, push.index) if node_id is not None and is_same else None
            if node_id is None or loan is None:
                plan.failed(push)
                return True
            await self._push(obj, plan, push, node_id, loan)
            return True
        return False

    async def _push(self, obj: ObjectId, plan: PushPlan, push: Push, node_id: int, loan: Loan) -> None:
        if push.tripwire is not None:
            plan.hold(push, bytes(loan.view[push.tripwire.start - loan.start : push.tripwire.stop - loan.start]))
        pieces = [(start, loan.view[start - loan.start : stop - loan.start]) for start, stop in plan.pieces(push)]
        since_s = self._log.clock()
        self._busy.append(obj)
        try:
            # Whoever cancels does not wait for the thread. The block then stays lent: its memory is still being read.
            store = partial(self._store_all, plan, node_id, pieces)
            pushed_bytes = await threads.run_sync(store, abandon_on_cancel=True, limiter=self._threads)
        except OSError as exc:
            pushed_bytes = 0
            self._note(exc)
        self._busy.remove(obj)
        if pushed_bytes:
            self._counts["pushes"] += 1
            self._counts["pushed_bytes"] += pushed_bytes
            plan.done(push)
            self._log.note((PUSH, obj, push.start, push.stop, since_s, self._log.clock(), "", ""))
        else:
            self._counts["failed"] += 1
            plan.failed(push)
        assert self._lender is not None
        self._lender.take_back(loan, delivered=pushed_bytes > 0)
        self._progress.set()
        self._progress = trio.Event()

    def _store_all(self, plan: PushPlan, node_id: int, pieces: Sequence[tuple[int, memoryview]]) -> int:
        """Put *pieces* into the kernel's cache, but for what their reader got meanwhile. Pushing thread.

        Returns:
            The bytes that were pushed; 0 when it was told to stop.
        """
        pushed_bytes = 0
        for start, view in pieces:
            position, stop = start, start + len(view)
            while position < stop:
                if self._is_stopped:
                    return 0
                position = plan.reader_in(position, stop) // plan.page_bytes * plan.page_bytes
                store = view[position - start : position - start + STORE_BYTES]
                self._store_pages(node_id, position, store)
                pushed_bytes += len(store)
                position += len(store)
        return pushed_bytes

    def _note(self, exc: OSError) -> None:
        """Learn from a push that the kernel refused."""
        if exc.errno in (errno.ENOSYS, errno.EINVAL):
            self._is_stopped = True
            log.warning("this kernel takes no pages ahead of its requests: %s", exc.strerror)
        elif exc.errno != errno.ENOENT:  # a file that was closed and forgotten meanwhile
            log.info("a push failed: %s", exc)
