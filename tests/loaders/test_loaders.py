"""Every way in which models are loaded gives the right tensors, and fetches each byte once, in whole blocks."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_safetensors_load_file(loading, llama, backend):
    assert loading.run("load_files", llama, backend=backend) == llama.sums


@pytest.mark.parametrize(("order", "gets_per_block"), [("file", 1), ("reversed", 2), ("random", 2)])
def test_safe_open_in_any_order(loading, llama, order, gets_per_block):
    assert loading.run("opened", llama, order=order, gets_per_block=gets_per_block) == llama.sums


def test_transformers_from_pretrained(loading, llama):
    assert loading.run("transformers_model", llama) == llama.sums


def test_a_pipeline_of_components(loading, pipeline):
    assert loading.run("pipeline", pipeline) == pipeline.sums


@pytest.mark.parametrize("strategy", ["lazy", "eager", "prefetch"])
def test_vllm(loading, llama, strategy):
    assert loading.run(f"vllm_{strategy}", llama) == llama.sums


@pytest.mark.parametrize("client", ["sglang", "sglang_no_mmap"])
def test_sglang(loading, llama, client):
    assert loading.run(client, llama) == llama.sums


@pytest.mark.parametrize(("depth", "size_bytes"), [(12, 1 << 20), (16, 528_384), (64, 64 << 10)])
def test_direct_readers(loading, llama, depth, size_bytes):
    assert loading.run("direct", llama, depth=depth, size_bytes=size_bytes) == llama.sums


def test_torch_load(loading, others):
    """Its first reads come together, before there is a plan, and have a GET each."""
    files = others["model.pt"]

    assert loading.run("torch_load", files, mapped=False, gets_per_block=2) == files.sums


def test_torch_load_with_mmap(loading, others):
    """It reads a few bytes in front of every tensor before the first of them."""
    files = others["model.pt"]

    assert loading.run("torch_load", files, mapped=True, gets_per_block=2) == files.sums


def test_gguf_reader(loading, others):
    files = others["model.gguf"]

    assert loading.run("gguf", files) == files.sums


def test_numpy_memmap(loading, others):
    files = others["array.npy"]

    assert loading.run("memmap", files) == files.sums


@pytest.mark.parametrize(("world", "order", "gets_per_block"), [(8, "file", 1), (4, "natural", 2)])
def test_processes_that_each_read_a_slice_fetch_each_byte_once(
    loading, llama, clients, tmp_path, store, world, order, gets_per_block
):
    """Eight walk the file; four jump from layer to layer in the order of their numbers, a little apart."""
    local = tmp_path / "local"
    local.mkdir()
    for key in llama.sizes:
        store.download_file("loaders", key, str(local / key.rpartition("/")[2]))

    found = loading.run("ranks", llama, gets_per_block=gets_per_block, world=world, order=order)
    assert found == clients.run("ranks", str(local), world=world)
