"""Names of a snapshot that one mount was told, the next one need not ask."""

from __future__ import annotations

from hashlib import md5

import pytest
import trio
import trio.testing

from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.core.names import DirectoryKey
from tigrismount.core.types import ObjectId
from tigrismount.errors import ObjectAccessError
from tigrismount.objects.client import ObjectInfo
from tigrismount.objects.memory import MemoryObjectClient
from tigrismount.vfs.kept import KeptNames, have_kept, keep_mount
from tigrismount.vfs.keptcodec import decode_name, decode_page, encode_name, encode_page
from tigrismount.vfs.names import LiveNames

INF = float("inf")
WHERE = DirectoryKey("bucket", "d/")


@pytest.fixture
def records():
    return MemoryBlockCache(block_bytes=4096).records


@pytest.fixture
def frozen(new_world, records):
    """Make a frozen world on a client, with what earlier ones have kept at that place."""

    def make(client=None, place=b"0" * 16):
        client = client or MemoryObjectClient()
        kept = KeptNames(LiveNames(client), records, place)
        world = new_world(client=client, names=kept, metadata_ttl_s=INF, negative_ttl_s=INF)
        world.kept = kept
        return world

    return make


async def written(world):
    """Run the world's writer until it has nothing to do."""
    async with trio.open_nursery() as nursery:
        await nursery.start(world.kept.run)
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()


def lists(world):
    return [request for request in world.requests if request[0] == "LIST"]


async def test_a_remount_lists_nothing(frozen):
    first = frozen()
    keys = [f"d/{n:05}" for n in range(2500)] + ["top", "e/x", "foo", "foo!", "foo/x"]
    for key in keys:
        first.put(key, key.encode())
    first.put("link", b"", symlink_target=b"top")
    rows = await first.ls()
    below = await first.ls(await first.walk("d"))
    assert len(below) == 2500
    assert await first.walk("missing") is None
    await written(first)
    first.client.requests.clear()

    again = frozen(first.client)
    assert await again.ls() == rows
    assert await again.ls(await again.walk("d")) == below
    assert await again.walk("missing") is None
    assert await again.fs.readlink(await again.walk("link")) == b"top"
    assert again.requests == []


async def test_single_names_are_kept_as_they_were_found(frozen):
    first = frozen()
    first.put("a", b"data", version_id="v7", sha256="ab" * 32, storage_class="STANDARD_IA")
    first.put("d/b")
    found = [await first.walk(path) for path in ("a", "d", "d/b", "d/missing")]
    attributes = await first.fs.listxattr(found[0])
    await written(first)
    first.client.requests.clear()
    again = frozen(first.client)
    assert [await again.walk(path) for path in ("a", "d", "d/b", "d/missing")] == found
    assert await again.fs.listxattr(found[0]) == attributes
    assert again.requests == []


async def test_another_place_knows_nothing(frozen):
    first = frozen()
    first.put("a")
    await first.ls()
    await written(first)
    other = frozen(first.client, b"1" * 16)
    await other.ls()
    assert len(lists(other)) == 2


async def test_a_listing_goes_on_behind_the_last_page_that_is_kept(frozen):
    """The store's tokens of another day are not used; nothing is shown twice and nothing is left out."""
    first = frozen()
    keys = [f"{n:05}" for n in range(2500)]
    for key in [*keys, "00999/below"]:
        first.put(key)
    await first.readdir()
    await written(first)
    again = frozen(first.client)
    again.client.requests.clear()
    assert [name.decode() for name in await again.names()] == keys
    assert lists(again) == [("LIST", "", None), ("LIST", "", "k01998")]


async def test_what_nobody_wrote_down_is_asked_for_again(frozen):
    first = frozen()
    first.put("a")
    await first.ls()
    again = frozen(first.client)
    assert await again.names() == [b"a"]
    assert len(lists(again)) == 2


async def test_after_a_refresh_the_store_is_asked(frozen):
    first = frozen()
    first.put("a")
    await first.ls()
    await written(first)
    first.client.requests.clear()
    await first.fs.refresh([])
    assert await first.names() == [b"a"]
    assert len(lists(first)) == 1


@pytest.mark.parametrize("is_listed", [True, False])
async def test_what_the_key_might_not_look_at_is_looked_at_again(frozen, is_listed):
    """Else a link stays an empty file, which reads as nothing without an error, though the key may read it by now."""
    first = frozen()
    first.put("d/link", b"", symlink_target=b"target")
    first.client.fail(ObjectAccessError("no"), "HEAD", "d/link", times=2)
    where = await first.walk("d")
    if is_listed:
        await first.ls(where)
    else:
        await first.walk("d/link")
    await written(first)
    again = frozen(first.client)
    if is_listed:
        await again.ls(await again.walk("d"))
    assert await again.fs.readlink(await again.walk("d/link")) == b"target"


async def test_a_directory_that_the_key_might_not_list_is_looked_for_again(frozen):
    """Else its name is missing for ever, though the key may list it by now."""
    first = frozen()
    first.put("d/a")
    first.client.fail(ObjectAccessError("no"), "LIST", "d/")
    assert await first.walk("d") is None
    await written(first)
    assert await frozen(first.client).walk("d/a") is not None


async def test_records_of_another_release_are_missing(frozen, records):
    first = frozen()
    first.put("a")
    await first.ls()
    await first.walk("b")
    await written(first)
    for key, _ in await records.items("metadata"):
        await records.put("metadata", key, b"\x02of another release")
    again = frozen(first.client)
    assert await again.names() == [b"a"]
    assert await frozen(first.client).walk("b") is None


