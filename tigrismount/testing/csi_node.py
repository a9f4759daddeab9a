"""A Kubernetes node for tests: the real driver and mounter as processes, a shared directory, and pods.

The directory of the node is a shared mount, as the kubelet's is. A *pod* is a process in a mount namespace of its own
that gets what is mounted there later (``HostToContainer``). Everything is found again by a mark in its environment, and
at the end nothing of it is left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Self

import grpc

from tigrismount.csi import csi_pb2 as pb
from tigrismount.csi.csi_pb2_grpc import IdentityStub
from tigrismount.demo.command import Finished, run_child, wait_until
from tigrismount.holder.mountinfo import read_mounts
from tigrismount.testing.fake_kubelet import FakeKubelet, Registrar, channel
from tigrismount.testing.mount import marked_processes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

START_S = 60.0
"""Longest wait for a process to be ready; a second where nothing else runs."""
_MARK = "_TIGRISMOUNT_NODE"


class CsiNode:
    """One node, for a ``with`` block.

    Args:
        env: Environment of driver and mounter; neither needs a key in it.
        flags: Further arguments of ``tigrismount csi``.
        mounter_flags: Further arguments of ``tigrismount mounter``.
    """

    def __init__(self, env: Mapping[str, str], *flags: str, mounter_flags: tuple[str, ...] = ()) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="node-")).resolve()  # short: the path of a socket has 107 bytes
        self.root.chmod(0o755)  # a pod that is not root reads through it; a container would see the target alone
        self.endpoint = str(self.root / "csi" / "csi.sock")
        mark = uuid.uuid4().hex
        self.mark = f"{_MARK}={mark}"
        self._env = {**env, _MARK: mark}
        self._flags = flags
        self._mounter_flags = mounter_flags
        self.driver: subprocess.Popen[bytes] | None = None
        self.mounter: subprocess.Popen[bytes] | None = None
        self._registrar: Registrar | None = None
        self._kubelet: FakeKubelet | None = None
        self._pods: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        run_child("mount", "--bind", str(self.root), str(self.root)).check()
        run_child("mount", "--make-shared", str(self.root)).check()
        try:
            self.start_mounter()
            self.start_driver()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def kubelet(self) -> FakeKubelet:
        """The kubelet of this node; it found the driver by registration."""
        if self._kubelet is None:
            registrations = self.root / "plugins_registry"
            registrations.mkdir()
            self._registrar = Registrar(registrations, self.endpoint)
            self._kubelet = FakeKubelet.registering(self.root / "kubelet", self._registrar.path)
        return self._kubelet

    @property
    def registrar(self) -> Registrar:
        """The sidecar."""
        assert self._registrar is not None
        return self._registrar

    def start_driver(self) -> None:
        """Start ``tigrismount csi``, and wait until it is ready."""
        own = [f"--comm-dir={self.root / 'comm'}", f"--state-dir={self.root / 'state'}", "--mounter-uid=0"]
        command = ["csi", f"--endpoint=unix://{self.endpoint}", "--node-id=node-1", *own, *self._flags]
        self.driver = self._start("driver", *command)
        if not wait_until(self._is_ready, timeout_s=START_S):
            raise AssertionError(f"the driver did not become ready: {self.logs()}")

    def start_mounter(self) -> None:
        """Start ``tigrismount mounter``."""
        own = [f"--comm-dir={self.root / 'comm'}", f"--cache-dir={self.root / 'cache'}"]
        self.mounter = self._start("mounter", "mounter", *own, *self._mounter_flags)

    def kill_driver(self) -> None:
        """Kill the driver with all it holds."""
        _end(self.driver, signal.SIGKILL)

    def kill_mounter(self) -> None:
        """Kill the mounter; its workers go with it."""
        _end(self.mounter, signal.SIGKILL)

    def workers(self) -> list[int]:
        """Return the processes that serve mounts."""
        found = []
        for pid in marked_processes(self.mark):
            with contextlib.suppress(OSError):
                if b"tigrismount.app" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def mounts(self) -> list[str]:
        """Return where something is mounted below the node's directory, in the kernel's order."""
        found = [entry.mountpoint for entry in read_mounts() if entry.is_ours]
        return [path for path in found if path.startswith(f"{self.root}/")]

    def logs(self) -> str:
        """Return what driver and mounter have logged."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.root.glob("*.log")))

    def pod(self) -> int:
        """Start a pod that gets mounts which are made later; return its process."""
        command = ["unshare", "--mount", "--propagation", "slave", "sleep", "infinity"]
        pod = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=self._env)
        self._pods.append(pod)
        # It is in its namespace once it has become what it runs.
        wait_until(lambda: Path(f"/proc/{pod.pid}/comm").read_text().strip() == "sleep")
        return pod.pid

    def in_pod(self, pod: int, *command: str) -> Finished:
        """Run a command in a pod, as somebody without any privilege."""
        user = ["setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups", "--bounding-set", "-all"]
        return run_child("nsenter", "-t", str(pod), "-m", "--", *user, *command, timeout_s=START_S)

    def close(self) -> None:
        """End everything, and leave nothing."""
        if self._kubelet is not None:
            self._kubelet.close()
        if self._registrar is not None:
            self._registrar.stop()
        for process in (self.driver, *self._pods, self.mounter):
            _end(process, signal.SIGKILL)
        for pid in marked_processes(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not marked_processes(self.mark))
        for entry in reversed(read_mounts()):
            if entry.mountpoint == str(self.root) or entry.mountpoint.startswith(f"{self.root}/"):
                run_child("umount", "-l", entry.mountpoint)
        shutil.rmtree(self.root, ignore_errors=True)

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with open(self.root / f"{name}.log", "ab") as log:
            command = [sys.executable, "-P", "-m", "tigrismount", *arguments, "--log-level=debug"]
            return subprocess.Popen(command, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _is_ready(self) -> bool:
        assert self.driver is not None
        if self.driver.poll() is not None:
            raise AssertionError(f"the driver has ended: {self.logs()}")
        with channel(self.endpoint) as driver, contextlib.suppress(grpc.RpcError):
            return bool(IdentityStub(driver).Probe(pb.ProbeRequest(), timeout=START_S).ready.value)
        return False


def _end(process: subprocess.Popen[bytes] | None, number: int) -> None:
    if process is not None and process.poll() is None:
        process.send_signal(number)
        process.wait(START_S)
