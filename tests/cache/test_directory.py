"""Opening a directory: ours, somebody else's, of another release, damaged, or no directory at all."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmdb
import pytest

from tigrismount.cache import probe, tenancy
from tigrismount.cache.directory import CacheDirectory, kernel_boot_id, open_cache_directory
from tigrismount.errors import CacheError, ConfigError
from tigrismount.testing.cache_contract import check_all, fill, object_id

OBJ = object_id("model")


def garbage(path: Path, start: int, stop: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    stop = len(data) if stop is None else stop
    data[start:stop] = os.urandom(stop - start)
    path.write_bytes(data)


def other_schema(place: Any) -> None:
    with lmdb.open(str(place.path / "index"), max_dbs=3) as env:
        meta = env.open_db(b"meta")
        with env.begin(write=True) as txn:
            txn.put(b"schema", (99).to_bytes(8, "little"), db=meta)


def not_our_lmdb(place: Any) -> None:
    shutil.rmtree(place.path / "index")
    (place.path / "index").mkdir()
    with lmdb.open(str(place.path / "index")) as env, env.begin(write=True) as txn:
        txn.put(b"schema", b"of something else")


def total_off_by_one(place: Any) -> None:
    with lmdb.open(str(place.path / "index"), max_dbs=3) as env:
        meta = env.open_db(b"meta")
        with env.begin(write=True) as txn:
            total = int.from_bytes(txn.get(b"bytes", db=meta), "little")
            txn.put(b"bytes", (total + 1).to_bytes(8, "little"), db=meta)


def stray_block(place: Any) -> None:
    with lmdb.open(str(place.path / "index"), max_dbs=3) as env:
        blocks = env.open_db(b"blocks")
        with env.begin(write=True) as txn:
            txn.put(b"short key", b"and no record", db=blocks)


DAMAGES = {
    "all garbage": lambda place: garbage(place.path / "index/data.mdb", 0),
    "garbage behind the meta pages": lambda place: garbage(place.path / "index/data.mdb", 8192),
    "zeros behind the meta pages": lambda place: (place.path / "index/data.mdb").write_bytes(
        (place.path / "index/data.mdb").read_bytes()[:8192].ljust(1 << 16, b"\0")
    ),
    "truncated": lambda place: os.truncate(place.path / "index/data.mdb", 8192),
    "empty": lambda place: os.truncate(place.path / "index/data.mdb", 0),
    "one byte": lambda place: os.truncate(place.path / "index/data.mdb", 1),
    "newer release": lambda place: (place.path / "VERSION").write_text("tigrismount-cache 99\n"),
    "no VERSION": lambda place: (place.path / "VERSION").unlink(),
    "other schema": other_schema,
    "another program's LMDB": not_our_lmdb,
    "sums that disagree": total_off_by_one,
    "a record of another shape": stray_block,
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_what_cannot_be_read_is_set_aside_with_one_line(
    place: Any, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with place.open() as cache:
        await fill(cache, OBJ)
    DAMAGES[damage](place)
    with caplog.at_level(logging.INFO):
        async with place.open() as cache:
            assert await check_all(cache, OBJ) == 0
            assert cache.statistics().bytes_cached == 0
            assert await fill(cache, OBJ) == 4
            await place.until(lambda: not list(place.path.glob("set-aside-*")))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"the cache in {place.path} starts empty; what was there is set aside and removed: ")
    async with place.open() as cache:
        assert await check_all(cache, OBJ) == 4


async def test_garbage_in_the_lock_file_costs_nothing(place: Any) -> None:
    async with place.open() as cache:
        await fill(cache, OBJ)
    garbage(place.path / "index/lock.mdb", 0)
    async with place.open() as cache:
        assert await check_all(cache, OBJ) == 4


async def test_start_that_was_killed_is_finished_by_the_next(place: Any) -> None:
    """Whatever of the layout is missing is made."""
    place.path.mkdir()
    (place.path / "lock").touch()
    (place.path / "VERSION.new").touch()
    async with place.open() as cache:
        await fill(cache, OBJ)
    shutil.rmtree(place.path / "index")
    async with place.open() as cache:
        assert await check_all(cache, OBJ) == 0


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_text("a file"), "is not a directory"),
        (lambda path: (path.mkdir(), (path / "thesis.tex").touch()), r"holds 'thesis.tex'"),
        (lambda path: (path.mkdir(), (path / "VERSION").write_text("1.2\n"), (path / "src").touch()), "not empty"),
        (lambda path: (path.mkdir(), (path / "objects").mkdir(), (path / "index").touch()), "not empty"),
        (lambda path: path.symlink_to("/proc/nowhere"), "cannot be used: "),
        (lambda path: path.symlink_to("/proc/self"), "(belongs to uid|not empty|cannot be used)"),
    ],
)
async def test_what_is_not_ours_is_refused_in_one_line_and_left_alone(place: Any, make: Any, reason: str) -> None:
    make(place.path)
    before = sorted(place.path.rglob("*")) if place.path.is_dir() and not place.path.is_symlink() else []
    with pytest.raises(ConfigError, match=reason) as caught:
        await place.start()
    assert "\n" not in str(caught.value)
    assert str(place.path) in str(caught.value)
    if before:
        assert sorted(place.path.rglob("*")) == before


@pytest.mark.parametrize("path", ["/proc/1/cache", "/sys/kernel/cache", "/dev/null/cache"])
def test_directory_that_cannot_be_made_is_one_line(path: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be used: .*--cache-dir"):
        open_cache_directory(path)


def test_directory_of_another_user_is_refused(place: Any) -> None:
    if os.geteuid():
        pytest.skip("only root can make a directory of another user")
    place.path.mkdir()
    os.chown(place.path, 4711, 4711)
    with pytest.raises(ConfigError, match="belongs to uid 4711, this process is uid 0"):
        open_cache_directory(str(place.path))


def test_read_only_directory_is_one_line(place: Any) -> None:
    place.path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", place.path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting a read-only tmpfs failed: {mounted.stderr!r}")
    try:
        with pytest.raises(ConfigError, match="cannot be used: Read-only file system"):
            open_cache_directory(str(place.path))
    finally:
        subprocess.run(["umount", place.path], check=True)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.ESTALE])
def test_a_disk_in_trouble_costs_the_cache_and_not_the_mount(
    place: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Mutation: no mount of a host begins whose cache drive has died, though the store has it all."""
    look, why = os.stat, os.strerror(number)

    def fails(path: Any, *how: Any, **more: Any) -> os.stat_result:
        if path == str(place.path):
            raise OSError(number, why)
        return look(path, *how, **more)

    place.path.mkdir(mode=0o700)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", fails)
        with pytest.raises(CacheError, match=f"cannot be opened: {why}"):
            open_cache_directory(str(place.path))


