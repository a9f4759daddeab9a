"""Files that the kernel reads from the disk cache by itself: FUSE passthrough (Linux 6.9).

A file whose every block is on disk and proven is opened onto its cache file. Its reads and its mappings are then the
kernel's own: this process sees none of them and has no part in them, and the page cache holds the bytes once, as the
cache file's. *Proven* is what the next read would not verify: with ``--verify once`` each block has been compared with
its checksum since this process started, with ``off`` what was closed cleanly is believed, with ``always`` nothing is.

What could be taken away from under a reader may not be, for as long as anybody reads:

- The descriptor that the kernel is given is locked, as that of every open version is, and so nobody evicts the file or
  punches a hole into it, in this process or another. The lock belongs to the open file, to which the kernel holds a
  reference of its own: it outlives this process, and lasts as long as the mount.
- A mapping outlives the release of its file. So after the last release the backing file is kept until nobody else has
  the cache file open, which the kernel says for each mapping as for each open file (``datafile.is_unused``).
- A worker that takes over finds in the journal which nodes have a backing file, and how they are open
  (``core.openmodes``).
"""

from __future__ import annotations

import logging
import os
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from tigrismount import threads
from tigrismount.cache.datafile import close_quietly, is_unused
from tigrismount.core import loadlog
from tigrismount.core.openmodes import OpenModes
from tigrismount.errors import CacheError
from tigrismount.fuse.permission import FOR_GOOD, why_refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tigrismount.cache.base import BlockCache, CachedObject
    from tigrismount.core.loadlog import LoadLog
    from tigrismount.core.openmodes import OpenState
    from tigrismount.core.types import ObjectId

log = logging.getLogger(__name__)

LEAST_BYTES = 1 << 20
"""Smallest file that is opened so: below, finding out costs about as much as reading."""
_MOST_REMEMBERED = 10_000
"""Files of which it is remembered what the kernel was sent; more are not loaded in turn by one host."""
_PATIENCE_S = 0.25
"""How long an open waits for the cache; it needs a millisecond."""
_NOT_PROVEN = "not proven yet"
_LOOK_S = 1.0
"""How often it is looked whether a file that was closed is still mapped."""
_FRESH_S = 1.0
"""How long a look at a closed file holds: while it is mapped, somebody may find some of it damaged."""
_TRY_AGAIN_S = 30.0
"""How long until a file that was taken over, and could not be opened, is tried again."""


class Backing(Protocol):
    """Registers backing files: ``fuse.kernel.Kernel``."""

    def open_backing(self, fd: int) -> int:
        """Return the kernel's number of an open file; raises OSError where it does not take it."""

    def close_backing(self, backing_id: int) -> None:
        """Let the kernel close it."""

    def take_sent(self, node_id: int) -> int:
        """Return how many bytes of a node the kernel has got for its page cache since this was last asked."""


@dataclass(slots=True, eq=False)
class _Held:
    """A cache file that is kept from eviction."""

    obj: ObjectId
    fd: int
    """Locked; -1 where it could not be opened yet, so that only the kernel has it locked."""
    is_inherited: bool = False
    """Whether the kernel holds the file as an earlier process opened it, and not as *fd*."""
    is_proven: bool = True
    """Whether nothing of *fd* needed a look when it was opened; one that was taken over may be another file than the
    earlier process had, of which this one knows nothing yet."""
    try_again_s: float = 0.0
    """When one that could not be opened is tried again."""
    waiting_since_s: float | None = None
    """Since when its first open waited for a proof."""
    uses: int = 0
    """How often it was opened, ever: tells whether anything happened meanwhile."""
    looked_s: float = field(default_factory=trio.current_time)
    """When it was last known to be whole."""
    has_lost: bool = False
    """Whether the cache has lost some of the very file that the kernel holds for an earlier process."""

    def is_fresh(self) -> bool:
        """Tell whether it may be opened without another look."""
        return self.is_proven and trio.current_time() < self.looked_s + _FRESH_S


