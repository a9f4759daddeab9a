"""What a name means."""

from __future__ import annotations

import itertools
import json

import pytest
import trio

from tigrismount.errors import ObjectAccessError, ObjectUnavailableError
from tigrismount.objects.client import ListPage
from tigrismount.objects.memory import MemoryObjectClient
from tigrismount.warm.selection import SMALL_FILE_BYTES, Selector, Target


@pytest.fixture
def client() -> MemoryObjectClient:
    return MemoryObjectClient()


async def select(client: MemoryObjectClient, *names: str) -> Selector:
    async def read(obj) -> bytes:
        return bytes(client._lookup(obj.bucket, obj.key)[1])

    selector = Selector(client, read)
    for name in names:
        await selector.add(Target("bucket", name))
    return selector


async def keys(client: MemoryObjectClient, *names: str) -> list[str]:
    selector = await select(client, *names)
    assert selector.failures == []
    return [key for _, key in selector.found]


async def test_a_name_is_a_key_or_a_directory_and_the_directory_wins(client) -> None:
    for key in ("m/a", "m/b/c", "m-x", "m", "n", "n-x"):
        client.put(key, b"1")
    assert await keys(client, "m") == ["m/a", "m/b/c"]
    assert await keys(client, "m/") == ["m/a", "m/b/c"]
    assert await keys(client, "n") == ["n"]
    assert await keys(client, "m/b") == ["m/b/c"]
    assert await keys(client, "m/a", "m/a", "m") == ["m/a", "m/b/c"]
    assert await keys(client, "") == ["m-x", "m/a", "m/b/c", "n", "n-x"]


async def test_a_directory_is_found_behind_a_thousand_neighbours(client) -> None:
    for n in range(1100):
        client.put(f"m-{n}", b"1")
    client.put("m/a", b"1")
    client.put("p", b"1")
    for n in range(1100):
        client.put(f"p-{n}", b"1")
        client.put(f"q/{n:04}", b"1")
    assert await keys(client, "m") == ["m/a"]
    assert await keys(client, "p") == ["p"]
    assert await keys(client, "q") == [f"q/{n:04}" for n in range(1100)]


async def test_a_name_costs_one_page(client) -> None:
    for key in ("m/a", "m/b", "k"):
        client.put(key, b"1")
    for name in ("m", "m/", "k", "m/*"):
        client.requests.clear()
        await keys(client, name)
        assert [request[0] for request in client.requests] == ["LIST"], name


async def test_what_a_mount_does_not_show_is_left_out(client) -> None:
    for key in ("m/", "m/a//b", "m/../c", "m/both", "m/both/in", "m/fine"):
        client.put(key, b"" if key.endswith("/") else b"1")
    assert await keys(client, "m") == ["m/both/in", "m/fine"]


async def test_patterns_find_keys_and_a_key_with_brackets_is_itself(client) -> None:
    for key in ("m/a.st", "m/b.st", "m/c.bin", "m/s/d.st", "m/[1].gguf", "m/1.gguf"):
        client.put(key, b"1")
    assert await keys(client, "m/*.st") == ["m/a.st", "m/b.st"]
    assert await keys(client, "m/**/*.st") == ["m/a.st", "m/b.st", "m/s/d.st"]
    assert await keys(client, "m/[1].gguf") == ["m/[1].gguf"]
    assert await keys(client, "m/[ab].st") == ["m/a.st", "m/b.st"]


async def test_nothing_of_a_name_is_a_failure_that_says_so(client) -> None:
    client.put("m/a", b"1")
    selector = await select(client, "x", "m/*.none", "m/x/")
    assert [failure.what for failure in selector.failures] == [
        "s3://bucket/x",
        "s3://bucket/m/*.none",
        "s3://bucket/m/x/",
    ]
    assert all(failure.not_found for failure in selector.failures)


async def test_a_listing_that_fails_fails_its_own_name_only(client) -> None:
    client.put("m/a", b"1")
    client.put("n/a", b"1")
    client.fail(ObjectUnavailableError("away"), "LIST", "n")
    selector = await select(client, "n", "m")
    assert list(selector.found) == [("bucket", "m/a")]
    assert [(failure.what, failure.reason) for failure in selector.failures] == [("s3://bucket/n", "away")]


