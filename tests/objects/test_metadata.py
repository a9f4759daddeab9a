"""What a HEAD says beyond size and version, from whatever wrote the object."""

from __future__ import annotations

import base64
import hashlib

import pytest
import trio

from tigrismount.errors import ObjectAccessError, ObjectProtocolError
from tigrismount.objects.credentials import Credentials
from tigrismount.objects.memory import MemoryObjectClient
from tigrismount.objects.metadata import checksums_of, sha256_of, symlink_target
from tigrismount.objects.options import S3Config
from tigrismount.objects.s3 import S3Client


def link(value: str, **rest: object) -> dict[str, object]:
    return {"ContentLength": 0, "Metadata": {"--symlink-target": value}, **rest}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (link("../../blobs/abc"), b"../../blobs/abc"),
        (link("100%25 sure"), b"100% sure"),
        (link("%0A%FF"), b"\n\xff"),
        (link("Ã©"), "é".encode()),
        (link(""), b""),
        (link("a%00b"), b""),
        (link("x" * 4095), b"x" * 4095),
        (link("x" * 4096), b""),
        (link("a", ContentLength=1), b""),
        ({"ContentLength": 0}, b""),
        ({"ContentLength": 0, "Metadata": {"--Symlink-Target": "a"}}, b"a"),
    ],
)
def test_a_link_is_an_empty_object_with_a_target_that_a_link_can_have(answer, expected):
    assert symlink_target(answer) == expected


DIGEST = hashlib.sha256(b"data")
ENCODED = base64.b64encode(DIGEST.digest()).decode()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"ChecksumSHA256": ENCODED}, DIGEST.hexdigest()),
        ({"ChecksumSHA256": ENCODED, "ChecksumType": "FULL_OBJECT"}, DIGEST.hexdigest()),
        ({"ChecksumSHA256": ENCODED, "ChecksumType": "COMPOSITE"}, ""),
        ({"ChecksumSHA256": ENCODED + "-3"}, ""),
        ({"ChecksumSHA256": "no base64 é"}, ""),
        ({"Metadata": {"sha256": DIGEST.hexdigest().upper()}}, DIGEST.hexdigest()),
        ({"Metadata": {"sha256": "deadbeef"}}, ""),
        ({}, ""),
    ],
)
def test_only_a_checksum_of_the_whole_object_counts(answer, expected):
    assert sha256_of(answer) == expected


FOUR, EIGHT, TWENTY = (base64.b64encode(bytes(range(count))).decode() for count in (4, 8, 20))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"ChecksumCRC32C": FOUR}, (("crc32c", "00010203"),)),
        ({"ChecksumCRC64NVME": EIGHT, "ChecksumType": "FULL_OBJECT"}, (("crc64nvme", "0001020304050607"),)),
        ({"ChecksumCRC32": FOUR, "ChecksumSHA1": TWENTY}, (("crc32", "00010203"), ("sha1", bytes(range(20)).hex()))),
        ({"ChecksumCRC32C": FOUR, "ChecksumType": "COMPOSITE"}, ()),
        ({"ChecksumCRC32C": FOUR + "-3"}, ()),
        ({"ChecksumCRC32C": EIGHT, "ChecksumCRC64NVME": FOUR}, ()),
        ({"ChecksumXXHASH64": EIGHT}, ()),
        ({"ChecksumCRC64NVME": "no base64 é"}, ()),
    ],
)
def test_of_further_checksums_those_of_the_whole_object_count(answer, expected):
    assert checksums_of(answer) == expected


@pytest.fixture
async def client(bucket):
    config = S3Config(endpoint_url=bucket.s3.endpoint_url, region=bucket.s3.region)
    key = Credentials(source="the test", access_key_id=bucket.s3.access_key, secret_access_key=bucket.s3.secret_key)
    client = await trio.to_thread.run_sync(S3Client, config, key)
    yield client
    await client.aclose()


async def test_a_head_tells_a_links_target_and_a_listing_does_not(bucket, client):
    bucket.put("link", b"", Metadata={"--symlink-target": "blobs/a%25b"})
    bucket.put("file", b"", Metadata={"sha256": DIGEST.hexdigest()})
    assert (await client.head(bucket.name, "link")).symlink_target == b"blobs/a%b"
    file = await client.head(bucket.name, "file")
    assert (file.symlink_target, file.sha256) == (b"", DIGEST.hexdigest())
    page = await client.list_page(bucket.name, "")
    assert [info.symlink_target for info in page.objects] == [None, None]


async def test_the_buckets_are_listed(bucket, client):
    assert bucket.name in await client.list_buckets()
    assert client.statistics().list_requests == 1


class Paging:
    """Stands for boto3: pages of buckets, the last one without a token."""

    def __init__(self, pages: int | None) -> None:
        self.pages = pages
        self.tokens: list[str | None] = []

    def list_buckets(self, **query: str):
        self.tokens.append(query.get("ContinuationToken"))
        number = len(self.tokens)
        more = {} if number == self.pages else {"ContinuationToken": f"token {number}"}
        return {"Buckets": [{"Name": f"bucket-{number}"}], **more}


async def test_all_pages_of_buckets_are_listed_but_not_for_ever(bucket, client):
    client._boto, boto = Paging(3), client._boto
    assert await client.list_buckets() == ("bucket-1", "bucket-2", "bucket-3")
    assert client._boto.tokens == [None, "token 1", "token 2"]
    client._boto = Paging(None)
    with pytest.raises(ObjectProtocolError):
        await client.list_buckets()
    client._boto = boto


async def test_the_fake_tells_no_more_in_a_listing_than_a_store():
    fake = MemoryObjectClient()
    fake.put("link", b"", symlink_target=b"target", version_id="3", sha256="ab")
    head, row = await fake.head("bucket", "link"), (await fake.list_page("bucket", "")).objects[0]
    assert (head.symlink_target, head.version_id, head.sha256) == (b"target", "3", "ab")
    assert (row.symlink_target, row.version_id, row.sha256) == (None, None, "")
    assert await fake.list_buckets() == ("bucket",)
    fake.fail(ObjectAccessError("no"), "BUCKETS")
    with pytest.raises(ObjectAccessError):
        await fake.list_buckets()
