"""Symbolic links: empty objects whose user metadata name a target."""

from __future__ import annotations

import stat

import pytest
import trio
import trio.testing

from tigrismount.core.types import ROOT_NODE_ID
from tigrismount.errors import (
    InvalidNameError,
    ObjectAccessError,
    ObjectNotFoundError,
    ObjectUnavailableError,
    UnknownNodeError,
)
from tigrismount.vfs.links import HEADS_AT_ONCE


async def kinds(world, node_id=ROOT_NODE_ID):
    return {name: stat.S_IFMT(entry.attributes.mode) for name, entry in await world.ls(node_id)}


async def test_a_link_is_a_link_however_it_is_found(new_world):
    listed, looked_up = new_world(), new_world()
    for world in (listed, looked_up):
        world.put("link", b"", symlink_target=b"../blobs/x")
    node_id = await looked_up.walk("link")
    attributes = await looked_up.fs.getattr(node_id)
    assert attributes.mode == stat.S_IFLNK | 0o777
    assert attributes.size_bytes == len(b"../blobs/x")
    assert await looked_up.fs.readlink(node_id) == b"../blobs/x"
    ((name, entry),) = await listed.ls()
    assert (name, entry.attributes) == (b"link", attributes)


@pytest.mark.claim("names-links-cost")
async def test_listing_asks_for_each_empty_key_and_for_no_other(new_world):
    world = new_world("data", "d/marker-follows", "d/")
    world.put("empty", b"")
    world.put("link", b"", symlink_target=b"data")
    assert await kinds(world) == {
        b"d": stat.S_IFDIR,
        b"data": stat.S_IFREG,
        b"empty": stat.S_IFREG,
        b"link": stat.S_IFLNK,
    }
    assert sorted(world.requests, key=str) == [("HEAD", "empty"), ("HEAD", "link"), ("LIST", "", None)]
    assert await kinds(world) == await kinds(world)
    assert await world.walk("link") is not None
    assert world.requests == [], "what a HEAD said is trusted as long as the listing"
    await world.ls(await world.walk("d"))
    assert world.requests == [("LIST", "d/", None)], "a marker is no link"


async def test_heads_of_a_listing_run_side_by_side_but_few_at_once(new_world):
    world = new_world()
    for number in range(20):
        world.put(f"{number:02}", b"")
    gate = world.client.hold("HEAD")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.ls)
        await trio.testing.wait_all_tasks_blocked()
        assert len(world.requests) == 1 + HEADS_AT_ONCE
        gate.set()
    assert world.fs.statistics().listed_names == 20


async def test_a_link_with_another_target_is_another_node(new_world):
    """Its ETag is that of an empty object, before and after."""
    world = new_world()
    world.put("link", b"", symlink_target=b"a")
    first = await world.walk("link")
    world.put("link", b"", symlink_target=b"b")
    world.now_s += 60
    second = await world.walk("link")
    world.put("link", b"")
    world.now_s += 60
    third = await world.walk("link")
    assert len({first, second, third}) == 3
    assert await world.fs.readlink(first) == b"a"
    assert await world.fs.readlink(second) == b"b"


async def test_a_directory_wins_over_a_link_of_its_name(new_world):
    world = new_world("link/inside")
    world.put("link", b"", symlink_target=b"a")
    assert await kinds(world) == {b"link": stat.S_IFDIR}
    assert await kinds(world, await world.walk("link")) == {b"inside": stat.S_IFREG}


@pytest.mark.parametrize("error", [ObjectAccessError("no"), ObjectNotFoundError("gone")])
async def test_what_may_not_be_looked_at_is_shown_as_an_empty_file(new_world, error):
    world = new_world()
    world.put("link", b"", symlink_target=b"a")
    world.client.fail(error, "HEAD", times=2)
    assert await kinds(world) == {b"link": stat.S_IFREG}


async def test_who_may_list_no_more_than_directories_is_shown_what_may_not_be_looked_at(new_world):
    """Mutation: a policy that allows the listing of a directory refuses one of the key itself."""
    world = new_world()
    world.put("d/link", b"", symlink_target=b"a")
    world.client.fail(ObjectAccessError("no"), "HEAD", "d/link", times=2)
    world.client.fail(ObjectAccessError("no"), "LIST", "d/link")
    assert await kinds(world, await world.walk("d")) == {b"link": stat.S_IFREG}


async def test_a_link_that_was_refused_to_a_key_that_is_no_more_is_asked_for_again(new_world):
    """Another key was found or handed in since. Mutation: that one may list, and the link is an empty file."""
    world = new_world()
    for name in ("a", "b"):
        world.put(name, b"", symlink_target=b"t")
    world.client.fail(ObjectAccessError("expired"), "HEAD", "a")
    assert set((await kinds(world)).values()) == {stat.S_IFLNK}


async def test_a_link_that_a_gateway_without_its_store_did_not_have_is_asked_for_again(new_world):
    """Whoever opens it would read nothing, and no error, for as long as the page is trusted."""
    world = new_world()
    world.put("link", b"", symlink_target=b"a")
    world.client.fail(ObjectNotFoundError("404"), "HEAD")
    assert await kinds(world) == {b"link": stat.S_IFLNK}


async def test_a_link_looked_up_with_a_key_that_is_no_more_is_asked_for_again(new_world):
    """As above, of a single name. Mutation: it is an empty file, in a mount of a snapshot for ever."""
    world = new_world()
    world.put("link", b"", symlink_target=b"a")
    world.client.fail(ObjectAccessError("expired"), "HEAD")
    assert (await world.fs.getattr(await world.walk("link"))).mode == stat.S_IFLNK | 0o777


async def test_a_key_that_expires_behind_a_page_makes_no_link_an_empty_file(new_world):
    """Who opens it would read nothing and no error, for as long as the page is trusted: of a snapshot for ever."""
    world = new_world()
    world.put("link", b"", symlink_target=b"a")
    world.client.fail(ObjectAccessError("expired"), "HEAD")
    gate = world.client.hold("HEAD")

    async def is_refused() -> None:
        with pytest.raises(ObjectAccessError):
            await world.ls()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(is_refused)
        await trio.testing.wait_all_tasks_blocked()  # behind the page
        world.client.fail(ObjectAccessError("expired"), "LIST")
        gate.set()
    assert await kinds(world) == {b"link": stat.S_IFLNK}


async def test_a_listing_whose_links_cannot_be_told_fails_and_is_asked_for_again(new_world):
    world = new_world()
    for name in ("a", "b", "c"):
        world.put(name, b"", symlink_target=b"t")
    world.client.fail(ObjectUnavailableError("spent"), "HEAD", times=2)
    with pytest.raises(ObjectUnavailableError):
        await world.ls()
    assert set((await kinds(world)).values()) == {stat.S_IFLNK}


async def test_an_empty_key_that_was_filled_meanwhile_is_the_file_it_is_now(new_world):
    world = new_world()
    world.put("a", b"")
    gate = world.client.hold("HEAD")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.ls)
        await trio.testing.wait_all_tasks_blocked()
        world.put("a", b"filled")
        gate.set()
    assert (await world.ls())[0][1].attributes.size_bytes == 6


async def test_only_links_have_targets(new_world):
    world = new_world("file")
    for node_id in (ROOT_NODE_ID, await world.walk("file")):
        with pytest.raises(InvalidNameError):
            await world.fs.readlink(node_id)
    with pytest.raises(UnknownNodeError):
        await world.fs.readlink(12345)
