"""Load reports of real loads: what was fetched is counted at the server, and the report says the same."""

from __future__ import annotations

import json

from tigrismount.demo.model import plan_model, upload_model

MIB = 1 << 20

_LOAD = """
from safetensors import safe_open
total = 0
for name in sys.argv[2:]:
    with safe_open(os.path.join(path, name), framework="numpy") as shard:
        total += sum(shard.get_tensor(key).nbytes for key in shard.keys())
print(total)
"""


def test_a_load_leaves_a_report_that_agrees_with_the_server(mount, bucket, s3, python):
    model = plan_model(20 * MIB, shard_bytes=8 * MIB)
    upload_model(bucket.client, bucket.name, "llama", model)
    shards = [shard.name for shard in model.shards]
    with mount(f"s3://{bucket.name}") as mounted:
        s3.reset_requests()
        total = int(python(_LOAD, f"{mounted.path}/llama", *shards))
        (loading,) = mounted.status()["loads"]
        gets = s3.requests("GetObject")
        (seen,) = json.loads(mount.run("loads", mounted.path, "--json").check().output)

    assert total == model.tensor_bytes
    assert loading["model"] == f"s3://{bucket.name}/llama"
    assert loading["state"] == seen["state"] == "loading"
    assert loading["bytes_total"] >= loading["bytes_needed"] >= total
    # A GET that lagged may have been asked for twice; the report counts what arrived.
    assert total <= seen["bytes_fetched"] <= sum(get.bytes for get in gets)
    assert seen["amplification"] <= 1.01
    assert 0 < seen["gets"]["count"] <= len(gets)
    assert seen["first_tensor_s"] is not None
    assert sorted({row[0] for row in seen["timeline"]["cells"]} - {"pushed"}) == ["fetched", "read"]

    # The mount is gone; its cache remembers.
    (kept,) = json.loads(mount.run("loads", "--json", f"--cache-dir={mount.cache_dir}").check().output)
    assert kept["state"] == "done"
    assert kept["bytes_needed"] == seen["bytes_needed"]
    assert kept["mountpoint"] == mounted.path


def test_a_load_from_the_cache_says_so(mount, bucket, python):
    model = plan_model(8 * MIB)
    upload_model(bucket.client, bucket.name, "llama", model)
    shards = [shard.name for shard in model.shards]
    for _ in range(2):
        with mount(f"s3://{bucket.name}") as mounted:
            python(_LOAD, f"{mounted.path}/llama", *shards)
    first, second = json.loads(mount.run("loads", "--json", f"--cache-dir={mount.cache_dir}").check().output)

    assert first["bytes_fetched"] >= model.tensor_bytes
    assert first["bytes_nvme"] == 0
    assert second["bytes_fetched"] == 0
    assert second["bytes_nvme"] >= model.tensor_bytes
