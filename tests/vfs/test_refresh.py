"""Refreshing forgets what is known at and below a path, at once and nowhere else."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tigrismount.core.types import ROOT_NODE_ID
from tigrismount.vfs.entries import Entry, NegativeEntry


@pytest.fixture(params=[60.0, float("inf")], ids=["a minute", "for ever"])
def world(new_world, request):
    return new_world("a/b/c", "a/b/d", "x", metadata_ttl_s=request.param, negative_ttl_s=request.param)


async def test_a_file_that_was_overwritten_is_seen_at_once(world):
    before = await world.walk("a/b/c")
    world.put("a/b/c", b"newer")
    assert await world.walk("a/b/c") == before
    directory = await world.walk("a/b")
    assert world.fs.refresh([b"a", b"b", b"c"]) == [(directory, b"c")]
    assert await world.walk("a/b/c") != before


async def test_what_was_listed_and_what_was_missing_is_asked_for_again(world):
    directory = await world.walk("a/b")
    await world.ls(directory)
    assert isinstance(await world.fs.lookup(directory, b"new"), NegativeEntry)
    world.put("a/b/new")
    assert isinstance(await world.fs.lookup(directory, b"new"), NegativeEntry)
    world.fs.refresh([b"a"])
    assert isinstance(await world.fs.lookup(directory, b"new"), Entry)
    assert await world.names(directory) == [b"c", b"d", b"new"]


async def test_what_lies_elsewhere_stays_known(world):
    await world.ls(await world.walk("a/b"))
    await world.walk("x")
    world.client.requests.clear()
    world.fs.refresh([b"x"])
    assert await world.walk("a/b/c") is not None
    assert world.requests == []
    await world.walk("x")
    assert sorted(world.requests) == [("HEAD", "x"), ("LIST", "x/", None)]


async def test_the_root_forgets_everything_and_names_what_the_kernel_has_of_it(world):
    await world.walk("a/b/c")
    await world.walk("x")
    await world.walk("gone")
    assert world.fs.refresh([]) == [(ROOT_NODE_ID, b"a"), (ROOT_NODE_ID, b"gone"), (ROOT_NODE_ID, b"x")]
    world.client.requests.clear()
    await world.walk("a/b/c")
    assert len(world.requests) == 6


async def test_a_reader_of_a_directory_finishes_the_listing_it_is_in(new_world):
    world = new_world(*(f"{number:04}" for number in range(1500)))
    taken = await world.readdir(limit=700)
    world.client.delete("0000")
    world.put("0000a")
    world.fs.refresh([])
    names, cursor = [name for name, _, _ in taken], taken[-1][2]
    while taken := await world.readdir(cursor=cursor, limit=700):
        names += [name for name, _, _ in taken]
        cursor = taken[-1][2]
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
        world.fs.refresh([b"x"])
        gate.set()
    assert answers[0].entry_ttl_s == 0
    world.client.requests.clear()
    assert (await world.fs.lookup(ROOT_NODE_ID, b"x")).entry_ttl_s > 0
    assert world.requests != []


async def test_an_open_file_keeps_its_version(world):
    node_id = await world.walk("a/b/c")
    await world.fs.open(node_id)
    world.put("a/b/c", b"newer")
    world.fs.refresh([])
    assert await world.read_all(node_id) == b"data"
