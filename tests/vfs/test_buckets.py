"""All buckets side by side: each is a directory of the root."""

from __future__ import annotations

import math

import pytest

from tigrismount.core.types import ROOT_NODE_ID
from tigrismount.errors import NameTooLongError, ObjectAccessError, ObjectNotFoundError
from tigrismount.objects.memory import MemoryObjectClient
from tigrismount.vfs.entries import NegativeEntry


class ManyBuckets(MemoryObjectClient):
    """Several buckets in memory, listed in the order they were made: nobody promises another."""

    def __init__(self, *names):
        super().__init__("")
        self.buckets = {name: MemoryObjectClient(name) for name in names}
        for one in self.buckets.values():
            one.requests = self.requests

    def find(self, bucket):
        if bucket not in self.buckets:
            raise ObjectNotFoundError("no such bucket", bucket=bucket)
        return self.buckets[bucket]

    async def list_buckets(self):
        await super().list_buckets()
        return tuple(self.buckets)

    async def head(self, bucket, key):
        return await self.find(bucket).head(bucket, key)

    async def list_page(self, bucket, prefix, **rest):
        return await self.find(bucket).list_page(bucket, prefix, **rest)


@pytest.fixture
def world(new_world):
    world = new_world(client=ManyBuckets("models", "data", "empty"), bucket="")
    for bucket in ("models", "data"):
        obj = world.client.buckets[bucket].put("a/file", b"same")
        world.readers.data[obj] = b"same"
    return world


async def test_the_root_shows_each_bucket_once_and_asks_once(world):
    assert await world.names() == [b"data", b"empty", b"models"]
    assert await world.walk("models") is not None
    assert await world.names() == [b"data", b"empty", b"models"]
    assert await world.fs.lookup(ROOT_NODE_ID, b"nowhere") == NegativeEntry(5.0)
    assert world.requests == [("BUCKETS",)]


async def test_a_look_up_alone_costs_one_list_of_buckets_until_the_ttl_has_passed(world):
    first = await world.walk("models")
    assert await world.walk("data") != first
    assert await world.fs.lookup(ROOT_NODE_ID, b".Trash") == NegativeEntry(5.0)
    assert world.requests == [("BUCKETS",)]
    world.now_s += 60
    assert await world.walk("models") == first
    assert world.requests == [("BUCKETS",)]


async def test_buckets_hold_their_own_keys_under_nodes_of_their_own(world):
    assert await world.names(await world.walk("models")) == [b"a"]
    assert await world.names(await world.walk("empty")) == []
    models, data = await world.walk("models/a/file"), await world.walk("data/a/file")
    assert models != data, "a node names its bucket"
    assert await world.read_all(models) == b"same"


async def test_nodes_are_those_of_a_mount_of_the_one_bucket(world, new_world):
    alone = new_world(client=ManyBuckets("models"), bucket="models")
    alone.client.buckets["models"].put("a/file", b"same")
    assert await alone.walk("a/file") == await world.walk("models/a/file")


async def test_a_bucket_made_later_is_seen_once_the_ttl_has_passed(world):
    assert await world.walk("new") is None
    world.client.buckets["new"] = MemoryObjectClient("new")
    world.now_s += 60
    assert await world.walk("new") is not None


async def test_a_bucket_that_was_looked_for_in_vain_is_missing_for_the_negative_ttl_alone(new_world):
    """Mutation: where nobody has listed the root it stays missing for --metadata-ttl, for ever where that is inf."""
    world = new_world(client=ManyBuckets("models"), bucket="", metadata_ttl_s=math.inf)
    assert await world.walk("new") is None
    world.client.buckets["new"] = MemoryObjectClient("new")
    world.now_s += 4
    assert await world.walk("new") is None
    world.now_s += 1
    assert await world.walk("new") is not None
    assert await world.walk("models") is not None
    assert world.requests == [("BUCKETS",)] * 2


async def test_a_bucket_that_is_gone_is_enoent_inside(world):
    models = await world.walk("models")
    del world.client.buckets["models"]
    with pytest.raises(ObjectNotFoundError):
        await world.names(models)


async def test_a_key_that_may_not_list_buckets_says_so(world):
    world.client.fail(ObjectAccessError("denied"), "BUCKETS")
    with pytest.raises(ObjectAccessError):
        await world.walk("models")
    with pytest.raises(NameTooLongError):
        await world.fs.lookup(ROOT_NODE_ID, b"x" * 256)


async def test_a_ttl_of_nothing_still_answers(new_world):
    world = new_world(client=ManyBuckets("models"), bucket="", metadata_ttl_s=0.0)
    assert await world.walk("models") is not None
    assert await world.walk("models") is not None
    assert world.requests == [("BUCKETS",)] * 2
