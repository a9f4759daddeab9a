from __future__ import annotations

import collections
import contextlib
import io
import itertools
import pickle
import struct
import sys
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.errors import ForeignFormatError, FormatError
from tigrismount.formats import torchzip, zipdirectory
from tigrismount.formats.pickletrace import trace
from tigrismount.formats.registry import format_of
from tigrismount.testing.oracles import require
from tigrismount.testing.parsing import parse_all

FORMAT = format_of("a.pt")


def parse(content: bytes):
    return parse_all(FORMAT.begin(len(content)), content)[0]


def saved(value: object) -> bytes:
    file = io.BytesIO()
    require("torch").save(value, file)
    return file.getvalue()


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return file.getvalue()


def bytes_of(tensor) -> bytes:
    torch = require("torch")
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_tensors_of_a_checkpoint_lie_where_their_bytes_are():
    torch = require("torch")
    state = collections.OrderedDict(
        weight=torch.arange(24, dtype=torch.float32).reshape(4, 6),
        half=torch.arange(5, dtype=torch.bfloat16),
        scalar=torch.tensor(2.5, dtype=torch.float64),
        flags=torch.tensor([True, False]),
        small=torch.arange(9).to(torch.float8_e4m3fn),
        none=torch.zeros(0),
        parameter=torch.nn.Parameter(torch.ones(7)),
    )
    content = saved({"epoch": 3, "state_dict": state, "more": [torch.arange(3)]})
    layout = parse(content)
    found = {t.name: (t.dtype, t.shape, content[t.start : t.stop]) for t in layout.tensors}
    words = ["F32", "BF16", "F64", "BOOL", "F8_E4M3", "F32", "F32"]
    expected = {
        f"state_dict.{name}": (word, tuple(tensor.shape), bytes_of(tensor))
        for word, (name, tensor) in zip(words, state.items(), strict=True)
    }
    assert found == {**expected, "more.0": ("I64", (3,), bytes_of(torch.arange(3)))}
    assert layout.views == ()
    assert layout.data_start == layout.tensors[0].start


def test_tensors_that_share_a_storage_are_views_of_it():
    torch = require("torch")
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    slices = torch.arange(100, dtype=torch.int32)
    content = saved({"base": base, "row": base[1], "tied": base, "column": base[:, 2], "part": slices[10:20]})
    layout = parse(content)
    assert [(t.name, t.dtype, t.shape) for t in layout.tensors] == [("base", "F32", (4, 6)), ("data/1", "U8", (400,))]
    views = {t.name: (t.shape, content[t.start : t.stop]) for t in layout.views}
    assert views["row"] == ((6,), bytes_of(base[1]))
    assert views["tied"] == ((4, 6), bytes_of(base))
    assert views["part"] == ((10,), bytes_of(slices[10:20]))
    assert len(views["column"][1]) == (3 * 6 + 1) * 4, "from its first element to its last"


def test_a_pickled_module_has_its_tensors_named():
    torch = require("torch")
    layout = parse(saved(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))))
    assert {t.name.rpartition(".")[2] for t in layout.tensors} == {"weight", "bias"}
    assert sorted(t.shape for t in layout.tensors) == [(4,), (4,), (4,), (4, 3)]


def test_a_checkpoint_takes_its_head_its_tail_and_one_local_header():
    torch = require("torch")
    content = saved({str(number): torch.zeros(1 << 18) for number in range(8)})
    _, reads = parse_all(FORMAT.begin(len(content)), content)
    assert len(reads) == 3
    assert sum(stop - start for start, stop in reads) < 140_000


@pytest.mark.parametrize("count", [1, 70, 2000])
def test_offsets_are_those_that_the_local_headers_give(count):
    torch = require("torch")
    content = saved({f"t{number}": torch.zeros(number % 50 + 1, dtype=torch.uint8) for number in range(count)})
    assert offsets(parse(content)) == local_offsets(content)


