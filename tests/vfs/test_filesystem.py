"""Attributes, open files and reads; names and listings are in test_directory."""

from __future__ import annotations

import stat

import pytest
import trio

from tigrismount.core.types import ROOT_NODE_ID
from tigrismount.errors import (
    IsDirectoryError,
    ObjectAccessError,
    ObjectArchivedError,
    ObjectNotFoundError,
    ObjectProtocolError,
    ObjectUnavailableError,
    StaleObjectError,
    UnknownNodeError,
)

DATA = bytes(range(256)) * 4


async def test_a_file_shows_its_objects_size_and_time_and_the_modes_that_were_configured(new_world):
    world = new_world(uid=7, gid=8, file_mode=0o440, dir_mode=0o550, dir_mtime_s=12.0)
    world.put("a", b"x" * 1025, mtime_s=1_700_000_000.123)
    world.put("d/b")
    file = await world.fs.getattr(await world.walk("a"))
    assert (file.mode, file.size_bytes, file.sectors, file.nlink) == (stat.S_IFREG | 0o440, 1025, 3, 1)
    assert (file.mtime_ns, file.uid, file.gid) == (1_700_000_000_123_000_000, 7, 8)
    for node_id in (ROOT_NODE_ID, await world.walk("d")):
        directory = await world.fs.getattr(node_id)
        assert (directory.node_id, directory.mode, directory.size_bytes) == (node_id, stat.S_IFDIR | 0o550, 0)
        assert (directory.mtime_ns, directory.uid, directory.gid) == (12_000_000_000, 7, 8)


async def test_attributes_and_opening_cost_no_request(new_world):
    world = new_world("a")
    node_id = await world.walk("a")
    world.client.requests.clear()
    await world.fs.getattr(node_id)
    await world.fs.open(node_id)
    await world.fs.opendir(ROOT_NODE_ID)
    assert world.requests == []


async def test_node_ids_are_the_same_in_every_process(new_world):
    first, second = new_world("a", "d/b"), new_world("a", "d/b")
    for path in ("a", "d", "d/b"):
        assert await first.walk(path) == await second.walk(path)
    assert await first.walk("a") != await new_world("a", store_id="other").walk("a")


async def test_each_node_is_journaled_before_its_id_is_handed_out(new_world):
    journal = []
    world = new_world("a", "d/b", on_new=lambda node: journal.append(node.id))
    await world.fs.lookup(ROOT_NODE_ID, b"a")
    assert len(journal) == 1

    def emit(name, entry, cursor):
        assert entry.attributes.node_id in journal
        return True

    await world.fs.readdir(ROOT_NODE_ID, 0, emit)
    assert len(journal) == 2


@pytest.mark.parametrize(
    ("offset", "size", "start", "stop"),
    [
        (0, 1024, 0, 1024),
        (0, 4096, 0, 1024),
        (1000, 100, 1000, 1024),
        (5, 7, 5, 12),
        (1024, 1, 0, 0),
        (1 << 62, 4096, 0, 0),
        (10, 0, 0, 0),
    ],
)
@pytest.mark.parametrize("resident", [False, True])
async def test_a_read_gives_exactly_the_bytes_there_are(new_world, offset, size, start, stop, resident):
    world = new_world()
    world.put("a", DATA)
    node_id = await world.walk("a")
    await world.fs.open(node_id)
    world.readers.opened[0].resident = resident
    assert bytes(await world.fs.read(node_id, offset, size)) == DATA[start:stop]
    tried = world.fs.try_read(node_id, offset, size)
    assert (tried is None) == (not resident and start < stop)
    assert tried is None or bytes(tried) == DATA[start:stop]


async def test_an_empty_file_reads_as_nothing(new_world):
    world = new_world()
    world.put("a", b"")
    node_id = await world.walk("a")
    await world.fs.open(node_id)
    assert await world.fs.read(node_id, 0, 4096) == b""
    assert world.fs.try_read(node_id, 0, 4096) == b""


