"""The journal of node ids: memory that outlives this process, because the supervisor holds it too.

The supervisor makes a memory file and passes it to each worker of the mount. A worker writes one record for each node
*before* the kernel can hear of its id (``InodeTable``'s ``on_new``), so that the worker after it, however this one
died, knows every id; one for each place in a directory that the kernel was told to ask for next, before it is; and,
where files may be open onto the cache's own (``fuse.lane``), one for each file that is opened or closed.
``core.journal`` has the bytes.

Nodes that were dropped stay in the journal, so it is bounded by rewriting: above a limit, all nodes that are known now
go to a new file, which takes the old one's place once it has been sent to the supervisor, unless most of what was
written is known still: a walk through a large tree writes much and drops nothing. The limit is then twice what was
needed, so that rewriting costs no more than writing did. It is done a few records at a time, with each that is written
to the old one meanwhile; what was written there since it began follows at the end. Whenever this process dies, one
whole journal is there.

A journal that cannot be written is given up, with a line in the log and in ``status``: the mount goes on, and a worker
that takes over will not know the nodes met since.
"""

from __future__ import annotations

import itertools
import logging
import os
from typing import TYPE_CHECKING

from tigrismount.core.inodes import Node
from tigrismount.core.journal import MAGIC, decode_records, encode_record
from tigrismount.core.openmodes import OpenState
from tigrismount.errors import MountError
from tigrismount.memoryfile import make_memory_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tigrismount.core.journal import Record

log = logging.getLogger(__name__)

REWRITE_BYTES = 16 << 20
"""Size from which a journal is rewritten: about 80,000 nodes of some 200 bytes, more than the table keeps unused."""
_RECORDS_A_TURN = 256
"""Records of a new journal that are written with each of the old one: a millisecond, where all of them may take a third
of a second, in which nobody would be answered."""