def offsets(layout) -> dict[str, int]:
    return {str(number): t.start for number, t in enumerate(layout.tensors)}


def local_offsets(content: bytes) -> dict[str, int]:
    """Where the zip library finds the storages."""
    found = {}
    for info in zipfile.ZipFile(io.BytesIO(content)).infolist():
        name_bytes, extra_bytes = struct.unpack_from("<26x2H", content, info.header_offset)
        if "/data/" in info.filename:
            found[info.filename.rpartition("/")[2]] = info.header_offset + 30 + name_bytes + extra_bytes
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def test_a_file_above_four_gigabytes_has_wide_offsets():
    content = wide_zip(5 << 30)
    layout = read_sparse(content, 5 << 30)
    assert [(t.name, t.size_bytes) for t in layout.tensors] == [("data/0", 5 << 30), ("data/1", 4)]


PICKLE = b"\x80\x02}."
LOCAL = struct.Struct("<4s5H3L2H")


def wide_zip(hole_bytes: int) -> tuple[bytes, bytes]:
    """The head and the tail of a zip file as miniz writes it, with *hole_bytes* of zeros between them."""

    def local(name: bytes, pad: int) -> bytes:
        return LOCAL.pack(b"PK\3\4", 0, 8, 0, 0, 0, 0, 0, 0, len(name), pad) + name + bytes(pad)

    head = local(b"a/data.pkl", 4) + PICKLE + bytes(16)
    first = len(head)
    head += local(b"a/data/0", 10)
    second = len(head) + hole_bytes + 24
    last = local(b"a/data/1", 6) + bytes(4) + bytes(24)
    directory = b""
    for name, size, start in ((b"a/data.pkl", 4, 0), (b"a/data/0", hole_bytes, first), (b"a/data/1", 4, second)):
        wide = [value for value in (size, size, start) if value >= 0xFFFFFFFF]
        extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        narrow = [min(value, 0xFFFFFFFF) for value in (size, size, start)]
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 0, 0, 8, 0, 0, 0, 0, *narrow[:2], len(name), len(extra), 0, 0, 0, 0, narrow[2]
        )
        directory += name + extra
    at = second + len(last)
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 0, 45, 0, 0, 3, 3, len(directory), at)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at + len(directory), 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 3, 3, len(directory), 0xFFFFFFFF, 0)
    return head, bytes(24) + last + directory + end64 + locator + end


def read_sparse(content: tuple[bytes, bytes], hole_bytes: int):
    head, tail = content
    size = len(head) + hole_bytes + len(tail)
    parsing = FORMAT.begin(size)
    while (wanted := parsing.wanted) is not None:
        hole = slice(max(wanted.start, len(head)), min(wanted.stop, len(head) + hole_bytes))
        data = head[wanted.start : wanted.stop] + bytes(max(0, hole.stop - hole.start))
        after = len(head) + hole_bytes
        data += tail[max(0, wanted.start - after) : max(0, wanted.stop - after)]
        parsing.feed(data)
    return parsing.layout


def test_an_archive_of_another_writer_is_read_as_well():
    content = zip_of({"x/data.pkl": PICKLE, "x/data/0": b"abc", "x/data/1": b"", "x/version": b"3"})
    layout = parse(content)
    assert [(t.name, content[t.start : t.stop]) for t in layout.tensors] == [("data/0", b"abc"), ("data/1", b"")]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02}.",
        b"GGUF",
        zip_of({"a.txt": b"x"}),
        zip_of({"data.pkl": PICKLE}),
        zip_of({"a/b/data.pkl": PICKLE}),
    ],
)
def test_what_is_no_checkpoint_is_nobody_s_fault(content):
    with pytest.raises(ForeignFormatError):
        parse(content)


GOOD = zip_of({"x/data.pkl": PICKLE, "x/data/0": b"abcd" * 10, "x/data/1": b"efgh"})
END = GOOD.rindex(b"PK\5\6")
DIRECTORY = GOOD.index(b"PK\1\2")
SECOND = GOOD.index(b"PK\1\2", DIRECTORY + 1)


