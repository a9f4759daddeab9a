"""Reads of one object version, watched on their way so that what comes next is fetched meanwhile.

One reader serves every handle, thread and process that has the version open: streams are told apart by position, and
all of them share one plan. Each read is put to the planner *before* it is waited for, so that the fetches ahead start
together with its own. A read found in memory costs one look at the planner, which says at once whether anything
changed; the plan itself is said about once per block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tigrismount.core.fileplan import FilePlan
from tigrismount.core.loadlog import HIT, LAYOUT, RAM
from tigrismount.core.readahead import StreamPolicy
from tigrismount.core.types import Extent, Priority
from tigrismount.reader.orders import order_by_name
from tigrismount.reader.pushes import NoPushes

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.blocks.base import BlockSource, Buffer
    from tigrismount.core.blockorder import BlockOrder
    from tigrismount.core.layout import Layout
    from tigrismount.core.loadlog import LoadLog
    from tigrismount.core.types import ObjectId
    from tigrismount.reader.options import ReaderConfig
    from tigrismount.reader.pushes import PushHook


class FileReader:
    """Reads one object version; made by ``Readers.open``.

    Args:
        obj: The version.
        store: Where its bytes are.
        config: Limits of plans.
        log: Told of reads that are answered at once.
        on_begin: Called once, when the file is read or planned for the first time; None when nothing can be learned
            about it.
        announced: Whether a known format says when reading begins in earnest; a look at its header does not.
        on_plan: Called after each change of the plan that came from this file's own reads.
        fills_disk: Whether a disk cache is there that a file read in earnest may fill.
        pushes: Told what is read and what will be.
    """

    __slots__ = (
        "_fills_disk",
        "_granted_priority",
        "_log",
        "_on_begin",
        "_on_plan",
        "_priority",
        "_pushes",
        "_store",
        "obj",
        "plan",
        "plans",
        "users",
    )

    def __init__(
        self,
        obj: ObjectId,
        store: BlockSource,
        config: ReaderConfig,
        log: LoadLog,
        *,
        on_begin: Callable[[FileReader], None] | None = None,
        announced: bool = False,
        on_plan: Callable[[FileReader], None] | None = None,
        fills_disk: bool = False,
        pushes: PushHook | None = None,
    ) -> None:
        self.obj = obj
        self.users = 0
        """How many have it open; kept by ``Readers``."""
        self.plans = 0
        """Times the plan was said."""
        self._store = store
        self._log = log
        self._on_begin = on_begin
        self._on_plan = on_plan
        self._fills_disk = fills_disk
        self._pushes = pushes or NoPushes()
        self._priority = Priority.READAHEAD
        self._granted_priority = Priority.LATER
        self.plan: FilePlan | None = None
        """What is wanted of it next; None for files of one block, and without prefetch."""
        if config.prefetch != "off" and obj.size_bytes > config.block_bytes:
            policy = StreamPolicy(
                block_bytes=config.block_bytes,
                max_window_bytes=config.read_ahead_bytes,
                trust_start=not announced,
            )
            self.plan = FilePlan(obj.size_bytes, policy)

    def try_read(self, start: int, stop: int) -> Buffer | None:
        """Return bytes ``[start, stop)`` when all of them are in memory now, else None. Never waits.

        Args:
            start: First byte.
            stop: One past the last byte, at most the object's size.
        """
        found = self._store.try_read(self.obj, start, stop)
        is_held = found is None and (found := self._pushes.held(self.obj, start, stop)) is not None
        if found is None or (not is_held and self._pushes.is_coming(self.obj, stop)):
            return None
        now_s = self._log.clock()
        self._log.note((HIT, self.obj, start, stop, now_s, now_s, RAM, ""))
        if self.plan is not None:
            since = self._pushes.passed(self.obj, start, stop)
            if self.plan.observe(since, stop, missed=False):
                self._say(self.plan)
        if self._on_begin is not None:
            self._begin()
        return found

    async def read(self, start: int, stop: int) -> Buffer:
        """Return exactly bytes ``[start, stop)``; a memoryview is valid until the caller's next ``await``.

        Args:
            start: First byte.
            stop: One past the last byte, at most the object's size.

        Raises:
            ObjectError: The store could not give the bytes of this version.
        """
        if self.plan is not None:
            since = self._pushes.passed(self.obj, start, stop)
            if self.plan.observe(since, stop, missed=True):
                self._say(self.plan)
        if self._on_begin is not None:
            self._begin()
        found = await self._store.read(self.obj, start, stop, Priority.DEMAND)
        if self._pushes.is_coming(self.obj, stop):
            found = bytes(found)
            await self._pushes.wait_for(self.obj, start, stop)
        return found

    def learn(self, layout: Layout) -> None:
        """Plan by *layout* from now on."""
        assert self.plan is not None, "only files that are planned are probed"
        self._log.note((LAYOUT, self.obj, layout.data_start, layout.data_start, 0.0, self._log.clock(), "", ""))
        self.plan.learn(layout, order_by_name(layout))
        self._priority = Priority.PREFETCH

    def follow(self, order: BlockOrder) -> None:
        """Plan along an order that was learned."""
        assert self.plan is not None, "only files that are planned have an order"
        self.plan.follow(order)
        self._priority = Priority.PREFETCH
        if self.plan.window_bytes:
            self._say(self.plan)

    def expect(self, window_bytes: int, credit_bytes: int) -> None:
        """Begin with a window of that size once it is read; see ``FilePlan.expect``."""
        if self.plan is not None:
            self.plan.expect(window_bytes, credit_bytes)

    def grant(self, stop_bytes: int, priority: Priority) -> None:
        """Fetch the first bytes before anybody reads them, because the file belongs to a model that is loaded.

        Args:
            stop_bytes: Bytes from the start of the file; 0 takes it back.
            priority: Their place in the queue.
        """
        if self.plan is None:
            wanted = [Extent(0, min(stop_bytes, self.obj.size_bytes))] if stop_bytes else []
            self._store.plan(self.obj, wanted, priority)
        elif self.plan.grant(stop_bytes):
            self._granted_priority = priority
            # A read that is being observed waits for nothing yet: where somebody has the file open, nothing is cut.
            self._fetch(self.plan, cut=not (stop_bytes or self.users))
            if stop_bytes and self._on_begin is not None:
                self._begin()

    def withdraw(self) -> None:
        """Take back what its readers wanted, because they have gone; what only they wanted is cut short."""
        if self.plan is not None:
            self.plan.begin_again()
            self._fetch(self.plan, cut=True)
            self._pushes.withdrawn(self.obj)

    def _begin(self) -> None:
        on_begin, self._on_begin = self._on_begin, None
        if on_begin is not None:
            on_begin(self)

    def _say(self, plan: FilePlan) -> None:
        self.plans += 1
        self._fetch(plan)
        if self._on_plan is not None:
            self._on_plan(self)

    def _fetch(self, plan: FilePlan, *, cut: bool = False) -> None:
        priority = self._priority if plan.window_bytes or plan.asides else self._granted_priority
        rest = plan.rest() if self._fills_disk else ()
        wanted = self._pushes.planned(self.obj, plan.ahead())
        self._store.plan(self.obj, wanted, priority, later=rest, cut=cut)
