"""``tigrismount csi``: the privileged half of the CSI driver, which Kubernetes speaks to and which mounts."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from tigrismount.config.units import parse_size_bytes
from tigrismount.errors import ConfigError, MountError
from tigrismount.loglines import log_to_standard_error
from tigrismount.privacy import keep_out_of_core_dumps

DRIVER_NAME = "csi.tigrismount.io"
_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")  # what CSI and Kubernetes both take
_MOST_NODE_ID_BYTES = 256  # CSI's limit since 1.4


@click.command(
    epilog="Example: tigrismount csi --endpoint unix:///csi/csi.sock --node-id $KUBE_NODE_NAME --comm-dir /comm"
)
@click.option(
    "--endpoint", required=True, envvar="CSI_ENDPOINT", metavar="unix:///PATH", help="Socket that Kubernetes speaks to."
)
@click.option("--node-id", required=True, envvar="KUBE_NODE_NAME", metavar="ID", help="Name of this node.")
@click.option("--driver-name", default=DRIVER_NAME, show_default=True, metavar="NAME", help="As in the CSIDriver.")
@click.option(
    "--comm-dir",
    default="/comm",
    show_default=True,
    metavar="DIR",
    help="Where 'tigrismount mounter' finds the driver.",
)
@click.option(
    "--mounter-uid",
    default=10001,
    show_default=True,
    metavar="UID",
    help="User as which the mounter runs; no other is heard.",
)
@click.option(
    "--state-dir",
    metavar="DIR",
    help="What is published, and the mounts. [/var/lib/kubelet/plugins/NAME/state]",
)
@click.option(
    "-o",
    "mount_options",
    multiple=True,
    metavar="OPT[,OPT...]",
    help="Options of volumes that do not say otherwise, as for mount -o.",
)
@click.option(
    "--max-memory-limit",
    metavar="SIZE",
    help="Most that a volume may take as memoryLimit, and what it gets where nobody says. [no bound]",
)
@click.option(
    "--max-volumes",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Most volumes that Kubernetes places on this node; 0 for no limit.",
)
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Least severe messages that are logged.",
)
@click.option(
    "--log-format", default="text", show_default=True, type=click.Choice(["text", "json"]), help="Shape of log lines."
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
def csi(
    endpoint: str,
    node_id: str,
    driver_name: str,
    comm_dir: str,
    mounter_uid: int,
    state_dir: str | None,
    mount_options: tuple[str, ...],
    max_memory_limit: str | None,
    max_volumes: int,
    log_level: str,
    log_format: str,
) -> int:
    """Be the CSI driver of this node, until SIGTERM.

    Needs root, /dev/fuse and CAP_SYS_ADMIN (a privileged container), the extra tigrismount[csi], and a 'tigrismount
    mounter' with the same directory --comm-dir, which serves what is mounted here. Volumes stay mounted when the driver
    ends, and the next one goes on with them. Neither keeps a Secret on disk.
    """
    _check_extra()
    # Behind the check, and only for this command: gRPC takes 30 MiB.
    from tigrismount.csi.attributes import Policy, parse_defaults
    from tigrismount.csi.held import HeldMounts
    from tigrismount.csi.server import DriverConfig, DriverServer, parse_endpoint
    from tigrismount.csi.services import Driver

    policy = Policy(parse_defaults(mount_options), _size(max_memory_limit))
    if policy.most_memory_bytes is not None and _memory_bytes(policy.defaults) > policy.most_memory_bytes:
        raise ConfigError("-o memory_limit: is more than --max-memory-limit allows")
    driver = Driver(name=_driver_name(driver_name), node_id=_node_id(node_id), most_volumes=max_volumes)
    state = Path(state_dir or f"/var/lib/kubelet/plugins/{driver.name}/state")
    config = DriverConfig(driver=driver, endpoint=parse_endpoint(endpoint), state_directory=state, policy=policy)
    if os.geteuid() != 0:
        raise MountError("the driver mounts for others: run it as root, in a privileged container")
    keep_out_of_core_dumps()
    log_to_standard_error(log_level, json_lines=log_format == "json")
    mounts = HeldMounts(
        Path(comm_dir),
        state,
        mounter_uid=mounter_uid,
        on_remounted=lambda mount_id, _: server.volumes.show_again(mount_id),
    )
    server: DriverServer = DriverServer(config, mounts)
    mounts.open()
    try:
        server.run()
    finally:
        mounts.close()
    return 0


def _check_extra() -> None:
    try:
        for name in ("grpc", "google.protobuf"):
            importlib.import_module(name)
    except ImportError as exc:
        raise ConfigError(f"{exc.name} is not installed: {sys.executable} -m pip install 'tigrismount[csi]'") from exc


def _driver_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--driver-name {name}: expected at most 63 letters, digits, dots and dashes")
    return name


def _node_id(node_id: str) -> str:
    if not node_id or not node_id.isprintable() or len(node_id.encode()) > _MOST_NODE_ID_BYTES:
        raise ConfigError("--node-id: expected the name of this node")
    return node_id


def _memory_bytes(options: Mapping[str, str]) -> int:
    return parse_size_bytes(options.get("memory_limit", "0"))


def _size(text: str | None) -> int | None:
    try:
        return None if text is None else parse_size_bytes(text)
    except ValueError as exc:
        raise ConfigError(f"--max-memory-limit {text}: {exc}") from exc