async def test_where_listings_are_refused_a_key_is_found_by_its_name(client) -> None:
    client.put("m/a", b"1")
    client.fail(ObjectAccessError("no listings"), "LIST", times=9)
    assert await keys(client, "m/a") == ["m/a"]


async def test_an_index_means_its_shards_and_the_small_files_beside_it(client) -> None:
    index = {"weight_map": {"a": "s-2.safetensors", "b": "s-1.safetensors", "c": "s-9.safetensors"}}
    client.put("m/model.safetensors.index.json", json.dumps(index).encode())
    for key in ("m/s-1.safetensors", "m/s-2.safetensors", "m/config.json", "m/sub/x"):
        client.put(key, b"1")
    client.put("m/other.bin", bytes(SMALL_FILE_BYTES + 1))
    selector = await select(client, "m/model.safetensors.index.json")
    assert {key for _, key in selector.found} == {
        "m/model.safetensors.index.json",
        "m/s-1.safetensors",
        "m/s-2.safetensors",
        "m/config.json",
    }
    assert [failure.what for failure in selector.failures] == ["s3://bucket/m/s-9.safetensors"]
    assert await keys(client, "m/sub/x") == ["m/sub/x"]


async def test_an_index_that_is_none_is_a_failure(client) -> None:
    client.put("m/model.safetensors.index.json", b"[]")
    selector = await select(client, "m/model.safetensors.index.json")
    assert "its shards are not known" in selector.failures[0].reason


async def test_links_are_followed_and_circles_end(client) -> None:
    client.put("b/1", b"1")
    client.put("s/a", b"", symlink_target=b"../b/1")
    client.put("s/dir", b"", symlink_target=b"../b")
    assert await keys(client, "s") == ["b/1"]
    client.put("s/out", b"", symlink_target=b"../../x")
    client.put("s/x", b"", symlink_target=b"y")
    client.put("s/y", b"", symlink_target=b"x")
    selector = await select(client, "s")
    assert list(selector.found) == [("bucket", "b/1")]
    assert {failure.what for failure in selector.failures} >= {"s3://bucket/s/out"}
    assert len(selector.failures) <= 4


async def test_a_link_to_itself_ends_nothing_however_many_files_lie_beside_it(client) -> None:
    """One step for each file would be deeper than Python's stack, and the error not one of the store's."""
    for n in range(40):
        client.put(f"m/{n:02}", b"1")
    client.put("m/99", b"", symlink_target=b"99")
    selector = await select(client, "m")
    assert len(selector.found) == 40
    assert [failure.what for failure in selector.failures] == ["s3://bucket/m/99"]


async def test_a_listing_that_has_no_end_fails_whatever_named_it(client, monkeypatch) -> None:
    """A store that gives a new token with each empty page would have a pattern looked for until somebody looks."""
    pages = itertools.count()
    index = json.dumps({"weight_map": {"t": "a.safetensors"}}).encode()
    client.put("i/model.safetensors.index.json", index)
    named = await client.list_page("bucket", "i/model.safetensors.index.json", delimiter="")

    async def endless(_bucket: str, prefix: str, **_: object) -> ListPage:
        await trio.lowlevel.checkpoint()
        if prefix.endswith(".json"):
            return named
        number = next(pages)
        assert number < 1000
        return ListPage((), (), f"token {number}")

    monkeypatch.setattr(client, "list_page", endless)
    selector = await select(client, "m/*", "m/", "i/model.safetensors.index.json")
    assert ["does not come forward" in failure.reason for failure in selector.failures] == [True] * 3


async def test_a_page_without_a_row_before_those_that_have_some_hides_nothing(client, monkeypatch) -> None:
    """Stores send one where rows were deleted, with a token for what follows: a name would be said not to be there."""
    for key in ("m/a", "n", "p[1].gguf"):
        client.put(key, b"1")
    list_page = client.list_page

    async def late(bucket: str, prefix: str, *, token: str | None = None, **how: object) -> ListPage:
        page = await list_page(bucket, prefix, token=None if token == "first" else token, **how)
        return ListPage((), (), "first") if token is None else page

    monkeypatch.setattr(client, "list_page", late)
    assert await keys(client, "m", "n", "p[1].gguf") == ["m/a", "n", "p[1].gguf"]