def changed(offset: int, raw: bytes) -> bytes:
    return GOOD[:offset] + raw + GOOD[offset + len(raw) :]


HOSTILE = {
    "truncated": GOOD[:-1],
    "cut in the middle": GOOD[: len(GOOD) // 2],
    "something behind it": GOOD + b"x",
    "something before it": b"PK\3\4" + GOOD,
    "another disk": changed(END + 4, b"\1"),
    "entries of another disk": changed(END + 8, b"\2"),
    "more entries than there are": changed(END + 8, b"\x09\0\x09\0"),
    "65535 entries": changed(END + 8, b"\xff\xff\xff\xff"),
    "directory elsewhere": changed(END + 16, b"\0\0\0\0"),
    "directory of 4 GiB": changed(END + 12, b"\xff\xff\xff\xff"),
    "directory damaged": changed(DIRECTORY, b"PK\1\3"),
    "name beyond the directory": changed(DIRECTORY + 28, b"\xff\xff"),
    "directory ends early": changed(DIRECTORY + 28, struct.pack("<3H", 10, 100, 0)),
    "encrypted": changed(SECOND + 8, b"\1"),
    "compressed": zip_of({"x/data.pkl": PICKLE, "x/data/0": b"abcd" * 10}, zipfile.ZIP_DEFLATED),
    "two sizes": changed(SECOND + 24, b"\1"),
    "longer than its place": changed(SECOND + 20, struct.pack("<2L", 1000, 1000)),
    "shorter than its place": changed(SECOND + 20, struct.pack("<2L", 1, 1)),
    "size of 64 bits that is not given": changed(SECOND + 20, b"\xff" * 8),
    "overlap": changed(SECOND + 42, struct.pack("<L", 0)),
    "beyond the file": changed(SECOND + 42, struct.pack("<L", 1 << 31)),
    "a data descriptor that is not there": changed(SECOND + 8, b"\x08"),
    "local header damaged": changed(GOOD.index(b"PK\3\4", 10), b"PK\3\5"),
    "a name twice": GOOD.replace(b"x/data/1", b"x/data/0"),
}


@pytest.mark.parametrize("size", [3, 1000, 1 << 31])
def test_a_storage_in_the_middle_that_lies_about_its_size_is_refused(size):
    """No local header is looked at but the first and the last one's, so the directory alone must tell."""
    content = zip_of({"x/data.pkl": PICKLE, "x/data/0": b"abcd", "x/data/1": b"e" * 200_000, "x/data/2": b"abcd"})
    entry = content.rindex(b"x/data/1") - 46
    with pytest.raises(FormatError, match="hole or overlaps"):
        parse(content[: entry + 20] + struct.pack("<2L", size, size) + content[entry + 28 :])


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_directory_that_lies_is_refused_with_a_reason(content):
    with pytest.raises(FormatError) as caught:
        parse(content)
    assert not isinstance(caught.value, ForeignFormatError)
    assert caught.value.detail
    assert "\n" not in str(caught.value)


def test_a_directory_longer_than_the_first_look_takes_one_more_read_and_must_be_whole():
    members = {"x/data.pkl": PICKLE, **{f"x/data/{number}": b"abcd" for number in range(2000)}}
    layout, reads = parse_all(FORMAT.begin(len(content := zip_of(members))), content)
    assert len(layout.tensors) == 2000
    assert len(reads) == 4, "head, tail, the directory before it, one local header"
    head, tail = wide_zip(1000)
    split = tail.replace(struct.pack("<2Q", 3, 3), struct.pack("<2Q", 2, 3))
    with pytest.raises(FormatError, match="several disks"):
        read_sparse((head, split), 1000)


def test_more_members_than_we_plan_for_are_refused(monkeypatch):
    monkeypatch.setattr(zipdirectory, "MAX_TENSORS", 2)
    with pytest.raises(FormatError, match="3 members are above the 2"):
        parse(GOOD)


def test_the_two_ends_of_a_wide_directory_must_agree():
    head, tail = wide_zip(1000)
    with pytest.raises(FormatError, match="do not agree"):
        read_sparse((head, tail[:-14] + struct.pack("<2H", 2, 2) + tail[-10:]), 1000)
    with pytest.raises(FormatError, match="64-bit"):
        read_sparse((head, tail.replace(b"PK\6\6", b"PK\6\5")), 1000)


class Bomb:
    """Whoever unpickles this runs its code."""

    def __reduce__(self):
        return (exec, ("import sys; sys.exploded = True",))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_is_ever_executed(protocol):
    content = zip_of({"x/data.pkl": pickle.dumps(Bomb(), protocol), "x/data/0": b"abcd"})
    assert [t.name for t in parse(content).tensors] == ["data/0"]
    assert not hasattr(sys, "exploded")


REFERENCE = (  # a tensor of four bytes in storage 0, as torch writes it; memo 0
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nByteStorage\nX\1\0\0\0%bX\3\0\0\0cpuK\4tQK\0K%b\x85K\1\x85\x89)tR"
)


