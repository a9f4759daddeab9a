"""A client pinned to a snapshot reads one moment, with a header that nobody can take off."""

from __future__ import annotations

import time

import pytest
import trio.testing

from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.core.names import DirectoryKey
from tigrismount.errors import ConfigError, ObjectAccessError, ObjectNotFoundError, ObjectProtocolError
from tigrismount.objects.credentials import Credentials
from tigrismount.objects.options import S3Config
from tigrismount.objects.snapshots import Snapshot, find_version, resolve_snapshot
from tigrismount.vfs.frozen import kept_names
from tigrismount.vfs.options import VfsConfig


@pytest.fixture
def taken(tigris):
    """Two snapshots of one key, and a third state after them; returns versions by name."""
    versions = {}
    for name in ("first", "second"):
        tigris.tigris.put("models", "weights", name.encode() * 100)
        versions[name] = tigris.tigris.take_snapshot("models", name)
    tigris.tigris.put("models", "weights", b"live" * 100)
    tigris.tigris.put("models", "later", b"")
    return versions


async def test_every_read_of_a_pinned_client_is_of_the_snapshot_and_says_so_under_its_signature(
    tigris, taken, connect, read
):
    client = connect(tigris, snapshot_version=taken["first"])

    await client.check_access("models", "")
    page = await client.list_page("models", "")
    info = await client.head("models", "weights")
    data = await read(client, info.id)

    assert [row.id.key for row in page.objects] == ["weights"]
    assert page.objects[0].id == info.id
    assert data == b"first" * 100
    with pytest.raises(ObjectNotFoundError):
        await client.head("models", "later")
    assert {request.operation for request in tigris.tigris.requests} == {"ListObjectsV2", "HeadObject", "GetObject"}
    for request in tigris.tigris.requests:
        assert request.headers["x-tigris-snapshot-version"] == taken["first"]
        assert "x-tigris-snapshot-version" in request.signed_headers


async def test_names_of_a_snapshot_are_asked_for_in_the_consistent_way_as_they_are_believed_for_ever(
    tigris, taken, connect, read
):
    client = connect(tigris, snapshot_version=taken["first"])
    await client.bucket_headers("models")  # tells that this is Tigris
    tigris.tigris.requests.clear()
    await client.list_page("models", "")
    await read(client, (await client.head("models", "weights")).id)
    assert {request.operation: request.headers.get("x-tigris-consistent") for request in tigris.tigris.requests} == {
        "ListObjectsV2": "true",
        "HeadObject": "true",
        "GetObject": None,
    }


async def test_a_live_client_sends_no_snapshot_header(tigris, taken, connect, read):
    client = connect(tigris)
    info = await client.head("models", "weights")
    assert await read(client, info.id) == b"live" * 100
    assert all("x-tigris-snapshot-version" not in request.headers for request in tigris.tigris.requests)


async def test_snapshots_are_listed_oldest_first(tigris, taken, connect):
    nameless = tigris.tigris.take_snapshot("models")
    listed = await connect(tigris).snapshots("models")
    assert listed == (
        Snapshot(taken["first"], "first"),
        Snapshot(taken["second"], "second"),
        Snapshot(nameless, ""),
    )
    (request,) = tigris.tigris.operations("ListBuckets")
    assert request.headers["x-tigris-snapshot"] == "models"
    assert "x-tigris-snapshot" in request.signed_headers


async def test_names_latest_and_versions_are_resolved(tigris, taken, connect):
    client = connect(tigris)

    async def resolved(selector: str) -> str:
        return await resolve_snapshot(client, "models", selector, clock_ns=time.time_ns())

    assert await resolved("first") == taken["first"]
    assert await resolved("latest") == taken["second"]
    assert await resolved(taken["first"]) == taken["first"]
    assert await resolved("2026-07-01T12:00:00.5Z") == "1782907200500000000"
    again = tigris.tigris.take_snapshot("models", "first")
    assert await resolved("first") == again, "the newest of a name counts"


async def test_names_that_an_sdk_escaped_are_found(tigris, taken, connect):
    version = tigris.tigris.take_snapshot("models", "my+first%20one")
    found = await resolve_snapshot(connect(tigris), "models", "my first one", clock_ns=time.time_ns())
    assert found == version


async def test_now_is_a_moment_that_later_writes_do_not_change(tigris, taken, connect, read):
    now = await resolve_snapshot(connect(tigris), "models", "now", clock_ns=time.time_ns())
    tigris.tigris.put("models", "weights", b"even later" * 100)
    client = connect(tigris, snapshot_version=now)
    info = await client.head("models", "weights")
    assert await read(client, info.id) == b"live" * 100


