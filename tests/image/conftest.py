"""Containers of this checkout's image, built with buildah and run with podman; the S3 server is the test's own.

Needs root, podman, buildah and runc, and the root tree of a Debian with Python as a tar file named by
TIGRISMOUNT_TEST_BASE: ``make test-image`` sees to all of it. Images are kept in TIGRISMOUNT_TEST_IMAGES, so that a
second build finds its layers; nothing of this machine's own containers is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tigrismount.testing.mount import require_fuse

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
BASE_VARIABLE, IMAGES_VARIABLE = "TIGRISMOUNT_TEST_BASE", "TIGRISMOUNT_TEST_IMAGES"
BASE, IMAGE = "localhost/tigrismount-base", "localhost/tigrismount"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
FUSE_DEVICE = (10, 229)
MODELS = "/mnt/tigris/models"
"""Where the image looks for a mount."""
LIMIT_BYTES = 70_000_000
"""What the image may add to its base."""

# runc and these limits, so that it also runs in a container of one's own, with mixed cgroups and few capabilities.
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


@dataclass(frozen=True)
class Engine:
    """podman and buildah with images and settings of their own."""

    env: dict[str, str]
    directory: Path
    """Where they run; conmon leaves a file there when a container is short of memory."""

    def __call__(self, *command: object, timeout_s: float = 120) -> str:
        """Run *command*, such as ``podman ps``, and return what it printed."""
        done = self.attempt(*command, timeout_s=timeout_s)
        assert done.returncode == 0, f"{command}: {done.returncode}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout.strip()

    def attempt(self, *command: object, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run *command* whatever comes of it."""
        words = [str(word) for word in command]
        return subprocess.run(
            words, env=self.env, cwd=self.directory, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def build(self, context: Path) -> None:
        """Build the image of the Dockerfile in *context*."""
        certificates = f"--volume={CERTIFICATES}:{CERTIFICATES}:ro"  # a machine may reach the index through a proxy
        flags = ["--layers", "--isolation=chroot", "--format=docker", f"--build-arg=BASE={BASE}", certificates]
        self("buildah", "bud", *flags, "--tag", IMAGE, context, timeout_s=900)

    def inspect(self, name: str) -> dict[str, Any]:
        """Return what is known of an image or a container."""
        (found,) = json.loads(self("podman", "inspect", name))
        return found

    @contextlib.contextmanager
    def started(self, *arguments: object, image: str = IMAGE) -> Iterator[Container]:
        """Run a container in the background for a ``with`` block.

        Args:
            *arguments: Flags of ``podman run``, then ``--`` and the command.
            image: What to run.
        """
        name = f"tigrismount-test-{uuid.uuid4().hex[:8]}"
        split = arguments.index("--") if "--" in arguments else len(arguments)
        flags, command = arguments[:split], arguments[split + 1 :]
        try:
            self("podman", "run", "--detach", "--no-healthcheck", f"--name={name}", *flags, image, *command)
            yield Container(self, name)
        finally:
            self.attempt("podman", "rm", "--force", "--time=2", "--volumes", name)


@dataclass(frozen=True)
class Container:
    """A container in the background."""

    engine: Engine
    name: str

    def __call__(self, *command: object) -> str:
        """Run *command* inside and return what it printed."""
        return self.engine("podman", "exec", self.name, *command)

    def status_of(self, *command: object) -> int:
        """Run *command* inside and return its exit status."""
        return self.engine.attempt("podman", "exec", self.name, *command).returncode

    def log(self) -> str:
        """Return what it wrote."""
        done = self.engine.attempt("podman", "logs", self.name)
        return done.stdout + done.stderr

    def stop(self, within_s: int) -> int:
        """Stop it, by force after *within_s* seconds, and return its exit status."""
        self.engine("podman", "stop", f"--time={within_s}", self.name)
        return self.engine.inspect(self.name)["State"]["ExitCode"]

    @property
    def pid(self) -> int:
        """Its first process, seen from outside."""
        return self.engine.inspect(self.name)["State"]["Pid"]


def _why_not() -> str | None:
    if os.geteuid() != 0:
        return "needs root"
    missing = [name for name in ("podman", "buildah", "runc") if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)}: 'make test-image' installs them"
    if not os.path.isfile(os.environ.get(BASE_VARIABLE, "")):
        return f"needs a root tree: run 'make test-image', or name one in {BASE_VARIABLE}"
    return None


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    reason = _why_not()
    if reason is not None:
        pytest.skip(reason)
    require_fuse()
    settings = tmp_path_factory.mktemp("containers")
    images = os.path.abspath(os.environ.get(IMAGES_VARIABLE) or settings)
    (settings / "containers.conf").write_text(CONTAINERS_CONF)
    storage = {"driver": "overlay", "graphroot": f"{images}/store", "runroot": f"{images}/run"}
    lines = [f"{key} = {json.dumps(value)}" for key, value in storage.items()]
    (settings / "storage.conf").write_text("\n".join(["[storage]", *lines, ""]))
    ours = {"CONTAINERS_CONF": settings / "containers.conf", "CONTAINERS_STORAGE_CONF": settings / "storage.conf"}
    return Engine({**os.environ, **{name: str(path) for name, path in ours.items()}}, settings)


