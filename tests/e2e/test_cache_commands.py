"""``cache list``, ``verify``, ``evict``, ``pin``, ``unpin`` and ``clear``, beside daemons that use the cache."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

from tigrismount.testing.mount import mounted

MIB = 1 << 20
BLOCK = MIB


@pytest.fixture
def cache(mount):
    """Run a ``cache`` command on the test's cache."""

    def run(command: str, *arguments: str):
        return mount.run("cache", command, *arguments, f"--cache-dir={mount.cache_dir}")

    return run


@pytest.fixture
def warmed(mount, bucket, noise):
    """Three objects in the cache."""
    for seed, key in enumerate(("m/a", "m/b", "n/c")):
        bucket.put(key, noise(2 * BLOCK + 5, seed))
    mount.run("warm", f"s3://{bucket.name}", *mount.flags).check()
    return bucket


def keys(cache, *arguments: str) -> list[str]:
    return [item["key"] for item in json.loads(cache("list", *arguments, "--json").check().output)["objects"]]


def test_list_shows_what_is_cached_by_source_prefix_or_path(cache, mount, warmed):
    assert keys(cache) == ["m/a", "m/b", "n/c"]
    assert keys(cache, f"s3://{warmed.name}/m") == ["m/a", "m/b"]
    assert keys(cache, f"{warmed.name}/n/") == ["n/c"]
    assert keys(cache, "s3://another-bucket") == []
    shown = cache("list").check().output
    assert f"s3://{warmed.name}/m/a  2 MiB" in shown
    with mount(f"s3://{warmed.name}/m") as there:
        assert keys(cache, there.path) == ["m/a", "m/b"]
        assert keys(cache, f"{there.path}/a") == ["m/a"]


def test_verify_reads_everything_back_and_names_what_is_damaged(cache, mount, warmed, python):
    assert cache("verify").check().output.startswith("3 object versions, 6 MiB read back: all right")
    files = [path for path in (mount.cache_dir / "objects").rglob("*") if path.is_file() and path.stat().st_blocks]
    with files[0].open("r+b") as handle:
        handle.seek(BLOCK + 100)
        handle.write(b"damage")

    with mount(f"s3://{warmed.name}"):
        found = cache("verify")
        assert found.status == 1
        assert found.errors.count("tigrismount: error: ") == 1
        assert f"bytes {BLOCK}-{2 * BLOCK}" in found.errors
        again = json.loads(cache("verify", "--json").check().output)
        assert (again["ok"], again["faults"]) == (True, [])
        assert again["checked_bytes"] == 3 * (2 * BLOCK + 5) - BLOCK


def test_evict_takes_out_what_nobody_has_open_and_says_what_stays(cache, mount, warmed, s3):
    with mount(f"s3://{warmed.name}") as there:
        with_open = "import sys, os\nfd = os.open(sys.argv[1], os.O_RDONLY)\nos.pread(fd, 1, 0)\n" + (
            "import subprocess\nprint(subprocess.run(sys.argv[2:], capture_output=True, text=True))"
        )
        evict = [sys.executable, "-m", "tigrismount", "cache", "evict", f"s3://{warmed.name}/m/"]
        evict += [f"--cache-dir={mount.cache_dir}"]
        command = [sys.executable, "-c", with_open, f"{there.path}/m/a", *evict]
        told = subprocess.run(command, env=mount.env, capture_output=True, text=True, timeout=60, check=True).stdout
        assert "returncode=1" in told
        assert f"s3://{warmed.name}/m/a: stays: a mount has it open" in told
        assert "1 object versions evicted, 2 MiB freed" in told
    assert keys(cache) == ["m/a", "n/c"]
    ended = json.loads(cache("evict", f"s3://{warmed.name}/m/", "--json").check().output)
    assert (ended["objects"], ended["freed_bytes"]) == (1, 2 * BLOCK + 5)
    assert keys(cache) == ["n/c"]


def test_what_is_pinned_stays_until_it_is_unpinned(cache, warmed):
    name = f"s3://{warmed.name}/m/a"
    assert cache("pin").check().output == "nothing is pinned\n"
    assert cache("pin", name).check().output == name + "\n"
    refused = cache("evict", f"s3://{warmed.name}/")
    assert refused.status == 1
    assert f"{name}: stays: it is pinned" in refused.errors
    assert keys(cache) == ["m/a"]
    assert "PINNED" in cache("list").check().output

    wrong = cache("unpin", f"s3://{warmed.name}/x")
    assert wrong.status == 1
    assert "was not pinned" in wrong.errors
    assert cache("unpin", name).check().output == "1 unpinned\n"
    cache("evict", name).check()
    assert keys(cache) == []


def test_clear_asks_first_and_empties_it(cache, warmed):
    refused = cache("clear")
    assert refused.status == 2
    assert "pass --yes" in refused.errors
    assert len(keys(cache)) == 3
    assert cache("clear", "--yes").check().output.startswith("3 object versions evicted")
    assert keys(cache) == []


def test_several_directories_are_one_cache_to_the_commands(mount, bucket, noise, tmp_path):
    for n in range(8):
        bucket.put(f"m/{n}", noise(BLOCK, n))
    dirs = [f"--cache-dir={tmp_path / name}" for name in ("one", "two")]
    mount.run("warm", f"s3://{bucket.name}", *dirs, "--block-size=1MiB").check()

    found = json.loads(mount.run("cache", "list", *dirs, "--json").check().output)["objects"]
    assert sorted(item["key"] for item in found) == [f"m/{n}" for n in range(8)]
    assert len({item["directory"] for item in found}) == 2
    stats = json.loads(mount.run("cache", "stats", *dirs, "--json").check().output)
    assert (stats["objects"], stats["bytes_cached"]) == (8, 8 * BLOCK)
    assert [part["directory"] for part in stats["directories"]] == [str(tmp_path / "one"), str(tmp_path / "two")]
    assert "8 object versions, 8 MiB" in mount.run("cache", "verify", *dirs).check().output
    mount.run("cache", "clear", "--yes", *dirs).check()
    assert json.loads(mount.run("cache", "list", *dirs, "--json").check().output)["objects"] == []


def test_a_mount_goes_on_after_its_cache_was_cleared(cache, mount, warmed, python, noise):
    with mounted(f"s3://{warmed.name}", mount.mountpoint, mount.env, *mount.flags) as there:
        cache("clear", "--yes").check()
        code = "print(hashlib.sha256(open(path, 'rb').read()).hexdigest())"
        assert python(code, f"{there.path}/m/a").strip() == hashlib.sha256(noise(2 * BLOCK + 5, 0)).hexdigest()
