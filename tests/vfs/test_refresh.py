"""Refreshing forgets what is known at and below a path, at once and nowhere else."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tigrismount.core.types import ROOT_NODE_ID
from tigrismount.vfs import filesystem
from tigrismount.vfs.entries import Entry, NegativeEntry


@pytest.fixture(params=[60.0, float("inf")], ids=["a minute", "for ever"])
def world(new_world, request):
    return new_world("a/b/c", "a/b/d", "x", metadata_ttl_s=request.param, negative_ttl_s=request.param)


async def test_a_file_that_was_overwritten_is_seen_at_once(world):
    before = await world.walk("a/b/c")
    world.put("a/b/c", b"newer")
    assert await world.walk("a/b/c") == before
    above, directory = await world.walk("a"), await world.walk("a/b")
    assert await world.fs.refresh([b"a", b"b", b"c"]) == [(ROOT_NODE_ID, b"a"), (above, b"b"), (directory, b"c")]
    assert await world.walk("a/b/c") != before


async def test_what_was_listed_and_what_was_missing_is_asked_for_again(world):
    directory = await world.walk("a/b")
    await world.ls(directory)
    assert isinstance(await world.fs.lookup(directory, b"new"), NegativeEntry)
    world.put("a/b/new")
    assert isinstance(await world.fs.lookup(directory, b"new"), NegativeEntry)
    await world.fs.refresh([b"a"])
    assert isinstance(await world.fs.lookup(directory, b"new"), Entry)
    assert await world.names(directory) == [b"c", b"d", b"new"]


async def test_what_lies_elsewhere_stays_known(world):
    await world.ls(await world.walk("a/b"))
    await world.walk("x")
    world.client.requests.clear()
    await world.fs.refresh([b"x"])
    assert await world.walk("a/b/c") is not None
    assert world.requests == []
    await world.walk("x")
    assert sorted(world.requests) == [("HEAD", "x"), ("LIST", "x/", None)]


async def test_the_root_forgets_everything_and_names_what_the_kernel_has_of_it(world):
    await world.walk("a/b/c")
    await world.walk("x")
    await world.walk("gone")
    above, directory = await world.walk("a"), await world.walk("a/b")
    top = [(ROOT_NODE_ID, b"a"), (ROOT_NODE_ID, b"gone"), (ROOT_NODE_ID, b"x")]
    assert sorted(await world.fs.refresh([])) == sorted([*top, (above, b"b"), (directory, b"c")])
    world.client.requests.clear()
    await world.walk("a/b/c")
    assert len(world.requests) == 6


async def test_a_reader_of_a_directory_finishes_the_listing_it_is_in(new_world):
    world = new_world(*(f"{number:04}" for number in range(1500)))
    taken = await world.readdir(limit=700)
    world.client.delete("0000")
    world.put("0000a")
    await world.fs.refresh([])
    names, cursor = [name for name, _, _ in taken], taken[-1][2]
    while taken := await world.readdir(cursor=cursor, limit=700):
        names += [name for name, _, _ in taken]
        cursor = taken[-1][2]
        assert {entry.entry_ttl_s for _, entry, _ in taken} == {0.0}, "the kernel must not trust what is old"
    assert names == [b"%04d" % number for number in range(1500)]
    assert (await world.names())[:2] == [b"0000a", b"0001"]


async def test_an_answer_that_was_on_its_way_is_given_and_not_remembered(world):
    gate = world.client.hold("HEAD", "x")
    answers = []

    async def look_up():
        answers.append(await world.fs.lookup(ROOT_NODE_ID, b"x"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look_up)
        await trio.testing.wait_all_tasks_blocked()
        await world.fs.refresh([b"x"])
        gate.set()
    assert answers[0].entry_ttl_s == 0
    world.client.requests.clear()
    assert (await world.fs.lookup(ROOT_NODE_ID, b"x")).entry_ttl_s > 0
    assert world.requests != []


async def test_a_missing_directory_on_the_way_is_asked_for_again(world):
    await world.ls()
    for name in (b"new", b"other"):
        assert isinstance(await world.fs.lookup(ROOT_NODE_ID, name), NegativeEntry)
    world.put("new/er/file")
    await world.fs.refresh([b"new", b"er", b"file"])
    assert await world.walk("new/er/file") is not None


async def test_a_listing_on_the_way_that_has_the_directory_stays_known(world):
    await world.ls()
    await world.fs.refresh([b"a", b"b", b"c"])
    world.client.requests.clear()
    await world.walk("x")
    assert world.requests == []


async def test_names_that_only_a_listing_knew_to_be_missing_are_among_those_the_kernel_must_forget(world):
    await world.ls()
    await world.fs.lookup(ROOT_NODE_ID, b"new")
    assert (ROOT_NODE_ID, b"new") in await world.fs.refresh([])


async def test_buckets_are_asked_for_again(new_world):
    world = new_world(bucket="", metadata_ttl_s=float("inf"), negative_ttl_s=float("inf"))
    world.put("a/b")
    directory, file = await world.walk("bucket/a"), await world.walk("bucket/a/b")
    bucket = await world.walk("bucket")
    await world.walk("gone")
    assert file is not None
    places = [(ROOT_NODE_ID, b"bucket"), (ROOT_NODE_ID, b"gone"), (bucket, b"a"), (directory, b"b")]
    assert sorted(await world.fs.refresh([])) == sorted(places)
    world.client.requests.clear()
    await world.walk("bucket")
    await world.walk("gone")
    assert len(world.requests) == 1


async def test_a_name_that_the_kernel_does_not_know_any_more_needs_not_be_forgotten(world):
    node_id = await world.walk("x")
    world.fs.forget([(node_id, 1)])
    assert await world.fs.refresh([]) == []


async def test_an_open_file_keeps_its_version(world):
    node_id = await world.walk("a/b/c")
    await world.fs.open(node_id)
    world.put("a/b/c", b"newer")
    await world.fs.refresh([])
    assert await world.read_all(node_id) == b"data"


async def test_a_large_tree_is_refreshed_in_turns_with_others(new_world, monkeypatch):
    """Mutation: nobody is answered while a hundred thousand names are gone through."""
    monkeypatch.setattr(filesystem, "_NODES_A_TURN", 10)
    world = new_world(*(f"{number:04}" for number in range(200)))
    await world.ls()
    turns, refreshed = 0, []

    async def refresh():
        refreshed.extend(await world.fs.refresh([]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(refresh)
        while not refreshed:
            await trio.lowlevel.checkpoint()
            turns += 1
    assert len(refreshed) == 200
    assert turns > 20
