from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.errors import FormatError
from tigrismount.formats.shards import (
    MAX_INDEX_BYTES,
    MAX_SHARDS,
    is_index,
    is_pipeline,
    natural_order,
    parse_index,
    parse_pipeline,
    read_index,
)


def index_of(weight_map: object, **metadata: object) -> bytes:
    return json.dumps({"metadata": metadata, "weight_map": weight_map}).encode()


def test_shards_come_once_each_in_the_order_of_their_numbers_whatever_the_tensors_are_called():
    """The map is sorted by tensor name, and lm_head lies in the last shard."""
    files = [f"model-{number}-of-12.safetensors" for number in range(1, 13)]
    weight_map = {"lm_head": files[11], **{f"model.layers.{n}": files[n] for n in (9, 1, 8, 0, 2, 3, 4, 5, 6, 7, 10)}}
    assert parse_index(index_of(weight_map)) == tuple(files)


def test_an_index_tells_the_size_and_the_place_of_each_tensor():
    found = read_index(index_of({"b": "2", "a": "1", "c": "2"}, total_size=12))
    assert (found.total_size_bytes, dict(found.weight_map)) == (12, {"b": "2", "a": "1", "c": "2"})


@pytest.mark.parametrize("total", [None, "12", 1.5, -1, 1 << 64, True, 10**40])
def test_a_size_that_cannot_be_is_no_size(total):
    assert read_index(index_of({"a": "1"}, total_size=total)).total_size_bytes is None


def test_shards_may_lie_in_subdirectories_and_an_index_may_be_empty():
    assert parse_index(index_of({"a": "sub/x.safetensors"})) == ("sub/x.safetensors",)
    assert parse_index(b' {"weight_map":{}} ') == ()


HOSTILE = {
    "empty": b"",
    "not an object": b"[]",
    "not JSON": b"{",
    "no map": b"{}",
    "map a list": index_of([]),
    "file a number": index_of({"a": 1}),
    "file null": index_of({"a": None}),
    "tensor twice": b'{"weight_map":{"a":"1","a":"2"}}',
    "map twice": b'{"weight_map":{"a":"1"},"weight_map":{}}',
    "absolute": index_of({"a": "/etc/passwd"}),
    "parent": index_of({"a": "../other/x.safetensors"}),
    "parent inside": index_of({"a": "sub/../../x.safetensors"}),
    "itself": index_of({"a": "model.safetensors.index.json"}),
    "another index": index_of({"a": "other.SafeTensors.Index.JSON"}),
    "empty name": index_of({"a": ""}),
    "a directory": index_of({"a": "sub/"}),
    "this directory": index_of({"a": "."}),
    "NUL": index_of({"a": "a\0b"}),
    "half a surrogate pair": b'{"weight_map":{"a":"\\ud800"}}',
    "longer than a key": index_of({"a": "x" * 1025}),
    "too many": index_of({str(number): f"{number}" for number in range(MAX_SHARDS + 1)}),
    "too long": b'{"weight_map":{}}' + b" " * MAX_INDEX_BYTES,
    "nested": b'{"weight_map":' + b"[" * 100_000,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_an_index_that_lies_is_refused_with_a_reason(data):
    with pytest.raises(FormatError) as caught:
        parse_index(data)
    assert caught.value.detail
    assert len(str(caught.value)) < 200


def test_a_pipeline_names_its_components_in_order_and_nothing_else():
    pipeline = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.30.0",
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
        "sizes": [1, 2],
    }
    assert parse_pipeline(json.dumps(pipeline).encode()) == ("vae", "text_encoder")


@pytest.mark.parametrize("name", ["..", "", "a/b", "/", "a\0"])
def test_a_component_that_is_no_subdirectory_is_refused(name):
    with pytest.raises(FormatError):
        parse_pipeline(json.dumps({name: ["a", "B"]}).encode())


def test_names_promise_what_the_files_are():
    assert is_index("m/model.safetensors.index.json")
    assert is_index("pytorch_model.bin.index.json")
    assert not is_index("m/index.json")
    assert is_pipeline("m/model_index.json")
    assert is_pipeline("model_index.json")
    assert not is_pipeline("m/my_model_index.json")


def test_numbers_order_by_value_however_long():
    long = "9" * 5000
    assert natural_order([f"a{long}", "a10", "a9", "a010b", "a"]) == ("a", "a9", "a10", "a010b", f"a{long}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(st.binary(max_size=100) | st.builds(index_of, JSON) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_raise_anything_but_a_format_error(data):
    for parse in (parse_index, parse_pipeline):
        with contextlib.suppress(FormatError):
            for name in parse(data):
                assert ".." not in name.split("/")
                assert not name.startswith("/")
