"""The two gRPC services: they look at requests, and say in gRPC what ``volumes`` answered.

Every refusal is a code and a line, and every call that changes something is a line of the log; requests are never
logged whole, as they hold the volume's Secret.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import grpc
from google.protobuf.wrappers_pb2 import BoolValue

from tigrismount import __version__
from tigrismount.csi import csi_pb2 as pb
from tigrismount.csi.attributes import Policy, is_inline, parse_volume
from tigrismount.csi.binds import canonical
from tigrismount.csi.credentials import parse_secret
from tigrismount.csi.csi_pb2_grpc import IdentityServicer, NodeServicer
from tigrismount.csi.refusal import Code, RefusalError, invalid
from tigrismount.csi.volumes import Publication, Volumes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tigrismount.csi.look import Amount
    from tigrismount.csi.mounts import Mounts

log = logging.getLogger(__name__)

_MODES = pb.VolumeCapability.AccessMode
_READ_ONLY_MODES = (_MODES.SINGLE_NODE_READER_ONLY, _MODES.MULTI_NODE_READER_ONLY)
# What the kubelet says for volumes in a pod, and for claims that were written for another driver: shown read-only.
_WRITER_MODES = (_MODES.SINGLE_NODE_WRITER, _MODES.MULTI_NODE_MULTI_WRITER)
_MOST_ID_BYTES = 1024  # CSI promises 128, Kubernetes takes more
_MOST_SAID_BYTES = 16 << 10
"""Most that a volume and its Secret may say: driver and mounter tell each other all of it in one message of 64 KiB. A
key with its session token takes 2 KiB."""
_MOST_MESSAGE_LETTERS = 900  # an event of Kubernetes holds 1024, and gRPC's clients take headers of 8 KiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """Who this driver says it is."""

    name: str
    """As in the ``CSIDriver`` object."""
    node_id: str
    """This node's name in Kubernetes."""
    most_volumes: int = 0
    """Volumes that this node takes at most, 0 for no limit."""


class Identity(IdentityServicer):
    """Who the driver is, and whether it is fit to work.

    Args:
        driver: Its name.
        mounts: Asked whether a mount could be made.
    """

    def __init__(self, driver: Driver, mounts: Mounts) -> None:
        self._driver = driver
        self._mounts = mounts

    def GetPluginInfo(  # noqa: N802 -- gRPC's name
        self, request: pb.GetPluginInfoRequest, context: grpc.ServicerContext
    ) -> pb.GetPluginInfoResponse:
        """Return name and version."""
        return pb.GetPluginInfoResponse(name=self._driver.name, vendor_version=__version__)

    def GetPluginCapabilities(  # noqa: N802 -- gRPC's name
        self, request: pb.GetPluginCapabilitiesRequest, context: grpc.ServicerContext
    ) -> pb.GetPluginCapabilitiesResponse:
        """Return none: there is no controller, and no topology."""
        return pb.GetPluginCapabilitiesResponse()

    def Probe(  # noqa: N802 -- gRPC's name
        self, request: pb.ProbeRequest, context: grpc.ServicerContext
    ) -> pb.ProbeResponse:
        """Say that a mount could be made now, or why not; the store is not asked."""
        fault = self._mounts.ready()
        if fault is not None:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, fault)
        return pb.ProbeResponse(ready=BoolValue(value=True))


