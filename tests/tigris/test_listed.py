"""Links that came with a listing need no HEAD each, where the store sends metadata with listings."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from tigrismount.core.types import ObjectId
from tigrismount.objects.client import ListPage, ObjectInfo
from tigrismount.objects.listed import ListedMetadata, metadata_of
from tigrismount.vfs.links import LinkFinder

LINK = {"--symlink-target": "../blobs/a%25b", "Other": "<&>"}
SHA = "ab" * 32


@pytest.fixture
def hub(tigris):
    tigris.tigris.put("models", "snapshots/config.json", b"", LINK)
    tigris.tigris.put("models", "snapshots/empty", b"")
    tigris.tigris.put("models", "snapshots/weights", b"w", {"sha256": SHA})
    return tigris


async def listed(client):
    await client.list_page("models", "", max_keys=1)  # tells that this is Tigris
    page = await client.list_page("models", "snapshots/")
    return {info.id.key.removeprefix("snapshots/"): info for info in await LinkFinder(client).complete(page.objects)}


@pytest.mark.claim("names-links-cost")
async def test_links_cost_no_request_where_metadata_come_with_the_listing(hub, connect):
    found = await listed(connect(hub))
    assert {name: info.symlink_target for name, info in found.items()} == {
        "config.json": b"../blobs/a%b",
        "empty": b"",
        "weights": b"",
    }
    assert found["weights"].sha256 == SHA
    assert hub.tigris.operations("HeadObject") == []
    look_up, page = hub.tigris.operations("ListObjectsV2")
    assert "x-tigris-list-metadata" not in look_up.headers
    assert "x-tigris-list-metadata" in page.signed_headers


async def test_links_are_found_by_a_head_where_nothing_comes_with_the_listing(hub, connect):
    hub.tigris.lists_metadata = False
    found = await listed(connect(hub))
    assert found["config.json"].symlink_target == b"../blobs/a%b"
    assert {request.key for request in hub.tigris.operations("HeadObject")} == {
        "snapshots/config.json",
        "snapshots/empty",
    }


async def test_once_seen_a_page_without_metadata_has_no_links(hub, connect):
    client = connect(hub)
    hub.tigris.put("models", "plain/empty", b"")
    before = await client.list_page("models", "plain/")
    await listed(client)
    after = await client.list_page("models", "plain/")
    assert [page.objects[0].symlink_target for page in (before, after)] == [None, b""]


def test_names_may_come_as_in_headers_and_damaged_pairs_are_none():
    rows = "<Contents><Metadata><Name>X-Amz-Meta-A</Name><Value>1</Value></Metadata></Contents>"
    rows += "<Contents><Metadata><Value>2</Value></Metadata></Contents><Contents/>"
    assert metadata_of(ET.fromstring(f'<L xmlns="http://s3">{rows}</L>')) == ({"a": "1"}, {"": "2"}, {})


def test_rows_that_do_not_fit_the_page_are_not_believed():
    info = ObjectInfo(ObjectId("b", "k", "e", 0), 0.0)
    page = ListPage((info,), (), None)
    assert ListedMetadata().complete(page, [{"--symlink-target": "x"}, {}]) == page
