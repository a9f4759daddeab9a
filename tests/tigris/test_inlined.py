"""Small files that come with a listing are read without a request, if they are what they say."""

from __future__ import annotations

import base64
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from tigrismount.core.types import ObjectId
from tigrismount.objects.inlined import InlinedFiles, contents_of
from tigrismount.testing.fake_http import serving

SMALL, LARGE = b'{"model_type": "llama"}', b"w" * 20_000


@pytest.fixture
def stocked(tigris):
    tigris.tigris.put("models", "config.json", SMALL)
    tigris.tigris.put("models", "weights", LARGE)
    return tigris


async def listed(client) -> dict[str, ObjectId]:
    await client.head("models", "weights")  # tells that this is Tigris
    return {info.id.key: info.id for info in (await client.list_page("models", "")).objects}


async def test_a_small_file_that_came_with_the_listing_needs_no_request(stocked, connect, read):
    client = connect(stocked, tigris_prefetch=True)
    objects = await listed(client)
    assert await read(client, objects["config.json"]) == SMALL
    assert await read(client, objects["config.json"], 5, 9) == SMALL[5:9]
    assert await read(client, objects["weights"], 0, 10) == LARGE[:10]
    assert [request.key for request in stocked.tigris.operations("GetObject")] == ["weights"]
    (request,) = stocked.tigris.operations("ListObjectsV2")
    assert "x-tigris-list-content" in request.signed_headers


async def test_nobody_is_asked_for_contents_unless_told_to(stocked, connect, read):
    client = connect(stocked)
    objects = await listed(client)
    assert await read(client, objects["config.json"]) == SMALL
    assert [request.key for request in stocked.tigris.operations("GetObject")] == ["config.json"]


async def test_another_version_is_not_read_from_an_old_listing(stocked, connect, read):
    client = connect(stocked, tigris_prefetch=True)
    await listed(client)
    stocked.tigris.put("models", "config.json", SMALL.upper())
    obj = (await client.head("models", "config.json")).id
    assert await read(client, obj) == SMALL.upper()


async def test_contents_that_are_not_the_object_s_are_fetched_instead(stocked, connect, read):
    def lying(request):
        reply = stocked.tigris.answer(request)
        lie = base64.b64encode(SMALL.swapcase())
        return replace(reply, body=reply.body.replace(base64.b64encode(SMALL), lie))

    with serving(lying) as url:
        client = connect(replace(stocked, url=url), tigris_prefetch=True)
        objects = await listed(client)
        assert await read(client, objects["config.json"]) == SMALL
        await client.aclose()
    assert [request.key for request in stocked.tigris.operations("GetObject")] == ["config.json"]


@pytest.mark.parametrize("data", ["not base64!", "", "YQ"])
def test_damaged_contents_are_none(data):
    row = f"<Contents><Key>a</Key><Data>{data}</Data></Contents>"
    assert contents_of(ET.fromstring(f'<L xmlns="http://s3">{row}<Contents/></L>')) == (None, None)


def test_the_oldest_go_when_there_are_too_many():
    files = InlinedFiles(limit_bytes=10)
    objects = {data: ObjectId("b", data.decode(), _md5(data), 4) for data in (b"aaaa", b"bbbb", b"cccc")}
    for data, obj in objects.items():
        files.keep([obj], [data])
        files.keep([obj], [data])
    assert [files.find(obj) for obj in objects.values()] == [None, b"bbbb", b"cccc"]


def test_files_of_a_few_bytes_are_bounded_by_their_number():
    """Mutation: where bytes alone count, names of millions of them fill the memory."""
    files = InlinedFiles(limit_files=2)
    objects = {data: ObjectId("b", data.decode(), _md5(data), 1) for data in (b"a", b"b", b"c")}
    files.keep(objects.values(), list(objects))
    assert [files.find(obj) for obj in objects.values()] == [None, b"b", b"c"]


def _md5(data: bytes) -> str:
    import hashlib

    return hashlib.md5(data).hexdigest()
