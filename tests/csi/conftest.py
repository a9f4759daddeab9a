"""A driver over its real socket, with mounts that exist in memory only, and a kubelet that speaks to it."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from tigrismount.csi.attributes import Policy
from tigrismount.csi.server import DriverConfig, DriverServer
from tigrismount.csi.services import Driver
from tigrismount.testing.fake_kubelet import FakeKubelet, Volume, refusal
from tigrismount.testing.memory_binds import MemoryBinds
from tigrismount.testing.memory_mounts import MemoryMounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI-not-a-real-key"}


@dataclass
class Node:
    """A machine: what lives longer than the driver's process."""

    root: Path
    policy: Policy = field(default_factory=Policy)
    budget_s: float = 15.0

    def __post_init__(self) -> None:
        self.mounts = MemoryMounts()
        self.binds = MemoryBinds(self.mounts)
        self.server: DriverServer | None = None

    @property
    def endpoint(self) -> str:
        return str(self.root / "csi" / "csi.sock")

    @property
    def ledger(self) -> Path:
        return self.root / "state" / "volumes.json"

    def start(self) -> None:
        """Start a driver; the one before it, if any, has ended."""
        driver = Driver(name="csi.tigrismount.io", node_id="node-1", most_volumes=7)
        state = self.root / "state"
        config = DriverConfig(driver=driver, endpoint=self.endpoint, state_directory=state, policy=self.policy)
        self.server = DriverServer(config, self.mounts, binds=self.binds, budget_s=self.budget_s)
        self.server.start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()
        self.server = None

    def reboot(self) -> None:
        """What the kernel knows is gone, what the disk knows is not."""
        self.stop()
        self.mounts = MemoryMounts()
        self.binds = MemoryBinds(self.mounts)


@pytest.fixture
def node(short_path: Path) -> Iterator[Node]:
    node = Node(short_path)
    node.start()
    yield node
    node.stop()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose name leaves room for the 107 bytes that the path of a socket may have."""
    path = Path(tempfile.mkdtemp(prefix="csi-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def kubelet(node: Node) -> Iterator[FakeKubelet]:
    with FakeKubelet(node.root / "kubelet", node.endpoint) as kubelet:
        yield kubelet


@pytest.fixture
def volume() -> Volume:
    return Volume("models-pv", {"bucket": "models", "prefix": "llama"}, secret=dict(SECRET))


@pytest.fixture
def refused() -> Callable[..., tuple[str, str]]:
    """Call something that the driver must refuse; returns code and message."""

    def call(function: Callable[..., object], *arguments: object) -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as caught:
            function(*arguments)
        return refusal(caught.value)

    return call
