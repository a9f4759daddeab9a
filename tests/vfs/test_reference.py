"""Random buckets and random operations, compared with a small model that knows nothing of pages, TTLs or nodes.

The model is the history of the bucket. Whatever the filesystem says must have been true at some moment within the TTL,
and what it says right after everything it knew has grown old must be true now. Bytes of an open node never change,
nor does a link's target.
"""

from __future__ import annotations

import hashlib
import stat
from typing import NamedTuple

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tigrismount.core.hidden import HiddenKeys
from tigrismount.core.listing import KEPT_PER_DIRECTORY
from tigrismount.core.names import key_bytes
from tigrismount.core.types import ROOT_NODE_ID
from tigrismount.errors import InvalidNameError, NameTooLongError
from tigrismount.objects.memory import MemoryObjectClient
from tigrismount.testing.reference import Link, is_possible, tree_of
from tigrismount.vfs.entries import Entry

TTL_S = 60.0

components = st.sampled_from(["a", "b", "a!", "a.b", "a0", "..", ".", "", "é", "\udcff", "x" * 256, "a\0"])
keys = st.lists(components, min_size=1, max_size=3).map("/".join).filter(bool)


bodies = st.binary(max_size=9) | st.sampled_from([b"a", b"../b", b"\xff/.."]).map(Link)
buckets = st.dictionaries(keys, bodies, min_size=1, max_size=12)

operations = st.one_of(
    st.tuples(st.just("look up"), st.lists(components, min_size=1, max_size=3)),
    st.tuples(st.just("list"), st.lists(components, max_size=2), st.integers(1, 3)),
    st.tuples(st.just("list on"), st.integers(1, 3)),
    st.tuples(st.just("read"), st.integers(0, 10), st.integers(0, 12), st.integers(0, 12)),
    st.tuples(st.just("put"), keys, bodies),
    st.tuples(st.just("overwrite"), st.integers(0, 20), bodies),
    st.tuples(st.just("see it change"), st.integers(0, 20), bodies),
    st.tuples(st.just("delete"), st.integers(0, 20)),
    st.tuples(st.just("refresh")),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 5.0, 30.0, 60.0])),
)


class SmallPages(MemoryObjectClient):
    """Two rows to a page, so that small buckets have several."""

    async def list_page(self, *args, max_keys=1000, **rest):
        return await super().list_page(*args, max_keys=min(max_keys, 2), **rest)


class Model:
    """The bucket's trees, each with the time until which it was the truth."""

    def __init__(self, bucket):
        self.bucket = dict(bucket)
        self.past = []
        self.forgotten = 0
        """Trees of the past that only those believe in who are in the middle of a listing."""

    def change(self, now_s, key, data):
        self.past.append((now_s, tree_of(self.bucket)))
        if data is None:
            del self.bucket[key]
        else:
            self.bucket[key] = data

    def trees(self, now_s):
        """Return every tree that somebody who asked at *now_s* or later may believe in."""
        return self.since(now_s, self.past[self.forgotten :])

    def trees_of_a_listing(self, began_s):
        """Return every tree of which a listing that began then may show something."""
        return self.since(began_s, self.past)

    def since(self, now_s, past):
        return [tree for until_s, tree in past if until_s > now_s - TTL_S] + [tree_of(self.bucket)]


class Slow:
    """A reader of the root that pauses."""

    def __init__(self, world):
        self.began_s = world.now_s
        self.listings = world.fs.statistics().listings
        self.cursor = 0
        self.names = []


