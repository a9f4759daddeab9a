"""A bucket in memory with the filesystem on it, a clock that tests move, and readers that need no cache."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import pytest

from tigrismount.core.types import ROOT_NODE_ID, ObjectId
from tigrismount.objects.client import ListPage, ObjectInfo
from tigrismount.objects.memory import MemoryObjectClient
from tigrismount.vfs.entries import Entry
from tigrismount.vfs.filesystem import FileSystem
from tigrismount.vfs.options import VfsConfig


class FakeReader:
    """Reads one version; ``resident`` says whether its bytes are in memory, ``short`` takes bytes off each answer."""

    def __init__(self, obj, data):
        self.obj = obj
        self.data = data
        self.resident = False
        self.short = 0
        self.reads = []

    def try_read(self, start, stop):
        if not self.resident:
            return None
        return self._slice(start, stop)

    async def read(self, start, stop):
        self.reads.append((start, stop))
        return self._slice(start, stop)

    def _slice(self, start, stop):
        assert 0 <= start < stop <= len(self.data), (start, stop)
        return memoryview(self.data)[start : stop - self.short]


class FakeReaders:
    """Readers of the versions a test has put."""

    def __init__(self):
        self.data = {}
        self.opened = []
        self.closed = []

    def open(self, obj, key):
        assert key == obj.key
        reader = FakeReader(obj, self.data[obj])
        self.opened.append(reader)
        return reader

    def close(self, reader):
        self.closed.append(reader)


class World:
    """A mounted bucket without FUSE."""

    def __init__(
        self,
        *keys,
        client=None,
        cache=None,
        names=None,
        verified_sha256=None,
        on_new=None,
        on_bookmark=None,
        bucket="bucket",
        **config,
    ):
        self.client = client or MemoryObjectClient()
        self.readers = FakeReaders()
        self.now_s = 1000.0
        self.fs = FileSystem(
            self.client,
            self.readers,
            VfsConfig(bucket=bucket, **config),
            clock=lambda: self.now_s,
            cache=cache,
            names=names,
            verified_sha256=verified_sha256,
            on_new=on_new,
            on_bookmark=on_bookmark,
        )
        for key in keys:
            self.put(key)

    def put(self, key, data=b"data", **rest):
        obj = self.client.put(key, data, **rest)
        self.readers.data[obj] = data
        return obj

    @property
    def requests(self):
        """Requests made since this was last asked."""
        made = list(self.client.requests)
        self.client.requests.clear()
        return made

    async def walk(self, path):
        """Look up a path from the root; return the node id, None where there is no such name."""
        node_id = ROOT_NODE_ID
        for name in path.split("/"):
            entry = await self.fs.lookup(node_id, name.encode("utf-8", "surrogateescape"))
            if not isinstance(entry, Entry):
                return None
            node_id = entry.attributes.node_id
        return node_id

    async def readdir(self, node_id=ROOT_NODE_ID, cursor=0, limit=1 << 30):
        """Make one readdir call with room for *limit* entries; return [(name, entry, cursor)]."""
        taken = []

        def emit(name, entry, next_cursor):
            if len(taken) == limit:
                return False
            taken.append((name, entry, next_cursor))
            return True

        await self.fs.readdir(node_id, cursor, emit)
        return taken

    async def ls(self, node_id=ROOT_NODE_ID, limit=1 << 30):
        """Read a whole directory in calls with room for *limit* entries; return [(name, entry)]."""
        rows, cursor = [], 0
        while taken := await self.readdir(node_id, cursor, limit):
            rows += [(name, entry) for name, entry, _ in taken]
            cursor = taken[-1][2]
        return rows

    async def names(self, node_id=ROOT_NODE_ID, limit=1 << 30):
        return [name for name, _ in await self.ls(node_id, limit)]

    async def read_all(self, node_id):
        size_bytes = (await self.fs.getattr(node_id)).size_bytes
        return bytes(await self.fs.read(node_id, 0, size_bytes))


class Grid(Sequence):
    """The keys ``NNNN/NNNNNN`` of some directories with as many files each, in order, none of them in memory."""

    def __init__(self, directories, files):
        self.directories = directories
        self.files = files

    def __len__(self):
        return self.directories * self.files

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError
        directory, file = divmod(index, self.files)
        return f"{directory:04}/{file:06}"


class SyntheticClient(MemoryObjectClient):
    """Lists a sorted sequence of keys, each an object of 4 bytes, a thousand rows to a page."""

    def __init__(self, keys):
        super().__init__()
        self.keys = keys

    async def head(self, bucket, key):
        self._record("HEAD", key)
        index = bisect.bisect_left(self.keys, key)
        if index == len(self.keys) or self.keys[index] != key:
            return await super().head(bucket, key)
        return self._info(key)

    async def list_page(self, bucket, prefix, *, delimiter="/", token=None, start_after="", max_keys=1000):
        self._record("LIST", prefix, token)
        at = bisect.bisect_left(self.keys, prefix) if token is None else int(token)
        objects, prefixes = [], []
        while at < len(self.keys) and self.keys[at].startswith(prefix):
            if len(objects) + len(prefixes) == max_keys:
                return ListPage(tuple(objects), tuple(prefixes), str(at))
            key = self.keys[at]
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            if cut < 0:
                objects.append(self._info(key))
                at += 1
            else:
                prefixes.append(key[: cut + 1])
                at = bisect.bisect_left(self.keys, key[:cut] + "0", at)  # "0" follows "/"
        return ListPage(tuple(objects), tuple(prefixes), None)

    def _info(self, key):
        # A new ETag object each time, as an answer from the network has.
        return ObjectInfo(ObjectId(self.bucket, key, f"{hash(key) & (1 << 128) - 1:032x}", 4), 1_700_000_000.125)


@pytest.fixture(scope="session")
def new_world():
    """Makes worlds; a class, so that property tests can make one for each example."""
    return World


@pytest.fixture(scope="session")
def new_grid_world():
    """Makes worlds of some directories with as many files each, none of which is in memory."""

    def make(directories, files, **config):
        return World(client=SyntheticClient(Grid(directories, files)), **config)

    return make
