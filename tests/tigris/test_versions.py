"""Versions that were overwritten or deleted are asked for by their id, where that is understood."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from tigrismount.core.types import ObjectId
from tigrismount.errors import ObjectAccessError, ObjectNotFoundError, StaleObjectError
from tigrismount.objects.versions import VersionIds
from tigrismount.testing.fake_http import serving
from tigrismount.testing.fake_tigris import error_answer
from tigrismount.testing.object_contract import pattern

OLD, NEW = pattern(10_000, 1), pattern(10_000, 2)


async def head(client, key="weights") -> ObjectId:
    return (await client.head("models", key)).id


def asked(served) -> list[tuple[str, bool, bool]]:
    """Return of each GET so far what its query says, whether it has a condition, and whether it asks for now."""
    return [
        (request.query.get("versionId", ""), "if-match" in request.headers, "x-tigris-consistent" in request.headers)
        for request in served.tigris.operations("GetObject")
    ]


@pytest.mark.parametrize("change", ["overwrite", "delete"])
async def test_once_the_store_says_that_it_is_gone_a_version_is_asked_for_by_its_id(tigris, connect, read, change):
    tigris.tigris.put("models", "weights", OLD)
    client = connect(tigris)
    obj = await head(client)
    if change == "overwrite":
        tigris.tigris.put("models", "weights", NEW)
    else:
        tigris.tigris.delete("models", "weights")
    assert await read(client, obj, 100, 200) == OLD[100:200]
    version_id = client.version_id(obj)
    assert asked(tigris) == [("", True, False), ("", True, True), (version_id, False, False)]
    assert await read(client, obj, 200, 300) == OLD[200:300]
    assert asked(tigris)[3:] == [(version_id, False, False)], "at once from then on"


@pytest.mark.parametrize("was_noticed", [False, True])
async def test_a_version_that_was_put_again_is_found_when_its_old_id_is_gone(tigris, connect, read, was_noticed):
    """Else whoever has it open gets an error for as long as the mount lives, while the key holds these very bytes."""
    tigris.tigris.put("models", "weights", OLD)
    client = connect(tigris)
    obj = await head(client)
    tigris.tigris.put("models", "weights", NEW)
    assert await read(client, obj, 100, 200) == OLD[100:200]
    tigris.tigris.purge("models", "weights")
    if was_noticed:
        with pytest.raises(StaleObjectError):
            await read(client, obj, 200, 300)
    tigris.tigris.put("models", "weights", OLD)
    tigris.tigris.purge("models", "weights")
    assert await read(client, obj, 200, 300) == OLD[200:300]


async def test_one_answer_that_a_version_is_gone_does_not_lose_its_id(tigris, connect, read):
    """A region that lags says so, say: else the file that is open fails for good, though its version is there."""
    lagging = False

    def answer(request):
        if lagging and "versionId" in request.query:
            return error_answer(404, "NoSuchVersion")
        return tigris.tigris.answer(request)

    tigris.tigris.put("models", "weights", OLD)
    with serving(answer) as url:
        client = connect(replace(tigris, url=url))
        obj = await head(client)
        tigris.tigris.put("models", "weights", NEW)
        assert await read(client, obj, 100, 200) == OLD[100:200]
        lagging = True
        with pytest.raises(StaleObjectError):
            await read(client, obj, 200, 300)
        lagging = False
        assert await read(client, obj, 200, 300) == OLD[200:300]
        await client.aclose()


async def test_an_id_that_the_key_s_own_bytes_took_the_place_of_is_asked_for_no_more(tigris, connect, read):
    """Of a bucket that keeps no versions any more, no answer names another one. Mutation: two GETs for each range."""
    names_ids = True

    def answer(request):
        reply = tigris.tigris.answer(request)
        if not names_ids:
            reply.headers.pop("x-amz-version-id", None)
        return reply

    tigris.tigris.put("models", "weights", OLD)
    with serving(answer) as url:
        client = connect(replace(tigris, url=url))
        obj = await head(client)
        tigris.tigris.put("models", "weights", NEW)
        await read(client, obj, 100, 200)
        tigris.tigris.put("models", "weights", OLD)
        tigris.tigris.purge("models", "weights")
        names_ids = False
        await read(client, obj, 200, 300)
        before = len(asked(tigris))
        assert await read(client, obj, 300, 400) == OLD[300:400]
        assert asked(tigris)[before:] == [("", True, False)]
        await client.aclose()


async def test_an_id_learned_from_a_get_serves_as_well(tigris, connect, read):
    tigris.tigris.put("models", "weights", OLD)
    client = connect(tigris)
    obj = (await client.list_page("models", "")).objects[0].id
    assert client.version_id(obj) == ""
    await read(client, obj, 0, 10)
    tigris.tigris.put("models", "weights", NEW)
    assert await read(client, obj, 10, 20) == OLD[10:20]


async def test_no_id_goes_through_a_gateway(tag, connect, read):
    tag.tigris.put("models", "weights", OLD)
    client = connect(tag)
    obj = await head(client)
    assert client.version_id(obj)
    tag.tigris.put("models", "weights", NEW)
    with pytest.raises(StaleObjectError):
        await read(client, obj, 0, 10)
    assert all(not request.query for request in tag.tag.requests if request.operation == "GetObject")


async def test_a_snapshot_s_reader_needs_no_ids(tigris, connect, read):
    tigris.tigris.put("models", "weights", OLD)
    client = connect(tigris, snapshot_version=tigris.tigris.take_snapshot("models"))
    obj = await head(client)
    tigris.tigris.delete("models", "weights")
    assert await read(client, obj) == OLD
    tigris.tigris.purge("models", "weights")
    with pytest.raises(ObjectNotFoundError):
        await read(client, obj)
    assert {query for query, _, _ in asked(tigris)} == {""}


async def test_a_key_that_may_read_no_versions_finds_the_file_changed(tigris, connect, read):
    def refusing(request):
        return error_answer(403, "AccessDenied") if "versionId" in request.query else tigris.tigris.answer(request)

    tigris.tigris.put("models", "weights", OLD)
    with serving(refusing) as url:
        client = connect(replace(tigris, url=url))
        obj = await head(client)
        tigris.tigris.put("models", "weights", NEW)
        with pytest.raises(StaleObjectError):
            await read(client, obj, 0, 10)
        await client.aclose()


async def test_a_key_that_is_refused_later_is_an_access_error(tigris, connect, read):
    tigris.tigris.put("models", "weights", OLD)
    client = connect(tigris)
    obj = await head(client)
    tigris.tigris.put("models", "weights", NEW)
    await read(client, obj, 0, 10)
    tigris.tigris.keys = set()
    with pytest.raises(ObjectAccessError):
        await read(client, obj, 10, 20)


async def test_a_store_that_ignores_ids_gives_no_byte_of_another_version(tigris, connect, read):
    def ignoring(request):
        query = {name: value for name, value in request.query.items() if name != "versionId"}
        return tigris.tigris.answer(replace(request, query=query))

    tigris.tigris.put("models", "weights", OLD)
    with serving(ignoring) as url:
        client = connect(replace(tigris, url=url))
        obj = await head(client)
        tigris.tigris.put("models", "weights", NEW)
        with pytest.raises(StaleObjectError):
            await read(client, obj, 0, 10)
        await client.aclose()


async def test_readers_while_versions_come_and_go_get_bytes_of_theirs_alone(tigris, connect, read):
    bodies = [pattern(10_000, seed) for seed in range(6)]
    client, objects = connect(tigris), []
    got: list[tuple[int, int, bytes]] = []

    async def reader(which: int, obj: ObjectId) -> None:
        for start in range(0, 10_000, 1000):
            data = await read(client, obj, start, start + 1000)
            got.append((which, start, data))

    async with trio.open_nursery() as nursery:
        for which, body in enumerate(bodies):
            await trio.to_thread.run_sync(tigris.tigris.put, "models", "weights", body)
            objects.append(await head(client))
            nursery.start_soon(reader, which, objects[which])
    assert len(got) == 60
    assert all(data == bodies[which][start : start + 1000] for which, start, data in got)


def test_the_versions_unseen_for_longest_are_forgotten():
    ids = VersionIds(limit=2)
    a, b, c = (ObjectId("b", key, "e", 1) for key in "abc")
    ids.learn(a, "1")
    ids.learn(b, "2")
    ids.learn(a, "1")
    ids.learn(c, "3")
    assert [ids.find(obj) for obj in (a, b, c)] == ["1", "", "3"]


def test_what_names_no_version_is_not_learned_and_a_new_id_takes_the_place_of_the_old_one():
    ids, obj = VersionIds(), ObjectId("b", "a", "e", 1)
    for nothing in (None, "", "null"):
        ids.learn(obj, nothing)
    ids.supersede(obj)
    assert ids.find(obj) == ids.find_superseded(obj) == ""
    ids.learn(obj, "1")
    ids.supersede(obj)
    assert ids.find_superseded(obj) == "1"
    ids.learn(obj, "2")
    assert (ids.find(obj), ids.find_superseded(obj)) == ("2", "")
