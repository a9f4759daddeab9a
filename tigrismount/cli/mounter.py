"""``tigrismount mounter``: the unprivileged half of the CSI driver."""

from __future__ import annotations

import os

import click

from tigrismount.descriptors import raise_descriptor_limit
from tigrismount.holder.log import DaemonLog
from tigrismount.mounter.log import MountLog
from tigrismount.mounter.service import Mounter
from tigrismount.mounter.volumes import DEFAULT_CACHE_DIR, Installation, check
from tigrismount.privacy import keep_out_of_core_dumps


@click.command(epilog="Example: tigrismount mounter --comm-dir /comm --cache-dir /cache --cache-size 500G")
@click.option("--comm-dir", required=True, metavar="DIR", help="Directory in which the driver listens; it makes it.")
@click.option(
    "--cache-dir",
    default=DEFAULT_CACHE_DIR,
    envvar="TIGRISMOUNT_CACHE_DIR",
    show_default=True,
    metavar="DIR|off",
    help="Disk cache that all mounts of this node share.",
)
@click.option("--cache-size", metavar="SIZE", help="Most bytes on disk, or a share such as 80%.")
@click.option("--config", "config_file", metavar="FILE", help="TOML file with defaults for all mounts.")
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
def mounter(
    comm_dir: str, cache_dir: str, cache_size: str | None, config_file: str | None, log_level: str, log_format: str
) -> int:
    """Serve the mounts of the CSI driver of this node, without any privilege.

    'tigrismount csi' mounts and passes the connections over a socket in the directory given by --comm-dir; a worker
    process for each mount serves them. Needs no capability, no /dev/fuse and no root. Either process may be restarted
    alone: readers see a pause and no error. SIGTERM hands over to the next mounter.

    Volumes name their own options, with the names of 'mount -o'; TIGRISMOUNT_<NAME> variables and the file of --config
    are defaults for all of them. What concerns the node (cache, log, certificates) is set here alone.
    """
    settings = {"cache_dir": (cache_dir,), "cache_size": cache_size, "log_level": log_level, "log_format": log_format}
    os.environ.setdefault("XDG_RUNTIME_DIR", comm_dir)  # where 'status' finds the workers' sockets
    installation = Installation(environment=dict(os.environ), flags=settings, config_file=config_file)
    check(installation)
    keep_out_of_core_dumps()
    # Each mount takes some ten descriptors, and a node has room for a hundred.
    raise_descriptor_limit()
    is_json = log_format == "json"
    log = DaemonLog(path=None, foreground=True, level=log_level, json_lines=is_json)

    def make_log(mount_id: str) -> MountLog:
        return MountLog(mount_id, level=log_level, json_lines=is_json)

    return Mounter(comm_dir, installation, log, make_log).run()