class NodeJournal:
    """Remembers nodes for the next process; before :meth:`open`, nothing.

    Args:
        rewrite_bytes: Size from which the journal is rewritten.
    """

    def __init__(self, *, rewrite_bytes: int = REWRITE_BYTES) -> None:
        self._rewrite_bytes = self._limit_bytes = rewrite_bytes
        self._fd = -1
        self._size_bytes = self._previewed_bytes = self._previewed_ino = 0
        self._records = 0
        """Records in the journal, those that later ones replace included."""
        self._known: Callable[[], Iterable[Record]] = tuple
        self._replace: Callable[[int], None] | None = None
        self._rewriting: _Rewriting | None = None
        """The journal that is to take this one's place."""
        self.degraded = ""
        """Why nothing is remembered any more; empty while all is well."""

    def open(
        self, fd: int, known: Callable[[], Iterable[Record]], replace: Callable[[int], None] | None = None
    ) -> list[Record]:
        """Return what the journal in *fd* holds, and remember what is new there from now on.

        Args:
            fd: The memory file; owned from now on.
            known: Gives all nodes and bookmarks that are known, for rewriting.
            replace: Passes the descriptor of a new journal to who keeps it, by duplicate; raises
                :class:`MountError` where it cannot. None never rewrites.
        """
        self._known, self._replace = known, replace
        found = self.preview(fd)
        self._fd, stop = fd, max(self._previewed_bytes, len(MAGIC))
        head = os.pread(fd, len(MAGIC), 0)
        if head != MAGIC:
            if head:
                log.warning("the journal of the worker before this one has another format: what was open is lost")
            os.pwrite(fd, MAGIC, 0)
        os.ftruncate(fd, stop)  # a record that was cut short must not lie behind the next one
        self._size_bytes = stop
        self._limit_bytes = max(self._rewrite_bytes, 2 * stop)
        return found

    def preview(self, fd: int) -> list[Record]:
        """Return what the journal in *fd* holds that was not returned before, while another process may write it.

        So a successor that is started beside a worker has read nearly all when its turn comes. *fd* stays open.
        """
        facts = os.fstat(fd)
        if facts.st_ino != self._previewed_ino:  # another one was written in its place
            self._previewed_ino, self._previewed_bytes, self._records = facts.st_ino, 0, 0
        start, size_bytes = self._previewed_bytes, facts.st_size
        head = os.pread(fd, len(MAGIC), 0) if start else b""
        data = head + os.pread(fd, size_bytes - start, start)
        found: dict[object, Record] = {}
        stop = len(head)
        for item, stop in decode_records(data):  # noqa: B007 - where the last whole one stops
            self._records += 1
            if item is not None:
                found[_key(item)] = item
        self._previewed_bytes = start + stop - len(head)
        return list(found.values())

    def append(self, item: Record) -> None:
        """Remember a node or a bookmark; never raises. To be called before its id or cursor is handed out."""
        if self._fd < 0:
            return
        try:
            if self._replace is not None and (self._rewriting is not None or self._size_bytes >= self._limit_bytes):
                self._bound(self._replace)
            self._size_bytes = _write(self._fd, self._size_bytes, encode_record(item))
            self._records += 1
        except (OSError, ValueError, MountError) as exc:
            self._give_up(str(exc))

    def close(self) -> None:
        """Stop remembering; what is remembered stays with who else holds it."""
        if self._rewriting is not None:
            os.close(self._rewriting.fd)
            self._rewriting = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _bound(self, replace: Callable[[int], None]) -> None:
        """Rewrite a part of the journal, if that makes it less than half in the end; let it grow in any case."""
        if self._rewriting is None:
            known = list(self._known())
            if len(known) * 2 > self._records:
                self._limit_bytes = 2 * self._size_bytes
                return
            try:
                self._rewriting = _Rewriting(known, self._size_bytes, self._records)
            except OSError as exc:  # such as no descriptor left: what there is goes on, and says all that is needed
                log.warning("the journal of nodes cannot be rewritten for now: %s", exc)
                self._limit_bytes = 2 * self._size_bytes
                return
        if self._rewriting.write_some():
            self._finish(self._rewriting, replace)

    def _finish(self, new: _Rewriting, replace: Callable[[int], None]) -> None:
        before_bytes = self._size_bytes
        since = os.pread(self._fd, self._size_bytes - new.from_bytes, new.from_bytes)
        size_bytes = _write(new.fd, new.size_bytes, since)
        replace(new.fd)
        os.close(self._fd)
        self._fd, self._size_bytes, self._rewriting = new.fd, size_bytes, None
        self._records = new.records + self._records - new.from_records
        self._limit_bytes = max(self._rewrite_bytes, 2 * self._size_bytes)
        log.info("rewrote the journal of nodes: %d bytes instead of %d", self._size_bytes, before_bytes)

    def _give_up(self, reason: str) -> None:
        self.degraded = f"a worker that takes over will not know the files met since: {reason}"
        log.warning("the journal of nodes cannot be written: %s", self.degraded)
        self.close()


class _Rewriting:
    """A new journal that is being written.

    Args:
        known: What it is to hold.
        from_bytes: Where in the old one begins what is not among that.
        from_records: How many are before that.
    """

    def __init__(self, known: Sequence[Record], from_bytes: int, from_records: int) -> None:
        self.from_bytes = from_bytes
        self.from_records = from_records
        self.records = len(known)
        self._left = iter(known)
        self.fd = make_memory_file("tigrismount-journal")
        self.size_bytes = 0

    def write_some(self) -> bool:
        """Write some more of it, each node as it is now; return whether that was all."""
        records = [encode_record(item) for item in itertools.islice(self._left, _RECORDS_A_TURN)]
        head = b"" if self.size_bytes else MAGIC
        self.size_bytes = _write(self.fd, self.size_bytes, head + b"".join(records))
        return len(records) < _RECORDS_A_TURN


def _write(fd: int, start: int, data: bytes) -> int:
    """Write *data* at a place of a file and return where it ends.

    Raises:
        OSError: It could not be written, or not all of it.
    """
    written = os.pwrite(fd, data, start)
    if written != len(data):
        raise OSError(f"only {written} of {len(data)} bytes could be written")
    return start + written


def _key(item: Record) -> object:
    """Return what the later one of two records replaces the earlier one by."""
    if isinstance(item, OpenState):
        return "open", item.node_id
    return item.id if isinstance(item, Node) else (item.where, item.cursor)
