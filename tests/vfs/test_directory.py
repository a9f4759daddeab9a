"""Which requests look-ups and listings cost, and for how long they are trusted."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from tigrismount.core.types import ROOT_NODE_ID
from tigrismount.errors import (
    InvalidNameError,
    NameTooLongError,
    NotDirectoryError,
    ObjectProtocolError,
    ObjectUnavailableError,
    UnknownNodeError,
)
from tigrismount.objects.memory import MemoryObjectClient
from tigrismount.vfs.entries import Entry, NegativeEntry

LOOK_UP_A = [("HEAD", "a"), ("LIST", "a/", None)]


# -- look-ups --------------------------------------------------------------------------------------------------


async def test_a_look_up_costs_one_head_and_one_listing_and_then_nothing_until_the_ttl_has_passed(new_world):
    world = new_world("a")
    first = await world.fs.lookup(ROOT_NODE_ID, b"a")
    assert sorted(world.requests) == LOOK_UP_A
    assert first.entry_ttl_s == 60.0
    world.now_s += 59.0
    again = await world.fs.lookup(ROOT_NODE_ID, b"a")
    assert world.requests == []
    assert again == Entry(first.attributes, 1.0, math.inf)
    world.now_s += 1.0
    assert await world.fs.lookup(ROOT_NODE_ID, b"a") == first
    assert sorted(world.requests) == LOOK_UP_A


async def test_look_ups_of_one_name_at_one_time_share_their_requests(new_world):
    world = new_world("a")
    gate = world.client.hold("HEAD")
    entries = []

    async def look_up():
        entries.append(await world.fs.lookup(ROOT_NODE_ID, b"a"))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(look_up)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert sorted(world.requests) == LOOK_UP_A
    assert len({entry.attributes.node_id for entry in entries}) == 1
    node_id = entries[0].attributes.node_id
    world.fs.forget([(node_id, 49)])
    assert (await world.fs.getattr(node_id)).size_bytes == 4


async def test_a_missing_name_is_remembered_for_the_negative_ttl(new_world):
    world = new_world("b")
    assert await world.fs.lookup(ROOT_NODE_ID, b"a") == NegativeEntry(5.0)
    assert sorted(world.requests) == LOOK_UP_A
    world.put("a")
    world.now_s += 4.0
    assert await world.fs.lookup(ROOT_NODE_ID, b"a") == NegativeEntry(1.0)
    assert world.requests == []
    world.now_s += 1.0
    assert isinstance(await world.fs.lookup(ROOT_NODE_ID, b"a"), Entry)


async def test_a_look_up_in_a_listed_directory_makes_no_request_for_what_is_there_and_for_what_is_not(new_world):
    world = new_world("d/a", "d/e/f", "d/g")
    directory = await world.walk("d")
    await world.ls(directory)
    assert world.requests
    assert await world.walk("d/a") is not None
    assert await world.walk("d/e") is not None
    assert await world.fs.lookup(directory, b"nothing") == NegativeEntry(5.0)
    assert world.requests == []
    world.now_s += 57.0
    assert await world.fs.lookup(directory, b"nothing") == NegativeEntry(3.0)
    world.now_s += 3.0
    assert await world.fs.lookup(directory, b"nothing") == NegativeEntry(5.0)
    assert sorted(world.requests) == [("HEAD", "d/nothing"), ("LIST", "d/nothing/", None)]


async def test_a_ttl_of_nothing_asks_each_time_and_an_endless_one_never_again(new_world):
    world = new_world("a", metadata_ttl_s=0.0)
    for _ in range(2):
        assert (await world.fs.lookup(ROOT_NODE_ID, b"a")).entry_ttl_s == 0.0
        assert sorted(world.requests) == LOOK_UP_A
    for_ever = new_world("a", metadata_ttl_s=math.inf)
    await for_ever.names()
    for_ever.client.requests.clear()
    for_ever.now_s += 1e9
    assert (await for_ever.fs.lookup(ROOT_NODE_ID, b"a")).entry_ttl_s == math.inf
    assert await for_ever.names() == [b"a"]
    assert for_ever.requests == []


async def test_an_overwritten_key_is_another_node_once_the_ttl_has_passed(new_world):
    world = new_world("a")
    old = await world.walk("a")
    world.put("a", b"other data")
    assert await world.walk("a") == old
    world.now_s += 60.0
    new = await world.walk("a")
    assert new != old
    assert (await world.fs.getattr(old)).size_bytes == 4
    assert (await world.fs.getattr(new)).size_bytes == 10


async def test_a_deleted_key_is_gone_once_the_ttl_has_passed(new_world):
    world = new_world("a")
    await world.walk("a")
    world.client.delete("a")
    assert await world.walk("a") is not None
    world.now_s += 60.0
    assert await world.walk("a") is None


async def test_a_failed_look_up_is_not_remembered(new_world):
    world = new_world("a")
    world.client.fail(ObjectUnavailableError("503"), "HEAD")
    with pytest.raises(ObjectUnavailableError):
        await world.walk("a")
    assert await world.walk("a") is not None


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (b".", InvalidNameError),
        (b"..", InvalidNameError),
        (b"", InvalidNameError),
        (b"a\0b", InvalidNameError),
        (b"a/b", InvalidNameError),
        (b"x" * 256, NameTooLongError),
    ],
)
async def test_an_impossible_name_is_refused_without_a_request(new_world, name, error):
    world = new_world("a")
    with pytest.raises(error):
        await world.fs.lookup(ROOT_NODE_ID, name)
    assert world.requests == []


async def test_a_key_above_the_stores_limit_is_refused_without_a_request_unless_it_was_listed(new_world):
    deep = "/".join(["d" * 200] * 5)
    world = new_world(f"{deep}/f", f"{deep}/{'x' * 100}")
    node_id = await world.walk(deep)
    world.client.requests.clear()
    with pytest.raises(NameTooLongError):
        await world.fs.lookup(node_id, b"x" * 100)
    assert world.requests == []
    await world.ls(node_id)
    assert isinstance(await world.fs.lookup(node_id, b"x" * 100), Entry)


async def test_a_file_has_no_names_in_it_and_an_unknown_node_has_nothing(new_world):
    world = new_world("a")
    file_id = await world.walk("a")
    for call in (world.fs.lookup(file_id, b"b"), world.fs.opendir(file_id), world.readdir(file_id)):
        with pytest.raises(NotDirectoryError):
            await call
    for call in (world.fs.lookup(99, b"b"), world.fs.opendir(99), world.readdir(99), world.fs.getattr(99)):
        with pytest.raises(UnknownNodeError):
            await call


async def test_names_that_are_not_utf_8_are_looked_up_as_the_bytes_they_are(new_world):
    world = new_world("d\udcff/\udcfe", "d\udcff/é")
    directory = await world.walk("d\udcff")
    assert await world.names(directory) == ["é".encode(), b"\xfe"]
    assert isinstance(await world.fs.lookup(directory, b"\xfe"), Entry)


# -- listings --------------------------------------------------------------------------------------------------


async def test_a_directory_of_2500_keys_is_read_page_by_page(new_world):
    world = new_world(*(f"{number:04}" for number in range(2500)))
    first = await world.readdir(limit=10)
    assert [name for name, _, _ in first] == [b"%04d" % number for number in range(10)]
    assert len(world.requests) == 1, "the first names are there before the second page is asked for"
    rest, cursor = [], first[-1][2]
    while taken := await world.readdir(cursor=cursor, limit=100):
        rest += [name for name, _, _ in taken]
        cursor = taken[-1][2]
    assert rest == [b"%04d" % number for number in range(10, 2500)]
    assert len(world.requests) == 2
    assert await world.names() == [b"%04d" % number for number in range(2500)]
    assert world.requests == [], "a fresh listing is read again without a request"


async def test_parallel_readers_of_a_directory_share_each_page(new_world):
    world = new_world(*(f"{number:04}" for number in range(2500)))
    results = []

    async def read(limit):
        results.append(await world.names(limit=limit))

    async with trio.open_nursery() as nursery:
        for limit in (7, 100, 1000, 5000):
            nursery.start_soon(read, limit)
    assert results == [[b"%04d" % number for number in range(2500)]] * 4
    assert len(world.requests) == 3


async def test_names_on_the_pages_read_so_far_are_looked_up_without_a_request(new_world):
    world = new_world(*(f"{number:04}" for number in range(1500)))
    await world.readdir(limit=1)
    world.client.requests.clear()
    assert await world.walk("0500") is not None
    assert world.requests == []
    assert await world.walk("1499") is not None
    assert sorted(world.requests) == [("HEAD", "1499"), ("LIST", "1499/", None)]


async def test_a_cursor_can_finish_its_listing_after_the_ttl_while_a_new_reader_sees_the_new_keys(new_world):
    world = new_world("a", "b", "c")
    begun = await world.readdir(limit=1)
    world.client.delete("b")
    world.put("d")
    world.now_s += 60.0
    assert await world.names() == [b"a", b"c", b"d"]
    rest = await world.readdir(cursor=begun[-1][2])
    assert [(name, entry.entry_ttl_s) for name, entry, _ in rest] == [(b"b", 0.0), (b"c", 0.0)]
    assert len(world.requests) == 2


async def test_a_cursor_of_another_process_goes_on_at_its_ordinal(new_world):
    keys = [f"{number:04}" for number in range(2500)]
    cursor = (await new_world(*keys).readdir())[-1][2]
    successor = new_world(*keys)
    taken = await successor.readdir(cursor=cursor, limit=2)
    assert [name for name, _, _ in taken] == [b"0999", b"1000"]
    assert len(successor.requests) == 2


@pytest.mark.parametrize("limit", [1, 7, 100])
async def test_a_listing_read_across_a_takeover_misses_and_repeats_no_name_though_the_directory_changes(
    new_world, limit
):
    """Two takeovers; each time names go and come before, at and behind the place of the reader."""
    stay = {f"n{number:03}" for number in range(0, 300, 3)} | {"n1-x", "n1.y", "n1", "n2.z", "n2"}
    others = [f"n{number:03}" for number in range(1, 300, 3)]
    world, found, cursor = new_world(*stay, *others, "dir/x", "n150-a/x"), [], 0
    for step in range(3):
        for _ in range(max(1, 120 // limit)) if step < 2 else iter(int, 1):
            taken = await world.readdir(cursor=cursor, limit=limit)
            if not taken:
                break
            found += [name.decode() for name, _, _ in taken]
            cursor = taken[-1][2]
        successor = new_world(client=world.client)
        successor.readers.data = world.readers.data
        successor.fs.restore(list(world.fs.records()))
        world = successor
        for name in others[step::3]:
            world.client.delete(name)
        for number in range(2, 300, 3):
            world.put(f"n{number:03}{'-' * step}")
    assert len(found) == len(set(found)), "a name was repeated"
    assert {*stay, "dir", "n150-a"} <= set(found), "a name was missed"


async def test_readers_at_several_places_go_on_at_their_own(new_world):
    keys = [f"{number:04}" for number in range(2500)]
    first = new_world(*keys)
    cursors = [(await first.readdir(limit=count))[-1][2] for count in (3, 700)]
    page = await first.readdir()  # the last name of a page is held back
    cursors.append((await first.readdir(cursor=page[-1][2], limit=900))[-1][2])
    second = new_world(client=first.client)
    second.readers.data = first.readers.data
    second.fs.restore(list(first.fs.records()))
    first.client.delete("0000")
    for start in (1899, 3, 700, 3):
        place = [3, 700, 1899].index(start)
        taken = await second.readdir(cursor=cursors[place], limit=1)
        assert [name for name, _, _ in taken] == [b"%04d" % start]
        cursors[place], keep = taken[-1][2], cursors[place]
        assert [name for name, _, _ in await second.readdir(cursor=cursors[place], limit=1)] == [b"%04d" % (start + 1)]
        cursors[place] = keep
    assert (await second.names())[:2] == [b"0001", b"0002"], "who begins, begins at the start"


async def test_a_place_far_in_a_directory_costs_one_page_behind_a_takeover(new_world):
    keys = [f"{number:05}" for number in range(5000)]
    first, cursor = new_world(*keys), 0
    given = 0
    for _ in range(4):
        taken = await first.readdir(cursor=cursor)
        given, cursor = given + len(taken), taken[-1][2]
    second = new_world(client=first.client)
    second.readers.data = first.readers.data
    second.fs.restore(list(first.fs.records()))
    assert first.requests
    assert (await second.readdir(cursor=cursor, limit=1))[0][0] == keys[given].encode()
    assert len(second.requests) == 1


async def test_a_place_is_noted_before_its_cursor_is_handed_out_and_once(new_world):
    noted = []
    world = new_world("a", "b", "c", on_bookmark=noted.append)
    taken = await world.readdir(limit=2)
    assert [(place.cursor, place.name, place.start_after) for place in noted] == [(taken[-1][2], b"b", "b")]
    await world.readdir(limit=2)
    assert len(noted) == 1


async def test_entries_carry_attributes_and_the_time_left_for_their_name(new_world):
    world = new_world("a", "d/x")
    world.put("z", b"12345", mtime_s=1_700_000_000.125)
    await world.names()
    world.now_s += 20.0
    rows = dict(await world.ls())
    assert {name: entry.entry_ttl_s for name, entry in rows.items()} == {b"a": 40.0, b"d": 40.0, b"z": 40.0}
    assert rows[b"z"].attributes.size_bytes == 5
    assert rows[b"z"].attributes.node_id == await world.walk("z")
    assert rows[b"d"].attributes.node_id == await world.walk("d")


async def test_only_entries_that_were_taken_count_as_look_ups(new_world):
    world = new_world("a", "b", "c", node_limit=1)
    taken = await world.readdir(limit=2)
    assert (world.fs.statistics().nodes, world.fs.statistics().nodes_unreferenced) == (4, 1)
    world.fs.forget([(entry.attributes.node_id, 1) for _, entry, _ in taken])
    assert world.fs.statistics().nodes == 2


async def test_a_page_that_failed_is_asked_for_again_where_the_reader_goes_on(new_world):
    world = new_world(*(f"{number:04}" for number in range(1500)))
    first = await world.readdir()
    world.client.fail(ObjectUnavailableError("503"), "LIST")
    with pytest.raises(ObjectUnavailableError):
        await world.readdir(cursor=first[-1][2])
    rest = await world.ls(limit=1000)
    assert [name for name, _ in rest] == [b"%04d" % number for number in range(1500)]
    assert [request[2] for request in world.requests] == [None, *[f"k{999:04}"] * 2]


async def test_a_reader_that_gives_up_does_not_take_the_page_from_the_others(new_world):
    world = new_world("a", "b")
    gate = world.client.hold("LIST")
    names, scopes = [], []

    async def read():
        with trio.CancelScope() as scope:
            scopes.append(scope)
            names.append(await world.names())

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert names == [[b"a", b"b"]]
    assert world.requests == [("LIST", "", None)] * 2, "the one that waited asked again"


class Repeating(MemoryObjectClient):
    """A store whose listing never ends: it sends its first page again and again."""

    async def list_page(self, bucket, prefix, *, token=None, **rest):
        page = await super().list_page(bucket, prefix, **rest)
        return type(page)(page.objects, page.prefixes, f"{token}+")


async def test_a_store_that_lists_in_circles_is_an_error_and_not_a_loop(new_world):
    world = new_world("a", "b", client=Repeating())
    assert [name for name, _, _ in await world.readdir()] == [b"a"]
    with pytest.raises(ObjectProtocolError):
        await world.readdir(cursor=1)
    assert len(world.requests) == 2


async def test_a_directory_wins_over_a_file_of_its_name_however_it_is_found(new_world):
    keys = ["foo", "foo-x", "foo.y", "foo/bar"]
    listed, looked_up = new_world(*keys), new_world(*keys)
    assert await listed.names() == [b"foo-x", b"foo.y", b"foo"]
    assert listed.fs.statistics().shadowed_keys == 1
    assert await listed.walk("foo") == await looked_up.walk("foo")
    assert await looked_up.walk("foo/bar") is not None


async def test_hidden_keys_are_counted_and_their_directories_are_there(new_world):
    world = new_world("a//b", "a/./c", "..", "x" * 256, "ok")
    assert await world.names() == [b"a", b"ok"]
    assert await world.names(await world.walk("a")) == []
    assert world.fs.statistics().hidden_keys == 4


async def test_markers_are_directories_and_not_files(new_world):
    world = new_world("models/", "models/empty/", "models/full/", "models/full/x", prefix="models/")
    assert await world.names() == [b"empty", b"full"]
    assert await world.names(await world.walk("empty")) == []
    assert await world.names(await world.walk("full")) == [b"x"]


async def test_open_directories_keep_their_listing_whatever_the_limit(new_world):
    keys = [f"{directory}/{number:04}" for directory in "ab" for number in range(1500)]
    world = new_world(*keys, listed_limit=10)
    ids = [await world.walk(name) for name in "ab"]
    for node_id in ids:
        await world.fs.opendir(node_id)
    world.client.requests.clear()
    cursors = [0, 0]
    for _ in range(2):
        for number, node_id in enumerate(ids):
            cursors[number] = (await world.readdir(node_id, cursors[number]))[-1][2]
    assert len(world.requests) == 4
    for node_id in ids:
        world.fs.releasedir(node_id)
    assert world.fs.statistics().listed_names == 1500
    world.fs.releasedir(ids[0])
    world.fs.releasedir(99)
