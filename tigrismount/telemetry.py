"""What a mount says of itself: the layers' statistics gathered into the ``status`` reply, and its log.

No registry of counters: each layer has a ``statistics()`` snapshot, and whoever wants figures asks for them.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from tigrismount import __version__
from tigrismount.loglines import log_to_standard_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tigrismount.blocks.statistics import BlocksStatistics
    from tigrismount.cache.base import CacheStatistics
    from tigrismount.config.model import MountConfig
    from tigrismount.fuse.passthrough import PassthroughStatistics
    from tigrismount.fuse.pusher import PusherStatistics
    from tigrismount.integrity.verifier import VerifierStatistics
    from tigrismount.objects.client import ObjectStatistics
    from tigrismount.objects.fetchers.pool import FetcherStatistics
    from tigrismount.reader.loads import FinishedLoads
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


@dataclass(frozen=True, slots=True, kw_only=True)
class MountFacts:
    """What the layers of a mount tell of themselves at one moment."""

    takeovers: Takeovers
    """What happened to the workers before this one."""
    degraded: Mapping[str, str]
    """By what part: why it works less well than it could; empty where it does not."""
    supervisor_pid: int
    """Process that holds the mount."""
    uptime_s: float
    """Seconds since the worker began to serve."""
    credentials: str
    """Which source of credentials won; never a secret."""
    notes: Sequence[str]
    """What is worth knowing and no fault, such as a gateway on the way."""
    objects: ObjectStatistics
    """The client's counters."""
    fetchers: FetcherStatistics
    """Its fetch processes."""
    cache: CacheStatistics
    """The disk cache's counters."""
    blocks: BlocksStatistics
    """The block store's counters."""
    pusher: PusherStatistics
    """The pusher's counters."""
    vfs: VfsStatistics
    """The filesystem's counters."""
    checksums: VerifierStatistics
    """What was compared with known checksums."""
    loads: Sequence[Mapping[str, Any]]
    """Loads in progress."""
    finished_loads: FinishedLoads
    """What the loads that have ended came to."""
    passthrough: PassthroughStatistics
    """Files that the kernel reads by itself."""
    kernel_reads: tuple[int, int]
    """READs that the kernel sent, and their bytes."""
    tables: Mapping[str, int] = field(default_factory=dict)
    """What is remembered now, by kind; a table that grows for ever is a leak."""


def mount_status(config: MountConfig, facts: MountFacts) -> dict[str, Any]:
    """Return one element of ``status --json``'s ``mounts``; keys are added, never renamed (docs/reference/cli.md).

    Args:
        config: The mount's configuration in force.
        facts: What its layers tell.
    """
    cache_dirs = [cache.directory for cache in config.disk_caches]
    blocks, objects, cache, takeovers = facts.blocks, facts.objects, facts.cache, facts.takeovers
    reads = blocks.reads_hit + blocks.reads_joined + blocks.reads_missed
    return {
        "mountpoint": config.mountpoint,
        "source": config.source,
        "pid": os.getpid(),
        "supervisor_pid": facts.supervisor_pid,
        "version": __version__,
        "uptime_s": round(facts.uptime_s, 3),
        "cache_dir": cache_dirs[0] if cache_dirs else None,
        "cache_dirs": cache_dirs,
        "snapshot": config.s3.snapshot_version,
        "credentials": facts.credentials,
        "notes": list(facts.notes),
        "takeovers": {
            "count": takeovers.count,
            "last_reason": takeovers.reason or None,
            "attempts": takeovers.attempts,
            "last_failure": takeovers.failure or None,
        },
        "degraded": [f"{part}: {why}" for part, why in facts.degraded.items() if why],
        "bytes": {
            "ram": blocks.bytes_hit,
            "flight": blocks.bytes_waited,
            "nvme": cache.bytes_read,
            "remote": objects.bytes_fetched,
            "pushed": facts.pusher.pushed_bytes,
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
        "fetch_processes": {
            "configured": facts.fetchers.configured,
            "ready": facts.fetchers.ready,
            "started": facts.fetchers.started,
            "gets": facts.fetchers.gets,
            "in_flight": list(facts.fetchers.in_flight),
            "pids": list(facts.fetchers.pids),
        },
        "memory": {
            "limit": blocks.memory_limit_bytes,
            "used": blocks.memory_used_bytes,
            "held": blocks.memory_held_bytes,
            "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        },
        "get_limit": {
            "gets": min(objects.get_limit, config.blocks.concurrency),
            "most": config.blocks.concurrency,
            "reason": objects.get_limit_reason,
        },
        "flights": {"remote": blocks.flights, "disk": blocks.disk_flights, "queued": blocks.queued},
        "kernel_reads": {"requests": facts.kernel_reads[0], "bytes": facts.kernel_reads[1]},
        "push": asdict(facts.pusher),
        "passthrough": asdict(facts.passthrough),
        "cache": {
            **asdict(cache),
            "refetched_bytes": blocks.refetched_bytes,
            "raced_bytes": blocks.raced_bytes,
            "left_over_bytes": blocks.left_over_bytes,
        },
        "names": asdict(facts.vfs),
        "tables": dict(facts.tables),
        "checksums": {**asdict(facts.checksums), "refused": list(facts.checksums.refused)},
        "loads": list(facts.loads),
        "finished_loads": asdict(facts.finished_loads),
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