class Node(NodeServicer):
    """Volumes of this node.

    Args:
        driver: The node's name and limit.
        policy: What volumes may ask for.
        volumes: Does the work.
    """

    def __init__(self, driver: Driver, policy: Policy, volumes: Volumes) -> None:
        self._driver = driver
        self._policy = policy
        self._volumes = volumes
        self._told: set[str] = set()

    def NodeGetInfo(  # noqa: N802 -- gRPC's name
        self, request: pb.NodeGetInfoRequest, context: grpc.ServicerContext
    ) -> pb.NodeGetInfoResponse:
        """Return which node this is."""
        return pb.NodeGetInfoResponse(node_id=self._driver.node_id, max_volumes_per_node=self._driver.most_volumes)

    def NodeGetCapabilities(  # noqa: N802 -- gRPC's name
        self, request: pb.NodeGetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> pb.NodeGetCapabilitiesResponse:
        """Return that volumes have figures and a condition."""
        types = (pb.NodeServiceCapability.RPC.GET_VOLUME_STATS, pb.NodeServiceCapability.RPC.VOLUME_CONDITION)
        found = [pb.NodeServiceCapability(rpc=pb.NodeServiceCapability.RPC(type=each)) for each in types]
        return pb.NodeGetCapabilitiesResponse(capabilities=found)

    def NodePublishVolume(  # noqa: N802 -- gRPC's name
        self, request: pb.NodePublishVolumeRequest, context: grpc.ServicerContext
    ) -> pb.NodePublishVolumeResponse:
        """Show a volume at a target; again and again, for as long as it is used."""
        with self._answered(context, "NodePublishVolume", request.volume_id, request.target_path):
            self._volumes.publish(self._publication(request))
        return pb.NodePublishVolumeResponse()

    def NodeUnpublishVolume(  # noqa: N802 -- gRPC's name
        self, request: pb.NodeUnpublishVolumeRequest, context: grpc.ServicerContext
    ) -> pb.NodeUnpublishVolumeResponse:
        """Take a volume away from a target."""
        with self._answered(context, "NodeUnpublishVolume", request.volume_id, request.target_path):
            self._volumes.unpublish(_volume_id(request.volume_id), _path("target_path", request.target_path))
        self._told.discard(request.volume_id)
        return pb.NodeUnpublishVolumeResponse()

    def NodeGetVolumeStats(  # noqa: N802 -- gRPC's name
        self, request: pb.NodeGetVolumeStatsRequest, context: grpc.ServicerContext
    ) -> pb.NodeGetVolumeStatsResponse:
        """Return what ``df`` would say about a volume, and how it does."""
        with self._answered(context, "NodeGetVolumeStats", request.volume_id, request.volume_path):
            volume_id, path = _volume_id(request.volume_id), _path("volume_path", request.volume_path)
            found = self._volumes.condition(volume_id, path)
        usage = [_usage(found.space, pb.VolumeUsage.BYTES), _usage(found.files, pb.VolumeUsage.INODES)]
        condition = pb.VolumeCondition(abnormal=bool(found.complaint), message=found.complaint or "it is served")
        return pb.NodeGetVolumeStatsResponse(usage=usage, volume_condition=condition)

    def _publication(self, request: pb.NodePublishVolumeRequest) -> Publication:
        volume_id, target = _volume_id(request.volume_id), _path("target_path", request.target_path)
        self._check_capability(request)
        attributes = dict(request.volume_context)
        _check_length(request)
        secret = parse_secret(request.secrets)
        if is_inline(volume_id, attributes) and not secret.keys:
            raise invalid(
                "a volume that is written into a pod needs a key of its own: name a Secret of the pod's namespace in "
                "csi.nodePublishSecretRef, with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        flags = list(request.volume_capability.mount.mount_flags)
        spec = parse_volume(attributes, flags, secret.options, self._policy)
        return Publication(volume_id=volume_id, target=target, spec=spec, keys=secret.keys)

    def _check_capability(self, request: pb.NodePublishVolumeRequest) -> None:
        if not request.HasField("volume_capability"):
            raise invalid("volume_capability is missing")
        capability = request.volume_capability
        if capability.WhichOneof("access_type") != "mount":
            raise invalid("a bucket is no block device: volumeMode must be Filesystem")
        mode = capability.access_mode.mode
        if mode not in (*_READ_ONLY_MODES, *_WRITER_MODES):
            raise invalid("the volume is read-only: accessModes must be ReadOnlyMany")
        if mode in _WRITER_MODES and not request.readonly and request.volume_id not in self._told:
            self._told.add(request.volume_id)
            log.info("volume %r: was asked for with write access, and is read-only", request.volume_id)

    @contextlib.contextmanager
    def _answered(self, context: grpc.ServicerContext, call: str, volume_id: str, path: str) -> Iterator[None]:
        """Turn what the block raises into gRPC's answer, and log it."""
        started_s = time.monotonic()
        where = f"{call} of {volume_id!r} at {path!r}"
        try:
            yield
        except RefusalError as exc:
            took_s = time.monotonic() - started_s
            log.warning("%s: %s after %.1f s: %s", where, exc.code.value, took_s, exc.message)
            _abort(context, exc.code, exc.message)
        except Exception as exc:  # noqa: BLE001 -- the last place that can make an answer of it
            # The places and not the words: these may be anything, a key as well.
            places = "; ".join(f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(exc.__traceback__))
            log.error("%s: internal %s at %s; please report it", where, type(exc).__name__, places)  # noqa: TRY400
            _abort(context, Code.INTERNAL, f"internal error: {type(exc).__name__}; the driver's log says where")
        log.debug("%s: OK after %.1f s", where, time.monotonic() - started_s)


def _abort(context: grpc.ServicerContext, code: Code, message: str) -> NoReturn:
    half = _MOST_MESSAGE_LETTERS // 2
    if len(message) > _MOST_MESSAGE_LETTERS:  # what it is about is at the beginning, what to do at the end
        message = f"{message[:half]}…{message[-half:]}"
    context.abort(grpc.StatusCode[code.value], message)
    raise AssertionError("abort has raised")


def _volume_id(volume_id: str) -> str:
    if not volume_id:
        raise invalid("volume_id is missing")
    if ".." in volume_id.split("/") or not volume_id.isprintable() or len(volume_id.encode()) > _MOST_ID_BYTES:
        raise invalid("volume_id (volumeHandle) is no name: it has a component '..', is too long, or not printable")
    return volume_id


def _check_length(request: pb.NodePublishVolumeRequest) -> None:
    flags = list(request.volume_capability.mount.mount_flags)
    said = [dict(request.volume_context), dict(request.secrets), flags]
    if len(json.dumps(said)) > _MOST_SAID_BYTES:
        raise invalid(
            f"volumeAttributes, mountOptions and Secret are longer than {_MOST_SAID_BYTES >> 10} KiB together: "
            "a Secret for volumes has keys, endpoint and region, and nothing else"
        )


def _path(name: str, path: str) -> str:
    """Return the canonical form of a path that the kubelet names."""
    if not path:
        raise invalid(f"{name} is missing")
    if not os.path.isabs(path) or "\0" in path or ".." in path.split("/") or not path.strip("/."):
        raise invalid(f"{name} {path!r} is no absolute path without '..'")
    return canonical(path)


def _usage(amount: Amount, unit: pb.VolumeUsage.Unit) -> pb.VolumeUsage:
    return pb.VolumeUsage(total=amount.total, used=amount.used, available=amount.available, unit=unit)
