"""What a plan fetches, counted through a real mount: models, and readers that want little."""

from __future__ import annotations

import json
import struct

from tigrismount.demo.command import wait_until
from tigrismount.demo.faults import FaultRule
from tigrismount.demo.model import plan_model, upload_model

MIB = 1 << 20
BLOCK = MIB
TENSOR = 3 * MIB

_OPEN = """
with open(os.path.join(path, "config.json"), "rb") as file:
    file.read()
"""

_SCATTERED = """
import random
draw = random.Random(7)
with open(path, "rb", buffering=0) as file:
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
    size = os.fstat(file.fileno()).st_size
    for _ in range(64):
        assert len(os.pread(file.fileno(), 4096, draw.randrange(size // 4096) * 4096)) == 4096
"""

_SHUFFLED = """
import random, struct, time
with open(path, "rb", buffering=0) as file:
    length = struct.unpack("<Q", file.read(8))[0]
    entries = json.loads(os.pread(file.fileno(), length, 8))
    names = sorted(entries)
    random.Random(7).shuffle(names)
    for name in names:
        start, stop = entries[name]["data_offsets"]
        assert len(os.pread(file.fileno(), stop - start, 8 + length + start)) == stop - start
        time.sleep(0.02)  # a loader does something with a tensor; whoever only reads is bound by the network
"""


def tensor_file(noise, tensors: int, seed: int, tensor_bytes: int = TENSOR) -> bytes:
    entries = {
        f"t{number:03}": {
            "dtype": "U8",
            "shape": [tensor_bytes],
            "data_offsets": [number * tensor_bytes, (number + 1) * tensor_bytes],
        }
        for number in range(tensors)
    }
    head = json.dumps(entries).encode()
    return struct.pack("<Q", len(head)) + head + noise(tensors * tensor_bytes, seed)


def test_opening_the_configuration_of_a_model_fetches_its_small_files_and_heads(mount, bucket, s3, python):
    model = plan_model(40 * MIB, shard_bytes=10 * MIB)
    upload_model(bucket.client, bucket.name, "m", model)
    with mount(f"s3://{bucket.name}") as mounted:
        python("os.listdir(path)", f"{mounted.path}/m")
        assert s3.requests("GetObject") == [], "who lists a directory does not load it"
        python(_OPEN, f"{mounted.path}/m")
        wanted = {f"m/{name}" for name in model.small_files} | {f"m/{shard.name}" for shard in model.shards}
        assert wait_until(lambda: {get.key for get in s3.requests("GetObject")} >= wanted)
        gets = s3.requests("GetObject")
    assert len(gets) == len(wanted), "one GET each"
    assert all(get.bytes <= BLOCK for get in gets if get.key.endswith(".safetensors"))


def test_64_scattered_reads_fetch_64_blocks_at_most(mount, bucket, s3, python, noise):
    bucket.put("m/model.safetensors", tensor_file(noise, 40, 3))
    with mount(f"s3://{bucket.name}") as mounted:
        python(_SCATTERED, f"{mounted.path}/m/model.safetensors")
        assert mounted.status()["bytes"]["remote"] <= 64 * BLOCK


def test_the_next_load_in_an_order_of_its_own_waits_a_fifth_as_often(mount, bucket, s3, python, noise):
    """Of the same version when the disk no longer has it, and of a sibling shard."""
    for name, seed in (("a", 4), ("b", 5)):
        bucket.put(f"{name}/model.safetensors", tensor_file(noise, 80, seed, 3 * MIB // 2))
    s3.inject(FaultRule(match="GET /[^/]*/./model", action="delay", delay_s=0.02, count=-1))
    flags = ("--memory-limit=256MiB", "--read-ahead=16MiB")  # what was read stays: a block read twice is no miss

    def waits(mounted, name: str) -> tuple[int, int]:
        before = mounted.status()["hits"]
        python(_SHUFFLED, f"{mounted.path}/{name}/model.safetensors")
        after = mounted.status()["hits"]
        missed = after["missed"] - before["missed"]
        return missed, missed + after["joined"] - before["joined"]

    with mount(f"s3://{bucket.name}", *flags) as mounted:
        first = waits(mounted, "a")
        sibling = waits(mounted, "b")
    mount.run("cache", "evict", f"s3://{bucket.name}/", f"--cache-dir={mount.cache_dir}").check()
    with mount(f"s3://{bucket.name}", *flags) as mounted:
        again = waits(mounted, "a")
        assert mounted.status()["bytes"]["nvme"] == 0, "it was cold"
    print("missed, waited", first, sibling, again)
    assert first[0] >= 30, "reads that nobody foresaw, one for each jump or nearly"
    assert 5 * sibling[0] <= first[0]
    assert 5 * again[0] <= first[0]
