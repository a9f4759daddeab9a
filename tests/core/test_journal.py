from __future__ import annotations

import dataclasses
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.core.bookmarks import Bookmark
from tigrismount.core.inodes import Node
from tigrismount.core.journal import MAGIC, RECORD_MAX_BYTES, decode_records, encode_record
from tigrismount.core.names import DirectoryKey
from tigrismount.core.types import NodeId, ObjectId

texts = st.text(st.characters(), max_size=40)  # lone surrogates among them


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    bucket, key, etag = draw(texts), draw(texts), draw(texts)
    sizes = st.integers(0, (1 << 63) - 1)
    obj = ObjectId(bucket, key, etag, draw(sizes), draw(st.integers(-(1 << 40), 1 << 40)))
    return Node(
        NodeId(draw(st.integers(2, (1 << 63) - 1))),
        bucket,
        key,
        draw(st.sampled_from([obj, None])),
        draw(st.floats(allow_nan=False)),
        draw(texts),
        draw(st.binary(max_size=40)),
        draw(texts),
        draw(texts),
    )


bookmarks = st.builds(
    Bookmark, st.builds(DirectoryKey, texts, texts), st.integers(0, (1 << 63) - 1), texts, st.binary(max_size=255)
)


@given(st.lists(bookmarks | nodes(), max_size=5))
def test_bookmarks_are_read_among_nodes(written: list):
    data = MAGIC + b"".join(map(encode_record, written))
    assert values(item for item, _ in decode_records(data)) == values(written)


def values(found: object) -> list:
    return [dataclasses.astuple(node) for node in found]


@given(st.lists(nodes(), max_size=5))
def test_what_was_written_is_read(written: list[Node]):
    data = MAGIC + b"".join(map(encode_record, written))
    found = list(decode_records(data))
    assert values(node for node, _ in found) == values(written)
    assert not found or found[-1][1] == len(data)


@given(st.lists(nodes(), min_size=1, max_size=3), st.data())
def test_a_journal_cut_anywhere_gives_all_whole_records(written: list[Node], data: st.DataObject):
    whole = MAGIC + b"".join(map(encode_record, written))
    cut = data.draw(st.integers(0, len(whole) - 1))
    found = list(decode_records(whole[:cut]))
    assert values(node for node, _ in found) == values(written[: len(found)])
    lengths = [len(encode_record(node)) for node in written]
    assert len(found) == sum(len(MAGIC) + sum(lengths[: n + 1]) <= cut for n in range(len(written)))


@given(nodes(), nodes(), st.data())
def test_a_flipped_bit_ends_the_reading_and_is_never_taken_for_a_node(first: Node, second: Node, data: st.DataObject):
    whole = bytearray(MAGIC + encode_record(first) + encode_record(second))
    start = len(MAGIC) + len(encode_record(first))
    place = data.draw(st.integers(start, len(whole) - 1))
    whole[place] ^= 1 << data.draw(st.integers(0, 7))
    assert values(node for node, _ in decode_records(bytes(whole))) == values([first])


@given(st.binary())
def test_other_bytes_are_no_journal(data: bytes):
    assert list(decode_records(data)) == []
    list(decode_records(MAGIC + data))


def test_a_length_beyond_the_end_is_no_record():
    assert list(decode_records(MAGIC + struct.pack("<II", 1 << 31, 0))) == []


def test_texts_beyond_any_stores_are_refused():
    with pytest.raises(ValueError, match="longer than"):
        encode_record(Node(NodeId(5), "bucket", "k" * (RECORD_MAX_BYTES + 1), None))


@pytest.mark.parametrize("added", [(9, b"what nobody here knows"), (1, 8 * b"\0\0")], ids=["a kind", "a text"])
def test_what_another_version_has_added_is_passed_over(added: tuple[int, bytes]):
    """Mutation: behind a downgrade no worker takes over from one that crashes, as each ends with what that wrote."""
    kind, rest = added
    record = struct.pack("<BQqqd", kind, 7, 0, 0, 0.0) + rest
    node = Node(NodeId(8), "bucket", "key/", None)
    data = MAGIC + struct.pack("<II", len(record), zlib.crc32(record)) + record + encode_record(node)
    (nothing, _), (found, stop) = decode_records(data)
    assert nothing is None
    assert values([found]) == values([node])
    assert stop == len(data)
