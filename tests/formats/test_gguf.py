from __future__ import annotations

import contextlib
import itertools
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.errors import FormatError
from tigrismount.formats.gguf import MAX_STEP_BYTES, TYPES
from tigrismount.formats.parsing import FIRST_READ_BYTES, MAX_TENSORS
from tigrismount.formats.registry import format_of
from tigrismount.testing.gguf_writer import (
    ARRAY,
    FLOAT32,
    STRING,
    UINT8,
    UINT32,
    Info,
    file_of,
    header,
    numbers,
    pair,
    strings,
    text,
)
from tigrismount.testing.oracles import require
from tigrismount.testing.parsing import parse_all

if TYPE_CHECKING:
    from pathlib import Path

    from tigrismount.core.layout import Layout

FORMAT = format_of("a.gguf")
F32, Q4_0, Q6_K = 0, 2, 14


def parse(content: bytes, size_bytes: int | None = None) -> Layout:
    return parse_all(FORMAT.begin(len(content) if size_bytes is None else size_bytes), content)[0]


def tensor(name: str = "t", *sizes: int, kind: int = F32, start: int = 0) -> Info:
    return Info(name.encode(), sizes, kind, start)


def test_tensors_come_in_file_order_with_absolute_offsets_and_the_slowest_dimension_first():
    infos = [
        tensor("a", 3, 2),
        tensor("b", 64, 2, kind=Q4_0, start=32),
        tensor("s", start=32 + 96),
        tensor("none", 0, start=32 + 96 + 32),
    ]
    content = file_of(header([pair(b"x", UINT32, bytes(4))], infos), 32 + 96 + 32)
    layout = parse(content)
    base = layout.data_start
    assert base == len(header([pair(b"x", UINT32, bytes(4))], infos)) // 32 * 32 + 32
    assert [(t.name, t.dtype, t.shape, t.start - base, t.stop - base) for t in layout.tensors] == [
        ("a", "F32", (2, 3), 0, 24),
        ("b", "Q4_0", (2, 64), 32, 32 + 72),
        ("s", "F32", (), 128, 132),
        ("none", "F32", (0,), 160, 160),
    ]


@pytest.mark.parametrize("alignment", [1, 2, 64, 4096])
def test_the_alignment_is_the_file_s_own(alignment):
    pairs = [pair(b"general.alignment", UINT32, struct.pack("<I", alignment))]
    second = max(alignment, 4)
    infos = [tensor("a", 1), tensor("b", 1, start=second)]
    layout = parse(file_of(header(pairs, infos), second + 4, alignment_bytes=alignment))
    assert layout.data_start % alignment == 0
    assert [t.start - layout.data_start for t in layout.tensors] == [0, second]


def test_values_of_every_type_are_passed_over():
    scalars = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    pairs = [pair(b"%d" % kind, kind, bytes(size)) for kind, size in scalars.items()]
    pairs += [pair(b"a%d" % kind, ARRAY, numbers(kind, 3, bytes(3 * size))) for kind, size in scalars.items()]
    pairs += [pair(b"s", STRING, text(b"x" * 70_000)), pair(b"as", ARRAY, strings([b"", b"a", b"bc"]))]
    assert parse(file_of(header(pairs, [tensor("t", 1)]), 4)).tensors[0].name == "t"


def test_a_tokenizer_of_megabytes_takes_few_reads_that_overshoot_by_little():
    tokens = strings([b"token%06d" % number for number in range(300_000)])
    head = header([pair(b"tokens", ARRAY, tokens)], [tensor("t", 1)])
    content = file_of(head, 64 << 20)
    layout, reads = parse_all(FORMAT.begin(len(content)), content)
    assert len(layout.tensors) == 1
    assert len(reads) <= 6
    assert reads[0] == (0, FIRST_READ_BYTES)
    assert all(0 <= start - stop < 16 for (_, stop), (start, _) in itertools.pairwise(reads)), "one after the other"
    assert reads[-1][1] - len(head) < MAX_STEP_BYTES


def test_long_values_of_fixed_size_are_not_read():
    scores = numbers(FLOAT32, 10_000_000, bytes(40_000_000))
    content = file_of(header([pair(b"scores", ARRAY, scores)], [tensor("t", 1)]), 4)
    layout, reads = parse_all(FORMAT.begin(len(content), max_bytes=1 << 20), content)
    assert len(layout.tensors) == 1
    assert sum(stop - start for start, stop in reads) < 1 << 20


