"""Bodies of a store that would take all memory: they end at their bounds, and no honest answer does."""

from __future__ import annotations

import pytest

from tigrismount.core.types import ObjectId
from tigrismount.errors import ObjectAccessError, ObjectProtocolError, StaleObjectError
from tigrismount.objects import bounds, s3
from tigrismount.objects.credentials import Credentials
from tigrismount.objects.options import S3Config
from tigrismount.objects.s3 import S3Client
from tigrismount.testing.object_contract import CollectingSink

KEY = Credentials(source="the test", access_key_id="id", secret_access_key="secret")
ROW = "<Contents><Key>{:04}</Key><Size>1</Size><ETag>e</ETag></Contents>"
EXPANDED = "<ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>"
PAGE = EXPANDED.format("".join(ROW.format(number) for number in range(1000))).encode()


@pytest.fixture
async def client(server):
    config = S3Config(endpoint_url=server.url, region="us-east-1", stall_timeout_s=5.0, tigris_prefetch=True)
    made = S3Client(config, KEY, draw=lambda: 0.0)
    yield made
    await made.aclose()


def chunked(body) -> bytes:
    """Return *body* as one that does not say how long it is."""
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


async def test_an_honest_page_is_read_whole(server, say, client):
    server.answer(say.response(200, PAGE))
    assert len((await client.list_page("b", "")).objects) == 1000


@pytest.mark.parametrize("framed", [False, True])
async def test_a_listing_that_goes_on_and_on_is_no_listing(server, say, client, monkeypatch, framed):
    """Mutation: botocore reads to the end, and a volume's own endpoint has the mounter killed for its memory."""
    monkeypatch.setattr(bounds, "LISTING_BYTES", len(PAGE) - 1)
    head = say.response(200, Content_Length=None, Transfer_Encoding="chunked")
    server.answer(head + chunked(PAGE) if framed else say.response(200, PAGE))
    with pytest.raises(ObjectProtocolError, match="is it an S3 endpoint"):
        await client.list_page("b", "")


async def test_a_page_with_the_bytes_of_files_may_be_longer(server, say, client, monkeypatch):
    monkeypatch.setattr(bounds, "LISTING_BYTES", len(PAGE) - 1)
    server.answer(say.response(200, ETag='"e"', Server="Tigris OS"))
    server.answer(say.response(200, PAGE))
    await client.head("b", "k")
    assert len((await client.list_page("b", "")).objects) == 1000
    assert server.requests[-1].headers["x-tigris-list-content"] == "true"


@pytest.mark.parametrize(
    "inner",
    ["<a/>" * 2000, ROW.format(1) * 300],
)
async def test_a_listing_of_nothing_but_elements_is_no_listing(server, say, client, monkeypatch, inner):
    """Mutation: each of four bytes is an object of a hundred."""
    monkeypatch.setattr(bounds, "TAGS_MAX", 1500)
    server.answer(say.response(200, EXPANDED.format(inner).encode()))
    with pytest.raises(ObjectProtocolError, match="1,500 tags"):
        await client.list_page("b", "")


async def test_a_listing_of_nothing_but_attributes_is_no_listing(server, say, client, monkeypatch):
    """Mutation: 32 MiB of them are well over a gigabyte once they are parsed, in a single element."""
    monkeypatch.setattr(bounds, "ATTRIBUTES_MAX", 1500)
    inner = "<a " + " ".join(f"b{number}=''" for number in range(1501)) + "/>"
    server.answer(say.response(200, EXPANDED.format(inner).encode()))
    with pytest.raises(ObjectProtocolError, match="1,500 attributes"):
        await client.list_page("b", "")


async def test_names_full_of_equals_signs_are_no_attributes(server, say, client, monkeypatch):
    monkeypatch.setattr(bounds, "ATTRIBUTES_MAX", 1500)
    key = "=" * 900
    rows = "".join(ROW.replace("{:04}", f"{key}{number}") for number in range(3))
    server.answer(say.response(200, EXPANDED.format(rows).encode()))
    assert [info.id.key for info in (await client.list_page("b", "")).objects] == [f"{key}{n}" for n in range(3)]


async def test_entities_of_a_listing_are_not_expanded(server, say, client):
    """Mutation: expat lets a document grow a hundredfold, and each four bytes of that are an object of a hundred."""
    entity = f'<!DOCTYPE x [<!ENTITY e "{ROW.format(1)}">]>'
    server.answer(say.response(200, (entity + EXPANDED.format("&e;")).encode()))
    with pytest.raises(ObjectProtocolError, match="document type"):
        await client.list_page("b", "")


@pytest.mark.parametrize("tail", [b"<!-- " + b"." * 300 + b" -->", b""])
async def test_an_error_that_goes_on_and_on_is_judged_by_its_status(server, say, client, monkeypatch, tail):
    """Mutation: every GET, listing and HEAD of a volume's own endpoint reads as much as that likes to send."""
    monkeypatch.setattr(bounds, "ERROR_BYTES", 200)
    said = b"<Error><Code>AccessDenied</Code></Error>" + tail
    server.answer(say.response(412, said))
    sink = CollectingSink(1)
    wanted = StaleObjectError if tail else ObjectAccessError
    with pytest.raises(wanted):
        await client.fetch(ObjectId("b", "k", "abc", 1), 0, 1, sink)
    with pytest.raises(wanted):
        await client.list_page("b", "")


async def test_buckets_have_a_bound_too(server, say, client, monkeypatch):
    monkeypatch.setattr(bounds, "LISTING_BYTES", 50)
    named = b"<ListAllMyBucketsResult><Buckets><Bucket><Name>%s</Name></Bucket></Buckets></ListAllMyBucketsResult>"
    server.answer(say.response(200, named % b"name"))
    with pytest.raises(ObjectProtocolError, match="is it an S3 endpoint"):
        await client.list_buckets()


async def test_names_of_buckets_come_to_an_end(server, say, client, monkeypatch):
    """A hundred pages of a megabyte of names each are no account's."""
    monkeypatch.setattr(s3, "BUCKET_NAMES_MAX_BYTES", 200)
    body = b"<ListAllMyBucketsResult><Buckets><Bucket><Name>name</Name></Bucket></Buckets>%s</ListAllMyBucketsResult>"
    server.answer(say.response(200, body % b"<ContinuationToken>on</ContinuationToken>"))
    with pytest.raises(ObjectProtocolError, match="does not come to an end"):
        await client.list_buckets()
    assert len(server.requests) == 3
