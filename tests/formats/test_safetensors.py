from __future__ import annotations

import contextlib
import json
import math
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from tigrismount.core.layout import Layout, TensorExtent
from tigrismount.errors import FormatError
from tigrismount.formats import safetensors
from tigrismount.formats.parsing import FIRST_READ_BYTES, MAX_HEADER_BYTES
from tigrismount.formats.registry import format_of
from tigrismount.formats.safetensors import DTYPE_BITS, header_length, parse_header
from tigrismount.testing.parsing import parse_all

FORMAT = format_of("a.safetensors")
U8 = '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'


def file_of(header: str | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str = "U8", shape: object = (1,), offsets: object = (0, 1), **more: object) -> str:
    return json.dumps({"t": {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}})


def accepts(content: bytes) -> bool:
    try:
        parse_header(content, len(content))
    except FormatError:
        return False
    return True


def reference_accepts(content: bytes) -> bool:
    try:
        deserialize(content)
    except SafetensorError:
        return False
    return True


@st.composite
def models(draw: st.DrawFn) -> bytes:
    """Well-formed files: the entries in any order, the text padded or not."""
    names = draw(st.lists(st.text(max_size=8).filter(lambda n: n != "__metadata__"), unique=True, max_size=6))
    entries, position = [], 0
    for name in names:
        dtype = draw(st.sampled_from(sorted(DTYPE_BITS)))
        shape = draw(st.lists(st.integers(0, 5), max_size=4))
        if math.prod(shape) * DTYPE_BITS[dtype] % 8:
            shape.append(4)
        stop = position + math.prod(shape) * DTYPE_BITS[dtype] // 8
        entries.append((name, {"dtype": dtype, "shape": shape, "data_offsets": [position, stop]}))
        position = stop
    if draw(st.booleans()):
        entries.append(("__metadata__", draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))))
    header = json.dumps(dict(draw(st.permutations(entries))), ensure_ascii=draw(st.booleans()))
    return file_of(header + " " * draw(st.integers(0, 9)), bytes(position))


def test_tensors_come_back_with_absolute_offsets_in_file_order():
    """Whatever the order of the names, the layout is sorted by offset and counts from the start of the object."""
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [4, 16]},
            "a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
            "none": {"dtype": "I64", "shape": [7, 0], "data_offsets": [4, 4]},
        }
    )
    content = file_of(header + "   ", bytes(16))
    base = 8 + len(header) + 3
    assert parse_header(content, len(content)) == Layout(
        base,
        (
            TensorExtent("a", "F32", (), base, base + 4),
            TensorExtent("none", "I64", (7, 0), base + 4, base + 4),
            TensorExtent("b", "BF16", (2, 3), base + 4, base + 16),
        ),
    )


def test_the_header_alone_is_enough():
    content = file_of(entry(), b"x")
    assert parse_header(content[:-1], len(content)) == parse_header(content, len(content))


def test_a_short_header_takes_one_read_and_a_long_one_two():
    short, long = file_of(entry(), b"x"), file_of(entry() + " " * 100_000, b"x")
    assert parse_all(FORMAT.begin(len(short)), short) == (parse_header(short, len(short)), [(0, len(short))])
    reads = [(0, FIRST_READ_BYTES), (FIRST_READ_BYTES, len(long) - 1)]
    assert parse_all(FORMAT.begin(len(long)), long) == (parse_header(long, len(long)), reads)


def test_more_tensors_than_we_plan_for_are_refused(monkeypatch):
    monkeypatch.setattr(safetensors, "MAX_TENSORS", 1)
    with pytest.raises(FormatError, match="2 tensors are above the 1"):
        parse_header(content := file_of('{"a":' + U8 + ',"b":' + U8 + "}", b"xx"), len(content))


def test_the_reason_quotes_a_long_name_in_short():
    content = file_of('{"' + "n" * 100_000 + '":1}')
    with pytest.raises(FormatError) as caught:
        parse_header(content, len(content))
    assert len(str(caught.value)) < 200


