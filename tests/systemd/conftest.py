"""A booted systemd in a container, with tigrismount installed as from its wheel; the S3 server is the test's own.

Needs root, ``systemd-nspawn`` and the root tree of a Debian with systemd, python3 and fuse3, as a tar file named by
TIGRISMOUNT_TEST_ROOT: ``make test-systemd`` makes one.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tigrismount.demo.command import wait_until
from tigrismount.testing.mount import require_fuse

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
ROOT_VARIABLE = "TIGRISMOUNT_TEST_ROOT"
VENV = "opt/tigrismount"
SCRIPT = """#!/opt/tigrismount/bin/python
import sys
from {module} import run
sys.exit(run())
"""


@dataclass
class Machine:
    """A container in which systemd runs."""

    root: Path
    leader: int

    def run(self, *command: str, timeout_s: float = 60, check: bool = True, stdin: str = "") -> str:
        """Run *command* inside and return what it printed."""
        done = subprocess.run(
            [*self.prefix, *command], capture_output=True, text=True, timeout=timeout_s, check=False, input=stdin
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout + (done.stderr if not check else "")

    def status_of(self, *command: str) -> int:
        """Run *command* inside and return its exit status."""
        return subprocess.run([*self.prefix, *command], capture_output=True, timeout=60, check=False).returncode

    def popen(self, *command: str) -> subprocess.Popen[str]:
        """Start *command* inside."""
        return subprocess.Popen([*self.prefix, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @property
    def prefix(self) -> list[str]:
        """What runs a command inside, with an environment of its own."""
        enter = ["nsenter", "-t", str(self.leader), "-m", "-p", "-i", "-u", "-C", "--"]
        return [*enter, "env", "-i", "PATH=/opt/tigrismount/bin:/usr/sbin:/usr/bin:/sbin:/bin"]

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """Run systemctl inside; when it fails, the journal is part of the message."""
        try:
            return self.run("systemctl", *arguments, timeout_s=150, check=check)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.journal()}") from None

    def show(self, unit: str, name: str) -> str:
        """Return one property of a unit."""
        return self.run("systemctl", "show", "-P", name, unit).strip()

    def journal(self) -> str:
        """Return the newest lines of the journal."""
        return self.run("journalctl", "--no-pager", "-n", "120", "-o", "short-precise", check=False)

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file inside."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)


def _why_not() -> str | None:
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("systemd-nspawn") is None:
        return "needs systemd-nspawn: apt-get install systemd-container"
    if not os.path.isfile(os.environ.get(ROOT_VARIABLE, "")):
        return f"needs a root tree: run 'make test-systemd', or name one in {ROOT_VARIABLE}"
    return None


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    reason = _why_not()
    if reason is not None:
        pytest.skip(reason)
    require_fuse()
    root = tmp_path_factory.mktemp("machine") / "root"
    root.mkdir()
    subprocess.run(["tar", "xf", os.environ[ROOT_VARIABLE], "-C", str(root)], check=True)
    _install(root)
    with _booted(root) as machine:
        machine.run("tigrismount", "install-systemd")
        yield machine


@contextlib.contextmanager
def _booted(root: Path) -> Iterator[Machine]:
    name = f"tgm-{uuid.uuid4().hex[:8]}"
    command = ["systemd-nspawn", "-D", str(root), "-M", name, "--register=no", "--keep-unit", "--boot"]
    command += ["--bind=/dev/fuse", "--capability=CAP_SYS_ADMIN"]
    with (
        open(root.parent / "console.log", "wb") as console,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
        ) as process,
    ):
        try:
            assert wait_until(lambda: _is_up(root, process.pid), timeout_s=60), (
                root.parent / "console.log"
            ).read_text()
            machine = Machine(root, _children(process.pid)[0])
            yield machine
        finally:
            inits = _children(process.pid)
            if inits:
                with contextlib.suppress(Exception):
                    Machine(root, inits[0]).run("systemctl", "poweroff", check=False, timeout_s=20)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            for pid in inits:  # the container outlives the process that started it
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _is_up(root: Path, pid: int) -> bool:
    """Tell whether the container of systemd-nspawn *pid* has booted; its first children are not yet the container."""
    state = [Machine(root, init).run("systemctl", "is-system-running", check=False) for init in _children(pid)]
    return bool(state) and state[0].strip() in ("running", "degraded")


def _children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]
    return []


def _install(root: Path) -> None:
    """Put the checkout and what it needs into a virtual environment of the container's own interpreter."""
    subprocess.run(["chroot", str(root), "python3", "-m", "venv", "--without-pip", f"/{VENV}"], check=True)
    (packages,) = (root / VENV / "lib").glob("python3.*/site-packages")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if packages.parent.name != version:
        reason = f"the root tree has {packages.parent.name}, these tests run on {version}: name another with PYTHON="
        if os.environ.get("TIGRISMOUNT_REQUIRE_FUSE") == "1":  # as for a mount that cannot be made
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    for distribution in _distributions("tigrismount", set()):
        for file in distribution.files or []:
            if not str(file).startswith("..") and "__pycache__" not in str(file):
                target = packages / str(file)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(distribution.locate_file(file)), target)
    shutil.copytree(REPOSITORY / "tigrismount", packages / "tigrismount", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPOSITORY / "systemd", packages / "tigrismount/systemd")
    modules = {"tigrismount": "tigrismount.cli.entry", "mount.tigris": "tigrismount.cli.mount_tigris"}
    for name, module in modules.items():
        script = root / VENV / "bin" / name
        script.write_text(SCRIPT.format(module=module))
        script.chmod(0o755)


def _distributions(name: str, seen: set[str]) -> Iterator[importlib.metadata.Distribution]:
    """Give what *name* needs to run, without itself."""
    for requirement in importlib.metadata.distribution(name).requires or []:
        needed = re.match(r"[\w.-]+", requirement)
        if needed is None or "extra ==" in requirement or needed[0].lower() in seen:
            continue
        seen.add(needed[0].lower())
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield importlib.metadata.distribution(needed[0])
            yield from _distributions(needed[0], seen)


@pytest.fixture
def models(machine: Machine, bucket, s3) -> Iterator[str]:
    """A bucket with a file, and the name of a unit that is configured to mount it; stopped and forgotten afterwards."""
    bucket.put("file", bytes(range(256)) * (8 << 12))
    env = s3.env()
    name = bucket.name
    machine.put(
        f"/etc/tigrismount/{name}.toml",
        f'source = "s3://{name}"\nmountpoint = "/models/{name}"\nendpoint-url = "{env["AWS_ENDPOINT_URL_S3"]}"\n'
        'cache-size = "64MiB"\nmemory-limit = "64MiB"\nblock-size = "1MiB"\n',
    )
    keys = f"aws_access_key_id={env['AWS_ACCESS_KEY_ID']}\naws_secret_access_key={env['AWS_SECRET_ACCESS_KEY']}\n"
    machine.put(f"/etc/tigrismount/{name}.credentials", f"[default]\n{keys}", 0o600)
    yield name
    unit = f"tigrismount@{name}"
    machine.systemctl("stop", unit, check=False)
    machine.systemctl("reset-failed", unit, check=False)
    assert f" /models/{name} " not in machine.run("cat", "/proc/self/mountinfo"), machine.journal()
