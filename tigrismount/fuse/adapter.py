"""pyfuse3's handlers: arguments and answers translated, errors turned into errnos, nothing else.

pyfuse3 dies of any exception that is not ``FUSEError``, and the process that waits for the answer then hangs. So each
handler runs inside one of two guards here: nothing of ours or of anybody's leaves them but ``FUSEError`` and trio's
``Cancelled``. A request cannot be interrupted from outside (a killed reader does not cancel its handler), so each one
runs under a deadline.

``read`` is the hot path: bytes in memory are answered without an ``await``, as a memoryview, which pyfuse3 copies to
the kernel before anything else runs.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, NoReturn

import pyfuse3
import trio

from tigrismount.core.histogram import Histogram
from tigrismount.errors import TigrisMountError
from tigrismount.fuse.errnos import errno_of
from tigrismount.vfs.entries import NegativeEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tigrismount.blocks.base import Buffer
    from tigrismount.fuse.options import FuseConfig
    from tigrismount.vfs.entries import Attributes, Entry
    from tigrismount.vfs.filesystem import FileSystem

log = logging.getLogger(__name__)

_LONGEST_TTL_S = 10 * 365 * 86400.0
"""What "for ever" is to the kernel: far beyond any mount, far below the overflow of its timers."""
_EXPECTED_ERRNOS = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENAMETOOLONG})
"""Answers to ordinary questions; the others mean that something is wrong and are logged."""
_REPEAT_MEMORY = 256
_REPEAT_WITHIN_S = 30.0
_LONGEST_PAUSE_S = 1.0
_DOUBLINGS = 10
"""Enough for the longest pause; no float holds the power of a thousand failures."""


class Adapter(pyfuse3.Operations):
    """Answers the kernel from a ``FileSystem``.

    Args:
        filesystem: What the requests mean.
        config: Deadline of a request.
    """

    supports_dot_lookup = False

    def __init__(self, filesystem: FileSystem, config: FuseConfig) -> None:
        super().__init__()
        self._filesystem = filesystem
        self._deadline_s = config.request_deadline_s
        self._failures = RepeatedFailures(trio.current_time)
        self.reads = 0
        """READs answered with bytes."""
        self.read_bytes = 0
        """Bytes that the kernel asked for and got."""
        self.read_times = Histogram()
        """How long READs took, failed ones included."""
        self.errors: Counter[str] = Counter()
        """Requests refused, by the name of the error number."""

    # ------------------------------------------------------------------ names and attributes

    async def lookup(
        self,
        parent_inode: int,
        name: bytes,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """Answer a look-up; a missing name is remembered by the kernel for its own TTL."""
        try:
            with trio.fail_after(self._deadline_s):
                found = await self._filesystem.lookup(parent_inode, name)
            return _missing(found) if isinstance(found, NegativeEntry) else _entry(found)
        except Exception as exc:  # noqa: BLE001 - the guard: whatever it is, the kernel gets an errno
            self._refuse(exc, "lookup")

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Answer with attributes that never change."""
        try:
            return _attributes(await self._filesystem.getattr(inode))
        except Exception as exc:  # noqa: BLE001 - the guard
            self._refuse(exc, "getattr")

    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        """Answer with a link's target, which the kernel follows for whoever asked."""
        try:
            return await self._filesystem.readlink(inode)
        except Exception as exc:  # noqa: BLE001 - the guard
            self._refuse(exc, "readlink")

    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        """Answer with an extended attribute.

        Namespaces but ``user.`` are refused as not supported: ``ls -l`` then asks for no more ACLs and labels, which
        would cost as much again as the listing.
        """
        if not name.startswith(b"user."):
            raise pyfuse3.FUSEError(errno.ENOTSUP)
        try:
            with trio.fail_after(self._deadline_s):
                return _value(await self._filesystem.getxattr(inode, name))
        except Exception as exc:  # noqa: BLE001 - the guard
            self._refuse(exc, "getxattr")

    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        """Answer with the names of the extended attributes."""
        try:
            return await self._filesystem.listxattr(inode)
        except Exception as exc:  # noqa: BLE001 - the guard
            self._refuse(exc, "listxattr")

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Note what the kernel no longer knows; never fails."""
        try:
            self._filesystem.forget(inode_list)
        except Exception:
            log.exception("forget failed")

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Answer at once: health checks ask this."""
        info = self._filesystem.statfs()
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = info.block_size_bytes
        data.f_blocks = data.f_bfree = data.f_bavail = info.blocks
        data.f_files = data.f_ffree = data.f_favail = info.files
        data.f_namemax = info.name_max_bytes
        return data

    # ------------------------------------------------------------------ directories

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """Open a directory; the handle is the node id."""
        try:
            await self._filesystem.opendir(inode)
        except Exception as exc:  # noqa: BLE001 - the guard
            self._refuse(exc, "opendir")
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Give names from cursor *start_id* on, until the kernel's buffer is full."""

        def emit(name: bytes, entry: Entry, next_id: int) -> bool:
            return bool(pyfuse3.readdir_reply(token, name, _entry(entry), next_id))

        try:
            with trio.fail_after(self._deadline_s):
                await self._filesystem.readdir(fh, start_id, emit)
        except Exception as exc:  # noqa: BLE001 - the guard
            self._refuse(exc, "readdir")

    async def releasedir(self, fh: int) -> None:
        """Close a directory; never fails."""
        try:
            self._filesystem.releasedir(fh)
        except Exception:
            log.exception("releasedir failed")

    # ------------------------------------------------------------------ files

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """Open a version; its pages in the kernel stay valid for ever, because the node is one version.

        Nobody may write, also where root has taken ``ro`` from the mount: what is mapped would change for all readers.
        """
        if is_for_writing(flags):
            raise pyfuse3.FUSEError(errno.EROFS)
        try:
            with trio.fail_after(self._deadline_s):
                await self._filesystem.open(inode, direct=bool(flags & os.O_DIRECT))
        except Exception as exc:  # noqa: BLE001 - the guard
            self._refuse(exc, "open")
        return pyfuse3.FileInfo(fh=inode, keep_cache=True)

    def read_now(self, fh: int, off: int, size: int) -> Buffer | None:
        """Answer as :meth:`read` where that takes no wait; None where it does, and where :meth:`read` would fail."""
        began_s = trio.current_time()
        try:
            found = self._filesystem.try_read(fh, off, size)
        except Exception:  # noqa: BLE001 - the guard: read() meets it again, and refuses
            return None
        if found is None:
            return None
        self.read_times.observe(trio.current_time() - began_s)
        return self._counted(found)

    async def read(self, fh: int, off: int, size: int) -> Buffer:  # type: ignore[override]
        """Answer with exactly the bytes there are; never short of the end of the file."""
        began_s = trio.current_time()
        try:
            found = self._filesystem.try_read(fh, off, size)
            if found is None:
                with trio.fail_after(self._deadline_s):
                    found = await self._filesystem.read(fh, off, size)
            return self._counted(found)
        except Exception as exc:  # noqa: BLE001 - the guard
            await self._failures.pause(fh, off)
            self._refuse(exc, "read")
        finally:
            self.read_times.observe(trio.current_time() - began_s)

    def _counted(self, data: Buffer) -> Buffer:
        self.reads += 1
        self.read_bytes += len(data)
        return data

    async def release(self, fh: int) -> None:
        """Close a file; never fails."""
        self.end_reads(fh)

    def end_reads(self, fh: int) -> None:
        """Close a file, also one that only READs have opened here; never fails."""
        try:
            self._filesystem.release(fh)
        except Exception:
            log.exception("release failed")

    # ------------------------------------------------------------------ refusing

    def _refuse(self, exc: Exception, request: str) -> NoReturn:
        """Raise the errno that *exc* means, and log what a person should know."""
        if isinstance(exc, pyfuse3.FUSEError):
            raise exc
        number = _errno_or_none(exc)
        if number is not None:
            if number not in _EXPECTED_ERRNOS:
                log.warning("%s: %s: %s", request, errno.errorcode[number], exc)
        elif isinstance(exc, trio.TooSlowError):
            number = errno.EIO
            log.warning("%s: EIO: no answer within %.0f s", request, self._deadline_s)
        else:
            number = errno.EIO
            log.error("%s failed unexpectedly; please report this", request, exc_info=exc)
        self.errors[errno.errorcode[number]] += 1
        raise pyfuse3.FUSEError(number) from exc


