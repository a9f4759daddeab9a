"""LMDB as the index uses it: opened, transacted, grown, synced, with its exceptions turned into ours.

Each commit syncs its pages before the root that points to them is written, and leaves the root itself to the next
commit or ``sync`` (``metasync=False``, no writemap). So whatever a power cut leaves of the file is the whole tree of
the last commit or of the one before: only what was in flight is lost. A commit costs a fifth of a millisecond that way,
a hundredth of what the block it records took to write.

Transactions of several threads run side by side, so that a look at the index does not wait for somebody's sync; only
the map is grown, and the environment closed, while none is open. All methods block and are called from worker threads.
"""

from __future__ import annotations

import os
import struct
import threading
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import lmdb

from tigrismount.errors import CacheCorruptError, CacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Result = TypeVar("Result")

_MAP_BYTES = 1 << 30
"""Address space of a new index; the file grows with its use only. About five million blocks."""
_MAP_LIMIT_BYTES = 1 << 38
"""Where growing ends: an index of this size is a fault, not a cache."""
_MAX_READERS = 512
"""Reader slots in the lock file; one per process that uses the directory at the same moment."""
_LOCK_FILE_BYTES = 64 << 10
"""More than the 64 bytes a slot, plus header, that LMDB needs for them."""

_DAMAGE = (
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.IncompatibleError,
    lmdb.PanicError,
    lmdb.BadTxnError,
    lmdb.NotFoundError,  # of a database: gets say None
)


class _Gate:
    """Lets many in together, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Be inside with others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be inside alone; nobody comes in while one waits for that."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._closed = True
            self._changed.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()


@contextmanager
def _translated() -> Iterator[None]:
    """Turn lmdb's exceptions into ours."""
    try:
        yield
    except _DAMAGE as error:
        raise CacheCorruptError(f"the cache index is damaged: {error}") from error
    except struct.error as error:
        raise CacheCorruptError(f"the cache index holds a record that does not unpack: {error}") from error
    except lmdb.Error as error:
        raise CacheError(f"the cache index failed: {error}") from error


class Environment:
    """One process's use of an LMDB environment; safe to call from any thread.

    Args:
        path: Its directory; made by the caller.
        names: Databases in it, made when missing.
        added_names: Databases that an older release does not make. Made when missing, too.
        readonly: Whether to look only; then all of it must exist, except what is added.

    Raises:
        CacheCorruptError: It is damaged, or lacks a database.
        CacheError: It cannot be opened, or this process has it open already.
        OSError: The disk is full, or does not let us.
    """

    def __init__(self, path: str, names: Sequence[bytes], added_names: Sequence[bytes] = (), *, readonly: bool) -> None:
        self._gate = _Gate()
        self._map_bytes = 0
        """As of the last look, which every transaction need not take: it costs Python's lock."""
        if not readonly:
            _allocate_lock_file(os.path.join(path, "lock.mdb"))
        with _translated():
            self._env = lmdb.open(
                path,
                map_size=_MAP_BYTES,
                readonly=readonly,
                create=not readonly,
                metasync=False,
                mode=0o600,
                max_readers=_MAX_READERS,
                max_dbs=len(names) + len(added_names),
            )
        try:
            with _translated(), nullcontext() if readonly else self._env.begin(write=True) as txn:
                # In a transaction of ours: open_db waits for the writer's turn with Python's lock in its hands, and
                # who has the turn may be stopped.
                self.databases = [self._env.open_db(name, txn=txn, create=not readonly) for name in names]
                """Handles of the databases, in the order of their names."""
                self.added_databases = [self._added(name, txn) for name in added_names]
                """Handles of the added databases, None for those that an older release did not make."""
            with _translated():
                self._map_bytes = self._env.info()["map_size"]
                self._env.reader_check()  # readers that were killed would keep old pages from being used again
        except BaseException:
            self._env.close()
            raise

    def _added(self, name: bytes, txn: Any) -> Any:
        if txn is not None:
            return self._env.open_db(name, txn=txn)
        try:
            return self._env.open_db(name, create=False)
        except (lmdb.NotFoundError, lmdb.ReadonlyError):
            return None

    def transact(self, work: Callable[[Any], Result], *, write: bool) -> Result:
        """Return *work(transaction)*; the map grows as needed, and *work* runs again then.

        Args:
            work: What to do; what it raises aborts the transaction.
            write: Whether it writes.

        Raises:
            CacheCorruptError: The index is damaged.
            CacheError: The index failed.
        """
        with _translated():
            while True:
                map_bytes = self._map_bytes
                try:
                    with self._gate.shared(), self._env.begin(write=write) as txn:
                        return work(txn)
                except lmdb.MapResizedError:
                    with self._gate.alone():
                        self._set_map_size(0)  # another process has grown it: take its size
                except lmdb.MapFullError:
                    with self._gate.alone():
                        self._grow(map_bytes)

    def _grow(self, full_bytes: int) -> None:
        map_bytes = 2 * full_bytes
        if self._map_bytes >= map_bytes:
            return  # another thread was faster
        if map_bytes > _MAP_LIMIT_BYTES:
            raise CacheError(f"the cache index has grown to {map_bytes // 2} bytes")
        self._set_map_size(map_bytes)

    def _set_map_size(self, map_bytes: int) -> None:
        self._env.set_mapsize(map_bytes)
        self._map_bytes = self._env.info()["map_size"]

    @property
    def database_count(self) -> int:
        """How many databases it has."""
        return len(self.databases) + sum(handle is not None for handle in self.added_databases)

    def entries(self) -> int:
        """Return how many entries the environment has outside its databases, their names included."""
        with self._gate.shared(), _translated():
            return int(self._env.stat()["entries"])

    def sync(self) -> None:
        """Put everything committed so far on the disk."""
        with self._gate.shared(), _translated():
            self._env.sync(True)
            # Whoever else is killed may have nobody come after it, and a mount goes on for months.
            self._env.reader_check()

    def close(self) -> None:
        """Close it; every later call raises ``CacheError``. Idempotent."""
        with self._gate.alone():
            self._env.close()


def _allocate_lock_file(path: str) -> None:
    """Give LMDB's lock file its blocks: it is written through a map, and a hole in a full disk would be a SIGBUS."""
    try:
        status = os.stat(path)
        if status.st_blocks * 512 >= _LOCK_FILE_BYTES:
            return  # not even opened: closing a descriptor of it would drop the locks LMDB holds in this process
    except FileNotFoundError:
        pass
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(fd, 0, _LOCK_FILE_BYTES)
    finally:
        os.close(fd)
