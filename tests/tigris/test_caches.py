"""Behind TAG, and in a region that lags: right bytes, or an error that says why."""

from __future__ import annotations

import pytest
import trio

from tigrismount.core.types import ObjectId
from tigrismount.errors import ObjectNotFoundError, StaleObjectError
from tigrismount.testing.fake_http import serving
from tigrismount.testing.fake_tag import FakeTag
from tigrismount.testing.object_contract import pattern

OLD, NEW = pattern(10_000, 1), pattern(10_000, 2)


async def head(client, key="weights") -> ObjectId:
    return (await client.head("models", key)).id


async def test_ranges_are_right_whether_cached_or_not(either, connect, read):
    either.tigris.put("models", "weights", OLD)
    client = connect(either)
    obj = await head(client)
    for start, stop in ((0, 10), (9_000, 10_000), (5, 5_000)):
        assert await read(client, obj, start, stop) == OLD[start:stop]
    assert client.statistics().get_requests == 3


async def test_data_requests_are_plain_ranges_in_the_path_without_a_query(tag, connect, read):
    tag.tigris.put("models", "weights", OLD)
    client = connect(tag)
    await read(client, await head(client), 0, 10)
    (request,) = [request for request in tag.tag.requests if request.operation == "GetObject"]
    assert (request.bucket, request.key, request.query) == ("models", "weights", {})
    assert request.headers["range"] == "bytes=0-9"
    assert "x-amz-checksum-mode" not in request.headers


async def test_tag_is_noticed_and_told_of(tag, connect):
    tag.tigris.put("models", "weights", OLD)
    client = connect(tag)
    assert client.notes() == []
    await head(client)
    assert client.notes() == [f"behind TAG: {tag.url} answers with X-Cache"]


async def test_tigris_itself_is_not_taken_for_a_gateway(tigris, connect):
    tigris.tigris.put("models", "weights", OLD)
    client = connect(tigris)
    await head(client)
    assert client.notes() == []


async def test_an_overwrite_that_the_cache_has_not_noticed_is_read_from_the_store(tag, connect, read):
    """The cache answers the new version's range with old bytes; once asked past the cache, the right ones come."""
    tag.tigris.put("models", "weights", OLD)
    client = connect(tag)
    await read(client, await head(client), 0, 10)  # cached from now on
    tag.tigris.put("models", "weights", NEW)
    obj = await head(client)
    before = len(tag.tag.states)

    assert await read(client, obj, 100, 200) == NEW[100:200]
    assert tag.tag.states[before:] == ["HIT", "BYPASS"]
    retry = tag.tag.requests[-1]
    assert retry.headers["cache-control"] == "no-store"
    assert retry.headers["x-tigris-consistent"] == "true"
    assert "cache-control" not in retry.signed_headers
    assert await read(client, obj, 200, 300) == NEW[200:300]
    assert tag.tag.states[before + 2 :] == ["HIT"], "what was asked past the cache renewed it"


async def test_a_version_that_is_gone_is_stale_after_being_asked_twice(either, connect, read):
    either.tigris.put("models", "weights", OLD)
    client = connect(either)
    obj = await head(client)
    either.tigris.put("models", "weights", NEW)
    either.tigris.purge("models", "weights")
    before = client.statistics().get_requests
    with pytest.raises(StaleObjectError):
        await read(client, obj, 0, 10)
    assert client.statistics().get_requests - before == (2 if either.tag else 3), "by its id as well, but not of TAG"


async def test_a_cached_object_that_was_deleted_is_no_longer_found(tag, connect, read):
    tag.tigris.put("models", "weights", OLD)
    client = connect(tag)
    obj = await head(client)
    await read(client, obj, 0, 10)
    tag.tigris.delete("models", "weights")
    with pytest.raises(ObjectNotFoundError):
        await head(client)
    assert await read(client, obj, 0, 10) == OLD[:10], "who has it open reads on, of the same version"


async def test_a_changed_object_is_looked_up_past_the_cache(tag, connect, read):
    tag.tigris.put("models", "weights", OLD)
    client = connect(tag)
    await read(client, await head(client), 0, 10)
    etag = tag.tigris.put("models", "weights", NEW)
    assert (await head(client)).etag == etag


