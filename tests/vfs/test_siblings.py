"""The files beside one, as the planner asks for them."""

from __future__ import annotations

import math

import pytest

from tigrismount.errors import ObjectUnavailableError
from tigrismount.vfs import filesystem


async def test_the_files_of_a_directory_are_listed_once_while_fresh(new_world):
    world = new_world("m/a", "m/b", "m/sub/c", "other")
    node_id = await world.walk("m/a")
    obj = world.fs._inodes.get(node_id).obj
    assert world.requests
    files = await world.fs.siblings(obj)
    assert [(name, version.key) for name, version in files] == [("a", "m/a"), ("b", "m/b")]
    assert files[0][1] == obj
    assert await world.fs.siblings(obj) == files
    assert [name for name, _ in await world.fs.siblings(obj, "sub")] == ["c"]
    assert [r for r in world.requests if r[0] == "LIST"] == [("LIST", "m/", None), ("LIST", "m/sub/", None)]


async def test_a_store_that_does_not_answer_is_the_asker_s_error(new_world):
    world = new_world("m/a")
    node_id = await world.walk("m/a")
    obj = world.fs._inodes.get(node_id).obj
    world.client.fail(ObjectUnavailableError("away"), "LIST")
    with pytest.raises(ObjectUnavailableError):
        await world.fs.siblings(obj)


@pytest.mark.parametrize("is_listed", [False, True])
async def test_of_a_large_directory_the_first_names_do_however_many_are_known(new_world, monkeypatch, is_listed):
    """Who had listed a million names made each look around a model in it handle all of them in the event loop."""
    monkeypatch.setattr(filesystem, "SIBLINGS_LIMIT", 4)
    world = new_world(*(f"m/{number}" for number in range(9)))
    if is_listed:
        await world.names(await world.walk("m"))
    node_id = await world.walk("m/0")
    files = await world.fs.siblings(world.fs._inodes.get(node_id).obj)
    assert [name for name, _ in files] == ["0", "1", "2", "3"]


@pytest.mark.claim("fresh-missing")
async def test_what_the_planner_lists_hides_no_file_for_longer_than_a_look_up_does(new_world):
    """Nobody has listed the directory. Mutation: what comes later is missing for --metadata-ttl, with inf for ever."""
    world = new_world("m/a", metadata_ttl_s=math.inf, negative_ttl_s=5.0)
    node_id = await world.walk("m/a")
    await world.fs.siblings(world.fs._inodes.get(node_id).obj)
    assert await world.walk("m/ready") is None
    world.put("m/ready")
    world.now_s += 5
    assert await world.walk("m/ready") is not None
