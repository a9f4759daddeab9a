"""Huge directories and trees: streamed, bounded in memory, and cheap to look into."""

from __future__ import annotations

import tracemalloc

import pytest
import trio

from tigrismount.core.inodes import UNREFERENCED_TURNS
from tigrismount.core.types import ROOT_NODE_ID
from tigrismount.vfs.entries import Entry, NegativeEntry
from tigrismount.vfs.filesystem import TURN_S

HUGE = 100_000
LISTED_NAME_BYTES = 500
"""What docs/reference/semantics.md says a listed name takes at the most."""
KNOWN_NODE_BYTES = 250
"""What it says a file that the kernel knows takes on top."""


async def list_all(world, node_id, *, forget=False, room=1000):
    """Read a directory as the kernel does, *room* entries at a time; return how many there were."""
    count, cursor = 0, 0
    while taken := await world.readdir(node_id, cursor, room):
        count += len(taken)
        cursor = taken[-1][2]
        if forget:
            world.fs.forget([(entry.attributes.node_id, 1) for _, entry, _ in taken])
    return count


@pytest.mark.claim("large-first")
async def test_the_first_names_of_a_huge_directory_appear_after_one_page(new_grid_world):
    world = new_grid_world(1, HUGE)
    directory = await world.walk("0000")
    world.client.requests.clear()
    taken = await world.readdir(directory, limit=100)
    assert [name for name, _, _ in taken] == [b"%06d" % number for number in range(100)]
    assert world.requests == [("LIST", "0000/", None)]


@pytest.mark.claim("large-pages")
async def test_a_huge_directory_costs_a_request_a_page_and_seen_again_within_the_ttl_none(new_grid_world):
    world = new_grid_world(1, HUGE)
    directory = await world.walk("0000")
    await world.fs.opendir(directory)
    world.client.requests.clear()
    assert await list_all(world, directory) == HUGE
    assert len(world.requests) == HUGE / 1000
    world.now_s += 59
    assert await list_all(world, directory) == HUGE
    for number in range(0, HUGE, 997):
        assert isinstance(await world.fs.lookup(directory, b"%06d" % number), Entry)
    assert await world.fs.lookup(directory, b"999999") == NegativeEntry(1.0)
    assert world.requests == [], "ls -l again: names, attributes and what is missing are all known"


@pytest.mark.claim("large-look-up")
async def test_looking_up_one_name_in_a_huge_directory_does_not_list_it(new_grid_world):
    world = new_grid_world(1, HUGE)
    directory = await world.walk("0000")
    world.client.requests.clear()
    assert isinstance(await world.fs.lookup(directory, b"054321"), Entry)
    assert sorted(world.requests) == [("HEAD", "0000/054321"), ("LIST", "0000/054321/", None)]
    assert world.fs.statistics().listed_names == 0


@pytest.mark.claim("large-memory")
async def test_memory_per_name_is_what_the_documentation_says(new_grid_world):
    count = 10_000
    world = new_grid_world(1, count)
    directory = await world.walk("0000")
    await world.fs.opendir(directory)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        await list_all(world, directory, forget=True, room=1)
        listed = tracemalloc.get_traced_memory()[0]
        await list_all(world, directory)
        known = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # The first pass leaves nodes behind too, as many as are kept that nobody refers to: all of these.
    assert 200 < (known - before) / count < LISTED_NAME_BYTES + KNOWN_NODE_BYTES
    assert known - listed < 0.05 * (known - before), "seeing a name again takes nothing"


@pytest.mark.parametrize(
    ("directories", "files"),
    [pytest.param(25, 1000, id="25 thousand"), pytest.param(1000, 1000, id="a million", marks=pytest.mark.slow)],
)
async def test_a_walk_of_a_tree_keeps_no_more_than_the_limits(new_grid_world, directories, files):
    world = new_grid_world(directories, files, listed_limit=20_000, node_limit=5_000)
    total = 0
    for _, entry in await world.ls(ROOT_NODE_ID):
        node_id = entry.attributes.node_id
        await world.fs.opendir(node_id)
        total += await list_all(world, node_id, forget=True, room=100)
        world.fs.releasedir(node_id)
        statistics = world.fs.statistics()
        assert statistics.listed_names <= 20_000 + files
        assert statistics.nodes_unreferenced <= 5_000
    assert total == directories * files
    assert len(world.requests) == 1 + directories


@pytest.mark.claim("large-memory")
async def test_names_that_nobody_uses_any_more_are_forgotten(new_grid_world, autojump_clock):
    world = new_grid_world(1, 2500)

    async def wait(seconds):
        world.now_s += seconds
        await trio.sleep(seconds)

    directory = await world.walk("0000")
    await world.fs.lookup(directory, b"missing")
    async with trio.open_nursery() as nursery:
        await nursery.start(world.fs.run)
        await world.fs.opendir(directory)
        await list_all(world, directory, forget=True)
        world.fs.releasedir(directory)
        await wait(50)
        assert world.fs.statistics().listed_names == 2500
        await wait(2 * TURN_S)
        statistics = world.fs.statistics()
        assert (statistics.listed_names, statistics.dentries, statistics.negative_dentries) == (0, 0, 0)
        assert statistics.nodes_unreferenced == 2500, "the kernel may ask for the same files soon"
        await wait((UNREFERENCED_TURNS + 1) * TURN_S)
        assert world.fs.statistics().nodes_unreferenced == 0
        nursery.cancel_scope.cancel()