async def test_an_empty_object_has_size_0_also_from_the_cache(tag, connect):
    tag.tigris.put("models", "empty", b"")
    client = connect(tag)
    await trio.to_thread.run_sync(lambda: client._boto.get_object(Bucket="models", Key="empty")["Body"].read())
    assert (await head(client, "empty")).size_bytes == 0
    answer = await trio.to_thread.run_sync(lambda: client._boto.head_object(Bucket="models", Key="empty"))
    assert "ContentLength" not in answer, "the fake has the quirk"


async def test_more_requests_than_the_gateway_takes_all_end_well(tigris, connect, read):
    tigris.tigris.put("models", "weights", OLD)

    def answer_once_overloaded(request):
        if request.operation == "GetObject":
            gateway.overloaded.wait(10)
        return tigris.tigris.answer(request)

    gateway = FakeTag(answer_once_overloaded, inflight_limit=1)
    with serving(gateway.answer) as url:
        client = connect(type(tigris)(tigris.tigris, url, gateway))
        obj = await head(client)
        got = {}

        async def one(index: int) -> None:
            got[index] = await read(client, obj, index * 100, index * 100 + 100)

        async with trio.open_nursery() as nursery:
            for index in range(16):
                nursery.start_soon(one, index)
        await client.aclose()
    assert got == {index: OLD[index * 100 : index * 100 + 100] for index in range(16)}
    assert client.statistics().slow_downs == gateway.refused > 0


async def test_a_region_that_lags_is_asked_once_more_for_what_holds_everywhere(tigris, connect, read):
    tigris.tigris.put("models", "weights", OLD)
    tigris.tigris.put("models", "weights", NEW)
    client = connect(tigris)
    obj = await head(client)
    tigris.tigris.lagging.add("weights")

    assert await read(client, obj, 0, 10) == NEW[:10]
    first, second = tigris.tigris.operations("GetObject")
    assert "x-tigris-consistent" not in first.headers
    assert second.headers["x-tigris-consistent"] == "true"
    assert "x-tigris-consistent" in second.signed_headers


async def test_an_object_that_a_region_has_not_heard_of_is_asked_for_once_more(tigris, connect, read):
    tigris.tigris.put("models", "weights", OLD)
    client = connect(tigris)
    obj = await head(client)
    tigris.tigris.lagging.add("weights")
    assert await read(client, obj, 0, 10) == OLD[:10]


async def test_consistent_answers_are_asked_for_on_metadata_only(tigris, connect, read):
    tigris.tigris.put("models", "weights", OLD)
    client = connect(tigris, consistent=True)
    await client.list_page("models", "")  # its answer tells that this is Tigris
    obj = await head(client)
    await client.list_page("models", "")
    await read(client, obj, 0, 10)
    asked = [(request.operation, "x-tigris-consistent" in request.headers) for request in tigris.tigris.requests]
    assert asked[1:] == [("HeadObject", True), ("ListObjectsV2", True), ("GetObject", False)]


async def test_prefetch_is_asked_for_when_a_directory_is_listed_and_not_when_a_name_is_looked_up(tigris, connect):
    tigris.tigris.put("models", "weights", OLD)
    client = connect(tigris, tigris_prefetch=True)
    await head(client)
    await client.list_page("models", "")
    await client.list_page("models", "", max_keys=1)
    asked = ["x-tigris-prefetch" in request.headers for request in tigris.tigris.operations("ListObjectsV2")]
    assert asked == [True, False]


async def test_other_stores_get_none_of_tigris_headers(tigris, connect, read):
    """Signed headers that a store does not expect are still headers that a proxy may drop."""
    tigris.tigris.put("models", "weights", OLD)

    def plain(request):
        reply = tigris.tigris.answer(request)
        reply.headers["Server"] = "another store"
        return reply

    with serving(plain) as url:
        client = connect(type(tigris)(tigris.tigris, url), consistent=True, tigris_prefetch=True)
        obj = await head(client)
        await client.list_page("models", "")
        tigris.tigris.put("models", "weights", NEW)
        tigris.tigris.purge("models", "weights")
        with pytest.raises(StaleObjectError):
            await read(client, obj, 0, 10)
        await client.aclose()
    assert not [name for request in tigris.tigris.requests for name in request.headers if "tigris" in name]
    assert len(tigris.tigris.operations("GetObject")) == 2, "plainly, and by its id"
