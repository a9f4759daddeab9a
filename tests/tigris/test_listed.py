"""Links that came with a listing need no HEAD each, where the store sends metadata with listings."""

from __future__ import annotations

import threading
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
import trio

from tigrismount.core.types import ObjectId
from tigrismount.objects.client import ListPage, ObjectInfo
from tigrismount.objects.listed import ListedMetadata, metadata_of
from tigrismount.objects.metadata import symlink_target
from tigrismount.testing.fake_http import serving
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


@pytest.mark.parametrize("target", ["modèles/a", "模型/a", "Ã©"])
def test_a_target_of_any_alphabet_is_the_one_that_a_head_tells(target):
    """TigrisFS escapes no letter. Else the link leads nowhere, and is another file to a look-up than to a listing."""
    row = ET.Element("Contents")
    pair = ET.SubElement(row, "Metadata")
    ET.SubElement(pair, "Name").text, ET.SubElement(pair, "Value").text = "--symlink-target", target
    page = ListPage((ObjectInfo(ObjectId("models", "link", "e", 0), 0.0, "STANDARD"),), (), None)
    (listed_info,) = ListedMetadata().complete(page, metadata_of([row])).objects
    headers = {"ContentLength": 0, "Metadata": {"--symlink-target": target.encode().decode("latin-1")}}
    assert listed_info.symlink_target == symlink_target(headers) == target.encode()


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


async def test_a_page_that_was_asked_for_before_the_store_was_known_says_nothing_of_links(hub, connect):
    """Behind a takeover several are asked for at once; a link would be an empty file, read without an error."""
    has_come, is_known = threading.Event(), threading.Event()

    def answer(request):
        reply = hub.tigris.answer(request)
        is_page = request.operation == "ListObjectsV2" and request.query.get("max-keys") != "1"
        if is_page and "x-tigris-list-metadata" not in request.headers:
            has_come.set()
            is_known.wait(10)
        return reply

    with serving(answer) as url:
        client, pages = connect(replace(hub, url=url)), []

        async def list_early() -> None:
            pages.append(await client.list_page("models", "snapshots/"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(list_early)
            await trio.to_thread.run_sync(has_come.wait, 10)
            await listed(client)
            is_known.set()
        await client.aclose()
    assert [info.symlink_target for info in pages[0].objects] == [None, None, None]


def test_names_may_come_as_in_headers_and_damaged_pairs_are_none():
    rows = "<Contents><Metadata><Name>X-Amz-Meta-A</Name><Value>1</Value></Metadata></Contents>"
    rows += "<Contents><Metadata><Value>2</Value></Metadata></Contents><Contents/>"
    assert metadata_of(ET.fromstring(f'<L xmlns="http://s3">{rows}</L>')) == ({"a": "1"}, {"": "2"}, {})


def test_rows_that_do_not_fit_the_page_are_not_believed():
    info = ObjectInfo(ObjectId("b", "k", "e", 0), 0.0)
    page = ListPage((info,), (), None)
    assert ListedMetadata().complete(page, [{"--symlink-target": "x"}, {}]) == page