class Comparison:
    """Does each operation on the filesystem and holds the answer against the model."""

    def __init__(self, world, bucket):
        self.world = world
        self.model = Model(bucket)
        self.open = {}
        self.slow = None
        for key, data in bucket.items():
            self.store(key, data)

    def store(self, key, data):
        if isinstance(data, Link):
            self.world.put(key, b"", symlink_target=data.target)
        else:
            self.world.put(key, data)

    def trees(self):
        return self.model.trees(self.world.now_s)

    async def look_up(self, parts):
        """Return the node a path leads to, having compared each step."""
        node_id, path = ROOT_NODE_ID, ()
        for part in parts:
            name = part.encode("utf-8", "surrogateescape")
            try:
                entry = await self.world.fs.lookup(node_id, name)
            except (InvalidNameError, NameTooLongError):
                assert not is_possible(part)
                return None, path
            path = (*path, name)
            if not isinstance(entry, Entry):
                assert any(path not in tree for tree in self.trees()), path
                return None, path
            assert 0 < entry.entry_ttl_s <= TTL_S
            node_id = entry.attributes.node_id
            if await self.check(path, entry.attributes) != "dir":
                break
        return node_id, path

    async def check(self, path, attributes):
        """Compare a node with what its path held; open it and remember its bytes when it is a file."""
        if stat.S_ISDIR(attributes.mode):
            assert any(path in tree and tree[path] is None for tree in self.trees()), path
            return "dir"
        data = await content(self.world, attributes)
        if not isinstance(data, Link):
            await self.world.fs.open(attributes.node_id)
            etag = await self.world.fs.getxattr(attributes.node_id, b"user.tigris.etag")
            assert etag == hashlib.md5(data).hexdigest().encode()
        assert any(tree.get(path) == data for tree in self.trees()), path
        assert self.open.setdefault(attributes.node_id, data) == data
        return "file"

    async def list(self, parts, limit):
        node_id, path = await self.look_up(parts)
        if node_id is None or len(path) < len(parts):
            return
        if not stat.S_ISDIR((await self.world.fs.getattr(node_id)).mode):
            return
        names = set()
        for name, entry in await self.world.ls(node_id, limit):
            assert name not in names, name
            names.add(name)
            await self.check((*path, name), entry.attributes)
        assert names >= always_in(path, self.trees())

    async def list_on(self, limit):
        """Read a little more of the root; names may be as old as the listing that was begun with."""
        if self.slow is None:
            await self.world.fs.opendir(ROOT_NODE_ID)
            self.slow = Slow(self.world)
        slow, trees = self.slow, self.model.trees_of_a_listing(self.slow.began_s)
        taken = await self.world.readdir(cursor=slow.cursor, limit=limit)
        for name, entry, cursor in taken:
            slow.cursor = cursor
            slow.names.append(name)
            is_dir = stat.S_ISDIR(entry.attributes.mode)
            assert any((name,) in tree and (tree[(name,)] is None) == is_dir for tree in trees), name
        if not taken:
            # More listings than are kept may have begun since: then it ended in another one.
            if self.world.fs.statistics().listings - slow.listings < KEPT_PER_DIRECTORY:
                assert len(set(slow.names)) == len(slow.names)
                assert set(slow.names) >= always_in((), trees)
            self.world.fs.releasedir(ROOT_NODE_ID)
            self.slow = None

    async def read(self, pick, offset, size):
        files = sorted(node_id for node_id, data in self.open.items() if not isinstance(data, Link))
        if files:
            node_id = files[pick % len(files)]
            assert bytes(await self.world.fs.read(node_id, offset, size)) == self.open[node_id][offset : offset + size]

    def put(self, key, data):
        self.model.change(self.world.now_s, key, data)
        self.store(key, data)

    def overwrite(self, pick, data):
        self.put(sorted(self.model.bucket)[pick % len(self.model.bucket)], data)

    async def see_it_change(self, pick, data):
        """Look at a key, overwrite it, and look again when the TTL has passed."""
        parts = sorted(self.model.bucket)[pick % len(self.model.bucket)].split("/")
        await self.look_up(parts)
        self.overwrite(pick, data)
        self.world.now_s += TTL_S
        await self.look_up(parts)

    def delete(self, pick):
        if len(self.model.bucket) > 1:
            key = sorted(self.model.bucket)[pick % len(self.model.bucket)]
            self.model.change(self.world.now_s, key, None)
            self.world.client.delete(key)

    async def refresh(self):
        await self.world.fs.refresh([])
        self.model.forgotten = len(self.model.past)

    async def finish(self):
        """When all that was known has grown old, the whole tree is exactly the bucket's."""
        self.world.now_s += TTL_S
        expected = tree_of(self.model.bucket)
        seen, todo = {(): None}, [((), ROOT_NODE_ID)]
        while todo:
            path, node_id = todo.pop()
            for name, entry in await self.world.ls(node_id, 2):
                is_dir = stat.S_ISDIR(entry.attributes.mode)
                seen[(*path, name)] = None if is_dir else await content(self.world, entry.attributes)
                if is_dir:
                    todo.append(((*path, name), entry.attributes.node_id))
        assert seen == expected


async def content(world, attributes):
    """Return the bytes of a file, or the target of a link."""
    if stat.S_ISLNK(attributes.mode):
        target = await world.fs.readlink(attributes.node_id)
        assert len(target) == attributes.size_bytes
        return Link(target)
    return await world.read_all(attributes.node_id)


def always_in(path, trees):
    """Return the names that a directory had all the time, as the same kind: pages may miss what moves past them."""
    kinds = (
        {(child[-1], data is None) for child, data in tree.items() if child and child[:-1] == path} for tree in trees
    )
    return {name for name, _ in set.intersection(*kinds)}


async def compare(world, bucket, steps):
    comparison = Comparison(world, bucket)
    for what, *arguments in steps:
        if what == "look up":
            await comparison.look_up(*arguments)
        elif what == "list":
            await comparison.list(*arguments)
        elif what == "list on":
            await comparison.list_on(*arguments)
        elif what == "read":
            await comparison.read(*arguments)
        elif what == "put":
            comparison.put(*arguments)
        elif what == "overwrite":
            comparison.overwrite(*arguments)
        elif what == "refresh":
            await comparison.refresh()
        elif what == "see it change":
            await comparison.see_it_change(*arguments)
        elif what == "delete":
            comparison.delete(*arguments)
        else:
            world.now_s += arguments[0]
    await comparison.finish()


def check(new_world, bucket, steps):
    world = new_world(client=SmallPages(), metadata_ttl_s=TTL_S, node_limit=2, dentry_limit=4, listed_limit=8)
    trio.run(compare, world, bucket, steps)


@settings(max_examples=150, deadline=None)
@given(bucket=buckets, steps=st.lists(operations, max_size=25))
def test_the_filesystem_shows_what_the_bucket_holds_or_held_within_the_ttl(new_world, bucket, steps):
    check(new_world, bucket, steps)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(bucket=buckets, steps=st.lists(operations, max_size=40))
def test_the_same_for_thousands_of_buckets(new_world, bucket, steps):
    check(new_world, bucket, steps)


@settings(max_examples=200, deadline=None)
@given(bucket=buckets)
def test_a_key_is_a_file_of_the_tree_or_listed_as_hidden(bucket):
    class Row(NamedTuple):
        id: object

    client = MemoryObjectClient()
    rows = [Row(client.put(key, b"1")) for key in sorted(bucket, key=key_bytes)]
    hidden = {key for key, _ in HiddenKeys("").feed(rows)}
    files = (path for path, data in tree_of(bucket).items() if data is not None)
    shown = {b"/".join(path).decode("utf-8", "surrogateescape") for path in files}
    assert not shown & hidden
    assert {key for key in bucket if key not in hidden and not key.endswith("/")} == shown
