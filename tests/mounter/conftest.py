"""A node for tests: a driver in this process or in one of its own, a mounter, and nothing left of either."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tigrismount.csi.held import HeldMounts
from tigrismount.csi.mounts import MountSpec
from tigrismount.demo.command import wait_until
from tigrismount.holder.mountinfo import read_mounts
from tigrismount.testing.fake_http import serving
from tigrismount.testing.fake_tigris import FakeTigris
from tigrismount.testing.mount import marked_processes, require_fuse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MIB = 1 << 20
OTHER = 10001
"""A user that has nothing."""
SMALL = {"block-size": "1MiB", "memory-limit": "64MiB"}
POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
"""Takes every capability away: what is left is a user like any other, whatever its number."""

DRIVER = """
import json, sys
from pathlib import Path
from tigrismount.csi.held import HeldMounts
from tigrismount.csi.mounts import MountFailure, MountSpec
directory = Path(sys.argv[1])
mounts = HeldMounts(directory / "comm", directory / "state", mounter_uid=0)
mounts.open()
for line in sys.stdin:
    name, *arguments = json.loads(line)
    if name == "start":
        arguments = [arguments[0], Path(arguments[1]), MountSpec(*arguments[2]), arguments[3], arguments[4]]
    try:
        answer = getattr(mounts, name)(*arguments)
    except MountFailure as exc:
        answer = [exc.kind, exc.message]
    if name == "state":
        answer = [answer.served, answer.reason]
    if name == "known":
        answer = {key: str(value) for key, value in answer.items()}
    print(json.dumps(answer), flush=True)
