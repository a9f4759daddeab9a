"""Models of true shape on the embedded S3 server, a mount with an empty cache per test, and loaders in children.

Torch is imported once, by the process that forks the loaders. Where it is not installed these tests are skipped with
the reason, in CI they fail.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tigrismount.demo.command import run_command
from tigrismount.demo.model import plan_model, upload_model
from tigrismount.testing.mount import Mounted, marked_processes, mounted, require_fuse

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
BLOCK = MIB
ANSWER_S = 90.0
"""Longest wait for a loader; it ends by itself after a minute."""
BUCKET = "loaders"
PACKAGES = ("torch", "transformers", "gguf")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.fuse)


@pytest.fixture(scope="session", autouse=True)
def needs() -> None:
    require_fuse()
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        reason = f"not installed: {', '.join(missing)} (pip install --group loaders)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


class Clients:
    """The process that forks loaders."""

    def __init__(self) -> None:
        self._mark = f"_TIGRISMOUNT_TEST={uuid.uuid4().hex}"
        environment = {
            **os.environ,
            **dict([self._mark.split("=")]),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("clients.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def run(self, client: str, path: str, **arguments: Any) -> dict[str, Any]:
        """Run one loader on *path* and return the checksums of what it loaded."""
        assert self._process.stdin
        assert self._process.stdout
        print(
            json.dumps({"client": client, "path": path, "arguments": arguments}), file=self._process.stdin, flush=True
        )
        assert select.select([self._process.stdout], [], [], ANSWER_S)[0], f"{client} hangs"
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["found"]

    def close(self) -> None:
        """End it and whatever it forked."""
        assert self._process.stdin
        self._process.stdin.close()
        for pid in marked_processes(self._mark):
            os.kill(pid, 9)
        self._process.wait(10)
        assert self._process.stdout
        self._process.stdout.close()


@pytest.fixture(scope="session")
def clients(needs: None) -> Iterator[Clients]:
    running = Clients()
    yield running
    running.close()


@dataclass(frozen=True)
class Files:
    """What lies under one prefix, and what its tensors must be."""

    prefix: str
    sums: dict[str, int]
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes of each object that a loader of all of it reads, by key."""

    @property
    def total_bytes(self) -> int:
        return sum(self.sizes.values())


def _upload(client: Any, prefix: str, size_bytes: int, shard_bytes: int) -> Files:
    model = plan_model(size_bytes, shard_bytes=shard_bytes)
    sums = upload_model(client, BUCKET, prefix, model)
    listed = client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")["Contents"]
    return Files(prefix, sums, {row["Key"]: row["Size"] for row in listed})


@pytest.fixture(scope="session")
def store(s3, s3_client) -> Any:
    s3_client.create_bucket(Bucket=BUCKET)
    return s3_client


@pytest.fixture(scope="session")
def llama(store) -> Files:
    """A language model in four or five shards, in Hugging Face layout."""
    return _upload(store, "llama", 40 * MIB, 10 * MIB)


@pytest.fixture(scope="session")
def pipeline(store) -> Files:
    """A pipeline as diffusers stores it: an index, and a directory per component."""
    components = {name: _upload(store, f"sdxl/{name}", size * MIB, 8 * MIB) for name, size in _COMPONENTS.items()}
    index = json.dumps({"_class_name": "Pipeline", **{name: ["diffusers", "Model"] for name in components}}).encode()
    store.put_object(Bucket=BUCKET, Key="sdxl/model_index.json", Body=index)
    sums = {f"{name}/{tensor}": value for name, files in components.items() for tensor, value in files.sums.items()}
    sizes = {key: size for files in components.values() for key, size in files.sizes.items()}
    return Files("sdxl", sums, {**sizes, "sdxl/model_index.json": len(index)})


_COMPONENTS = {"text_encoder": 4, "unet": 16, "vae": 2}


@pytest.fixture(scope="session")
def others(store, clients, tmp_path_factory) -> dict[str, Files]:
    """One file each of PyTorch's, llama.cpp's and numpy's formats, by file name."""
    directory = tmp_path_factory.mktemp("others")
    made = clients.run("make", str(directory))
    found = {}
    for name, sums in {
        "model.pt": made["tensors"],
        "model.gguf": made["tensors"],
        "array.npy": {"array": made["array"]},
    }.items():
        prefix = f"other-{name.rpartition('.')[2]}"
        store.upload_file(str(directory / name), BUCKET, f"{prefix}/{name}")
        found[name] = Files(prefix, sums, {f"{prefix}/{name}": (directory / name).stat().st_size})
    return found


@dataclass
class Loading:
    """A mount with an empty cache, and what a loader made it do."""

    clients: Clients
    mount: Mounted
    s3: Any

    def run(self, client: str, files: Files, *, gets_per_block: int = 1, **arguments: Any) -> dict[str, Any]:
        """Load, and check that each byte was fetched once and in few requests; return what was loaded.

        Bytes may exceed what is needed by a hundredth (rounded out to blocks), requests what whole blocks take by two
        per file: one that starts inside its block, and its head. A reader that meets every block in its middle makes
        two of each. A GET that lagged on a busy machine is cut and asked again for its rest: that is not counted.
        """
        self.s3.reset_requests()
        found = self.clients.run(client, f"{self.mount.path}/{files.prefix}", **arguments)
        again = self.mount.status()["requests"]["retries"]
        gets = self.s3.requests("GetObject")
        reports = json.loads(run_command("loads", self.mount.path, "--json", env=self.mount.env).check().output)
        assert {get.key for get in gets} <= files.sizes.keys()
        fetched_bytes = sum(report["bytes_fetched"] for report in reports)
        assert fetched_bytes <= files.total_bytes * 1.01, "something was fetched twice"
        assert sum(report["bytes_needed"] for report in reports) <= fetched_bytes, "a load was not seen"
        blocks = sum(-(-size // BLOCK) for size in files.sizes.values())
        assert len(gets) <= gets_per_block * blocks + 2 * len(files.sizes) + again, "requests smaller than blocks"
        return found


@pytest.fixture
def loading(clients: Clients, s3, store, tmp_path: Path) -> Iterator[Loading]:
    (tmp_path / "mnt").mkdir()
    flags = [f"--cache-dir={tmp_path / 'cache'}", "--block-size=1MiB", "--memory-limit=128MiB"]
    with mounted(f"s3://{BUCKET}", tmp_path / "mnt", s3.env(), *flags) as mount:
        yield Loading(clients, mount, s3)
