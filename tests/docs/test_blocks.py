"""What the tutorial, the guides and the README tell people to type works, on the embedded S3 server.

Every block of ``console``, ``sh`` and ``python`` is run as it stands, page by page, in a directory that stands for
the root: ``/models`` is ``DIRECTORY/models``. A block that cannot run here says why, in a comment before it that no
reader sees: ``<!-- not run: needs a GPU -->``. Blocks of ``toml`` and ``yaml`` are parsed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tigrismount.demo.command import Finished, run_child
from tigrismount.demo.model import plan_model, upload_model
from tigrismount.holder.mountinfo import read_mounts
from tigrismount.testing.mount import Mounted, require_fuse, sweep

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "tutorial.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n+)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
PLACE = re.compile(r"(?<![\w/.:-])/(?=(?:models|nvme|srv|mnt|tmp/models|var/tmp/tigrismount|var/log)\b)")
TARGET = re.compile(r"tigrismount mount (?:\S+:\S* )?(/\S+)")
BEGIN_UNMOUNTED = ("README", "tutorial", "migrate", "comfyui")
SHELL, PYTHON = ("console", "sh", "bash"), ("python",)
MIB = 1 << 20


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    reason: str | None

    @property
    def runs(self) -> bool:
        return self.reason is None and self.language in SHELL + PYTHON

    @property
    def script(self) -> str:
        """What a person would type: of a console the lines after a prompt, without those that hold placeholders."""
        if self.language != "console":
            return self.text
        return "\n".join(line[2:] for line in self.text.splitlines() if line.startswith("$ ") and "…" not in line)


def blocks(page: Path) -> list[Block]:
    return [Block(m["language"], m["text"], m["reason"]) for m in BLOCK.finditer(page.read_text())]


RUNNING = [page for page in PAGES if any(block.runs for block in blocks(page))]


class World:
    """A machine on which ``/models`` and the like are somewhere else, and ``my-bucket`` holds a model."""

    def __init__(self, root: Path, env: dict[str, str]) -> None:
        self.root, self.env = root, env

    def run(self, block: Block) -> Finished:
        script = PLACE.sub(f"{self.root}/", block.script)
        (self.root / "var" / "log").mkdir(parents=True, exist_ok=True)
        script = script.replace(".venv/bin/tigrismount", "tigrismount")
        for target in TARGET.findall(script):
            self._make_free(Path(target))
        if block.language in PYTHON:
            return run_child(sys.executable, "-c", script, env=self.env, timeout_s=200)
        return run_child("bash", "-euo", "pipefail", "-c", script, env=self.env, timeout_s=200)

    def _make_free(self, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        if str(target) in self.mounts():
            run_child("tigrismount", "unmount", str(target), env=self.env).check()

    def mounts(self) -> list[str]:
        return [entry.mountpoint for entry in read_mounts() if entry.mountpoint.startswith(f"{self.root}/")]

    def leave(self) -> None:
        for mountpoint in reversed(self.mounts()):
            run_child("tigrismount", "unmount", mountpoint, env=self.env).check()


@pytest.fixture(scope="module")
def my_bucket(s3, s3_client):
    s3_client.create_bucket(Bucket="my-bucket")
    upload_model(s3_client, "my-bucket", "models/llama", plan_model(40 * MIB, shard_bytes=12 * MIB))
    upload_model(s3_client, "my-bucket", "llama", plan_model(8 * MIB, shard_bytes=3 * MIB))
    s3_client.put_object(Bucket="my-bucket", Key="comfyui/checkpoints/tiny.safetensors", Body=b"x" * 100)


@pytest.fixture
def world(my_bucket, s3, tmp_path):
    require_fuse()
    cache = tmp_path / "root" / "nvme" / "tigrismount"
    defaults = {"HOME": str(tmp_path), "TIGRISMOUNT_BLOCK_SIZE": "1MiB", "TIGRISMOUNT_CACHE_DIR": str(cache)}
    env = s3.env() | defaults | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "BUCKET_NAME": "my-bucket"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    made = World(tmp_path / "root", env | {"_TIGRISMOUNT_STARTED_BY": f"docs-{tmp_path.name}"})
    try:
        yield made
        made.leave()
    finally:
        for mountpoint in made.mounts():
            sweep(Mounted(mountpoint, made.env))


@pytest.mark.fuse
@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.stem)
def test_what_a_page_says_to_type_works(page, world):
    if any("from transformers" in block.text for block in blocks(page) if block.runs):
        pytest.importorskip("transformers")
    if page.stem not in BEGIN_UNMOUNTED:
        # The other guides begin where a bucket is mounted at /models.
        (world.root / "models").mkdir(parents=True)
        run_child("tigrismount", "mount", "s3://my-bucket/models", f"{world.root}/models", env=world.env).check()
    for block in blocks(page):
        if block.runs:
            ended = world.run(block)
            assert ended.status == 0, f"{block.script}\n{ended.output}{ended.errors}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_configuration_on_a_page_can_be_parsed(page):
    for block in blocks(page):
        if block.language == "toml":
            tomllib.loads(block.text)
        if block.language in ("yaml", "yml"):
            assert yaml.safe_load(block.text)


def test_blocks_are_found_and_most_guides_run_something():
    assert {"README", "tutorial", "transformers", "fastapi", "warm", "migrate"} <= {page.stem for page in RUNNING}
    counted = [
        text for page in PAGES for text in re.findall(r"^```(?:console|sh|python)$", page.read_text(), re.MULTILINE)
    ]
    found = [block for page in PAGES for block in blocks(page) if block.language in SHELL + PYTHON]
    assert len(found) == len(counted)
    assert not [block for block in found if block.runs and not block.script.strip()], "nothing in it is run: say why"
    assert not [block for block in found if block.reason is not None and len(block.reason) < 8]


def test_a_command_that_fails_is_noticed(world):
    assert world.run(Block("console", "$ tigrismount ls s3://no-such-bucket\n", None)).status != 0
    assert world.run(Block("python", "raise ValueError\n", None)).status != 0
