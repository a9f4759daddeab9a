"""A kubelet for tests: what Kubernetes asks of a driver on a node, over the real sockets and in the real order.

``Registrar`` is the sidecar that tells the kubelet of the driver; ``FakeKubelet`` finds the driver through it and
publishes volumes at the paths that the real one would take.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import grpc

from tigrismount.csi import csi_pb2 as pb
from tigrismount.csi.csi_pb2_grpc import IdentityStub, NodeStub
from tigrismount.testing import pluginregistration_pb2 as registration_pb
from tigrismount.testing.pluginregistration_pb2_grpc import (
    RegistrationServicer,
    RegistrationStub,
    add_RegistrationServicer_to_server,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

CALL_TIMEOUT_S = 60.0
"""Longest wait for any answer: the driver's own budget is half of it."""

AccessMode = pb.VolumeCapability.AccessMode
EPHEMERAL = "csi.storage.k8s.io/ephemeral"


class Registrar(RegistrationServicer):
    """The sidecar beside a driver, on a socket of its own.

    Args:
        directory: The kubelet's directory of registrations.
        endpoint: Path of the driver's socket.
    """

    def __init__(self, directory: Path, endpoint: str) -> None:
        self.endpoint = endpoint
        self.registered: list[tuple[bool, str]] = []
        """What the kubelet has said about the registration."""
        with channel(endpoint) as driver:
            self.name = IdentityStub(driver).GetPluginInfo(pb.GetPluginInfoRequest(), timeout=CALL_TIMEOUT_S).name
        self.path = str(directory / f"{self.name}-reg.sock")
        self._server = grpc.server(ThreadPoolExecutor(1))
        add_RegistrationServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{self.path}")
        self._server.start()

    def GetInfo(self, request: registration_pb.InfoRequest, context: Any) -> registration_pb.PluginInfo:  # noqa: N802
        """Say whose sidecar this is."""
        return registration_pb.PluginInfo(
            type="CSIPlugin", name=self.name, endpoint=self.endpoint, supported_versions=["1.0.0"]
        )

    def NotifyRegistrationStatus(  # noqa: N802
        self, request: registration_pb.RegistrationStatus, context: Any
    ) -> registration_pb.RegistrationStatusResponse:
        """Take the kubelet's word."""
        self.registered.append((request.plugin_registered, request.error))
        return registration_pb.RegistrationStatusResponse()

    def stop(self) -> None:
        """End."""
        self._server.stop(None).wait()


@dataclass
class Volume:
    """A volume as a pod or a claim describes it."""

    volume_id: str
    attributes: dict[str, str]
    secret: dict[str, str] = field(default_factory=dict)
    mount_options: Sequence[str] = ()
    mode: pb.VolumeCapability.AccessMode.Mode = AccessMode.MULTI_NODE_READER_ONLY
    readonly: bool = True
    is_inline: bool = False


class FakeKubelet:
    """A kubelet that knows one driver, for a ``with`` block.

    Args:
        directory: Its root, ``/var/lib/kubelet`` elsewhere.
        endpoint: Path of the driver's socket.
    """

    def __init__(self, directory: Path, endpoint: str) -> None:
        self.directory = directory
        self._channel = channel(endpoint)
        self.identity = IdentityStub(self._channel)
        self.node = NodeStub(self._channel)

    @classmethod
    def registering(cls, directory: Path, registration_socket: str) -> Self:
        """Find the driver as the real one does: ask the sidecar, then the driver, and tell the sidecar."""
        with channel(registration_socket) as sidecar:
            stub = RegistrationStub(sidecar)
            info = stub.GetInfo(registration_pb.InfoRequest(), timeout=CALL_TIMEOUT_S)
            assert (info.type, info.supported_versions) == ("CSIPlugin", ["1.0.0"])
            kubelet = cls(directory, info.endpoint)
            node_id = kubelet.node.NodeGetInfo(pb.NodeGetInfoRequest(), timeout=CALL_TIMEOUT_S).node_id
            status = registration_pb.RegistrationStatus(plugin_registered=bool(node_id))
            stub.NotifyRegistrationStatus(status, timeout=CALL_TIMEOUT_S)
        return kubelet

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def target(self, pod: str, name: str = "models") -> str:
        """Return where a pod's volume goes; the directory above it is made, as the real one does."""
        parent = self.directory / "pods" / pod / "volumes" / "kubernetes.io~csi" / name
        parent.mkdir(parents=True, exist_ok=True)
        return str(parent / "mount")

    def publish(self, volume: Volume, target: str) -> None:
        """Publish, or publish again.

        Raises:
            grpc.RpcError: The driver refused.
        """
        self.node.NodePublishVolume(self.request(volume, target), timeout=CALL_TIMEOUT_S)

    def request(self, volume: Volume, target: str) -> pb.NodePublishVolumeRequest:
        """Return what is asked for a volume, with what a driver that wants information about the pod is told."""
        pod = {
            "csi.storage.k8s.io/pod.name": "loader",
            "csi.storage.k8s.io/pod.namespace": "default",
            "csi.storage.k8s.io/pod.uid": os.path.basename(os.path.dirname(target)),
            "csi.storage.k8s.io/serviceAccount.name": "default",
            EPHEMERAL: str(volume.is_inline).lower(),
        }
        return pb.NodePublishVolumeRequest(
            volume_id=volume.volume_id,
            target_path=target,
            volume_capability=capability(volume.mode, volume.mount_options),
            readonly=volume.readonly,
            secrets=volume.secret,
            volume_context={**volume.attributes, **pod},
        )

    def unpublish(self, volume_id: str, target: str) -> None:
        """Unpublish.

        Raises:
            grpc.RpcError: The driver refused.
        """
        request = pb.NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=target)
        self.node.NodeUnpublishVolume(request, timeout=CALL_TIMEOUT_S)

    def stats(self, volume_id: str, path: str) -> pb.NodeGetVolumeStatsResponse:
        """Ask for figures and condition.

        Raises:
            grpc.RpcError: The driver refused.
        """
        request = pb.NodeGetVolumeStatsRequest(volume_id=volume_id, volume_path=path)
        answer: pb.NodeGetVolumeStatsResponse = self.node.NodeGetVolumeStats(request, timeout=CALL_TIMEOUT_S)
        return answer


def capability(mode: pb.VolumeCapability.AccessMode.Mode, mount_options: Sequence[str] = ()) -> pb.VolumeCapability:
    """Return the capability of a mounted volume."""
    mount = pb.VolumeCapability.MountVolume(mount_flags=list(mount_options))
    return pb.VolumeCapability(mount=mount, access_mode=AccessMode(mode=mode))


def channel(path: str) -> grpc.Channel:
    """Return a channel to a unix socket; it sees nothing of the environment's proxies."""
    options: Mapping[str, int] = {"grpc.enable_http_proxy": 0}
    return grpc.insecure_channel(f"unix:{path}", options=list(options.items()))


def refusal(error: grpc.RpcError) -> tuple[str, str]:
    """Return code and message of a refused call."""
    assert isinstance(error, grpc.Call)
    return error.code().name, error.details() or ""
