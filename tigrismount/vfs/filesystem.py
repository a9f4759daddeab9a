"""The filesystem without FUSE: what each request means, in our own types.

The FUSE adapter translates requests to these methods and their answers back; tests drive the same methods without a
mount. Names and listings come from ``vfs.directory``, bytes from the readers given in, node ids from
``core.inodes``.

A file handle is the node id: several opens of one version share one reader, and a worker that took over a mount can
answer a read of a file that it never saw opened. Counts of opens and look-ups are hints for the same reason, so
``release`` and ``forget`` accept everything.

Nodes never change, so ``getattr`` and ``open`` make no request, and their answers may be kept for ever. Only *names*
change: what is known of them has a TTL.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import trio

from tigrismount.core.bookmarks import Bookmark
from tigrismount.core.inodes import InodeTable, Node
from tigrismount.core.names import DirectoryKey, place_of
from tigrismount.errors import (
    CacheError,
    InvalidNameError,
    IsDirectoryError,
    NotDirectoryError,
    ObjectArchivedError,
    ObjectNotFoundError,
    PathError,
    StaleObjectError,
    UnknownNodeError,
)
from tigrismount.objects.archives import check_readable
from tigrismount.objects.client import ARCHIVE_CLASSES
from tigrismount.vfs.directory import Directories
from tigrismount.vfs.entries import Entry, FilesystemInfo, NegativeEntry, VfsStatistics, attributes_of
from tigrismount.vfs.names import LiveNames
from tigrismount.vfs.openfiles import OpenFile, whole
from tigrismount.vfs.xattrs import CACHED_BYTES, LISTED_SHA256_BYTES, SHA256, count_cached_bytes, stored_attributes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence

    from tigrismount.blocks.base import Buffer
    from tigrismount.cache.base import BlockCache
    from tigrismount.core.journal import Record
    from tigrismount.core.listing import Dentry
    from tigrismount.core.types import ObjectId
    from tigrismount.objects.client import ObjectClient
    from tigrismount.vfs.entries import Attributes
    from tigrismount.vfs.names import NameSource
    from tigrismount.vfs.openfiles import Readers
    from tigrismount.vfs.options import VfsConfig

TURN_S = 60.0
"""How often what has grown old is forgotten."""

_NODES_A_TURN = 1000
"""Nodes that are looked at before others have a turn: a millisecond or two."""

SIBLINGS_LIMIT = 4000
"""Names of a directory that are looked at for the files of a model, four pages of a listing: the largest checkpoints
have a thousand shards."""


class FileSystem:
    """One mounted prefix of one bucket, or all buckets side by side.

    Args:
        client: The store, asked for names and what versions are called.
        readers: Where bytes come from.
        config: What is mounted and how it looks.
        clock: Seconds; does not go backwards.
        cache: The disk cache, asked only how much of a version it holds; None where there is none.
        names: Asked for names; None asks the store.
        verified_sha256: Tells the SHA-256 that a version was found to have, empty where nobody looked.
        on_new: Called with each node before its id is handed out (see :class:`InodeTable`).
        on_bookmark: Called with each place in a directory before its cursor is handed out.
    """

    def __init__(
        self,
        client: ObjectClient,
        readers: Readers[Any],
        config: VfsConfig,
        *,
        clock: Callable[[], float],
        cache: BlockCache | None = None,
        names: NameSource | None = None,
        verified_sha256: Callable[[ObjectId], Awaitable[str]] | None = None,
        on_new: Callable[[Node], None] | None = None,
        on_bookmark: Callable[[Bookmark], None] | None = None,
    ) -> None:
        self._client = client
        self._readers = readers
        self._config = config
        self._clock = clock
        self._cache = cache
        self._verified_sha256 = verified_sha256
        self._on_bookmark = on_bookmark
        self._directories = Directories(names or LiveNames(client), config, clock)
        self._inodes = InodeTable(
            config.store_id,
            DirectoryKey(config.bucket, config.prefix),
            unreferenced_limit=config.node_limit,
            on_new=on_new,
        )
        self._open: dict[int, OpenFile] = {}
        self._open_ids: dict[ObjectId, int] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fetch pages of listings ahead of their readers, and forget what has grown old, until cancelled.

        All else works without.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._directories.run)
            task_status.started()
            while True:
                await trio.sleep(TURN_S)
                self._directories.drop_old()
                self._inodes.grow_old()

    def nodes(self) -> Iterator[Node]:
        """Give all nodes that the kernel may know, but the root."""
        return self._inodes.known()

    def records(self) -> Iterator[Record]:
        """Give all nodes and places in directories that the kernel may know, for the next process."""
        return itertools.chain(self.nodes(), self._directories.shelf.bookmarks)

    def restore(self, records: Sequence[Record]) -> None:
        """Take over the records of an earlier process of this mount; before the first request."""
        nodes = [record for record in records if isinstance(record, Node)]
        for record in records:
            if isinstance(record, Bookmark):
                self._directories.shelf.restore(record)
        self._inodes.restore(nodes)
        for node in nodes:
            if node.obj is not None:
                self._client.know_version(node.obj, node.version_id)

    # -- names and attributes ----------------------------------------------------------------------------------

    async def lookup(self, parent_id: int, name: bytes) -> Entry | NegativeEntry:
        """Return the node that *name* stands for in a directory, and count one look-up of it.

        What is fresh is answered without a request. A missing name is an answer, :class:`NegativeEntry`, as the
        kernel may remember it. ``.`` and ``..`` are the kernel's.

        Raises:
            UnknownNodeError: The parent is not known.
            NotDirectoryError: The parent is a file.
            InvalidNameError: No key can have this name.
            NameTooLongError: The name or its key is too long.
            ObjectError: The store could not say.
        """
        where = self._directory(parent_id)
        known = await self._directories.find(where, name)
        if known.dentry is None:
            return NegativeEntry(known.ttl_s)
        node = self._intern(where, known.dentry)
        self._inodes.add_lookup(node)
        return Entry(attributes_of(node, self._config), known.ttl_s)

    async def getattr(self, node_id: int) -> Attributes:
        """Return the attributes of a node; they never change.

        Raises:
            UnknownNodeError: The node is not known.
        """
        return attributes_of(self._inodes.get(node_id), self._config)

    async def readlink(self, node_id: int) -> bytes:
        """Return the target of a symbolic link as the bucket has it; nothing here follows it.

        Raises:
            UnknownNodeError: The node is not known.
            InvalidNameError: It is no link.
        """
        node = self._inodes.get(node_id)
        if not node.target:
            raise InvalidNameError("not a symbolic link", bucket=node.bucket, key=node.key)
        return node.target

    async def listxattr(self, node_id: int) -> list[bytes]:
        """Return the names of a node's extended attributes.

        Raises:
            UnknownNodeError: The node is not known.
        """
        node = self._inodes.get(node_id)
        self._learn_version(node)
        stored = stored_attributes(node)
        if node.obj is not None and node.obj.size_bytes >= LISTED_SHA256_BYTES:
            stored = await self._with_sha256(node, stored)
        return [*stored, CACHED_BYTES] if stored else []

    async def getxattr(self, node_id: int, name: bytes) -> bytes | None:
        """Return an extended attribute of a node, None where it has none of that name. No request is made.

        Raises:
            UnknownNodeError: The node is not known.
        """
        node = self._inodes.get(node_id)
        self._learn_version(node)
        stored = stored_attributes(node)
        if name == SHA256:
            return (await self._with_sha256(node, stored)).get(name)
        if name != CACHED_BYTES or node.obj is None or not stored:
            return stored.get(name)
        return b"%d" % (await self._cached_bytes(node.obj))

    def forget(self, forgotten: Iterable[tuple[int, int]]) -> None:
        """Take back look-ups, given as (node id, count); never raises."""
        for node_id, count in forgotten:
            self._inodes.forget(node_id, count)

    async def refresh(self, path: Sequence[bytes]) -> list[tuple[int, bytes]]:
        """Forget what is known of the names at and below *path*, so that the store is asked again.

        It is forgotten at once. What the kernel knows of a large tree is found in turns with whoever asks meanwhile.
        Open files keep their versions, and readers of a directory finish the listing they are in.

        Args:
            path: Names from the root down; empty for everything.

        Returns:
            Every name that the kernel may know and must forget too, as (directory's node id, name). That of a
            directory does not do for those in it: names of open files outlive it, and come back with it.
        """
        below, steps = self._inodes.root.where, []
        for name in path:
            steps.append((below, name))
            below = below.child(name)
        places = dict.fromkeys(steps + self._directories.expire(steps, below))
        for count, node in enumerate(list(self._inodes.known())):
            if count % _NODES_A_TURN == 0:
                await trio.lowlevel.checkpoint()
            if node.referenced and below.holds(node.where):
                places[_place_of(node)] = None
        names: list[tuple[int, bytes]] = []
        for count, (where, name) in enumerate(places):
            if count % _NODES_A_TURN == 0:
                await trio.lowlevel.checkpoint()
            names.append((self._inodes.directory(where).id, name))
        return names

    def statfs(self) -> FilesystemInfo:
        """Return what is known about the filesystem as a whole, which is little."""
        return FilesystemInfo()

    # -- directories -------------------------------------------------------------------------------------------

    async def opendir(self, node_id: int) -> None:
        """Open a directory; its handle is the node id.

        Raises:
            UnknownNodeError: The node is not known.
            NotDirectoryError: It is a file.
        """
        where = self._directory(node_id)
        self._inodes.add_handle(self._inodes.get(node_id))
        self._directories.shelf.pin(where)

    async def readdir(self, node_id: int, cursor: int, emit: Callable[[bytes, Entry, int], bool]) -> None:
        """Give the entries of a directory from *cursor* on to *emit*, as far as they can be had with one wait.

        At least one entry is given unless the directory ends here. ``.`` and ``..`` are not among them.

        Args:
            node_id: The directory.
            cursor: 0 for the start, else as given to *emit*.
            emit: Takes a name, its entry and the cursor behind it; False says that it did not take it and that no
                more are wanted. Each entry that it took is counted as a look-up.

        Raises:
            UnknownNodeError: The node is not known.
            NotDirectoryError: It is a file.
            ObjectError: The store could not say; asking again goes on at the same place.
        """
        where = self._directory(node_id)
        listing, ordinal = await self._directories.read(where, cursor)
        now_s, ttl_s, start = self._clock(), self._directories.dentries.ttl_s, ordinal
        while ordinal < len(listing.dentries):
            dentry = listing.dentries[ordinal]
            node = self._intern(where, dentry)
            entry = Entry(attributes_of(node, self._config), 0.0 if listing.stale else ttl_s(dentry, now_s))
            if not emit(dentry.name, entry, listing.cursor(ordinal + 1)):
                break
            ordinal += 1
            self._inodes.add_lookup(node)
        if ordinal > start:  # the kernel asks for what follows the last one
            self._note_place(listing.bookmark(ordinal))

    def _note_place(self, bookmark: Bookmark) -> None:
        if self._directories.shelf.bookmarks.put(bookmark) and self._on_bookmark is not None:
            self._on_bookmark(bookmark)

    def releasedir(self, node_id: int) -> None:
        """Close a directory; never raises."""
        with contextlib.suppress(PathError):
            self._directories.shelf.unpin(self._directory(node_id))
        self._inodes.drop_handle(node_id)

    # -- files -------------------------------------------------------------------------------------------------

    async def open(self, node_id: int, *, direct: bool = False) -> None:
        """Open a file; its handle is the node id. No request is made, but for one of an archived object.

        Args:
            node_id: The file.
            direct: Whether its reader goes past the kernel's page cache.

        Raises:
            UnknownNodeError: The node is not known.
            IsDirectoryError: It is a directory.
            ObjectArchivedError: The object must be restored before it can be read.
            ObjectError: The store did not say whether it was restored.
        """
        node = self._inodes.get(node_id)
        if node.obj is not None and node.storage_class in ARCHIVE_CLASSES and node_id not in self._open:
            await self._check_restored(node.obj, node.storage_class)
        file = self._open_file(node_id)
        file.is_direct = file.is_direct or direct

    def try_read(self, node_id: int, offset: int, size: int) -> Buffer | None:
        """Return what :meth:`read` would, when all of it is in memory now, else None. Never waits.

        Raises:
            ObjectProtocolError: As in :meth:`read`.
        """
        file = self._open.get(node_id)
        if file is None:
            return None
        stop = min(offset + size, file.obj.size_bytes)
        if offset >= stop:
            return b""
        data = file.reader.try_read(offset, stop)
        return None if data is None else whole(data, file, offset, stop)

    async def read(self, node_id: int, offset: int, size: int) -> Buffer:
        """Return exactly ``max(0, min(size, length - offset))`` bytes of a file from *offset* on.

        Never returns short, since that is a shorter file to an application. A memoryview is valid until the caller's
        next ``await``. The file need not be open here: an earlier process may have opened it.

        Raises:
            UnknownNodeError: The node is not known.
            IsDirectoryError: It is a directory.
            StaleObjectError: This version is gone from the store, its key perhaps with it.
            ObjectError: The bytes of this version could not be had.
        """
        file = self._open.get(node_id) or self._open_file(node_id)
        stop = min(offset + size, file.obj.size_bytes)
        if offset >= stop:
            return b""
        try:
            data = await file.reader.read(offset, stop)
        except ObjectNotFoundError as exc:
            # ENOENT is for names. Who reads an open file on a network filesystem knows ESTALE.
            detail = "the object was deleted since it was opened"
            raise StaleObjectError(detail, bucket=file.obj.bucket, key=file.obj.key) from exc
        self._learn_version(file.node)
        return whole(data, file, offset, stop)

    def release(self, node_id: int) -> None:
        """Close a file that was opened once; never raises."""
        self._inodes.drop_handle(node_id)
        file = self._open.get(node_id)
        if file is None:
            return
        file.opens -= 1
        if file.opens == 0:
            del self._open[node_id]
            del self._open_ids[file.obj]
            self._readers.close(file.reader)

    def version_of(self, node_id: int) -> ObjectId | None:
        """Return the version that a node is, None for a directory or an id that is not known."""
        try:
            return self._inodes.get(node_id).obj
        except UnknownNodeError:
            return None

    def cached_node(self, obj: ObjectId) -> int | None:
        """Return the node of a version that is open and read through the kernel's page cache, None for others."""
        node_id = self._open_ids.get(obj)
        return node_id if node_id is not None and not self._open[node_id].is_direct else None

    def nodes_of(self, objects: Collection[ObjectId]) -> dict[ObjectId, int]:
        """Return the ids under which the kernel may know versions, as far as it may."""
        return {node.obj: node.id for node in self._inodes.known() if node.obj is not None and node.obj in objects}

    def statistics(self) -> VfsStatistics:
        """Return the counters."""
        directories = self._directories
        listings = directories.shelf.newest_of_each()
        return VfsStatistics(
            nodes=len(self._inodes),
            nodes_unreferenced=self._inodes.unreferenced_count,
            open_files=len(self._open),
            dentries=directories.dentries.positive_count,
            negative_dentries=directories.dentries.negative_count,
            listed_names=sum(len(listing.dentries) for listing in listings),
            hidden_keys=sum(listing.hidden for listing in listings),
            shadowed_keys=sum(listing.shadowed for listing in listings),
            lookups=directories.lookups,
            lookups_asked=directories.lookups_asked,
            listings=directories.listings,
        )

    async def siblings(self, obj: ObjectId, below: str = "") -> list[tuple[str, ObjectId]]:
        """Return the files of the directory that a version's key lies in, or of one below it: names and versions.

        What was listed lately is not asked for again. Of a directory with more names than a model has files, the
        first ones are returned.

        Raises:
            ObjectError: The store could not say.
        """
        where, _ = place_of(obj.bucket, obj.key)
        for name in below.split("/") if below else ():
            where = where.child(name.encode("utf-8", "surrogateescape"))
        dentries = await self._directories.names(where, SIBLINGS_LIMIT)
        files = [(dentry.name, dentry.info) for dentry in dentries if dentry.info is not None]
        return [(name.decode("utf-8", "surrogateescape"), info.id) for name, info in files if not info.symlink_target]

    # -- inside ------------------------------------------------------------------------------------------------

    async def _with_sha256(self, node: Node, stored: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Return *stored* with the checksum that the bytes were found to have, where the store named none."""
        if node.obj is None or not stored or SHA256 in stored or self._verified_sha256 is None:
            return stored
        found = await self._verified_sha256(node.obj)
        return {**stored, SHA256: found.encode()} if found else stored

    async def _cached_bytes(self, obj: ObjectId) -> int:
        if self._cache is None:
            return 0
        try:
            return await count_cached_bytes(self._cache, obj)
        except CacheError:
            return 0  # a cache in trouble holds nothing that anybody could use

    def _learn_version(self, node: Node) -> None:
        """Take down a version id that a GET named, also for a worker that takes over after the file changed."""
        if node.obj is not None and not node.version_id and (version_id := self._client.version_id(node.obj)):
            self._inodes.learn_version(node, version_id)

    def _directory(self, node_id: int) -> DirectoryKey:
        node = self._inodes.get(node_id)
        if node.obj is not None:
            raise NotDirectoryError("not a directory", bucket=node.bucket, key=node.key)
        return node.where

    def _intern(self, where: DirectoryKey, dentry: Dentry) -> Node:
        if dentry.info is None:
            return self._inodes.directory(where.child(dentry.name))
        return self._inodes.file(dentry.info)

    async def _check_restored(self, obj: ObjectId, storage_class: str) -> None:
        """Raise unless an archived object was restored: a copy that is there today goes after some days."""
        try:
            with contextlib.suppress(StaleObjectError, ObjectNotFoundError):  # which may be cached, or kept by its id
                await check_readable(self._client, obj)
        except ObjectArchivedError:
            detail = f"archived as {storage_class}: restore the object, then try again"
            raise ObjectArchivedError(detail, bucket=obj.bucket, key=obj.key) from None

    def _open_file(self, node_id: int) -> OpenFile:
        """Count one open of a file and return it."""
        node = self._inodes.get(node_id)
        obj = node.obj
        if obj is None:
            raise IsDirectoryError("a directory has no bytes", bucket=node.bucket, key=node.key)
        file = self._open.get(node_id)
        if file is None:
            file = self._open[node_id] = OpenFile(self._readers.open(obj, obj.key), node, obj)
            self._open_ids[obj] = node_id
        file.opens += 1
        self._inodes.add_handle(node)
        return file


def _place_of(node: Node) -> tuple[DirectoryKey, bytes]:
    return node.where.place if node.obj is None else place_of(node.bucket, node.key)