async def test_a_short_answer_is_an_error_and_never_a_short_read(new_world):
    world = new_world()
    world.put("a", DATA)
    node_id = await world.walk("a")
    await world.fs.open(node_id)
    reader = world.readers.opened[0]
    reader.short, reader.resident = 1, True
    with pytest.raises(ObjectProtocolError, match="1023 bytes came"):
        await world.fs.read(node_id, 0, 4096)
    with pytest.raises(ObjectProtocolError, match="1023 bytes came"):
        world.fs.try_read(node_id, 0, 4096)


async def test_several_opens_share_one_reader_which_is_closed_after_the_last(new_world):
    world = new_world("a")
    node_id = await world.walk("a")
    for _ in range(3):
        await world.fs.open(node_id)
    assert len(world.readers.opened) == 1
    for _ in range(2):
        world.fs.release(node_id)
    assert world.readers.closed == []
    assert world.fs.statistics().open_files == 1
    world.fs.release(node_id)
    assert world.readers.closed == world.readers.opened
    assert world.fs.statistics().open_files == 0
    assert world.fs.try_read(node_id, 0, 1) is None


async def test_an_open_file_keeps_its_version_and_its_node_when_the_kernel_has_forgotten_it(new_world):
    world = new_world(node_limit=1)
    world.put("a", b"old")
    node_id = await world.walk("a")
    await world.fs.open(node_id)
    world.put("a", b"newer")
    world.fs.forget([(node_id, 1)])
    world.now_s += 60.0
    assert await world.read_all(await world.walk("a")) == b"newer"
    assert await world.read_all(node_id) == b"old"
    world.fs.release(node_id)
    world.put("b")
    await world.walk("b")
    with pytest.raises(UnknownNodeError):
        await world.fs.getattr(node_id)


async def test_a_read_of_a_file_that_an_earlier_process_opened_is_answered(new_world):
    world = new_world()
    world.put("a", DATA)
    node_id = await world.walk("a")
    assert world.fs.try_read(node_id, 0, 10) is None
    assert await world.fs.read(node_id, 0, 10) == DATA[:10]
    world.fs.release(node_id)
    assert len(world.readers.closed) == 1
    world.fs.release(node_id)


async def test_a_directory_has_no_bytes_and_an_unknown_node_has_none_either(new_world):
    world = new_world("d/a")
    directory = await world.walk("d")
    for call in (world.fs.open(directory), world.fs.read(directory, 0, 1)):
        with pytest.raises(IsDirectoryError):
            await call
    for call in (world.fs.open(99), world.fs.read(99, 0, 1)):
        with pytest.raises(UnknownNodeError):
            await call


@pytest.mark.claim("fail-archived")
@pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE"])
async def test_an_archived_object_is_seen_but_not_opened(new_world, storage_class):
    world = new_world()
    world.put("a", storage_class=storage_class)
    node_id = await world.walk("a")
    assert (await world.fs.getattr(node_id)).size_bytes == 4
    with pytest.raises(ObjectArchivedError, match="restore"):
        await world.fs.open(node_id)
    world.put("a", storage_class="GLACIER_IR")
    await world.names()
    await world.fs.open(node_id)


@pytest.mark.claim("fail-archived")
async def test_an_archived_object_is_opened_while_its_restored_copy_is_there(new_world):
    """It stays in its class for ever; a mount that went by that would refuse it for ever."""
    world = new_world()
    world.put("a", storage_class="GLACIER")
    node_id = await world.walk("a")
    with pytest.raises(ObjectArchivedError):
        await world.fs.open(node_id)
    world.put("a", storage_class="GLACIER", restored=True)
    _ = world.requests
    await world.fs.open(node_id)
    await world.fs.open(node_id)
    assert world.requests == [("GET", "a", 0, 1)], "who has it open is asked no more"
    assert bytes(await world.fs.read(node_id, 0, 4)) == b"data"
    world.fs.release(node_id)
    world.fs.release(node_id)
    world.put("a", storage_class="GLACIER")
    with pytest.raises(ObjectArchivedError, match="restore"):
        await world.fs.open(node_id)


