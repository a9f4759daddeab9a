"""Every metric there is: its name, what it means, and where in a mount's status its figure stands.

The status that ``tigrismount status`` shows is the one source, so the two never disagree. Names are in base units and
label values come from small fixed sets: no key, path or node id ever becomes one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Status = Mapping[str, Any]
Values = Mapping[str, float]
"""By label value; the empty text where the metric has no label."""

PARTS = ("store", "cache", "journal", "metrics")
"""What can be degraded."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric."""

    name: str
    """Its name without ``tigrismount_``, and without the ``_total`` of a counter."""
    kind: Literal["counter", "gauge"]
    """Whether it only grows."""
    help: str
    """What it counts."""
    values: Callable[[Status], Values]
    """Gives its figures."""
    label: str = ""
    """Name of its label, empty without one."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One histogram."""

    name: str
    """Its name without ``tigrismount_``."""
    help: str
    """What it measures."""


def _one(*path: str) -> Callable[[Status], Values]:
    def read(status: Status) -> Values:
        found: Any = status
        for key in path:
            found = found[key]
        return {"": float(found or 0)}

    return read


def _several(section: str, **keys: str) -> Callable[[Status], Values]:
    return lambda status: {label: float(status[section].get(key, 0) or 0) for label, key in keys.items()}


def _degraded(status: Status) -> Values:
    failing = {reason.partition(":")[0] for reason in status["degraded"]}
    return {part: float(part in failing) for part in PARTS}


def _retries(status: Status) -> Values:
    requests = status["requests"]
    slow_downs = min(requests["slow_downs"], requests["retries"])
    return {"slow_down": float(slow_downs), "failure": float(requests["retries"] - slow_downs)}


def _lookups(status: Status) -> Values:
    names = status["names"]
    return {"known": float(names["lookups"] - names["lookups_asked"]), "store": float(names["lookups_asked"])}