def test_a_header_cut_short_is_refused():
    content = file_of(entry(), b"x")
    with pytest.raises(FormatError, match="are here"):
        parse_header(content[:-2], len(content))


def test_header_length_counts_its_own_field():
    assert header_length(struct.pack("<Q", 100) + b"more", 108) == 108


@pytest.mark.parametrize(
    ("head", "size", "reason"),
    [
        (b"", 0, "too short"),
        (b"1234567", 100, "too short"),
        (bytes(8), 7, "too short"),
        (struct.pack("<Q", 101), 108, "does not fit"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1), 1 << 40, "above"),
        (b"\xff" * 8, 1 << 40, "above"),
    ],
)
def test_a_length_that_cannot_be_is_refused(head, size, reason):
    with pytest.raises(FormatError, match=reason):
        header_length(head, size)


def test_the_longest_header_allowed_is_allowed():
    assert header_length(struct.pack("<Q", MAX_HEADER_BYTES), 1 << 40) == MAX_HEADER_BYTES + 8


HOSTILE = {
    "no text at all": file_of(""),
    "not an object": file_of("[]"),
    "white space before the brace": file_of(" {}"),
    "byte order mark": file_of(b"\xef\xbb\xbf{}"),
    "not UTF-8": file_of(b'{"\xff":1}'),
    "UTF-16": file_of("{}".encode("utf-16-le")),
    "not JSON": file_of("{]"),
    "two documents": file_of("{}{}"),
    "padded with zeros": file_of("{}\0"),
    "control character": file_of('{"a\x01":' + U8 + "}", b"x"),
    "half a surrogate pair": file_of('{"\\ud800":' + U8 + "}", b"x"),
    "half a surrogate pair in the metadata": file_of('{"__metadata__":{"a":"\\udfff"}}'),
    "a name twice": file_of('{"a":' + U8 + ',"a":' + U8 + "}", b"x"),
    "a field twice": file_of('{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"),
    "metadata twice": file_of('{"__metadata__":{},"__metadata__":{}}'),
    "metadata of numbers": file_of('{"__metadata__":{"a":1}}'),
    "metadata not an object": file_of('{"__metadata__":[]}'),
    "entry not an object": file_of('{"a":1}'),
    "entry as a list": file_of('{"a":["U8",[1],[0,1]]}', b"x"),
    "dtype unknown": file_of(entry("U9"), b"x"),
    "dtype in small letters": file_of(entry("u8"), b"x"),
    "dtype not a string": file_of(entry(["U8"]), b"x"),  # type: ignore[arg-type]
    "dtype missing": file_of('{"a":{"shape":[1],"data_offsets":[0,1]}}', b"x"),
    "shape missing": file_of('{"a":{"dtype":"U8","data_offsets":[0,1]}}', b"x"),
    "shape a number": file_of(entry(shape=1), b"x"),
    "shape negative": file_of(entry(shape=[-1]), b"x"),
    "shape minus zero": file_of('{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'),
    "shape a float": file_of(entry(shape=[1.0]), b"x"),
    "shape a boolean": file_of(entry(shape=[True]), b"x"),
    "shape of 65 bits": file_of(entry(shape=[1 << 64, 0], offsets=[0, 0])),
    "shape of a million digits": file_of('{"a":{"dtype":"U8","shape":[' + "1" * 1_000_000 + "]}}"),
    "shape overflows": file_of(entry(shape=[1 << 32, 1 << 32, 0], offsets=[0, 0])),
    "bits overflow": file_of(entry(shape=[1 << 62], offsets=[0, 0])),
    "half a byte": file_of(entry("F4", shape=[3], offsets=[0, 1]), b"x"),
    "three offsets": file_of(entry(offsets=[0, 1, 1]), b"x"),
    "offsets swapped": file_of(entry(shape=[0], offsets=[1, 0]), b"x"),
    "offsets too many bytes": file_of(entry(offsets=[0, 2]), b"xx"),
    "offsets of 65 bits": file_of(entry(shape=[0], offsets=[1 << 64, 1 << 64])),
    "hole at the start": file_of(entry(offsets=[1, 2]), b"xx"),
    "overlap": file_of('{"a":' + U8 + ',"b":' + U8 + "}", b"x"),
    "file too short": file_of(entry()),
    "file too long": file_of(entry(), b"xx"),
    "data without tensors": file_of("{}", b"x"),
    "NaN": file_of(entry(more=math.nan), b"x"),
    "infinity": file_of(entry(more=-math.inf), b"x"),
    "a float out of range": file_of('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":1e999}}', b"x"),
    "an integer out of range": file_of(
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":1' + "0" * 400 + "}}"
    ),
    "nested without end": file_of('{"a":' + "[" * 100_000),
    "nested deeply": file_of('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_header_that_lies_is_refused_with_a_reason(content):
    with pytest.raises(FormatError) as caught:
        parse_header(content, len(content))
    assert caught.value.detail
    assert "\n" not in str(caught.value)


STRICTER = {"white space before the brace", "a name twice", "entry as a list"}
"""Where we follow the specification and the reference implementation does not."""


@pytest.mark.parametrize("content", [HOSTILE[name] for name in HOSTILE if name not in STRICTER])
def test_the_reference_refuses_it_too(content):
    assert not reference_accepts(content)


@pytest.mark.parametrize(
    "content",
    [
        file_of("{}"),
        file_of("{} \n\t\r"),
        file_of('{"__metadata__":null}'),
        file_of('{"":' + U8 + "}", b"x"),
        file_of('{"\\ud83d\\ude00":' + U8 + "}", b"x"),
        file_of(entry(more=[1, -2, 3.5e3, {"x": None}], other="y"), b"x"),
        file_of(entry("F4", shape=[2], offsets=[0, 1]), b"x"),
        file_of(entry(shape=[0, 1 << 32, 1 << 32], offsets=[0, 0])),
    ],
)
def test_odd_but_allowed_headers_are_accepted_as_by_the_reference(content):
    assert accepts(content)
    assert reference_accepts(content)


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_every_dtype_has_the_reference_s_size(dtype):
    size = DTYPE_BITS[dtype]
    assert reference_accepts(file_of(entry(dtype, shape=[8], offsets=[0, size]), bytes(size)))


@given(models())
def test_generated_files_are_read_as_the_reference_reads_them(content):
    found = {(t.name, t.dtype, t.shape, t.size_bytes) for t in parse_header(content, len(content)).tensors}
    expected = {(name, t["dtype"], tuple(t["shape"]), len(t["data"])) for name, t in deserialize(content)}
    assert found == expected


@given(models(), st.data())
def test_a_damaged_file_is_refused_or_accepted_as_by_the_reference(content, data):
    """Bytes changed, dropped or added anywhere: never a yes where the reference says no."""
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(damaged)))
        replacement = data.draw(st.sampled_from([b"", b"0", b"9", b'"', b"}", b",", b"-", b".", b" ", b"\xff", b"{}"]))
        damaged[position : position + data.draw(st.integers(0, 2))] = replacement
    if accepts(bytes(damaged)):
        assert reference_accepts(bytes(damaged))
    elif reference_accepts(bytes(damaged)):
        assert is_known_difference(bytes(damaged))


def is_known_difference(content: bytes) -> bool:
    """Whether the specification refuses what the reference accepts: leading space, or a key given twice."""
    text = content[8 : 8 + int.from_bytes(content[:8], "little")]
    twice = []
    json.loads(text, object_pairs_hook=lambda pairs: twice.append(len(dict(pairs)) != len(pairs)) or dict(pairs))
    return text[:1] != b"{" or any(twice)


@given(st.binary(max_size=200), st.integers(0, 1 << 64))
@example(bytes(8), 8)
def test_no_bytes_raise_anything_but_a_format_error(content, size):
    for head in (content, file_of(content), file_of(b"{" + content + b"}")):
        for file_size in (size, len(head)):
            with contextlib.suppress(FormatError):
                parse_header(head, file_size)