def tensor_pickle(key: bytes = b"0", size: bytes = b"\4") -> bytes:
    return b"\x80\2}X\1\0\0\0t" + REFERENCE % (key, size) + b"s."


def test_a_tensor_without_torch():
    content = zip_of({"x/data.pkl": tensor_pickle(), "x/data/0": b"abcd"})
    assert [(t.name, t.dtype, t.shape) for t in parse(content).tensors] == [("t", "U8", (4,))]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\2",
        b"\x80\2.",
        b"\xff",
        b"0.",
        b"t.",
        b"\x80\2\x85.",
        b"h\5.",
        b"K\1t.",
        b"K\1K\2\x93.",
        b"]Q.",
        tensor_pickle().replace(b"storage", b"storied"),
        b"K\1K\2R.",
        b"(K\1d.",
        tensor_pickle(key=b"9"),
        tensor_pickle(size=b"\5"),
        tensor_pickle().replace(b"ByteStorage", b"EvilStorage"),
        tensor_pickle().replace(b"K\0K\4", b"K\xffK\4"),
        tensor_pickle().replace(b"K\0K\4", b"NK\4"),
        b"S'\\q'\n.",
        b"L" + b"9" * 100_000 + b"L\n.",
        b"(" * 100_000 + b"t" * 100_000 + b".",
        b"c__builtin__\nexec\n(S'raise SystemExit'\ntR.",
    ],
)
def test_a_pickle_that_cannot_be_followed_costs_the_names_only(data):
    content = zip_of({"x/data.pkl": data, "x/data/0": b"abcd"})
    assert [t.name for t in parse(content).tensors] == ["data/0"]
    assert parse(content).views == ()


def rebuilt_from_type(tensor: bytes) -> bytes:
    """A tensor of a class of its own, as torch writes it: the function, the class, the arguments, the state."""
    function, _, rest = tensor.partition(b"(")
    return b"ctorch._tensor\n_rebuild_from_type_v2\n(" + function + b"cmine\nTensor\n(" + rest[:-1] + b"NtR"


OTHERWISE = {
    "a class of its own": b"}X\1\0\0\0t" + rebuilt_from_type(REFERENCE % (b"0", b"\4")) + b"s.",
    "the state of an object": b"cmine\nModule\n)\x81}X\1\0\0\0t" + REFERENCE % (b"0", b"\4") + b"sb.",
    "an object made with keywords": b"(K\0cmine\nThing\n)}\x92X\1\0\0\0t" + REFERENCE % (b"0", b"\4") + b"d.",
    "values dropped on the way": b"}X\1\0\0\0t" + REFERENCE % (b"0", b"\4") + b"K\0K\1(K\x02" + b"100s.",
    "a list made at once": b"(" + REFERENCE % (b"0", b"\4") + b"20l.",
}