async def test_a_date_that_is_none_leaves_the_moment_to_our_clock():
    """Python refuses the year 99999 with an error that nobody expects of a store."""

    class Store:
        endpoint_url = "http://odd"

        async def bucket_headers(self, bucket):
            return {"x-tigris-enable-snapshot": "true", "date": "Fri, 01 Jan 99999 00:00:00 GMT"}

    assert await find_version(Store(), "models", "now", clock_ns=17) == "17"


@pytest.mark.parametrize("off_s", [-86_400, 86_400])
async def test_a_wrong_clock_of_this_machine_does_not_move_now(tigris, taken, connect, off_s):
    before_s = time.time()
    wrong_ns = time.time_ns() + off_s * 10**9
    now = await resolve_snapshot(connect(tigris), "models", "now", clock_ns=wrong_ns)
    assert int(before_s) * 10**9 <= int(now) <= time.time_ns()


@pytest.mark.parametrize("selector", ["2999-01-01T00:00:00Z", "9" * 19])
async def test_a_moment_that_lies_ahead_is_not_frozen_yet(tigris, taken, connect, selector):
    with pytest.raises(ConfigError, match="lies ahead"):
        await resolve_snapshot(connect(tigris), "models", selector, clock_ns=time.time_ns())


async def test_a_name_that_there_is_not_says_how_to_find_those_there_are(tigris, taken, connect):
    with pytest.raises(ObjectNotFoundError, match=r"no snapshot is called 'third': 'tigrismount snapshots'"):
        await resolve_snapshot(connect(tigris), "models", "third", clock_ns=time.time_ns())


async def test_a_bucket_of_which_nobody_took_a_snapshot_has_no_latest(tigris, connect):
    tigris.tigris.put("models", "weights", b"w")
    with pytest.raises(ObjectNotFoundError, match="no snapshot was ever taken"):
        await resolve_snapshot(connect(tigris), "models", "latest", clock_ns=time.time_ns())


async def test_a_bucket_without_snapshots_is_refused_in_one_line(tigris, connect):
    tigris.tigris.create_bucket("plain", snapshots=False)
    with pytest.raises(ConfigError, match="keeps no snapshots") as raised:
        await resolve_snapshot(connect(tigris), "plain", "now", clock_ns=time.time_ns())
    assert "\n" not in str(raised.value)


async def test_tag_is_refused_although_it_passes_requests_about_buckets_through(tag, connect):
    tag.tigris.put("models", "weights", b"w")
    tag.tigris.take_snapshot("models", "first")
    with pytest.raises(ConfigError, match=r"is TAG.*https://t3\.storage\.dev"):
        await resolve_snapshot(connect(tag), "models", "first", clock_ns=time.time_ns())


async def test_a_pinned_client_takes_nothing_from_a_cache(tag, connect, read):
    """A gateway that appears after the mount was made would answer with bytes of the present."""
    etag = tag.tigris.put("models", "weights", b"w" * 100)
    version = tag.tigris.take_snapshot("models")
    client = connect(tag, snapshot_version=version)
    with pytest.raises(ObjectProtocolError, match="caches do not know snapshots"):
        await client.head("models", "weights")
    page = await client.list_page("models", "")
    assert page.objects[0].id.etag == etag
    with pytest.raises(ObjectProtocolError, match="caches do not know snapshots"):
        await read(client, page.objects[0].id)


async def test_a_key_that_may_not_list_snapshots_is_an_access_error(tigris, connect):
    stranger = Credentials(source="elsewhere", access_key_id="tid_x", secret_access_key="y")
    with pytest.raises(ObjectAccessError, match="does not know the access key from elsewhere"):
        await connect(tigris, stranger).snapshots("models")


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_what_another_key_is_told_is_not_kept_for_holders_of_the_first(tigris, taken, connect, is_replaced):
    """They could list no such names by themselves, and would read what the cache has of them."""
    records, client = MemoryBlockCache(block_bytes=4096).records, connect(tigris, snapshot_version=taken["first"])
    config = S3Config(endpoint_url=tigris.url, snapshot_version=taken["first"])
    names = kept_names(client, config, VfsConfig(bucket="models"), records)
    tigris.tigris.keys = {"tid_one", "tid_two"}
    if is_replaced:
        await client.replace_key(Credentials(source="test", access_key_id="tid_two", secret_access_key="tsec_two"))
    where = DirectoryKey("models", "")
    async with trio.open_nursery() as nursery:
        await nursery.start(names.run)
        assert (await names.page(where, None)).objects
        assert await names.look_up(where, b"missing", 0.0, lambda: None) is None
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    assert bool(await records.items("metadata")) is not is_replaced
