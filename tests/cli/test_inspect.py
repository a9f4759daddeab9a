"""``inspect`` shows what is in a file or a model, wherever it is, from its headers alone."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save

from tigrismount.cli.main import main
from tigrismount.core.blockorder import BlockOrder
from tigrismount.core.types import Extent, ObjectId
from tigrismount.demo.model import plan_model, upload_model
from tigrismount.reader.orders import Orders
from tigrismount.testing.fake_http import serving
from tigrismount.testing.fake_tigris import FakeTigris

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def shard(*names: str, rows: int = 4) -> bytes:
    return save({name: np.full((rows, 2), 1.0, np.float16) for name in names})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of two shards, one of which is missing, and a file that no index names."""
    directory = tmp_path / "model"
    directory.mkdir()
    weights = {
        "a": "model-1.safetensors",
        "b": "model-1.safetensors",
        "c": "model-2.safetensors",
        "d": "model-3.safetensors",
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    (directory / "model-1.safetensors").write_bytes(shard("a", "b"))
    (directory / "model-2.safetensors").write_bytes(shard("c", rows=8))
    (directory / "other.safetensors").write_bytes(shard("x"))
    (directory / "config.json").write_text("{}")
    return directory


def test_a_file_s_tensors_are_named_with_type_shape_and_place(tigrismount, model):
    ended = tigrismount("inspect", str(model / "model-1.safetensors"))
    assert (ended.exit_code, ended.err) == (0, "")
    first, headers, *rows = ended.out.splitlines()
    assert first.endswith("model-1.safetensors: safetensors, 160 B, 2 tensors (F16 32 B)")
    assert headers.split() == ["TENSOR", "DTYPE", "SHAPE", "START", "SIZE"]
    assert [row.split() for row in rows] == [
        ["a", "F16", "4x2", "128", "16", "B"],
        ["b", "F16", "4x2", "144", "16", "B"],
    ]


def test_the_json_of_a_file_is_what_scripts_rely_on(tigrismount, model):
    path = model / "model-2.safetensors"
    report = json.loads(tigrismount("inspect", str(path), "--json").out)
    size = path.stat().st_size
    assert (report["format"], report["size"]) == ("safetensors", size)
    (tensor,) = report["tensors"]
    assert tensor == {"name": "c", "dtype": "F16", "shape": [8, 2], "start": size - 32, "stop": size, "file": path.name}
    assert "plan" not in report


def test_a_model_is_its_shards_and_what_is_wrong_with_it_fails(tigrismount, model):
    for path in (model, model / "model.safetensors.index.json"):
        ended = tigrismount("inspect", str(path))
        assert ended.exit_code == 1
        assert ended.err == "tigrismount: warning: model-3.safetensors: is named by the index and is not there\n"
        lines = [line.split() for line in ended.out.splitlines()]
        assert [line[:2] for line in lines[2:5]] == [
            ["model-1.safetensors", "safetensors"],
            ["model-2.safetensors", "safetensors"],
            ["model-3.safetensors", "missing"],
        ]
        assert ended.out.splitlines()[5] == "not in the index: other.safetensors"
    report = json.loads(tigrismount("inspect", str(model), "--json").out)
    assert [tensor["name"] for tensor in report["tensors"]] == ["a", "b", "c"]
    assert report["dtypes"] == {"F16": {"tensors": 3, "bytes": 64}}
    assert (report["missing"], report["not_in_index"]) == (["model-3.safetensors"], ["other.safetensors"])


def test_a_damaged_shard_is_said_and_the_others_are_shown(tigrismount, model):
    (model / "model-3.safetensors").write_bytes(b"\xff" * 100)
    ended = tigrismount("inspect", str(model), "--json")
    assert ended.exit_code == 1
    assert ended.err.startswith("tigrismount: warning: model-3.safetensors: header length")
    files = json.loads(ended.out)["files"]
    assert [bool(file["error"]) for file in files] == [False, False, True]
    assert "unreadable" in tigrismount("inspect", str(model)).out


def test_a_damaged_or_foreign_file_fails_with_one_line(fails, model):
    (model / "bad.safetensors").write_bytes(b"\xff" * 100)
    exit_code, line = fails("inspect", str(model / "bad.safetensors"))
    assert (exit_code, "bad.safetensors: header length" in line) == (1, True)
    exit_code, line = fails("inspect", str(model / "config.json"))
    assert (exit_code, "is no tensor file" in line) == (1, True)
    (model / "model.safetensors.index.json").write_text('{"weight_map":{"a":"../x"}}')
    exit_code, line = fails("inspect", str(model))
    assert (exit_code, "not below its directory" in line) == (1, True)


def test_what_is_not_there_is_not_found(fails, tmp_path):
    assert fails("inspect", str(tmp_path / "none")) == (3, f"{tmp_path}/none: No such file or directory")
    exit_code, line = fails("inspect", str(tmp_path))
    assert (exit_code, "holds no tensor files" in line) == (3, True)


def test_names_from_a_file_cannot_steer_the_terminal(tigrismount, tmp_path):
    path = tmp_path / "evil.safetensors"
    path.write_bytes(shard("\x1b]0;owned\x07", "\u202e"))
    out = tigrismount("inspect", str(path)).out
    assert "\\x1b]0;owned\\x07" in out
    assert "\x1b" not in out
    assert "\u202e" not in out


def test_the_plan_says_what_a_load_fetches_in_which_order(tigrismount, model):
    (model / "model.safetensors.index.json").unlink()
    (model / "other.safetensors").write_bytes(save({"x": np.zeros(20 * MIB, np.uint8)}))
    ended = tigrismount("inspect", str(model), "--plan")
    assert ended.exit_code == 0
    rows = [line.split() for line in ended.out.splitlines()[-4:]]
    assert [(row[1], row[3]) for row in rows] == [
        ("model-1.safetensors", "header"),
        ("model-2.safetensors", "header"),
        ("other.safetensors", "header"),
        ("other.safetensors", "file"),
    ]
    plan = json.loads(tigrismount("inspect", str(model), "--plan", "--json").out)["plan"]
    assert plan[-1] == {
        "file": "other.safetensors",
        "start": 8 * MIB,
        "stop": (model / "other.safetensors").stat().st_size,
        "reason": "file order",
        "cached": False,
    }


@pytest.fixture
def source(bucket, monkeypatch):
    """A generated model in the test's bucket, as a SOURCE."""
    for name, value in bucket.s3.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TIGRISMOUNT_CACHE_DIR", "off")
    upload_model(bucket.client, bucket.name, "llama", plan_model(4 * MIB))
    bucket.s3.reset_requests()
    return f"s3://{bucket.name}/llama"


def test_a_source_is_read_without_a_mount_by_its_headers_alone(tigrismount, source, bucket):
    report = json.loads(tigrismount("inspect", source, "--json").out)
    assert report["format"] == "safetensors"
    assert len(report["files"]) == 2
    assert report["files"][0]["key"] == "llama/model-00001-of-00002.safetensors"
    gets = [request for request in bucket.s3.requests() if request.operation == "GetObject"]
    assert len(gets) == 3, "the index, and the head of each shard"
    assert all(request.range for request in gets)
    assert sum(request.bytes for request in gets) < 200_000


def test_a_single_key_of_a_bucket_is_a_file(tigrismount, fails, source, bucket):
    for written in (
        f"{source}/model-00002-of-00002.safetensors",
        f"{bucket.name}:llama/model-00002-of-00002.safetensors",
    ):
        report = json.loads(tigrismount("inspect", written, "--json").out)
        assert [file["name"] for file in report["files"]] == ["model-00002-of-00002.safetensors"]
    exit_code, line = fails("inspect", f"{source}/none")
    assert (exit_code, "there is no such key" in line) == (3, True)


def test_a_file_of_a_public_bucket_that_refuses_listings_is_shown(tigrismount, fails, monkeypatch):
    """Mutation: it is refused, where a mount opens it by its name and 'warm' fetches it."""
    store = FakeTigris()
    store.create_bucket("public", public=True)
    store.put("public", "llama/a.safetensors", shard("a"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(store.answer) as url:
        flags = ("--no-sign-request", f"--endpoint-url={url}", "--cache-dir=off")
        report = json.loads(tigrismount("inspect", "s3://public/llama/a.safetensors", *flags, "--json").out)
        refused = [fails("inspect", source, *flags)[0] for source in ("s3://public/llama", "s3://public")]
    assert [file["name"] for file in report["files"]] == ["a.safetensors"]
    assert refused == [1, 1]


def test_what_a_cache_directory_holds_of_a_source_is_shown(tigrismount, source, bucket, tmp_path):
    shard_key = "llama/model-00001-of-00002.safetensors"
    head = bucket.client.head_object(Bucket=bucket.name, Key=shard_key)
    obj = ObjectId(bucket.name, shard_key, head["ETag"].strip('"'), head["ContentLength"])
    fill_cache(str(tmp_path / "cache"), bucket.s3.env()["AWS_ENDPOINT_URL_S3"], obj, [0, 2])
    report = json.loads(tigrismount("inspect", source, "--json", "--plan", f"--cache-dir={tmp_path / 'cache'}").out)
    assert report["files"][0]["cached"] == [[0, MIB], [2 * MIB, min(3 * MIB, obj.size_bytes)]]
    assert report["files"][1]["cached"] == []
    assert report["files"][0]["block_bytes"] == MIB
    assert sum(tensor["cached_bytes"] for tensor in report["tensors"]) > MIB
    assert {(e["start"], e["cached"]) for e in report["plan"] if e["file"] == "model-00001-of-00002.safetensors"} == {
        (0, True),
        (MIB, False),
        (2 * MIB, True),
    }
    reasons = [(e["start"], e["reason"]) for e in report["plan"] if e["file"] == "model-00001-of-00002.safetensors"]
    assert reasons == [(0, "header"), (2 * MIB, "learned order"), (MIB, "learned order")]
    out = tigrismount("inspect", source, f"--cache-dir={tmp_path / 'cache'}").out
    assert "CACHED" in out
    assert " %" in out


def fill_cache(directory: str, endpoint: str, obj: ObjectId, blocks: list[int]) -> None:
    """Put some blocks of a version, and an order, into a cache, as a mount of this endpoint would."""
    import trio

    from tigrismount.cache.base import block_length_bytes
    from tigrismount.cache.disk import DiskBlockCache
    from tigrismount.cache.options import DiskCacheConfig
    from tigrismount.cli.connection import load_without_mount

    store_id = load_without_mount(f"s3://{obj.bucket}", {"endpoint_url": endpoint}).vfs.store_id

    async def fill() -> None:
        import mmap

        config = DiskCacheConfig(directory=directory, size_bytes=1 << 30, block_bytes=MIB)
        cache = await DiskBlockCache.open(config, store_id=store_id)
        async with trio.open_nursery() as nursery:
            await nursery.start(cache.run)
            held = await cache.open_object(obj)
            for index in blocks:
                buffer = memoryview(mmap.mmap(-1, MIB))
                assert await held.write_block(index, buffer, block_length_bytes(obj.size_bytes, MIB, index))
            held.close()
            await Orders(cache.records).keep(obj, None, BlockOrder([2, 0, 1], MIB, obj.size_bytes))
            nursery.cancel_scope.cancel()
        await cache.aclose()

    trio.run(fill)


PNG = b"\x89PNG\r\n\x1a\n"


def test_a_plot_is_a_picture(tigrismount, fails, model, tmp_path):
    (model / "model-3.safetensors").write_bytes(b"\xff" * 100)
    tigrismount("inspect", str(model), "--plot", str(tmp_path / "map.png"))
    assert (tmp_path / "map.png").read_bytes().startswith(PNG)
    path = str(model / "model-1.safetensors")
    assert "cannot be drawn" in fails("inspect", path, "--plot", str(tmp_path / "none" / "map.png"))[1]
    assert "cannot be drawn" in fails("inspect", path, "--plot", str(tmp_path / "map.xyz"))[1]


def test_without_matplotlib_a_plot_says_what_to_install(fails, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    exit_code, line = fails("inspect", str(model), "--plot", "map.png")
    assert (exit_code, line) == (1, f"--plot needs matplotlib: {sys.executable} -m pip install 'tigrismount[plot]'")
    assert not os.path.exists("map.png")


def report_of(key: str, *causes: str) -> dict:
    stalls = [
        {"at_s": number, "seconds": 0.5, "cause": cause, "file": key, "start": 0, "stop": 1}
        for number, cause in enumerate(causes)
    ]
    return {
        "seconds": 3.0,
        "bytes_fetched": 3 * MIB,
        "bytes_needed": 2 * MIB,
        "waits": {"seconds": 1.0, "causes": {cause: {"count": 1, "seconds": 0.5} for cause in causes}},
        "stalls": {"count": len(causes), "longest": stalls},
        "timeline": {
            "files": ["elsewhere", key],
            "cell_bytes": MIB,
            "columns": ["kind", "file", "cell", "first_s", "last_s", "bytes"],
            "cells": [
                ["fetched", 1, 0, 0.0, 0.2, MIB],
                ["pushed", 1, 1, 0.3, 0.4, MIB],
                ["read", 1, 0, 0.5, 0.5, MIB],
                ["read", 0, 0, 0.5, 0.5, MIB],
            ],
        },
    }


def inspected_with(path: Path, key: str):
    import trio

    from tigrismount.cli.inspect_model import inspect_place
    from tigrismount.cli.inspect_places import Holding, LocalPlace

    inspected = trio.run(inspect_place, LocalPlace(str(path)))
    for item in inspected.files:
        item.holding = Holding("b", key, "e", MIB, (Extent(0, 16),))
    inspected.make_plan({})
    return inspected


def test_the_newest_load_of_the_files_is_drawn_with_what_it_waited_for(model, tmp_path):
    from tigrismount.cli.inspect_model import load_of
    from tigrismount.cli.inspect_plot import draw

    inspected = inspected_with(model / "model-1.safetensors", "llama/x")
    older, newest = report_of("llama/x", "plan"), report_of("llama/x", "store", "plan", "unheard of")
    others = [
        report_of("llama/y"),
        {"seconds": 1},
        {**report_of("llama/x"), "timeline": {"files": ["llama/x"], "cells": []}},
    ]
    assert load_of(inspected, [older, newest, *others]) == newest
    assert load_of(inspected, others) is None
    with_load, without = tmp_path / "with.png", tmp_path / "without.png"
    draw(str(with_load), inspected, newest)
    draw(str(without), inspected, None)
    assert with_load.read_bytes().startswith(PNG)
    assert with_load.stat().st_size > without.stat().st_size + 5_000, "the timeline is a panel of its own"


def test_the_command_needs_its_argument(capfd):
    assert main(["inspect"]) == 2
    assert "Missing argument" in capfd.readouterr().err


def test_the_names_of_an_index_cannot_steer_the_terminal_where_they_are_missing_either(tigrismount, tmp_path):
    """Whoever wrote the bucket names the shards: a warning with such a name would change a person's terminal."""
    names = {"weight_map": {"w": "\x1b]0;owned\x07.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(names))
    ended = tigrismount("inspect", str(tmp_path))
    assert "\\x1b]0;owned\\x07.safetensors: is named by the index" in ended.err
    assert "\x1b" not in ended.err + ended.out


def test_ctrl_c_ends_a_look_into_a_mount_that_does_not_answer(tmp_path, monkeypatch):
    """As while its store is away. Mutation: nothing happens until the mount has given up, which takes five minutes."""
    import trio

    from tigrismount.cli import inspect_places
    from tigrismount.reader.modelfiles import ModelFile

    answered = threading.Event()
    monkeypatch.setattr(inspect_places, "_pread", lambda *_: answered.wait(5) and b"")

    async def look() -> bool:
        with trio.move_on_after(0.05) as scope:
            await inspect_places.LocalPlace(str(tmp_path)).read(ModelFile("model.gguf", 1), 0, 1)
        return scope.cancelled_caught

    try:
        assert trio.run(look)
    finally:
        answered.set()