@pytest.mark.parametrize("data", OTHERWISE.values(), ids=OTHERWISE)
def test_tensors_are_found_however_they_are_reached(data):
    (tensor,) = trace(b"\x80\2" + data)
    assert (tensor.storage, tensor.dtype, tensor.shape) == ("0", "U8", (4,))


def test_a_pickle_that_repeats_itself_stays_small():
    """One tuple used a hundred thousand times, containers in a loop, a tensor mentioned without end."""
    long = b"(" + b"K\0" * 1000 + b"tq\0" + b"ca\nb\nq\1" + b"0" + b"(" + b"h\1h\0R" * 100_000 + b"l."
    assert trace(long) == []
    with pytest.raises(FormatError):
        trace(b"(" + b"]" * 400_000 + b"l.")
    assert trace(b"]q\0h\0a.") == []
    assert len(trace(b"]q\0" + REFERENCE % (b"0", b"\4") + b"q\1a(" + b"h\1" * 1000 + b"e.")) == 1001
    with pytest.raises(FormatError):
        trace(b"]q\0" + REFERENCE % (b"0", b"\4") + b"q\1a(" + b"h\1" * 200_000 + b"e.")


def test_a_pickle_too_long_to_follow_costs_the_names_only(monkeypatch):
    monkeypatch.setattr(torchzip, "MAX_PICKLE_BYTES", 10)
    content = zip_of({"x/data.pkl": tensor_pickle(), "x/data/0": b"abcd"})
    assert [t.name for t in parse(content).tensors] == ["data/0"]


def test_a_tensor_named_like_a_storage_does_not_take_its_name():
    pickled = tensor_pickle(size=b"\2").replace(b"X\1\0\0\0t", b"X\6\0\0\0data/0")
    layout = parse(zip_of({"x/data.pkl": pickled, "x/data/0": b"abcd"}))
    assert ([t.name for t in layout.tensors], [t.name for t in layout.views]) == (["data/0'"], ["data/0"])


def test_no_two_tensors_have_one_name():
    """Plans count tensors by their names: with two of one, a read of the other was an error."""
    pickled = tensor_pickle(size=b"\2").replace(b"X\1\0\0\0t", b"X\6\0\0\0data/0")
    layout = parse(zip_of({"x/data.pkl": pickled, "x/data/0": b"abcd", "x/data/0'": b"efgh"}))
    assert [t.name for t in layout.tensors] == ["data/0'", "data/0''"]


SAMPLE = zip_of({"x/data.pkl": tensor_pickle(), "x/data/0": b"abcd", "x/data/1": b"e" * 99, "x/version": b"3"})


@given(st.data())
def test_damaged_files_raise_nothing_but_a_format_error_and_never_point_outside(data):
    damaged = bytearray(SAMPLE)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(damaged)))
        damaged[position : position + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    with contextlib.suppress(FormatError):
        layout = parse(bytes(damaged))
        assert layout.data_stop <= len(damaged)
        assert all(a.stop <= b.start for a, b in itertools.pairwise(layout.tensors))
        assert all(0 <= view.start <= view.stop <= layout.data_stop for view in layout.views)


@given(st.binary(max_size=100))
def test_no_pickle_raises_anything_but_a_format_error(data):
    with contextlib.suppress(FormatError):
        trace(data)


@given(st.data())
def test_generated_checkpoints_are_read_as_torch_loads_them(data):
    torch = require("torch")
    dtypes = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]
    shapes = data.draw(st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=6))
    state = {
        f"layer.{number}": (torch.rand(shape) * 100).to(data.draw(st.sampled_from(dtypes)))
        for number, shape in enumerate(shapes)
    }
    content = saved(state)
    loaded = torch.load(io.BytesIO(content))
    found = {t.name: (t.shape, content[t.start : t.stop]) for t in parse(content).tensors}
    assert found == {name: (tuple(tensor.shape), bytes_of(tensor)) for name, tensor in loaded.items()}