def test_a_sandbox_that_hides_the_boot_id_costs_the_cache_and_not_the_mount(tmp_path: Path) -> None:
    """A ``CacheError`` is what the worker mounts without a cache for; ``ProcSubset=pid`` is such a sandbox."""
    assert len(kernel_boot_id()) == 36
    with pytest.raises(CacheError, match="boot_id: No such file or directory; let this process see /proc/sys"):
        kernel_boot_id(str(tmp_path / "boot_id"))


def test_a_filesystem_without_locks_costs_the_cache_and_says_so(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: it is taken for daemons of another pid namespace; fifteen directories are made beside it in vain."""

    def flock(fd: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(CacheError, match="its filesystem has no locks"):
        open_cache_directory(str(place.path))
    assert not list(place.path.glob("beside-*"))


@pytest.mark.parametrize(
    ("filesystem", "is_refused"),
    [
        ("nfs server:/home rw,vers=3,nolock,local_lock=all,addr=10.0.0.1", True),
        ("lustre mgs@tcp:/scratch rw,checksum,localflock,user_xattr", True),
        ("nfs4 server:/home rw,vers=4.2,local_lock=none,addr=10.0.0.1", False),
        ("lustre mgs@tcp:/scratch rw,checksum,flock,user_xattr", False),
    ],
)
def test_a_filesystem_whose_locks_other_machines_do_not_see_costs_the_cache_and_says_so(
    place: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, filesystem: str, is_refused: bool
) -> None:
    """As a home of many nodes. Mutation: all of them write one index, and punch holes into what others read."""
    place.path.mkdir(mode=0o700)
    device = place.path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    here = f"{os.major(device)}:{os.minor(device)}"
    mounts.write_text(f"21 1 0:0 / / rw - nfs other:/ rw,local_lock=all\n36 21 {here} / /home rw - {filesystem}\n")
    monkeypatch.setattr(tenancy, "MOUNTS_PATH", str(mounts))
    if is_refused:
        with pytest.raises(CacheError, match="locks for this machine alone"):
            open_cache_directory(str(place.path))
        assert not list(place.path.glob("beside-*"))
    else:
        directory, index = open_cache_directory(str(place.path))
        index.close()
        directory.leave()


async def test_existing_empty_directory_is_taken_and_made_private(place: Any) -> None:
    place.path.mkdir(mode=0o755)
    (place.path / "lost+found").mkdir()
    async with place.open() as cache:
        assert await fill(cache, OBJ) == 4
    assert place.path.stat().st_mode & 0o777 == 0o700


async def test_other_files_beside_a_cache_are_left_alone(place: Any) -> None:
    async with place.open():
        pass
    (place.path / "note").write_text("mine")
    async with place.open() as cache:
        assert await fill(cache, OBJ) == 4
    assert (place.path / "note").read_text() == "mine"


def test_two_starts_at_once_make_one_cache(tmp_path: Path) -> None:
    """Neither sets aside what the other has just made."""
    program = (
        "import sys; from tigrismount.cache.directory import *; open_cache_directory(sys.argv[1]); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "cache")]
    starts = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [start.communicate(timeout=60)[1] for start in starts] == [""] * 4
    assert not list(tmp_path.glob("cache/set-aside-*"))


def test_probe_that_cannot_run_does_not_condemn_an_index(
    place: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, index = open_cache_directory(str(place.path))
    index.close()
    assert probe.index_damage(CacheDirectory(str(place.path)).index_path) == ""
    assert caplog.records == []
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert probe.index_damage(CacheDirectory(str(place.path)).index_path) == ""
    assert "without a check" in caplog.text


async def test_a_cache_is_not_set_aside_because_its_disk_hangs(
    place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: all that was cached is removed, where a drive that is reset, or a file server, is away for a moment."""
    async with place.open() as cache:
        await fill(cache, OBJ)
    (tmp_path / "lmdb.py").write_text("import time\ntime.sleep(60)\n")  # for the child, who would read the index
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(tmp_path), *sys.path])
        patch.setattr(probe, "_TIMEOUT_S", 3.0)
        with pytest.raises(CacheError, match="did not end within 3 s: its disk is busy, or hangs"):
            await place.start()
    async with place.open() as cache:
        assert await check_all(cache, OBJ) == 4
