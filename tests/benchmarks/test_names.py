"""The store that only lists says what a store says."""

from __future__ import annotations

from benchmarks.listing_store import BUCKET, FLAT, TREE, Store, answers
from tigrismount.objects.listings import parse_listing
from tigrismount.objects.responses import Target


def ask(store, **query):
    """Return the page that a query is answered with."""
    text = "&".join(f"{name.replace('_', '-')}={value}" for name, value in {"list_type": "2", **query}.items())
    head, _, body = store._answer(f"GET /{BUCKET}?{text} HTTP/1.1\r\nHost: h\r\n\r\n".encode()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    return parse_listing(body, {"Bucket": BUCKET}, Target("the store", "nobody", BUCKET)).page


def test_all_names_are_there_in_pages_of_a_thousand():
    store = Store(answers(2, 3, 2500), 0.0)
    assert ask(store, delimiter="/", prefix="").prefixes == (TREE, FLAT)
    assert ask(store, delimiter="/", prefix=TREE).prefixes == (f"{TREE}00000/", f"{TREE}00001/")
    assert len(ask(store, delimiter="/", prefix=f"{TREE}00001/").objects) == 3
    assert ask(store, prefix=TREE).objects, "what a mount asks to see whether there is anything"
    pages = [ask(store, delimiter="/", prefix=FLAT)]
    while pages[-1].next_token:
        pages.append(ask(store, delimiter="/", prefix=FLAT, continuation_token=pages[-1].next_token))
    keys = [info.id.key for page in pages for info in page.objects]
    assert [len(page.objects) for page in pages] == [1000, 1000, 500]
    assert keys == sorted(set(keys))
    assert ask(store, delimiter="/", prefix="none/").objects == ()


def test_a_look_up_finds_nothing():
    assert Store({}, 0.0)._answer(b"HEAD /names/tree HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 404 ")