METRICS = (
    Metric(
        "bytes",
        "counter",
        "Bytes of reads answered from memory or after waiting for a flight, read from the disk cache, received from "
        "the store, and pushed into the kernel's page cache.",
        _several("bytes", ram="ram", flight="flight", nvme="nvme", remote="remote", pushed="pushed"),
        "source",
    ),
    Metric(
        "reads",
        "counter",
        "Reads answered from memory (hit), after waiting for bytes on their way (joined), and for new ones (missed).",
        _several("hits", hit="memory", joined="joined", missed="missed"),
        "result",
    ),
    Metric(
        "store_requests",
        "counter",
        "Requests sent to the store, retries included.",
        _several("requests", get="get", head="head", list="list"),
        "operation",
    ),
    Metric(
        "store_retries",
        "counter",
        "Requests sent again, because the store asked for fewer or because of any other failure.",
        _retries,
        "cause",
    ),
    Metric("store_failures", "counter", "Requests that failed for good.", _one("requests", "errors")),
    Metric("get_limit", "gauge", "GETs that are worth having in flight now.", _one("get_limit", "gets")),
    Metric(
        "flights",
        "gauge",
        "Parts on their way from the store or the disk cache, and parts that wait for their turn.",
        _several("flights", remote="remote", disk="disk", queued="queued"),
        "state",
    ),
    Metric(
        "fetch_processes",
        "gauge",
        "Processes that receive from the store beside the mount's own: how many there may be, and how many serve.",
        _several("fetch_processes", configured="configured", ready="ready"),
        "state",
    ),
    Metric(
        "fetch_process_starts",
        "counter",
        "Fetch processes started; more than there may be means that some died.",
        _one("fetch_processes", "started"),
    ),
    Metric(
        "fetch_process_requests",
        "counter",
        "GETs that were given to fetch processes.",
        _one("fetch_processes", "gets"),
    ),
    Metric(
        "memory_bytes",
        "gauge",
        "Memory for blocks: the limit, what is in use, and what is held with what is kept for reuse.",
        _several("memory", limit="limit", used="used", held="held"),
        "state",
    ),
    Metric("cache_bytes", "gauge", "Bytes in the disk cache.", _one("cache", "bytes_cached")),
    Metric("cache_capacity_bytes", "gauge", "Bytes that the disk cache may hold.", _one("cache", "capacity_bytes")),
    Metric("cache_objects", "gauge", "Object versions in the disk cache.", _one("cache", "objects_cached")),
    Metric("cache_written_bytes", "counter", "Bytes written to the disk cache.", _one("cache", "bytes_written")),
    Metric(
        "cache_skipped_blocks",
        "counter",
        "Blocks not cached because the disk could not keep up, was full, or failed.",
        _one("cache", "writes_skipped"),
    ),
    Metric(
        "cache_refetched_bytes",
        "counter",
        "Bytes fetched a second time, because the cache's disk was too busy for them when they came.",
        _one("cache", "refetched_bytes"),
    ),
    Metric(
        "cache_raced_bytes",
        "counter",
        "Bytes fetched although the disk cache had them, because its disk did not answer in time.",
        _one("cache", "raced_bytes"),
    ),
    Metric(
        "cache_corrupt_blocks",
        "counter",
        "Cached blocks that failed their checksum and were dropped.",
        _one("cache", "corrupt_blocks"),
    ),
    Metric("cache_evicted_objects", "counter", "Object versions evicted.", _one("cache", "evicted_objects")),
    Metric("lookups", "counter", "Names looked up, by who knew the answer.", _lookups, "answered_by"),
    Metric("listings", "counter", "Listings of directories begun.", _one("names", "listings")),
    Metric("nodes", "gauge", "Files and directories that the kernel may know.", _one("names", "nodes")),
    Metric(
        "passthrough_opens",
        "counter",
        "Opens of files that the kernel reads from the cache by itself.",
        _one("passthrough", "opens"),
    ),
    Metric(
        "passthrough_opened_bytes",
        "counter",
        "Lengths of those files; how much of them is read only the kernel knows.",
        _one("passthrough", "opened_bytes"),
    ),
    Metric(
        "passthrough_proven_bytes",
        "counter",
        "Bytes compared with their checksums because their files were being opened so, or would be next.",
        _one("passthrough", "proven_bytes"),
    ),
    Metric(
        "passthrough_files",
        "gauge",
        "Cache files kept from eviction because the kernel reads them by itself.",
        _one("passthrough", "files"),
    ),
    Metric("open_files", "gauge", "Object versions that are open.", _one("names", "open_files")),
    Metric(
        "hidden_keys", "gauge", "Keys in listed directories that no path can express.", _one("names", "hidden_keys")
    ),
    Metric(
        "loads_in_progress",
        "gauge",
        "Model loads in progress.",
        lambda status: {"": float(len(status["loads"]))},
    ),
    Metric("loads_finished", "counter", "Model loads that have ended.", _one("finished_loads", "count")),
    Metric("load_seconds", "counter", "Time that they took, together.", _one("finished_loads", "seconds")),
    Metric(
        "load_wait_seconds",
        "counter",
        "How much of that time somebody waited for bytes.",
        _one("finished_loads", "waited_seconds"),
    ),
    Metric(
        "load_bytes",
        "counter",
        "What those loads needed, and what was fetched from the store for them.",
        _several("finished_loads", needed="bytes_needed", fetched="bytes_fetched"),
        "what",
    ),
    Metric("degraded", "gauge", "1 where a part works less well than it could.", _degraded, "part"),
    Metric(
        "takeovers", "counter", "Workers of this mount that took over from one that ended.", _one("takeovers", "count")
    ),
    Metric("uptime_seconds", "gauge", "Seconds since this worker began to serve.", _one("uptime_s")),
)
"""In the order in which they are shown."""

ERRORS = Metric(
    "fuse_errors", "counter", "Requests of the kernel refused with an error number.", lambda status: {}, "errno"
)
"""Comes from the adapter: error numbers are no part of the status."""

ERRNOS = ("EACCES", "EINVAL", "EIO", "EISDIR", "ENAMETOOLONG", "ENOENT", "ENOTDIR", "ESTALE")
"""Its label values, shown before there was any such refusal: what begins at 0 has a rate from the first one on."""

UP = Metric(
    "up",
    "gauge",
    "Whether a mount answers. `tigrismount metrics` alone has it: of a mount with an address of its own, `up` says it.",
    lambda status: {},
    "mountpoint",
)
"""Who does not answer cannot say so: told by whoever asks all mounts."""

INFO = Metric(
    "info",
    "gauge",
    "Always 1; the labels say which mount this is.",
    lambda status: {},
)
"""Has several labels."""

INFO_LABELS = ("mountpoint", "source", "snapshot", "version")
"""Its labels, which are those of the status."""

TIMINGS = {
    "read": Timing("fuse_read_seconds", "Time to answer a READ of the kernel."),
    "get": Timing("store_get_seconds", "Time from sending a GET to the last byte of its body."),
    "first_byte": Timing("store_get_first_byte_seconds", "Time from sending a GET to the head of its answer."),
}
"""By what the layers call them."""
