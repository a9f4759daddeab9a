"""What a plan fetches, counted through a real mount: models, and readers that want little."""

from __future__ import annotations

import json
import struct

from tigrismount.demo.command import wait_until
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


def tensor_file(noise, tensors: int, seed: int) -> bytes:
    entries = {
        f"t{number:03}": {"dtype": "U8", "shape": [TENSOR], "data_offsets": [number * TENSOR, (number + 1) * TENSOR]}
        for number in range(tensors)
    }
    head = json.dumps(entries).encode()
    return struct.pack("<Q", len(head)) + head + noise(tensors * TENSOR, seed)


def test_opening_the_configuration_of_a_model_fetches_its_small_files_and_heads(mount, bucket, s3, python):
    model = plan_model(40 * MIB, shard_bytes=10 * MIB)
    upload_model(bucket.client, bucket.name, "m", model)
    with mount(f"s3://{bucket.name}") as mounted:
        python("os.listdir(path)", f"{mounted.path}/m")
        assert s3.requests("GetObject") == [], "who lists a directory does not load it"
        python(_OPEN, f"{mounted.path}/m")
        wanted = {f"m/{name}" for name in model.small_files} | {f"m/{shard.name}" for shard in model.shards}
        wait_until(lambda: {get.key for get in s3.requests("GetObject")} >= wanted)
        gets = s3.requests("GetObject")
    assert len(gets) == len(wanted), "one GET each"
    assert all(get.bytes <= BLOCK for get in gets if get.key.endswith(".safetensors"))


def test_64_scattered_reads_fetch_64_blocks_at_most(mount, bucket, s3, python, noise):
    bucket.put("m/model.safetensors", tensor_file(noise, 40, 3))
    with mount(f"s3://{bucket.name}") as mounted:
        python(_SCATTERED, f"{mounted.path}/m/model.safetensors")
        assert mounted.status()["bytes"]["remote"] <= 64 * BLOCK