async def test_an_object_of_a_class_that_is_no_archive_is_opened(new_world):
    """Ceph's are pools of any name, and what lies in one called GLACIER can be read; no HEAD says so."""
    world = new_world()
    world.put("a", storage_class="GLACIER", restored=True)
    node_id = await world.walk("a")
    world.client.head = None
    await world.fs.open(node_id)


async def test_a_key_that_may_not_read_an_archived_object_is_told_so(new_world):
    world = new_world()
    world.put("a", storage_class="GLACIER", restored=True)
    node_id = await world.walk("a")
    world.client.fail(ObjectAccessError("denied", bucket="bucket", key="a"), "GET")
    with pytest.raises(ObjectAccessError, match="denied"):
        await world.fs.open(node_id)


async def test_a_store_that_does_not_say_whether_an_object_can_be_read_keeps_nobody_for_long(new_world, autojump_clock):
    """Mutation: an open waits as long as a read of data may, five minutes."""
    world = new_world()
    world.put("a", storage_class="GLACIER", restored=True)
    node_id = await world.walk("a")
    world.client.hold("GET")
    with trio.fail_after(31), pytest.raises(ObjectUnavailableError):
        await world.fs.open(node_id)


def test_release_and_forget_of_what_is_not_known_never_raise(new_world):
    world = new_world()
    world.fs.release(99)
    world.fs.releasedir(99)
    world.fs.forget([(99, 1), (ROOT_NODE_ID, 5)])


def test_statfs_claims_nothing_that_a_bucket_does_not_know(new_world):
    info = new_world().fs.statfs()
    assert (info.blocks, info.files, info.name_max_bytes) == (0, 0, 255)


async def test_a_version_is_found_by_what_it_is_open_or_not(new_world):
    world = new_world("a", "d/b", "d/c")
    node_ids = {name: await world.walk(name) for name in ("a", "d/b")}
    await world.fs.open(node_ids["a"])
    objects = {name: world.fs.version_of(node_id) for name, node_id in node_ids.items()}
    assert world.fs.nodes_of(set(objects.values())) == {objects[name]: node_ids[name] for name in node_ids}
    assert world.fs.nodes_of({objects["a"]}) == {objects["a"]: node_ids["a"]}
    assert world.fs.nodes_of(()) == {}


async def test_statistics_count_what_was_asked(new_world):
    world = new_world("a", "d/b", "d//")
    await world.walk("a")
    await world.walk("missing")
    await world.walk("missing")
    await world.names()
    await world.names(await world.walk("d"))
    counts = world.fs.statistics()
    assert (counts.lookups, counts.lookups_asked, counts.listings) == (4, 2, 2)
    assert (counts.dentries, counts.negative_dentries, counts.listed_names) == (1, 1, 3)
    assert (counts.hidden_keys, counts.shadowed_keys) == (1, 0)


async def test_a_file_that_is_gone_is_stale_to_who_has_it_open(new_world):
    world = new_world("a")
    node_id = await world.walk("a")
    await world.fs.open(node_id)

    async def gone(start, stop):
        raise ObjectNotFoundError("no such key", bucket="bucket", key="a")

    world.readers.opened[0].read = gone
    with pytest.raises(StaleObjectError, match="s3://bucket/a: the object was deleted since it was opened"):
        await world.fs.read(node_id, 0, 4)


async def test_a_successor_takes_over_the_ids_of_versions(new_world):
    first, second = new_world(), new_world()
    first.client.versioned = True
    obj = first.put("a", b"data")
    await first.walk("a")
    second.fs.restore(list(first.fs.records()))
    assert second.client.version_id(obj) == "v1"
