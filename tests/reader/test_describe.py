"""Files and models are described from any place that can list and read."""

from __future__ import annotations

import json

import pytest

from tigrismount.core.types import Extent
from tigrismount.errors import ForeignFormatError, FormatError
from tigrismount.formats.parsing import FIRST_READ_BYTES
from tigrismount.reader.describe import describe
from tigrismount.reader.modelfiles import ModelFile, find_by_index, find_model, is_index_name
from tigrismount.testing.gguf_writer import Info, file_of, header, pair, strings


class MemoryPlace:
    """Files in a dictionary, by their paths."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.reads: list[tuple[str, int, int]] = []

    async def files_in(self, directory: str) -> dict[str, ModelFile]:
        prefix = f"{directory}/" if directory else ""
        below = {path.removeprefix(prefix): path for path in self.files if path.startswith(prefix)}
        return {name: ModelFile(path, len(self.files[path])) for name, path in below.items() if "/" not in name}

    async def read(self, file: ModelFile, start: int, stop: int) -> bytes:
        self.reads.append((file.name, start, stop))
        return self.files[file.name][start:stop]


def index(*shards: str, total: int = 0) -> bytes:
    weights = {f"t{number}": shard for number, shard in enumerate(shards)}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": weights}).encode()


def names(found) -> list[str]:
    return [file.name for file in found.files]


async def test_a_directory_without_an_index_is_its_tensor_files_in_natural_order():
    place = MemoryPlace(
        {"m-10.safetensors": b"", "m-9.safetensors": b"", "config.json": b"", "a.gguf": b"", "x/y.pt": b""}
    )
    found = await find_model(place)
    assert names(found) == ["a.gguf", "m-9.safetensors", "m-10.safetensors"]
    assert place.reads == []


async def test_an_index_says_which_files_are_the_model_and_which_are_missing():
    place = MemoryPlace(
        {
            "model.safetensors.index.json": index("b.safetensors", "sub/a.safetensors", "gone.safetensors", total=7),
            "b.safetensors": b"",
            "sub/a.safetensors": b"",
            "consolidated.safetensors": b"",
        }
    )
    for found in (await find_model(place), await find_by_index(place, "model.safetensors.index.json")):
        assert names(found) == ["b.safetensors", "sub/a.safetensors"]
        assert found.missing == ["gone.safetensors"]
        assert found.others == ["consolidated.safetensors"]
        assert found.claimed_bytes == 7


async def test_of_two_formats_safetensors_is_the_model():
    place = MemoryPlace(
        {
            "pytorch_model.bin.index.json": index("pytorch_model-1.bin"),
            "model.safetensors.index.json": index("a.safetensors"),
            "a.safetensors": b"",
            "pytorch_model-1.bin": b"",
        }
    )
    assert names(await find_model(place)) == ["a.safetensors"]


async def test_a_pipeline_is_its_components_in_their_order():
    pipeline = {"_class_name": "X", "vae": ["d", "V"], "unet": ["d", "U"], "gone": ["d", "G"]}
    place = MemoryPlace(
        {
            "model_index.json": json.dumps(pipeline).encode(),
            "unet/diffusion_pytorch_model.safetensors": b"",
            "vae/diffusion_pytorch_model.safetensors": b"",
            "single.safetensors": b"",
        }
    )
    expected = ["vae/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors"]
    assert names(await find_model(place)) == expected
    assert names(await find_by_index(place, "model_index.json")) == expected


async def test_an_index_that_lies_is_named():
    place = MemoryPlace({"x.safetensors.index.json": index("../../etc/passwd")})
    with pytest.raises(FormatError, match=r"x.safetensors.index.json: .*not below"):
        await find_model(place)


async def test_an_index_too_long_is_not_read(monkeypatch):
    monkeypatch.setattr("tigrismount.reader.modelfiles.MAX_INDEX_BYTES", 10)
    place = MemoryPlace({"x.safetensors.index.json": index("a")})
    with pytest.raises(FormatError, match="above the 10"):
        await find_model(place)
    assert place.reads == []


def test_names_that_stand_for_a_model():
    assert is_index_name("model.safetensors.index.json")
    assert is_index_name("model_index.json")
    assert not is_index_name("model.safetensors")


async def test_a_file_is_described_by_its_bytes_whatever_its_name_promises():
    content = file_of(header(infos=[Info(b"t", (4,), 0, 0)]), 32)
    place = MemoryPlace({"a.safetensors": content})

    async def read(start: int, stop: int) -> bytes:
        return await place.read(ModelFile("a.safetensors", len(content)), start, stop)

    found = await describe("a.safetensors", len(content), read)
    assert (found.format, [t.name for t in found.layout.tensors]) == ("GGUF", ["t"])
    assert place.reads == [("a.safetensors", 0, len(content))], "one read serves both looks at the head"


async def test_a_long_header_is_read_on_and_what_was_read_is_told():
    content = file_of(header([pair(b"k", 9, strings([b"x" * 100] * 5000))], [Info(b"t", (4,), 0, 0)]), 1 << 20)

    async def read(start: int, stop: int) -> bytes:
        return content[start:stop]

    found = await describe("a", len(content), read)
    assert found.header[0] == Extent(0, FIRST_READ_BYTES)
    assert len(found.header) > 1
    assert found.layout.data_start > 500_000


@pytest.mark.parametrize(("name", "content"), [("a.txt", b"hello"), ("a", b""), ("a.bin", bytes(100))])
async def test_what_is_no_tensor_file_is_said_to_be_none(name, content):
    async def read(start: int, stop: int) -> bytes:
        return content[start:stop]

    with pytest.raises(ForeignFormatError, match="no tensor file"):
        await describe(name, len(content), read)
