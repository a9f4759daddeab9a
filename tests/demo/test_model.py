from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open

from tigrismount.demo.model import checksum, plan_model, upload_model

MIB = 1 << 20


@pytest.fixture(scope="module")
def model():
    return plan_model(20 * MIB, shard_bytes=8 * MIB)


@pytest.mark.parametrize("size_bytes", [1 * MIB, 20 * MIB, 300 * MIB, 1 << 30, 20 << 30])
def test_the_size_is_met_within_a_per_cent(size_bytes):
    planned = plan_model(size_bytes).tensor_bytes

    assert abs(planned - size_bytes) <= size_bytes * (0.08 if size_bytes < 4 * MIB else 0.01)


@pytest.mark.parametrize("size_bytes", [20 * MIB, 300 * MIB, 1 << 30, 20 << 30])
def test_name_order_and_layer_order_differ(size_bytes):
    config = json.loads(plan_model(size_bytes).small_files["config.json"])

    assert config["num_hidden_layers"] > 10


def test_there_are_several_shards_in_order(model):
    names = [shard.name for shard in model.shards]

    assert len(names) >= 3
    assert names == [f"model-{n:05}-of-{len(names):05}.safetensors" for n in range(1, len(names) + 1)]


def test_the_index_maps_every_tensor_to_its_shard(model):
    index = json.loads(model.small_files["model.safetensors.index.json"])

    assert index["metadata"]["total_size"] == model.tensor_bytes
    assert index["weight_map"] == {t.name: shard.name for shard in model.shards for t in shard.tensors}


def test_the_safetensors_library_reads_what_was_rendered(model, tmp_path):
    for shard in model.shards:
        file, checksums = shard.render()
        (tmp_path / shard.name).write_bytes(file)
        with safe_open(tmp_path / shard.name, framework="numpy") as opened:
            assert list(opened.offset_keys()) == [tensor.name for tensor in shard.tensors]
            for tensor in shard.tensors:
                loaded = opened.get_tensor(tensor.name)
                assert loaded.shape == tensor.shape
                assert np.isfinite(loaded).all()
                assert checksum(loaded) == checksums[tensor.name]


def test_bytes_are_the_same_each_time_and_different_everywhere(model):
    file, checksums = model.shards[0].render()

    assert model.shards[0].render() == (file, checksums)
    pages = {bytes(file[start : start + 4096]) for start in range(0, len(file) - 4096, 4096)}
    assert len(pages) == len(range(0, len(file) - 4096, 4096))
    assert len(set(checksums.values())) == len(checksums)


def test_blocks_of_one_large_tensor_differ():
    shard = max(plan_model(300 * MIB).shards, key=lambda s: max(t.size_bytes for t in s.tensors))
    largest = max(shard.tensors, key=lambda t: t.size_bytes)
    file, _checksums = shard.render()
    start = len(shard.header()) + largest.start

    assert largest.size_bytes > 9 * MIB
    assert file[start : start + MIB] != file[start + 8 * MIB : start + 9 * MIB]


def test_an_uploaded_model_is_what_was_rendered(bucket, model):
    stored = []

    checksums = upload_model(bucket.client, bucket.name, "org/tiny", model, stored.append)

    files = {shard.name: shard.render() for shard in model.shards}
    assert checksums == {name: value for _file, sums in files.values() for name, value in sums.items()}
    for name, (file, _sums) in files.items():
        assert bucket.client.get_object(Bucket=bucket.name, Key=f"org/tiny/{name}")["Body"].read() == file
    assert sum(stored) == sum(len(file) for file, _sums in files.values())