async def test_a_disk_that_does_not_keep_up_costs_what_is_kept_and_no_answer(frozen):
    first = frozen()
    for n in range(600):
        assert await first.walk(f"missing-{n}") is None
    await written(first)
    first.client.requests.clear()
    again = frozen(first.client)
    for n in range(600):
        assert await again.walk(f"missing-{n}") is None
    assert 0 < len(lists(again)) < 600


async def test_what_waits_when_the_mount_ends_is_written(frozen, records):
    first = frozen()
    first.put("a")
    async with trio.open_nursery() as nursery:
        await nursery.start(first.kept.run)
        await first.ls()
        nursery.cancel_scope.cancel()
    assert len(await records.items("metadata")) == 1


async def test_a_mount_is_remembered(records):
    assert not await have_kept(records, b"0" * 16)
    await keep_mount(records, b"0" * 16)
    assert await have_kept(records, b"0" * 16)
    assert not await have_kept(records, b"1" * 16)


async def look_up_each(world, names):
    """Look up names in ``d`` one by one, and let what that began come to its end; return the requests."""
    async with trio.open_nursery() as nursery:
        await nursery.start(world.fs.run)
        directory = await world.walk("d")
        for name in names:
            await world.fs.lookup(directory, name.encode())
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return world.requests


async def test_what_a_page_told_who_asked_for_single_names_needs_no_store_either(frozen):
    """Mutation: where pages are for readers alone, the next mount is told ``h`` only after three other names."""
    first = frozen()
    for name in "abcdefgh":
        first.put(f"d/{name}")
    assert len(await look_up_each(first, "abcdefghx")) == 9
    await written(first)
    again = frozen(first.client)
    assert await look_up_each(again, "hxdcba") == []
    assert again.fs.statistics().listed_names == 8, "from the third name on, of the listing that others use too"
    await again.fs.refresh([])
    await again.walk("d/h")
    assert again.requests


async def test_names_are_found_on_all_pages_that_are_kept_and_asked_for_behind_them(frozen):
    first = frozen()
    names = [f"{n:05}" for n in range(2500)]
    for name in names:
        first.put(f"d/{name}")
    directory = await first.walk("d")
    _, _, cursor = (await first.readdir(directory))[-1]
    await first.readdir(directory, cursor)  # two pages of three
    await written(first)
    first.client.requests.clear()
    again = frozen(first.client)
    assert await look_up_each(again, ["01500", "00003", "01998"]) == []
    assert sorted(request[0] for request in await look_up_each(again, ["02400"])) == ["HEAD", "LIST"]


async def test_names_that_are_kept_are_found_at_once_by_many(frozen):
    first = frozen()
    names = [f"{n:05}" for n in range(2500)]
    for name in names:
        first.put(f"d/{name}")
    await first.readdir(await first.walk("d"))
    await written(first)
    first.client.requests.clear()
    again = frozen(first.client)
    async with trio.open_nursery() as nursery:
        await nursery.start(again.fs.run)
        directory = await again.walk("d")
        async with trio.open_nursery() as readers:
            for name in names[:100]:
                readers.start_soon(again.fs.lookup, directory, name.encode())
        nursery.cancel_scope.cancel()
    assert again.requests == []


async def test_for_names_that_are_kept_nothing_is_listed(frozen):
    """Mutation: where each look-up counts, a page of empty keys, which is too dear to be kept, is listed each time."""
    first = frozen()
    names = [f"{n:02}" for n in range(20)]
    for name in names:
        first.put(f"d/{name}", b"")
    assert ("LIST", "d/", None) in await look_up_each(first, names[:6])
    await written(first)
    assert await look_up_each(frozen(first.client), names[:6]) == []


INFOS = [
    ObjectInfo(ObjectId("bucket", "d/a", "e1", 5), 1.125),
    ObjectInfo(ObjectId("bucket", "d/\udcff", 'W/"2"', 0, 17), 17.5, "GLACIER", "v1", b"\xff", "ab"),
    ObjectInfo(ObjectId("bucket", "d/none", "e3", 1 << 50), 0.0, symlink_target=b""),
    ObjectInfo(ObjectId("bucket", "d/sum", "", 1), 0.0, sha256="cd"),
]


def test_pages_and_names_come_back_as_they_were():
    for more in (True, False):
        assert decode_page(WHERE, encode_page(WHERE, INFOS, ["d/x/", "d/y\0/"], more=more)) == (
            INFOS,
            ["d/x/", "d/y\0/"],
            more,
        )
    for info in [*INFOS, None]:
        assert decode_name(WHERE, encode_name(WHERE, info, there=True)) == (info, True)
    assert decode_name(WHERE, encode_name(WHERE, None, there=False)) == (None, False)


def test_a_thousand_rows_are_small():
    rows = [ObjectInfo(ObjectId("bucket", f"d/{n:06}", md5(b"%d" % n).hexdigest(), n), n / 8) for n in range(1000)]
    assert len(encode_page(WHERE, rows, [], more=True)) < 60_000


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x02x", encode_name(WHERE, INFOS[0], there=True)[:-3]])
def test_damage_is_told(data):
    with pytest.raises(ValueError):
        decode_page(WHERE, data)
    with pytest.raises(ValueError):
        decode_name(WHERE, data)


def test_one_kind_of_record_is_not_the_other():
    with pytest.raises(ValueError, match="not a name"):
        decode_name(WHERE, encode_page(WHERE, INFOS, [], more=True))
    with pytest.raises(ValueError, match="not a page"):
        decode_page(WHERE, encode_name(WHERE, INFOS[0], there=True))