def is_for_writing(flags: int) -> bool:
    """Tell whether flags of open(2) ask for more than to read."""
    return bool(flags & (os.O_ACCMODE | os.O_TRUNC))


class RepeatedFailures:
    """Slows down a kernel that asks for a failing page again and again.

    Under ``MAP_POPULATE`` the kernel re-issues a failed page's READ for ever, tens of thousands a second. Each repeat
    at one place waits twice as long, up to a second.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: OrderedDict[tuple[int, int], tuple[float, int]] = OrderedDict()

    def note(self, fh: int, offset: int) -> float:
        """Note a failure and return how many seconds to wait before answering it."""
        now_s = self._clock()
        last_s, times = self._seen.pop((fh, offset), (now_s, 0))
        times = times + 1 if now_s - last_s < _REPEAT_WITHIN_S else 1
        self._seen[fh, offset] = (now_s, times)
        if len(self._seen) > _REPEAT_MEMORY:
            self._seen.popitem(last=False)
        return min(_LONGEST_PAUSE_S, 0.01 * 2 ** min(times, _DOUBLINGS)) if times > 1 else 0.0

    async def pause(self, fh: int, offset: int) -> None:
        """Note a failure and wait as long as its repeats deserve."""
        pause_s = self.note(fh, offset)
        if pause_s:
            await trio.sleep(pause_s)


def _errno_or_none(exc: Exception) -> int | None:
    """Return the errno of one of ours; None for others, and for one without a row: a bug, but no reason to die."""
    try:
        return errno_of(exc) if isinstance(exc, TigrisMountError) else None
    except LookupError:
        return None


def _attributes(attributes: Attributes, ttl_s: float = _LONGEST_TTL_S) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = attributes.node_id
    entry.st_mode = attributes.mode
    entry.st_nlink = attributes.nlink
    entry.st_uid = attributes.uid
    entry.st_gid = attributes.gid
    entry.st_size = attributes.size_bytes
    entry.st_blksize = 4096
    entry.st_blocks = attributes.sectors
    entry.st_atime_ns = entry.st_ctime_ns = entry.st_mtime_ns = attributes.mtime_ns
    entry.attr_timeout = min(ttl_s, _LONGEST_TTL_S)
    entry.entry_timeout = 0
    return entry


def _entry(found: Entry) -> pyfuse3.EntryAttributes:
    entry = _attributes(found.attributes, found.attr_ttl_s)
    entry.entry_timeout = min(found.entry_ttl_s, _LONGEST_TTL_S)
    return entry


def _value(value: bytes | None) -> bytes:
    if value is None:
        raise pyfuse3.FUSEError(errno.ENODATA)
    return value


def _missing(found: NegativeEntry) -> pyfuse3.EntryAttributes:
    if found.entry_ttl_s <= 0:
        raise pyfuse3.FUSEError(errno.ENOENT)
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = 0
    entry.entry_timeout = min(found.entry_ttl_s, _LONGEST_TTL_S)
    return entry
