"""``inspect`` under a mount: the daemon says what is cached and how the last load went."""

from __future__ import annotations

import json
from pathlib import Path

MIB = 1 << 20
READ = """
from safetensors import safe_open
with safe_open(path, 'np') as f:
    print(sum(f.get_tensor(key).nbytes for key in f.keys()))
"""
PNG = b"\x89PNG\r\n\x1a\n"


def test_a_mounted_model_is_shown_with_what_is_on_disk(corpus, python):
    directory = f"{corpus.path}/model"
    shards = sorted(name for name in corpus.files if name.endswith(".safetensors"))
    python(READ, f"{corpus.path}/{shards[0]}")
    report = json.loads(inspect(corpus, directory, "--json", "--plan"))
    assert [f"model/{file['name']}" for file in report["files"]] == shards
    assert report["size"] == sum(len(corpus.files[name]) for name in shards)
    assert {tensor["name"] for tensor in report["tensors"]} == set(corpus.sums)
    first = report["files"][0]
    assert (first["bucket"], first["key"], first["block_bytes"]) == (corpus.bucket, shards[0], MIB)
    assert first["cached"], "what was read is on disk"
    assert any(extent["cached"] for extent in report["plan"])


def test_a_picture_shows_the_load(corpus, python, tmp_path):
    shard = next(name for name in sorted(corpus.files) if name.endswith(".safetensors"))
    python(READ, f"{corpus.path}/{shard}")
    inspect(corpus, f"{corpus.path}/{shard}", "--plot", str(tmp_path / "load.png"))
    inspect(corpus, "s3://corpus/model", "--cache-dir=off", "--plot", str(tmp_path / "map.png"))
    assert height(tmp_path / "load.png") > height(tmp_path / "map.png"), "the load has a panel of its own"


def height(picture: Path) -> int:
    content = picture.read_bytes()
    assert content.startswith(PNG)
    return int.from_bytes(content[20:24], "big")  # of the first of its parts, which begins with the size


def inspect(corpus, *arguments: str) -> str:
    from tigrismount.demo.command import run_command

    return run_command("inspect", *arguments, env=corpus.mount.env).check().output