"""


def secret_of(name: str) -> dict[str, str]:
    """Return a key; ``hidden`` is what may be seen nowhere."""
    return {"AWS_ACCESS_KEY_ID": f"tid_{name}", "AWS_SECRET_ACCESS_KEY": f"tsec_{name}_hidden"}


class DriverProcess:
    """``HeldMounts`` in a process of its own, which can be killed."""

    def __init__(self, directory: Path, env: Mapping[str, str]) -> None:
        command = [sys.executable, "-c", DRIVER, str(directory)]
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, name: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class Node:
    """One node of a cluster."""

    def __init__(self, directory: Path, url: str, *, uid: int = 0) -> None:
        self.directory = directory
        self.uid = uid
        self.secret = secret_of("one")
        self.mark = f"_TIGRISMOUNT_TEST={uuid.uuid4().hex}"
        foreign = ("AWS_", "TIGRIS_", "TIGRISMOUNT_")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        self.env |= {"AWS_ENDPOINT_URL_S3": url, "NO_PROXY": "127.0.0.1", "AWS_EC2_METADATA_DISABLED": "true"}
        self.env |= dict([self.mark.split("=")])
        self.remounted: list[str] = []
        self.mounts = self._driver()
        self.mounters: list[subprocess.Popen[bytes]] = []
        self.drivers: list[DriverProcess] = []
        self.log = directory / "mounter.log"
        self.python = [sys.executable]

    def _driver(self, **options: Any) -> HeldMounts:
        return HeldMounts(
            self.directory / "comm",
            self.directory / "state",
            mounter_uid=self.uid,
            on_remounted=lambda mount_id, _: self.remounted.append(mount_id),
            **options,
        )

    def open(self, **options: Any) -> HeldMounts:
        self.mounts = self._driver(**options)
        self.mounts.open()
        return self.mounts

    def driver_process(self) -> DriverProcess:
        self.drivers.append(DriverProcess(self.directory, self.env))
        return self.drivers[-1]

    def mounter(self, *flags: str, powerless: bool = False, **env: str) -> subprocess.Popen[bytes]:
        command = [
            *(POWERLESS if powerless else ()),
            *self.python,
            "-m",
            "tigrismount",
            "mounter",
            f"--comm-dir={self.directory / 'comm'}",
        ]
        command += [f"--cache-dir={self.directory / 'cache'}", *flags]
        with open(self.log, "ab") as log:
            process = subprocess.Popen(command, env={**self.env, **env}, stdin=subprocess.DEVNULL, stderr=log)
        self.mounters.append(process)
        return process

    def kill_mounter(self, number: int = signal.SIGKILL) -> None:
        process = self.mounters.pop()
        process.send_signal(number)
        process.wait(30)

    def start(self, mount_id: str, source: str, secret: Mapping[str, str] | None = None, **options: str) -> Path:
        """Mount with the real thing and return where."""
        at = self.at(mount_id)
        written = {**SMALL, **{name.replace("_", "-"): value for name, value in options.items()}}
        self.mounts.start(mount_id, at, MountSpec(source, written), self.secret if secret is None else secret, 60.0)
        return at

    def at(self, mount_id: str) -> Path:
        return self.directory / "volumes" / mount_id

    def workers(self) -> list[int]:
        """Return the processes that serve."""
        found = []
        for pid in marked_processes(self.mark):
            with contextlib.suppress(OSError):
                if b"tigrismount.app" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def kill_worker(self) -> None:
        """Kill the only worker and wait for its successor."""
        (before,) = self.workers()
        os.kill(before, signal.SIGKILL)
        assert wait_until(lambda: self.workers() not in ([], [before]) and self.served())

    def served(self, mount_id: str = "one") -> bool:
        return self.mounts.state(mount_id).served

    def mounted(self) -> list[str]:
        return [entry.mountpoint for entry in read_mounts() if entry.mountpoint.startswith(str(self.directory))]

    def close(self) -> None:
        """End everything, gently."""
        for mount_id in self.mounts.known():
            self.mounts.stop(mount_id)
        for process in self.mounters:
            process.terminate()
            process.wait(30)
        for driver in self.drivers:
            driver.kill()
        self.mounts.close()

    def sweep(self) -> None:
        """End everything that is still there."""
        for pid in marked_processes(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for mountpoint in reversed(self.mounted()):
            subprocess.run(["umount", "-l", mountpoint], check=False)
        for process in self.mounters:
            process.wait(30)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here) and {"node", "node_of_another_user"} & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.fuse)


@pytest.fixture
def store() -> Iterator[FakeTigris]:
    """A store that takes the keys of ``secret_of("one")``, with a bucket ``models``."""
    store = FakeTigris("tid_one")
    store.create_bucket("models")
    store.put("models", "file", b"bytes")
    with serving(store.answer) as url:
        store.url = url
        yield store


@pytest.fixture
def node(store, tmp_path: Path) -> Iterator[Node]:
    with _checked(Node(tmp_path.resolve(), store.url)) as node:
        yield node


@pytest.fixture
def node_of_another_user(store) -> Iterator[Node]:
    """A node whose mounter runs as a user of its own, in a directory that it can reach."""
    python = _python_for_all()
    directory = Path(tempfile.mkdtemp(prefix="tigrismount-", dir="/tmp"))
    try:
        directory.chmod(0o711)
        (directory / "cache").mkdir()
        os.chown(directory / "cache", OTHER, OTHER)
        node = Node(directory, store.url, uid=OTHER)
        node.python = [*POWERLESS, f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups", python]
        node.env |= {"HOME": "/", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with _checked(node):
            yield node
    finally:
        shutil.rmtree(directory)


def _python_for_all() -> str:
    """Return an interpreter that other users can run, with what this one has; skip where there is none."""
    code = "import subprocess, sys, tigrismount.app; subprocess.run([sys.executable, '-c', ''], check=True)"
    env = {"HOME": "/", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    for python in (sys.executable, "/usr/bin/python3"):
        command = [*POWERLESS, f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups", python, "-c", code]
        if os.geteuid() == 0 and subprocess.run(command, env=env, capture_output=True, check=False).returncode == 0:
            return python
    pytest.skip("no interpreter here that another user can run")


@contextlib.contextmanager
def _checked(node: Node) -> Iterator[Node]:
    """Find nothing left of a node after its test."""
    require_fuse()
    if os.geteuid() != 0:
        pytest.skip("the driver mounts with the node's privilege")
    try:
        yield node
        node.close()
        assert node.mounted() == [], "left mounted"
        assert wait_until(lambda: not marked_processes(node.mark)), "left running"
        assert not any((node.directory / "volumes").glob("*")), "left directories"
    finally:
        node.sweep()
        print(node.log.read_text() if node.log.exists() else "no mounter", file=sys.stderr)