@pytest.fixture(scope="session")
def image(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The image of this checkout, built beside files that must not come into it."""
    if engine.attempt("podman", "image", "exists", BASE).returncode:
        engine("podman", "import", os.environ[BASE_VARIABLE], BASE, timeout_s=300)
    context = tmp_path_factory.mktemp("context")
    for name in ("Dockerfile", ".dockerignore", "LICENSE", "README.md", "constraints.txt", "pyproject.toml"):
        shutil.copy2(REPOSITORY / name, context)
    for name in ("tigrismount", "systemd", "docs/man"):
        shutil.copytree(REPOSITORY / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in DECOYS:
        (context / path).parent.mkdir(parents=True, exist_ok=True)
        (context / path).write_text(f"{MARK}\n")
    engine.build(context)
    return engine


MARK = "not-for-any-image-6f1d"
DECOYS = (".env", ".git/config", ".aws/credentials", ".venv/bin/x", "key.pem", "examples/x", "tests/x", "docs/howto/x")
"""Files beside the Dockerfile that must not come into the image."""


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A directory whose mounts are seen on both sides, as the kubelet's are; nothing may stay mounted in it."""
    path = tmp_path / "shared"
    path.mkdir()
    subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
    subprocess.run(["mount", "--make-shared", str(path)], check=True)
    (path / "models").mkdir()
    os.chown(path / "models", 10001, 10001)
    yield path
    with open("/proc/self/mountinfo") as file:
        below = [line.split()[4] for line in file if line.split()[4].startswith(f"{path}/")]
    for place in [*below, str(path)]:
        subprocess.run(["umount", "-l", place], check=True)
    assert below == [], "left mounted"


@pytest.fixture
def fuse_flags(tmp_path: Path) -> list[str]:
    """Flags that let everybody in a container open /dev/fuse, as on most machines; on this one it may be root's."""
    path = tmp_path / "fuse"
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(*FUSE_DEVICE))
    path.chmod(0o666)
    major, minor = FUSE_DEVICE
    return [f"--volume={path}:/dev/fuse", f"--device-cgroup-rule=c {major}:{minor} rwm"]


@pytest.fixture
def keys(s3: Any, tmp_path: Path) -> str:
    """The flag that gives a container the test's S3 server and its keys."""
    wanted = ("AWS_", "NO_PROXY", "no_proxy")
    lines = [f"{name}={value}\n" for name, value in s3.env().items() if name.startswith(wanted)]
    (tmp_path / "env").write_text("".join(line for line in lines if not line.startswith("AWS_CA_BUNDLE")))
    return f"--env-file={tmp_path / 'env'}"
