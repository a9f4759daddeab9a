"""Real mounts of the embedded S3 server; a mount that hangs fails a test and never the run."""

from __future__ import annotations

import os
import platform
import sys
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tigrismount.control.paths import runtime_directory, socket_path
from tigrismount.demo.command import Finished, run_child, run_command, wait_until
from tigrismount.demo.model import plan_model
from tigrismount.fuse.options import FuseConfig
from tigrismount.fuse.permission import effective_capabilities, why_off
from tigrismount.fuse.room import read_text
from tigrismount.holder.mountinfo import read_mounts
from tigrismount.testing.mount import Mounted, marked_processes, mounted, require_fuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

MIB = 1 << 20
BLOCK = MIB
"""The smallest block size there is: many blocks in small files."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.fuse)


@pytest.fixture(scope="session", autouse=True)
def fuse() -> None:
    require_fuse()


@pytest.fixture
def passthrough(tmp_path: Path) -> None:
    """Skip where no file can be opened onto a file of the cache."""
    kernel = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    if kernel < (6, 9):
        pytest.skip("passthrough came with Linux 6.9")
    if reason := why_off(
        FuseConfig(passthrough="on"),
        verify="once",
        capabilities=effective_capabilities(read_text),
        uid_map=read_text("/proc/self/uid_map"),
    ):
        pytest.skip(reason)
    if run_child("stat", "-f", "-c", "%T", str(tmp_path)).check().output.strip() == "overlayfs":
        pytest.skip("the temporary directory is on an overlayfs")


@pytest.fixture(scope="session")
def noise() -> Callable[[int, int], bytes]:
    """Make bytes that differ at every place, from a size and a seed."""
    return _noise


def _noise(size_bytes: int, seed: int) -> bytes:
    return np.random.Generator(np.random.PCG64(seed)).bytes(size_bytes)


@pytest.fixture
def env(s3, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of all commands of a test; afterwards no process, mount or socket of it may be left."""
    mark = f"_TIGRISMOUNT_TEST={uuid.uuid4().hex}"
    yield {**s3.env(), **dict([mark.split("=")])}
    left = [entry.mountpoint for entry in read_mounts() if entry.mountpoint.startswith(str(tmp_path))]
    assert left == [], "left mounted"
    # A moment for what has just been killed on a busy machine.
    assert wait_until(lambda: marked_processes(mark) == [], timeout_s=10.0), "left running"


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mnt"
    path.mkdir()
    yield path
    assert not os.path.exists(socket_path(runtime_directory(os.environ, uid=os.geteuid()), str(path))), "left socket"


@dataclass(frozen=True)
class Mounter:
    """Mounts with small blocks and a cache of the test's own."""

    env: dict[str, str]
    mountpoint: Path
    cache_dir: Path

    def __call__(self, source: str, *flags: str) -> AbstractContextManager[Mounted]:
        return mounted(source, self.mountpoint, self.env, *self.flags, *flags)

    @property
    def flags(self) -> list[str]:
        return [f"--cache-dir={self.cache_dir}", "--block-size=1MiB", "--memory-limit=64MiB"]

    def run(self, *arguments: str, **changes: str) -> Finished:
        """Run the command line; *changes* to the environment win, an empty value takes the variable away."""
        env = {name: value for name, value in {**self.env, **changes}.items() if value}
        return run_command(*arguments, env=env)


@pytest.fixture
def mount(env: dict[str, str], mountpoint: Path, tmp_path: Path) -> Mounter:
    return Mounter(env, mountpoint, tmp_path / "cache")


@pytest.fixture(scope="session")
def python() -> Callable[..., str]:
    """Run Python code in a child, with ``sys``, ``os`` and ``path = sys.argv[1]`` at hand; returns what it printed."""

    def run(code: str, *arguments: Any, timeout_s: float = 60.0) -> str:
        prologue = "import errno, json, hashlib, mmap, os, sys\npath = sys.argv[1]\n"
        command = [sys.executable, "-c", prologue + code, *map(str, arguments)]
        return run_child(*command, timeout_s=timeout_s).check().output

    return run


@dataclass(frozen=True)
class Corpus:
    """A mounted bucket of files of every awkward size, and what is in it."""

    path: str
    files: dict[str, bytes]
    bucket: str
    client: Any
    mount: Mounted
    sums: dict[str, int]
    """Checksums of the tensors of the model in ``model/``."""


SIZES = {
    "empty": 0,
    "one": 1,
    "block": BLOCK,
    "block-less-one": BLOCK - 1,
    "block-and-one": BLOCK + 1,
    "blocks": 3 * BLOCK + 17,
    "large": 12 * BLOCK + 4097,
}


@pytest.fixture(scope="session")
def corpus(s3, s3_client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    """One mount for all tests that only read."""
    files = {f"sizes/{name}": _noise(size, seed) for seed, (name, size) in enumerate(SIZES.items())}
    files |= {
        "top.txt": b"top\n",
        "deep/er/and/deeper/file": b"deep",
        "names/with blank": b"1",
        "names/ünïcödé": b"2",
        "names/control\x01": b"3",
        "names/" + "x" * 255: b"4",
        "both": b"hidden by the directory",
        "both/inside": b"5",
        "both-x": b"6",
    }
    model = plan_model(24 * MIB, shard_bytes=10 * MIB)
    files |= {f"model/{name}": body for name, body in model.small_files.items()}
    sums: dict[str, int] = {}
    for shard in model.shards:
        body, of_shard = shard.render()
        files[f"model/{shard.name}"] = bytes(body)
        sums |= of_shard
    s3_client.create_bucket(Bucket="corpus")
    for key, body in files.items():
        s3_client.put_object(Bucket="corpus", Key=key, Body=body)
    del files["both"]
    directory = tmp_path_factory.mktemp("corpus")
    (directory / "mnt").mkdir()
    flags = [f"--cache-dir={directory / 'cache'}", "--block-size=1MiB", "--memory-limit=64MiB"]
    with mounted("s3://corpus", directory / "mnt", s3.env(), *flags) as mount:
        yield Corpus(mount.path, files, "corpus", s3_client, mount, sums)