def test_a_header_longer_than_granted_is_refused():
    content = file_of(header([pair(b"tokens", ARRAY, strings([b"x" * 100] * 20_000))]))
    with pytest.raises(FormatError, match="longer than the 1048576 bytes"):
        parse_all(FORMAT.begin(len(content), max_bytes=1 << 20), content)


BIG = 1 << 64
HOSTILE = {
    "empty": b"",
    "shorter than its prologue": b"GGUF\x03\0\0\0",
    "another magic": file_of(header().replace(b"GGUF", b"GGML")),
    "version 1": file_of(header(version=1)),
    "version 4": file_of(header(version=4)),
    "big-endian": file_of(b"GGUF" + struct.pack(">IQQ", 3, 0, 0)),
    "more pairs than there are": file_of(header(pair_count=5), 100),
    "2^64 pairs": file_of(header(pair_count=BIG - 1)),
    "2^64 tensors": file_of(header(info_count=BIG - 1)),
    "more tensors than we plan for": file_of(header(info_count=MAX_TENSORS + 1)),
    "key beyond the file": file_of(header([struct.pack("<Q", BIG - 1)])),
    "key too long": file_of(header([pair(b"k" * 65_536, UINT8, b"\0")])),
    "key twice": file_of(header([pair(b"k", UINT8, b"\0")] * 2)),
    "value of unknown type": file_of(header([pair(b"k", 13, bytes(64))])),
    "array of unknown type": file_of(header([pair(b"k", ARRAY, numbers(99, 0, b""))])),
    "array of arrays": file_of(header([pair(b"k", ARRAY, numbers(ARRAY, 1, numbers(UINT8, 0, b"")))])),
    "array beyond the file": file_of(header([pair(b"k", ARRAY, numbers(FLOAT32, BIG - 1, b""))])),
    "2^64 strings": file_of(header([pair(b"k", ARRAY, numbers(STRING, BIG - 1, b""))]), 10_000),
    "string beyond the file": file_of(header([pair(b"k", STRING, struct.pack("<Q", 1 << 40))])),
    "last string beyond the file": file_of(header([pair(b"k", ARRAY, numbers(STRING, 1, struct.pack("<Q", 1 << 40)))])),
    "alignment zero": file_of(header([pair(b"general.alignment", UINT32, bytes(4))])),
    "alignment three": file_of(header([pair(b"general.alignment", UINT32, struct.pack("<I", 3))])),
    "alignment of another type": file_of(header([pair(b"general.alignment", 10, struct.pack("<Q", 32))])),
    "tensor twice": file_of(header(infos=[tensor("t", 1), tensor("t", 1, start=32)]), 64),
    "name not UTF-8": file_of(header(infos=[Info(b"\xff", (1,), F32, 0)]), 32),
    "five dimensions": file_of(header(infos=[tensor("t", 1, 1, 1, 1, 1)]), 32),
    "2^32 dimensions": file_of(header()[:8] + struct.pack("<QQ", 1, 0) + text(b"t") + b"\xff" * 4, 1000),
    "a withdrawn type": file_of(header(infos=[tensor("t", 32, kind=4)]), 32),
    "an unknown type": file_of(header(infos=[tensor("t", 32, kind=1 << 31)]), 32),
    "half a block": file_of(header(infos=[tensor("t", 16, 2, kind=Q4_0)]), 32),
    "half a large block": file_of(header(infos=[tensor("t", 128, 2, kind=Q6_K)]), 512),
    "sizes overflow": file_of(header(infos=[tensor("t", 1 << 40, 1 << 40)]), 32),
    "a negative size": file_of(header(infos=[tensor("t", BIG - 1, 0)]), 32),
    "bytes overflow": file_of(header(infos=[tensor("t", 1 << 62)]), 32),
    "hole": file_of(header(infos=[tensor("a", 1), tensor("b", 1, start=64)]), 96),
    "overlap": file_of(header(infos=[tensor("a", 16), tensor("b", 1, start=32)]), 96),
    "not aligned": file_of(header(infos=[tensor("a", 1), tensor("b", 1, start=4)]), 96),
    "not from the start": file_of(header(infos=[tensor("a", 1, start=32)]), 96),
    "out of order": file_of(header(infos=[tensor("a", 1, start=32), tensor("b", 1)]), 96),
    "offset of 64 bits": file_of(header(infos=[tensor("a", 1, start=BIG - 32)]), 96),
    "file too short": file_of(header(infos=[tensor("a", 100)]), 64),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_header_that_lies_is_refused_with_a_reason(content):
    with pytest.raises(FormatError) as caught:
        parse(content)
    assert caught.value.detail
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "counts", [{"pair_count": MAX_TENSORS + 1}, {"info_count": MAX_TENSORS + 1}, {"info_count": BIG - 1}]
)
def test_counts_that_cannot_be_are_refused_before_anything_is_walked(counts):
    with pytest.raises(FormatError, match="more than can be"):
        parse(file_of(header(**counts), 30_000_000))


