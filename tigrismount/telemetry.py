"""What a mount says of itself: the layers' statistics gathered into the ``status`` reply, and its log.

No registry of counters: each layer has a ``statistics()`` snapshot, and whoever wants figures asks for them.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import trio

from tigrismount import __version__
from tigrismount.loglines import log_to_standard_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tigrismount.blocks.statistics import BlocksStatistics
    from tigrismount.cache.base import CacheStatistics
    from tigrismount.config.model import MountConfig
    from tigrismount.fuse.pusher import PusherStatistics
    from tigrismount.integrity.verifier import VerifierStatistics
    from tigrismount.objects.client import ObjectStatistics
    from tigrismount.vfs.entries import VfsStatistics


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Takeovers:
    """How often a worker of this mount took over from one that ended."""

    count: int = 0
    """Workers so far, less one."""
    reason: str = ""
    """How the worker before this one ended; empty for the first."""
    attempts: int = 0
    """Failed attempts to replace this worker."""
    failure: str = ""
    """Why the last of them failed; empty where there was none."""


def mount_status(
    config: MountConfig,
    *,
    takeovers: Takeovers,
    degraded: Mapping[str, str],
    supervisor_pid: int,
    uptime_s: float,
    credentials: str,
    notes: Sequence[str],
    objects: ObjectStatistics,
    cache: CacheStatistics,
    blocks: BlocksStatistics,
    pusher: PusherStatistics,
    vfs: VfsStatistics,
    checksums: VerifierStatistics,
    loads: Sequence[Mapping[str, Any]],
    kernel_reads: tuple[int, int],
) -> dict[str, Any]:
    """Return one element of ``status --json``'s ``mounts``; keys are added, never renamed (docs/reference/cli.md).

    Args:
        config: The mount's configuration in force.
        takeovers: What happened to the workers before this one.
        degraded: By what part: why it works less well than it could; empty where it does not.
        supervisor_pid: Process that holds the mount.
        uptime_s: Seconds since the worker began to serve.
        credentials: Which source of credentials won; never a secret.
        notes: What is worth knowing and no fault, such as a gateway on the way.
        objects: The client's counters.
        cache: The disk cache's counters.
        blocks: The block store's counters.
        pusher: The pusher's counters.
        vfs: The filesystem's counters.
        checksums: What was compared with known checksums.
        loads: Loads in progress.
        kernel_reads: READs that the kernel sent, and their bytes.
    """
    cache_dirs = [cache.directory for cache in config.disk_caches]
    reads = blocks.reads_hit + blocks.reads_joined + blocks.reads_missed
    return {
        "mountpoint": config.mountpoint,
        "source": config.source,
        "pid": os.getpid(),
        "supervisor_pid": supervisor_pid,
        "version": __version__,
        "uptime_s": round(uptime_s, 3),
        "cache_dir": cache_dirs[0] if cache_dirs else None,
        "cache_dirs": cache_dirs,
        "snapshot": config.s3.snapshot_version,
        "credentials": credentials,
        "notes": list(notes),
        "takeovers": {
            "count": takeovers.count,
            "last_reason": takeovers.reason or None,
            "attempts": takeovers.attempts,
            "last_failure": takeovers.failure or None,
        },
        "degraded": [f"{part}: {why}" for part, why in {"cache": cache.degraded, **degraded}.items() if why],
        "bytes": {
            "ram": blocks.bytes_hit,
            "flight": blocks.bytes_waited,
            "nvme": cache.bytes_read,
            "remote": objects.bytes_fetched,
            "pushed": pusher.pushed_bytes,
        },
        "hits": {
            "memory": blocks.reads_hit,
            "joined": blocks.reads_joined,
            "missed": blocks.reads_missed,
            "ratio": round(blocks.reads_hit / reads, 4) if reads else None,
        },
        "requests": {
            "get": objects.get_requests,
            "head": objects.head_requests,
            "list": objects.list_requests,
            "retries": objects.retries,
            "given_up": objects.given_up,
            "slow_downs": objects.slow_downs,
            "errors": objects.errors,
        },
        "memory": {
            "limit": blocks.memory_limit_bytes,
            "used": blocks.memory_used_bytes,
            "held": blocks.memory_held_bytes,
            "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        },
        "flights": {"remote": blocks.flights, "disk": blocks.disk_flights, "queued": blocks.queued},
        "kernel_reads": {"requests": kernel_reads[0], "bytes": kernel_reads[1]},
        "push": asdict(pusher),
        "cache": asdict(cache),
        "names": asdict(vfs),
        "checksums": {**asdict(checksums), "refused": list(checksums.refused)},
        "loads": list(loads),
        "config": config.report(),
    }


def configure_logging(config: MountConfig) -> None:
    """Send log lines to standard error, from where the supervisor passes them on.

    Args:
        config: Level and shape.
    """
    log_to_standard_error(config.log_level, json_lines=config.log_format == "json")
    logging.raiseExceptions = False  # the supervisor may be gone, and its end of the pipe with it


async def report_on_signal(state: Callable[[], Mapping[str, Any]]) -> None:
    """Log the whole state on SIGUSR1; on SIGUSR2 log everything, and on the next one what was configured again.

    Args:
        state: What ``status`` shows.
    """
    logger = logging.getLogger("tigrismount")
    configured = logger.level
    with trio.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2) as signals:
        async for number in signals:
            if number == signal.SIGUSR1:
                log.warning("state: %s", json.dumps(state()))
                continue
            logger.setLevel(logging.DEBUG if logger.level != logging.DEBUG else configured)
            log.warning("SIGUSR2: logging from level %s on", logging.getLevelName(logger.level).lower())
