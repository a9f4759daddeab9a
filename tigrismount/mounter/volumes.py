"""From what a volume asks for to the configuration of its worker: what a tenant writes decides nothing about the node.

Options come with the names of ``mount -o``. Those that name files or sockets of the node, or say whose bytes the shared
cache holds, are the installation's to set, by flags and ``TIGRISMOUNT_`` variables of the mounter; in a volume they are
refused, not ignored, so that nobody believes that they count.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tigrismount.config.host import read_host_facts
from tigrismount.config.loading import load
from tigrismount.config.merge import suggest
from tigrismount.config.options import BY_KEY
from tigrismount.errors import ConfigError
from tigrismount.holder.request import WORKER_COMMAND, Deadlines
from tigrismount.mounter.wire import Order
from tigrismount.objects.endpoints import store_id

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from tigrismount.config.model import MountConfig

DEFAULT_CACHE_DIR = "/var/lib/tigrismount/cache"
"""Where the cache of a node is unless the installation says otherwise."""

OF_THE_NODE = frozenset(
    {
        *("cache_dir", "cache_size", "cache_free", "store_id", "profile", "ca_bundle", "metrics_addr"),
        *("log_file", "log_level", "log_format", "allow_other"),
    }
)
"""Options that no volume sets. ``store_id`` among them: who may choose it can leave bytes in the cache for others."""

_ENDPOINT = "AWS_ENDPOINT_URL"
_SNAPSHOT = "snapshot"
_OF_MEMORY = frozenset({"block_size", "memory_limit", "concurrency", "read_ahead", "fetch_processes"})
"""Options that ask for some of the node's memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What holds for all mounts of a mounter."""

    environment: Mapping[str, str] = field(repr=False)
    """Of the mounter: ``TIGRISMOUNT_`` variables are defaults of all mounts."""
    flags: Mapping[str, object] = field(default_factory=dict)
    """Options that no volume overrides, by key."""
    config_file: str | None = None
    """TOML file with defaults."""
    worker_command: tuple[str, ...] = (*WORKER_COMMAND, "--end-with-parent")
    """Program and arguments of a worker."""
    deadlines: Deadlines = field(default_factory=Deadlines)
    """How long workers are waited for."""


def resolve(order: Order, installation: Installation, *, has_served: bool = False) -> MountConfig:
    """Return the configuration of the worker of a mount; a snapshot stays the version that a worker before has found.

    Args:
        order: What is mounted.
        installation: What holds for all mounts here.
        has_served: Whether another worker has served it: one of the present stays that.

    Raises:
        ConfigError: Something in it means nothing, or is not the volume's to set; the message holds every fault.
    """
    try:
        config = _resolve(order, installation, has_served=has_served)
        _check_memory(config, read_host_facts(installation.environment).memory_bytes)
    except ConfigError:
        if not has_served:
            raise
        # The node may have less than when the volume was mounted, or not know what it has for want of a descriptor:
        # that costs speed, and none the files that are open.
        others = {name: value for name, value in order.options.items() if _key(name) not in _OF_MEMORY}
        return _resolve(replace(order, options=others), installation, has_served=True)
    return config


def _resolve(order: Order, installation: Installation, *, has_served: bool) -> MountConfig:
    faults = [fault for name, value in order.options.items() if (fault := _fault(name, value))]
    if faults:
        raise ConfigError("; ".join(faults))
    environment = dict(installation.environment)
    if endpoint := order.secret.get(_ENDPOINT):
        environment[_ENDPOINT] = endpoint
        environment.pop(f"{_ENDPOINT}_S3", None)
    of_the_present = has_served and order.snapshot_version is None and _SNAPSHOT not in order.options
    leave_out = (_SNAPSHOT,) if of_the_present else ()
    options = [f"{name}={value}" for name, value in order.options.items()]
    config = _load(order, installation, options, environment, leave_out)
    config = _of_its_own_store(config, order, installation)
    version = order.snapshot_version
    return config if version is None else replace(config, s3=replace(config.s3, snapshot_version=version))


def _check_memory(config: MountConfig, memory_bytes: int) -> None:
    if config.blocks.memory_limit_bytes > memory_bytes:
        raise ConfigError(
            f"memory-limit: is more than the {memory_bytes >> 20} MiB that all mounts of this node have; "
            "ask for less, or raise the memory limit of the mounter's pod"
        )


def _load(
    order: Order,
    installation: Installation,
    options: Sequence[str],
    environment: Mapping[str, str],
    leave_out: Collection[str] = (),
) -> MountConfig:
    return load(
        source=order.source,
        mountpoint=order.mountpoint,
        flags={"cache_dir": (DEFAULT_CACHE_DIR,), **installation.flags},
        mount_options=options,
        config_file=installation.config_file,
        debug=False,
        environment=environment,
        leave_out=leave_out,
    ).config


def _of_its_own_store(config: MountConfig, order: Order, installation: Installation) -> MountConfig:
    """Return *config* with the name that its endpoint has by itself, unless it is the one that the node has named.

    The node's ``store_id`` is a word about the node's own endpoint. Behind one that a volume chose may be anybody, who
    would leave bytes in the cache under that name, and be served those that others have left.
    """
    named = store_id(config.s3.endpoint_url)
    if config.vfs.store_id == named:
        return config
    of_the_node = _load(order, installation, (), installation.environment)
    if store_id(of_the_node.s3.endpoint_url) == named:
        return config
    return replace(config, vfs=replace(config.vfs, store_id=named))


def check(installation: Installation) -> None:
    """Find what is wrong with an installation before anybody asks for a mount.

    Raises:
        ConfigError: As in :func:`resolve`.
    """
    resolve(Order(mount_id="", source="s3://check", options={}, mountpoint="/", secret={}), installation)


def _key(name: str) -> str:
    return name.strip().replace("-", "_")


def _fault(name: str, value: str) -> str:
    key = _key(name)
    if key in OF_THE_NODE or key.removeprefix("no_") in OF_THE_NODE:
        return f"option {name!r}: is set for the node, not by a volume; leave it out"
    if key not in BY_KEY:
        return f"option {name!r}: is unknown{suggest(key, BY_KEY.keys() - OF_THE_NODE)}"
    if "," in value or not value.strip():
        return f"option {name!r}: needs a value without commas"
    return ""
