"""What one name is, asked of a store that refuses or fails one of the two requests."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing

from tigrismount.core.names import DirectoryKey
from tigrismount.errors import ObjectAccessError, ObjectNotFoundError, ObjectProtocolError, ObjectUnavailableError
from tigrismount.objects.client import ListPage, ObjectStatistics
from tigrismount.objects.memory import MemoryObjectClient
from tigrismount.vfs.resolve import resolve

DIR = DirectoryKey("bucket", "d/")


async def kind(client, name=b"foo"):
    dentry = await resolve(client, DIR, name, 5.0)
    if dentry is None:
        return None
    assert (dentry.name, dentry.observed_s) == (name, 5.0)
    return "dir" if dentry.info is None else dentry.info.id.key


def bucket(*keys):
    client = MemoryObjectClient()
    for key in keys:
        client.put(key, b"x")
    return client


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["d/foo"], "d/foo"),
        (["d/foo/bar"], "dir"),
        (["d/foo/"], "dir"),
        (["d/foo", "d/foo-x", "d/foo/bar"], "dir"),
        (["d/foo-x", "foo"], None),
        (["d/foo//"], "dir"),
    ],
)
async def test_a_head_and_a_listing_of_one_key_say_what_a_name_is(keys, expected):
    client = bucket(*keys)
    assert await kind(client) == expected
    assert sorted(client.requests) == [("HEAD", "d/foo"), ("LIST", "d/foo/", None)]


async def test_both_requests_are_made_at_once():
    client = bucket("d/foo")
    gates = [client.hold("HEAD"), client.hold("LIST")]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kind, client)
        await trio.testing.wait_all_tasks_blocked()
        assert len(client.requests) == 2
        for gate in gates:
            gate.set()


async def test_a_directory_is_known_before_head_has_answered(autojump_clock):
    client = bucket("d/foo", "d/foo/bar")
    client.hold("HEAD")
    with trio.fail_after(1):
        assert await kind(client) == "dir"


async def test_a_file_is_not_known_before_the_listing_has_answered():
    client = bucket("d/foo", "d/foo/bar")
    gate = client.hold("LIST")
    kinds = []

    async def ask():
        kinds.append(await kind(client))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert kinds == []
        gate.set()
    assert kinds == ["dir"]


async def test_a_file_that_a_gateway_without_its_store_did_not_have_is_asked_for_again():
    """A HEAD that says 404 has no body that tells whose it is; the listing beside it was asked again."""
    client = bucket("d/foo")
    client.fail(ObjectNotFoundError("404"), "HEAD")
    counts = iter([0, 3])
    client.statistics = lambda: ObjectStatistics(retries=next(counts))
    assert await kind(client) == "d/foo"


REFUSED = ObjectAccessError("403")
AWAY = ObjectUnavailableError("503")


async def test_where_listing_is_refused_head_decides():
    for keys, expected in ((["d/foo"], "d/foo"), ([], None), (["d/foo/bar"], None)):
        client = bucket(*keys)
        client.fail(REFUSED, "LIST")
        assert await kind(client) == expected


async def test_where_head_is_refused_the_listing_decides():
    for keys, expected in ((["d/foo"], "d/foo"), (["d/foo-x", "d/fooo"], None), (["d/foo/bar"], "dir"), ([], None)):
        client = bucket(*keys)
        client.fail(REFUSED, "HEAD")
        assert await kind(client) == expected


@pytest.mark.parametrize(
    ("head", "listing", "raised"),
    [
        (REFUSED, REFUSED, ObjectAccessError),
        (AWAY, None, ObjectUnavailableError),
        (None, AWAY, ObjectUnavailableError),
        (AWAY, REFUSED, ObjectUnavailableError),
        (REFUSED, AWAY, ObjectUnavailableError),
        (None, ObjectNotFoundError("no such bucket"), ObjectNotFoundError),
    ],
)
async def test_what_the_answers_do_not_decide_is_an_error(head, listing, raised):
    client = bucket("d/foo")
    for error, method in ((head, "HEAD"), (listing, "LIST")):
        if error is not None:
            client.fail(error, method)
    with pytest.raises(raised):
        await kind(client)


class Boasting(MemoryObjectClient):
    """A store that names sizes that no file has."""

    async def head(self, bucket, key):
        info = await super().head(bucket, key)
        return replace(info, id=replace(info.id, size_bytes=1 << 63))


async def test_an_impossible_size_is_an_error():
    client = Boasting()
    client.put("d/foo", b"x")
    with pytest.raises(ObjectProtocolError, match="impossible size"):
        await kind(client)


async def test_a_failed_head_does_not_hide_a_directory():
    client = bucket("d/foo/bar")
    client.fail(AWAY, "HEAD")
    assert await kind(client) == "dir"


class EmptyPages(MemoryObjectClient):
    """A store that sends *empty* pages without a row before the real one."""

    def __init__(self, empty):
        super().__init__()
        self.empty = empty

    async def list_page(self, *args, token=None, **rest):
        number = int(token or 0)
        if number < self.empty:
            await trio.lowlevel.checkpoint()
            return ListPage((), (), str(number + 1))
        return await super().list_page(*args, **rest)


async def test_empty_pages_are_followed_to_the_first_row_but_not_for_ever():
    client = EmptyPages(3)
    client.put("d/foo/bar", b"x")
    assert await kind(client) == "dir"
    with pytest.raises(ObjectProtocolError, match="come forward"):
        await kind(EmptyPages(1_000_000))


class NoLongPrefixes(MemoryObjectClient):
    """A store that takes a prefix for a key: none is above 1,024 bytes."""

    async def list_page(self, bucket, prefix, **how):
        if len(prefix.encode()) > 1024:
            raise ObjectProtocolError("your key is too long", bucket=bucket, key=prefix)
        return await super().list_page(bucket, prefix, **how)


@pytest.mark.parametrize("size_bytes", [1023, 1024])
async def test_a_file_of_the_longest_key_is_there(size_bytes):
    """Mutation: look for what lies below it, and it is EIO: no store lists that."""
    where, client = DirectoryKey("bucket", "d/" * 400), NoLongPrefixes()
    name = b"n" * (size_bytes - len(where.prefix))
    key = where.key_of(name)
    client.put(key, b"x")
    dentry = await resolve(client, where, name, 5.0)
    assert dentry is not None
    assert dentry.info is not None
    assert dentry.info.id.key == key
