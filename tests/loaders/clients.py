"""Real loaders, and exact imitations of those that need a GPU, run against a path in a process of their own.

``python clients.py`` imports torch once, then forks a child per request: a line of JSON in (client, path, arguments),
a line of JSON out (checksums by tensor name). A child that hangs in the mount is killed by its alarm.

The imitations follow what these loaders were seen to do: file order, threads, sizes of reads, open flags.
"""

from __future__ import annotations

import contextlib
import glob
import json
import mmap
import multiprocessing
import os
import random
import re
import signal
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import xxhash
from safetensors import safe_open
from safetensors.torch import load, load_file

ALARM_S = 60


def checksum(tensor):
    """xxh3 of a tensor's bytes; reads every page of it."""
    data = tensor if isinstance(tensor, np.ndarray) else tensor.contiguous().view(torch.uint8).numpy()
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(data).reshape(-1).view(np.uint8))


def checksums(tensors):
    return {name: checksum(tensor) for name, tensor in tensors.items()}


def shards(path):
    """As vLLM and SGLang find them: glob, then natural order."""
    names = glob.glob(os.path.join(path, "*.safetensors"))
    return sorted(names, key=lambda name: [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", name)])


# ---------------------------------------------------------------------------------------------------- safetensors


def load_files(path, backend="mmap"):
    """safetensors.torch.load_file: tensors are views of a mapping, or one pread each."""
    return {k: v for shard in shards(path) for k, v in checksums(load_file(shard, backend=backend)).items()}


def opened(path, order):
    """safe_open, tensor by tensor in some order."""
    found = {}
    for shard in shards(path):
        with safe_open(shard, "pt") as file:
            names = list(file.offset_keys())
            if order == "reversed":
                names.reverse()
            elif order == "random":
                random.Random(1).shuffle(names)
            found |= {name: checksum(file.get_tensor(name)) for name in names}
    return found


def transformers_model(path):
    """AutoModelForCausalLM.from_pretrained; natural layer order over all shards, in four threads."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float16)
    return checksums(model.state_dict())


def pipeline(path):
    """diffusers: the index, then each component's configuration and shards, one after the other."""
    with open(os.path.join(path, "model_index.json")) as file:
        components = [name for name in json.load(file) if not name.startswith("_")]
    found = {}
    for component in components:
        directory = os.path.join(path, component)
        with open(os.path.join(directory, "config.json")) as file:
            json.load(file)
        for shard in shards(directory):
            found |= {f"{component}/{name}": value for name, value in checksums(load_file(shard)).items()}
    return found


# ----------------------------------------------------------------------------------------------------------- vLLM


def vllm_lazy(path):
    """vLLM's default: every shard in natural order, every tensor in the order of names."""
    found = {}
    for shard in shards(path):
        with safe_open(shard, "pt") as file:
            found |= {name: checksum(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 -- no mapping
    return found


def vllm_eager(path):
    """vLLM's ``eager``, and transformers without mmap: a whole shard by one read."""
    found = {}
    for shard in shards(path):
        with open(shard, "rb") as file:
            found |= checksums(load(file.read()))
    return found


def vllm_prefetch(path):
    """vLLM's ``prefetch``: eight threads read whole shards by 16 MiB, racing the lazy reader."""

    def read(shard):
        with open(shard, "rb") as file:
            while file.read(16 << 20):
                pass

    with ThreadPoolExecutor(8) as pool:
        reads = [pool.submit(read, shard) for shard in shards(path)]
        found = vllm_lazy(path)
        for done in reads:
            done.result()
    return found


def ranks(path, world, order="file"):
    """Tensor parallelism: each rank a process that walks all shards and takes its part of every tensor."""
    with multiprocessing.get_context("fork").Pool(world) as pool:
        parts = pool.starmap(rank, [(path, number, world, order) for number in range(world)])
    return {name: value for part in parts for name, value in part.items()}


def rank(path, number, world, order):
    """One of them, shard after shard; in ``natural`` order it opens all shards first, as transformers does."""
    found = {}
    with contextlib.ExitStack() as files:
        opened = [files.enter_context(safe_open(shard, "pt")) for shard in shards(path)]
        named = [(name, file) for file in opened for name in file.keys()]  # noqa: SIM118 -- no mapping
        if order == "natural":
            named.sort(key=lambda one: [int(word) if word.isdecimal() else -1 for word in one[0].split(".")])
        for name, file in named:
            part = file.get_slice(name)
            rows = part.get_shape()[0]
            # A share of the rows, uneven where they do not divide.
            start, stop = rows * number // world, rows * (number + 1) // world
            found[f"{name}[{number}/{world}]"] = checksum(part[start:stop].clone()) if start < stop else 0
    return found


# --------------------------------------------------------------------------------------------------------- SGLang


def sglang(path):
    """SGLang's default: eight threads map the tensors of all shards, one thread uses them in the order of names."""

    def tensors(shard):
        with safe_open(shard, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping

    found = {}
    with ThreadPoolExecutor(8) as pool:
        for loaded in pool.map(tensors, shards(path)):
            found |= {name: checksum(loaded[name]) for name in sorted(loaded)}
    return found


def sglang_no_mmap(path):
    """SGLang with ``--weight-loader-disable-mmap``: eight threads, a whole shard by one read each."""

    def read(shard):
        with open(shard, "rb") as file:
            return checksums(load(file.read()))

    with ThreadPoolExecutor(8) as pool:
        return {name: value for found in pool.map(read, shards(path)) for name, value in found.items()}


# ------------------------------------------------------------------------------------------------------- O_DIRECT


def direct(path, depth, size_bytes):
    """Run:ai, fastsafetensors, InstantTensor: O_DIRECT, aligned to 512 bytes and not to a page, many deep."""
    found = {}
    for shard in shards(path):
        length = os.stat(shard).st_size
        descriptor = os.open(shard, os.O_RDONLY | os.O_DIRECT)
        whole = bytearray(length)

        def fetch(start, descriptor=descriptor, whole=whole):
            with mmap.mmap(-1, size_bytes) as buffer:
                count = os.preadv(descriptor, [buffer], start)
                whole[start : start + count] = buffer[:count]

        # The first one is short, so that all others begin at an odd multiple of 512.
        starts = [0, *range(512, length, size_bytes)]
        with ThreadPoolExecutor(depth) as pool:
            list(pool.map(fetch, starts))
        os.close(descriptor)
        found |= checksums(load(bytes(whole)))
    return found


# -------------------------------------------------------------------------------------------------- other formats


def torch_load(path, mapped):
    """torch.load of a zip checkpoint."""
    return checksums(torch.load(os.path.join(path, "model.pt"), weights_only=True, mmap=mapped))


def gguf(path):
    """gguf.GGUFReader: a shared mapping, the header touched page by page."""
    from gguf import GGUFReader

    return {tensor.name: checksum(tensor.data) for tensor in GGUFReader(os.path.join(path, "model.gguf")).tensors}


def memmap(path):
    """numpy.load with a memory map."""
    return {"array": checksum(np.load(os.path.join(path, "array.npy"), mmap_mode="r"))}


# ------------------------------------------------------------------------------------------------------ the files


def make(path):
    """Write the files of other formats, and return their checksums."""
    from gguf import GGUFWriter

    draw = np.random.Generator(np.random.PCG64(7))
    tensors = {f"layer.{n}.weight": draw.standard_normal((256, 512 + n), np.float32) for n in range(40)}
    torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, os.path.join(path, "model.pt"))
    writer = GGUFWriter(os.path.join(path, "model.gguf"), "llama")
    writer.add_array("tokenizer.ggml.tokens", [f"token{n}" for n in range(20_000)])
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    array = draw.integers(0, 1 << 16, (8, 1024, 1024), np.uint16)
    np.save(os.path.join(path, "array.npy"), array)
    return {"tensors": checksums(tensors), "array": checksum(array)}


def run(request):
    signal.alarm(ALARM_S)
    client = globals()[request["client"]]
    return client(request["path"], **request["arguments"])


def main():
    """Answer requests until standard input ends."""
    torch.set_num_threads(1)  # a forked child must not wait for threads that only its parent has
    for line in sys.stdin:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            try:
                answer = {"found": run(json.loads(line))}
            except Exception:  # noqa: BLE001 -- whatever it is, the test shows it
                answer = {"error": traceback.format_exc()}
            with os.fdopen(writer, "w") as out:
                json.dump(answer, out)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answers:
            answer = answers.read()
        _, status = os.waitpid(child, 0)
        print(answer or json.dumps({"error": f"ended with status {status}"}), flush=True)


if __name__ == "__main__":
    main()
