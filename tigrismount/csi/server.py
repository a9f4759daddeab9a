"""The driver's process: a gRPC server on a unix socket, from start to SIGTERM.

Calls run in threads; there are as many as pods that a node can start at once, so that some which wait for a store that
does not answer leave room for the others, and for the liveness probe. When the process ends its mounts stay: pods read
on, and the next process goes on from the ledger.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from tigrismount.csi.attributes import Policy
from tigrismount.csi.binds import Binds, KernelBinds
from tigrismount.csi.csi_pb2_grpc import add_IdentityServicer_to_server, add_NodeServicer_to_server
from tigrismount.csi.ledger import Ledger
from tigrismount.csi.services import Driver, Identity, Node
from tigrismount.csi.volumes import BUDGET_S, Volumes
from tigrismount.errors import ConfigError, MountError

if TYPE_CHECKING:
    from pathlib import Path

    from tigrismount.csi.mounts import Mounts

log = logging.getLogger(__name__)

_THREADS = 128  # a node has 110 pods
_SOCKET_UMASK = 0o177  # root's alone: who may speak here may mount
_LEDGER = "volumes.json"
_MOUNTS = "volumes"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverConfig:
    """What a driver is told on its command line."""

    driver: Driver
    """Its name and the node's."""
    endpoint: str
    """Path of the socket."""
    state_directory: Path
    """Where the ledger is, and below ``volumes`` what is mounted; pods see mounts that are made there."""
    policy: Policy = field(default_factory=Policy)
    """What volumes may ask for."""


class DriverServer:
    """A driver that answers, for a ``with`` block.

    Args:
        config: What it was told.
        mounts: Makes mounts.
        binds: Shows mounts at targets; None for real ones.
        budget_s: Longest time of a call.

    Raises:
        MountError: The state directory or the socket cannot be made.
    """

    def __init__(
        self,
        config: DriverConfig,
        mounts: Mounts,
        *,
        binds: Binds | None = None,
        budget_s: float = BUDGET_S,
    ) -> None:
        self._config = config
        directory = _prepare(config.state_directory)
        ledger = Ledger(directory / _LEDGER)
        self.volumes = Volumes(mounts, binds or KernelBinds(), ledger, directory / _MOUNTS, budget_s=budget_s)
        """What the node's service works on."""
        self._server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="csi"))
        add_IdentityServicer_to_server(Identity(config.driver, mounts), self._server)
        add_NodeServicer_to_server(Node(config.driver, config.policy, self.volumes), self._server)

    def start(self) -> None:
        """Clean up behind the driver before this one, and answer.

        Raises:
            MountError: The socket cannot be made.
        """
        self.volumes.reconcile()
        _listen(self._server, self._config.endpoint)
        driver = self._config.driver
        log.info("driver %s of node %s listens on %s", driver.name, driver.node_id, self._config.endpoint)

    def run(self) -> None:
        """Answer until SIGTERM or SIGINT.

        Raises:
            MountError: The socket cannot be made.
        """
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        self.start()
        ended.wait()
        self.stop()

    def stop(self) -> None:
        """Take no new calls, finish those that run, and leave the mounts."""
        self._server.stop(BUDGET_S).wait()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._config.endpoint)
        log.info("the driver ends; volumes stay mounted")


def parse_endpoint(text: str) -> str:
    """Return the path of the socket that *text*, such as ``unix:///csi/csi.sock``, names.

    Raises:
        ConfigError: It names none.
    """
    scheme, _, rest = text.rpartition("unix:")
    path = f"/{rest.lstrip('/')}" if rest.startswith("/") else ""
    if scheme or not path or path == "/":
        raise ConfigError(f"--endpoint {text}: expected the path of a socket, such as unix:///csi/csi.sock")
    return path


def _prepare(directory: Path) -> Path:
    """Make the state directory and what is in it; return it without symbolic links."""
    try:
        (directory / _MOUNTS).mkdir(mode=0o700, parents=True, exist_ok=True)
        return directory.resolve()
    except OSError as exc:
        raise MountError(f"{directory}: cannot be made: {exc.strerror}") from exc


def _listen(server: grpc.Server, path: str) -> None:
    """Listen on *path*; gRPC removes the socket of a driver that was killed."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    except OSError as exc:
        raise MountError(f"{path}: cannot be listened on: {exc.strerror}") from exc
    umask = os.umask(_SOCKET_UMASK)
    try:
        server.add_insecure_port(f"unix:{path}")
        server.start()
    except RuntimeError as exc:
        raise MountError(f"{path}: cannot be listened on; is it a directory, or too long a path?") from exc
    finally:
        os.umask(umask)