def test_a_file_without_tensors_may_end_with_its_header():
    assert parse(header()).tensors == ()
    assert parse(header([pair(b"k", STRING, text(b"x"))])).data_stop <= len(header([pair(b"k", STRING, text(b"x"))]))


def test_every_type_has_the_size_that_the_library_gives_it():
    gguf = require("gguf")
    sizes = {kind.value: (kind.name, *size) for kind, size in gguf.constants.GGML_QUANT_SIZES.items()}
    # The library says 40 for a type that lives in memory only; ggml's own struct has 36 bytes.
    assert {number: known for number, known in TYPES.items() if number in sizes and number != 9} == {
        number: size for number, size in sizes.items() if number in TYPES and number != 9
    }


def library_tensors(path: Path) -> list[tuple[str, str, tuple[int, ...], int, int]]:
    found = require("gguf").GGUFReader(path).tensors
    return [
        (t.name, t.tensor_type.name, tuple(map(int, t.shape))[::-1], t.data_offset, t.data_offset + t.n_bytes)
        for t in found
    ]


@given(st.data())
def test_files_of_the_library_are_read_as_the_library_reads_them(tmp_path_factory, data):
    gguf = require("gguf")
    path = tmp_path_factory.getbasetemp() / "library.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    if data.draw(st.booleans()):
        writer.add_custom_alignment(data.draw(st.sampled_from([8, 64, 256])))
    writer.add_token_list(data.draw(st.lists(st.text(max_size=4), min_size=1, max_size=5)))
    writer.add_token_scores(data.draw(st.lists(st.floats(width=32), min_size=1, max_size=5)))
    for name in data.draw(st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=5)):
        shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
        if data.draw(st.booleans()):
            writer.add_tensor(name, np.zeros(shape, np.dtype(data.draw(st.sampled_from(["f2", "f4", "i4", "f8"])))))
        else:
            raw = np.zeros((*shape[:-1], shape[-1] * 210), np.uint8)
            writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.Q6_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = parse(path.read_bytes()).tensors
    assert [(t.name, t.dtype, t.shape, t.start, t.stop) for t in found] == library_tensors(path)


VALID = file_of(
    header(
        [pair(b"a", UINT32, bytes(4)), pair(b"s", ARRAY, strings([b"x", b"yz"])), pair(b"n", STRING, text(b"abc"))],
        [tensor("t", 8, 2), tensor("u", 32, kind=Q4_0, start=64), tensor("v", start=96)],
    ),
    128,
)


@given(st.data())
def test_damaged_files_raise_nothing_but_a_format_error_and_never_point_outside(data):
    damaged = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(damaged)))
        damaged[position : position + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    with contextlib.suppress(FormatError):
        layout = parse(bytes(damaged))
        assert layout.data_stop <= len(damaged)
        assert all(a.stop <= b.start for a, b in itertools.pairwise(layout.tensors))


@given(st.binary(max_size=200), st.integers(0, 1 << 64))
def test_no_bytes_raise_anything_but_a_format_error(content, size):
    for raw in (content, header()[:8] + content, header([content], pair_count=1)):
        with contextlib.suppress(FormatError):
            parse(raw, size)
        with contextlib.suppress(FormatError):
            parse(raw)
