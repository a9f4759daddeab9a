from __future__ import annotations

import json

import pytest

from tigrismount.cli import cachedirs
from tigrismount.holder.mountinfo import FUSE_TYPE, MountEntry


def test_a_cache_that_is_not_there_is_not_found(fails, tmp_path):
    exit_code, line = fails("cache", "stats", "--cache-dir", str(tmp_path / "none"))
    assert (exit_code, line) == (3, f"{tmp_path}/none: there is no cache; name one with --cache-dir")


def test_a_cache_that_is_off_is_not_found(fails, monkeypatch):
    monkeypatch.setenv("TIGRISMOUNT_CACHE_DIR", "off")
    assert fails("cache", "stats")[0] == 3


def test_a_directory_that_is_no_cache_fails(fails, tmp_path):
    exit_code, line = fails("cache", "stats", "--cache-dir", str(tmp_path))
    assert exit_code == 1
    assert str(tmp_path) in line


@pytest.fixture
def filled(tmp_path):
    """A cache with nothing in it yet."""
    import trio

    from tigrismount.cache.disk import DiskBlockCache
    from tigrismount.cache.options import DiskCacheConfig

    async def fill() -> None:
        config = DiskCacheConfig(directory=str(tmp_path / "cache"), size_bytes=1 << 30)
        await (await DiskBlockCache.open(config, store_id="tigris")).aclose()

    trio.run(fill)
    return str(tmp_path / "cache")


def test_a_cache_tells_what_it_holds(tigrismount, filled, monkeypatch):
    monkeypatch.setenv("TIGRISMOUNT_CACHE_DIR", filled)
    ended = tigrismount("cache", "stats")
    assert ended.exit_code == 0
    assert "0 object versions, 0 blocks" in ended.out


def test_a_cache_tells_it_as_json(tigrismount, filled):
    report = json.loads(tigrismount("cache", "stats", "--json", "--cache-dir", filled).out)
    assert (report["directory"], report["objects"], report["bytes_cached"]) == (filled, 0, 0)


@pytest.mark.parametrize("path", [".", "..", "./models"])
def test_a_path_from_here_is_no_prefix(fails, filled, monkeypatch, path):
    """Mutation: '.' is a prefix that nothing begins with, and 'cache evict .' takes nothing away."""
    monkeypatch.setenv("TIGRISMOUNT_CACHE_DIR", filled)
    exit_code, line = fails("cache", "list", path)
    assert exit_code == 3
    assert "is not under a mount" in line


def test_a_path_under_a_mount_means_the_cache_of_that_mount(tigrismount, fails, filled, monkeypatch, tmp_path):
    """Mutation: 'cache evict PATH' looks where a mount would have its cache by default, and takes nothing away."""
    entry = MountEntry(
        mount_id=1, device="0:1", mountpoint="/models", type=FUSE_TYPE, source="s3://b", super_options=()
    )
    told = {"mountpoint": "/models", "state": "ok", "source": "s3://bucket/models", "cache_dirs": [filled]}
    monkeypatch.setattr(cachedirs, "read_mounts", lambda: [entry])
    monkeypatch.setattr(cachedirs, "collect_mounts", lambda *_: [told])
    monkeypatch.setenv("TIGRISMOUNT_CACHE_DIR", str(tmp_path / "another"))
    for command in ("evict", "list", "verify", "pin"):
        ended = tigrismount("cache", command, "/models/llama")
        assert ended.exit_code == 0, (command, ended.err)
    assert tigrismount("cache", "pin", "--cache-dir", filled).out == "s3://bucket/models/llama\n"
    assert tigrismount("cache", "unpin", "/models/llama").out == "1 unpinned\n"
    assert fails("cache", "evict", "/models/llama", "--cache-dir", str(tmp_path / "none"))[0] == 3
    assert fails("cache", "list", "s3://bucket/models/llama")[1].startswith(f"{tmp_path}/another: there is no cache")


@pytest.mark.parametrize(
    ("path", "prefix"),
    [("/models", ""), ("/models/", ""), ("/models/bucket", "bucket/"), ("/models/bucket/a", "bucket/a")],
)
def test_a_path_under_a_mount_of_all_buckets_begins_with_the_bucket(monkeypatch, path, prefix):
    """Mutation: nothing begins with a slash, so all of it is found right, and evicted, without a look at any object;
    and who evicts one bucket evicts those whose names begin like it.
    """
    entry = MountEntry(1, "0:1", "/models", FUSE_TYPE, "s3://", ())
    monkeypatch.setattr(cachedirs, "read_mounts", lambda: [entry])
    told = {"mountpoint": "/models", "state": "ok", "source": "s3://", "cache_dirs": []}
    monkeypatch.setattr(cachedirs, "collect_mounts", lambda *_: [told])
    assert cachedirs.cache_prefix(path) == prefix


def test_a_prefix_of_which_nothing_is_cached_is_named(tigrismount, filled):
    """Mutation: who has mistyped a bucket hears that nothing was evicted, and not why; scripts that repeat it go on."""
    ended = tigrismount("cache", "evict", "s3://bucket/model", "--cache-dir", filled)
    assert (ended.exit_code, ended.out) == (0, "0 object versions evicted, 0 B freed\n")
    assert ended.err.startswith("tigrismount: warning: s3://bucket/model: nothing in the cache begins so")
    ended = tigrismount("cache", "evict", "s3://bucket/model", "--json", "--cache-dir", filled)
    assert json.loads(ended.out)["unknown"] == ["bucket/model"]
    assert "unknown" not in json.loads(tigrismount("cache", "clear", "--yes", "--json", "--cache-dir", filled).out)