@dataclass(frozen=True, slots=True)
class PassthroughStatistics:
    """Counters since start; gauges say so."""

    off: str = ""
    """Why no file is opened so; empty where files are."""
    opens: int = 0
    """Opens onto cache files."""
    opened_bytes: int = 0
    """Lengths of the files opened so; how much was read of them only the kernel knows."""
    proven_bytes: int = 0
    """Bytes compared with their checksums because their files were being opened, or would be next."""
    files: int = 0
    """Gauge: cache files kept from eviction, open or mapped."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """Opens of files large enough that were answered in the usual way, by the reason."""


class Proofs(Protocol):
    """Proves versions for who opens them: ``integrity.openprover.OpenProver``."""

    proven_bytes: int

    async def prove(self, obj: ObjectId) -> bool:
        """Prove a version where that is worth a wait; return whether all of it is proven now."""

    def note_opened(self, obj: ObjectId) -> None:
        """Note that the kernel begins to read a version by itself."""


class PagesInMemory:
    """Guesses of which files the kernel holds most pages, from what it was sent: those are read at no cost already.

    What was sent once is believed to be there, until most of the file had to be sent again.
    """

    def __init__(self) -> None:
        self._believed_bytes: OrderedDict[int, int] = OrderedDict()

    def note(self, node_id: int, size_bytes: int, sent_bytes: int) -> None:
        """Note what was sent of a file while it was open."""
        believed_bytes = self._believed_bytes.pop(node_id, 0)
        is_lost = 2 * sent_bytes >= size_bytes and 2 * believed_bytes >= size_bytes
        self._believed_bytes[node_id] = 0 if is_lost else min(size_bytes, believed_bytes + sent_bytes)
        if len(self._believed_bytes) > _MOST_REMEMBERED:
            self._believed_bytes.popitem(last=False)

    def has_most(self, node_id: int, size_bytes: int) -> bool:
        """Tell whether at least half of a file is believed to be there."""
        return 2 * self._believed_bytes.get(node_id, 0) >= size_bytes


class Passthrough:
    """Chooses how files are opened, and keeps what is read by the kernel alone.

    Args:
        cache: The disk cache.
        backing: Registers backing files.
        version_of: Returns the version that a node is; None for what is no file.
        refusal: Returns why a version must not be opened so anew at the moment, in a few words; empty where it may.
        is_refused: Tells whether a version must not be read at all: whoever opens it is told so in the usual way.
        journal: Keeps a state for the next worker.
        on_closed: Told of a version that nobody has open any more in the usual way.
        proofs: Proves what is being opened.
        log: Told of what is opened so and closed.
        even_in_memory: Whether files are opened so that the kernel may have in its page cache already.
        off: Why no file is opened so; empty where files are.
    """

    def __init__(
        self,
        cache: BlockCache,
        backing: Backing,
        *,
        version_of: Callable[[int], ObjectId | None],
        refusal: Callable[[ObjectId], str],
        is_refused: Callable[[ObjectId], bool],
        journal: Callable[[OpenState], None],
        on_closed: Callable[[ObjectId], None],
        proofs: Proofs,
        log: LoadLog,
        even_in_memory: bool = False,
        off: str = "",
    ) -> None:
        self._cache = cache
        self._backing = backing
        self._version_of = version_of
        self._refusal = refusal
        self._is_refused = is_refused
        self._journal = journal
        self._on_closed = on_closed
        self._proofs = proofs
        self._log = log
        self._patience: dict[int, trio.CancelScope] = {}
        """How long those may wait for a proof who open a node, by node."""
        self._is_leaving = False
        self._in_memory = None if even_in_memory else PagesInMemory()
        self.off = off
        """Why no file is opened so that is not already; empty where files are."""
        self.modes = OpenModes()
        """How files are open."""
        self._held: dict[int, _Held] = {}
        self._opens = 0
        self._opened_bytes = 0
        self._passed_over: Counter[str] = Counter()

    # ------------------------------------------------------------------ choosing

    def choice(self, node_id: int) -> bool | None:
        """Tell whether an open of a node goes to a backing file; None where :meth:`find` must look. Never waits."""
        state = self.modes.of(node_id)
        obj = self._version_of(node_id)
        if obj is None or state.is_cached:
            return False
        if self._is_refused(obj):
            return self._pass_over("its bytes are not what they should be")
        if state.is_passthrough:  # any other answer is EIO to whoever opens it now
            return True
        refusal = self._refusal(obj)
        if refusal or obj.size_bytes < LEAST_BYTES:
            return self._pass_over(refusal)
        if state.backing_id:  # was open onto it a moment ago
            held = self._held.get(node_id)
            if held is None or held.is_inherited:
                # Which file an earlier worker left nobody can tell, until ours is in its place.
                has_lost = held is not None and held.has_lost
                return True if state.is_proven and not has_lost else self._pass_over(_NOT_PROVEN)
            return True if state.is_proven and held.is_fresh() else None
        if self._in_memory is not None and self._in_memory.has_most(node_id, obj.size_bytes):
            return self._pass_over("the kernel has it in memory")
        return self._pass_over(self.off) if self.off else None

    def _pass_over(self, reason: str) -> bool:
        if reason:
            self._passed_over[reason] += 1
        return False

    def _note(self, kind: int, obj: ObjectId, since_s: float) -> None:
        self._log.note((kind, obj, 0, obj.size_bytes, since_s, self._log.clock(), "", ""))

    async def find(self, node_id: int) -> bool:
        """Give a node that is not open a backing file if it may have one; return whether it has. Never raises.

        Nobody else may be looking at the same node: all its opens must come to the same anyway.
        """
        obj = self._version_of(node_id)
        if obj is None:
            return False
        since_s = self._log.clock()
        patience = self._patience.setdefault(node_id, trio.CancelScope())
        try:
            reason = await self._look(node_id, obj)
            if reason == _NOT_PROVEN and await self._prove(obj, patience):
                reason = self._refused_meanwhile(obj) or await self._look(node_id, obj)
                if not reason:
                    self._held[node_id].waiting_since_s = since_s
            reason = reason or self._refused_meanwhile(obj)  # a look waits for the disk, too
        finally:
            del self._patience[node_id]
        return True if not reason else self._pass_over(reason)

    def give_up(self, node_id: int) -> None:
        """Let nobody who is opening a node, or is about to, wait for a proof: it is opened in the usual way."""
        self._patience.setdefault(node_id, trio.CancelScope()).cancel()

    def hurry(self) -> None:
        """Let no open wait for a proof any more: somebody waits for what is in service to end.

        What is kept stays so: a successor knows it from the journal, and may answer an open with it at once.
        """
        self._is_leaving = True
        for patience in self._patience.values():
            patience.cancel()

    async def _prove(self, obj: ObjectId, patience: trio.CancelScope) -> bool:
        if self._is_leaving:
            return False
        with patience:
            return await self._proofs.prove(obj)
        return False

    def _refused_meanwhile(self, obj: ObjectId) -> str:
        return "its bytes are not what they should be" if self._is_refused(obj) else self._refusal(obj)

    async def _look(self, node_id: int, obj: ObjectId) -> str:
        with trio.move_on_after(_PATIENCE_S):
            return await self._find(node_id, obj)
        return "the cache did not answer"

    async def _find(self, node_id: int, obj: ObjectId) -> str:
        """Return why not, empty where the node has a backing file now."""
        cached = await self._cache.open_object(obj)
        try:
            unproven = cached.unproven()
            if unproven is None:
                return "not wholly cached"
            if unproven:
                return _NOT_PROVEN
            if not cached.published():  # what cannot be synced is not what was proven, and the kernel would read it
                return "not on the disk yet"
            fd = await cached.open_file()
            if cached.unproven() != []:  # a block was lost while it was opened
                close_quietly(fd)
                return "not wholly cached"
        except CacheError as exc:
            log.info("not opened onto its cache file: %s", exc)
            return "the cache file cannot be had"
        finally:
            cached.close()
        try:
            if (held := self._held.get(node_id)) is not None:
                return self._prove_held(node_id, held, fd)
            file, backing_id = _identity(fd), self._backing.open_backing(fd)
        except OSError as exc:
            close_quietly(fd)
            if exc.errno not in FOR_GOOD:
                log.info("not opened onto its cache file: %s", exc)
                return "the kernel did not take the cache file"
            self.off = why_refused(exc)
            log.warning("no file is opened onto its cache file: %s", self.off)
            return self.off
        self._held[node_id] = _Held(obj, fd)
        self._journal(self.modes.back(node_id, backing_id, file))
        return ""

    def _prove_held(self, node_id: int, held: _Held, fd: int) -> str:
        """Note that the file that the kernel holds is proven, if *fd* is of it; return why not. Closes *fd*.

        Raises:
            OSError: Nobody can tell; *fd* is open then.
        """
        held.is_proven = not held.is_inherited and os.path.sameopenfile(fd, held.fd)
        held.looked_s = trio.current_time()
        close_quietly(fd)
        if not held.is_proven:
            return "another file is mapped in its place"
        state = self.modes.of(node_id)
        if not state.is_proven:
            self._journal(self.modes.back(node_id, state.backing_id, state.file))
        return ""

    # ------------------------------------------------------------------ counting

    def is_through(self, node_id: int) -> bool:
        """Tell whether a node is open onto a backing file."""
        return self.modes.of(node_id).is_passthrough

    def count_through(self, node_id: int) -> int:
        """Count an open onto a node's backing file, before the kernel hears of it; return the file's number."""
        state = self.modes.opened(node_id, through=True)
        self._journal(state)
        self._opens += 1
        held = self._held.get(node_id)
        if held is not None:
            held.uses += 1
            self._opened_bytes += held.obj.size_bytes
            since_s, held.waiting_since_s = held.waiting_since_s, None
            self._note(loadlog.THROUGH, held.obj, self._log.clock() if since_s is None else since_s)
            self._proofs.note_opened(held.obj)
        return state.backing_id

    def count_cached(self, node_id: int) -> bool:
        """Count an open in the usual way, before the kernel hears of it.

        Returns:
            Whether it counts: not where the file is open onto another, and this open is about to be refused.
        """
        if self.is_through(node_id):
            return False
        self._journal(self.modes.opened(node_id, through=False))
        return True

    def uncount(self, node_id: int) -> None:
        """Count a release, or an open that came to nothing, once the kernel knows."""
        was_through = self.is_through(node_id)
        state = self.modes.released(node_id)
        self._journal(state)
        obj = self._version_of(node_id)
        if was_through and obj is not None:
            self._note(loadlog.CLOSED, obj, self._log.clock())
        if state.opens or state.is_through:
            return
        sent_bytes = self._backing.take_sent(node_id)
        if obj is not None and obj.size_bytes >= LEAST_BYTES:
            if self._in_memory is not None:
                self._in_memory.note(node_id, obj.size_bytes, sent_bytes)
            self._on_closed(obj)

    # ------------------------------------------------------------------ keeping

    def restore(self, states: Iterable[OpenState]) -> None:
        """Take over from an earlier worker; before the first request."""
        for state in states:
            self.modes.restore(state)

    def forget(self) -> None:
        """Forget what was taken over: a later journal lacks what was closed since, and gave its backing file back."""
        self.modes = OpenModes()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold what was taken over, and let go of what nobody reads any more, until cancelled or in a hurry."""
        task_status.started()
        for state in self.modes.states():
            if state.backing_id:
                await self._hold_inherited(state.node_id)
        while True:
            await trio.sleep(_LOOK_S)
            for node_id in list(self._held):
                await self._let_go_unused(node_id)

    async def _hold_inherited(self, node_id: int) -> None:
        obj = self._version_of(node_id)
        if obj is None or node_id in self._held:
            return
        held = self._held[node_id] = _Held(obj, -1, is_inherited=True)
        await self._open_inherited(node_id, held)

    async def _open_inherited(self, node_id: int, held: _Held) -> None:
        """Open a file that the kernel holds for an earlier process.

        Until that succeeds nobody can tell whether it is mapped, and the kernel's lock alone keeps others from punching
        holes into it: so it stays, whether the cache has lost the file or only cannot give it at the moment. What is
        not whole is not what the kernel has: a cache that was begun anew, or another directory, is being filled there.
        Unless it is that very file, some of which was found damaged since.
        """
        is_first = not held.try_again_s
        held.try_again_s = trio.current_time() + _TRY_AGAIN_S
        cached = await self._cache.open_object(held.obj)
        try:
            held.has_lost = await self._has_lost(node_id, cached)
            held.fd = await _whole_file(cached)
            # None where a block was lost while it was opened.
            held.is_proven = cached.published() and cached.unproven() == []
        except CacheError as exc:
            level = logging.WARNING if is_first else logging.DEBUG
            log.log(level, "a cache file of an earlier worker stays locked, as it cannot be looked at: %s", exc)
        finally:
            cached.close()

    async def _has_lost(self, node_id: int, cached: CachedObject) -> bool:
        """Tell whether a version lacks blocks of the file that the kernel holds.

        Raises:
            CacheError: Its file cannot be opened.
        """
        if cached.unproven() is not None:
            return False
        fd = await cached.open_file()
        try:
            return _identity(fd) == self.modes.of(node_id).file
        except OSError:  # nobody can tell
            return False
        finally:
            close_quietly(fd)

    async def _let_go_unused(self, node_id: int) -> None:
        held, state = self._held[node_id], self.modes.of(node_id)
        if self._is_leaving or state.is_passthrough:
            return
        if held.fd < 0:
            if trio.current_time() >= held.try_again_s:
                await self._open_inherited(node_id, held)
            return
        if held.is_inherited and not self._take_over(node_id, held, state):
            return
        uses = held.uses
        try:
            unused = await threads.run_sync(partial(is_unused, held.fd))
        except OSError as exc:
            log.info("a cache file stays locked until it is known that nobody reads it: %s", exc)
            return
        if unused and uses == held.uses and not self._is_leaving:
            self._let_go(node_id, held)

    def _take_over(self, node_id: int, held: _Held, state: OpenState) -> bool:
        """Have the kernel hold our descriptor in the place of a dead worker's; return whether it does.

        Where that is of another file, as with another --cache-dir, the kernel keeps the dead worker's as well, and its
        lock: nobody can tell whether it is mapped, and whoever evicts there would punch holes into it.
        """
        try:
            file = _identity(held.fd)
            backing_id = self._backing.open_backing(held.fd)
        except OSError as exc:
            log.warning("a cache file stays locked: %s", why_refused(exc))
            return False
        # First, else a successor opens onto what is closed.
        self._journal(self.modes.back(node_id, backing_id, file, is_proven=held.is_proven))
        if state.file in (file, (0, 0)):
            self._backing.close_backing(state.backing_id)
        else:
            log.warning("a cache file of an earlier worker stays locked while this mount lives: there is another now")
        held.is_inherited = False
        return True

    def _let_go(self, node_id: int, held: _Held) -> None:
        del self._held[node_id]
        backing_id = self.modes.of(node_id).backing_id
        self._journal(self.modes.back(node_id, 0))  # first, as above
        self._backing.close_backing(backing_id)
        close_quietly(held.fd)

    def statistics(self) -> PassthroughStatistics:
        """Return counters and gauges."""
        return PassthroughStatistics(
            self.off,
            self._opens,
            self._opened_bytes,
            self._proofs.proven_bytes,
            len(self._held),
            dict(self._passed_over),
        )


def _identity(fd: int) -> tuple[int, int]:
    """Return which file a descriptor is of: its device and inode number.

    Raises:
        OSError: Nobody can tell.
    """
    facts = os.fstat(fd)
    return facts.st_dev, facts.st_ino


async def _whole_file(cached: CachedObject) -> int:
    """Return a descriptor of the file of a version, as ``CachedObject.open_file``.

    Raises:
        CacheError: There is none, or some of it is not on disk.
    """
    if cached.unproven() is None:
        raise CacheError("not wholly cached")
    return await cached.open_file()
