"""Second and third step: check what was written, then fill in what was not.

``validate`` parses every setting and reports all faults at once, each with the place it was written. ``resolve``
derives the rest from facts about the host, which are arguments. Both are pure.
"""

from __future__ import annotations

import math
import posixpath
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

from tigrismount.blocks.options import BlocksConfig, with_demand
from tigrismount.cache.options import DiskCacheConfig
from tigrismount.config.model import MountConfig
from tigrismount.config.options import BY_KEY
from tigrismount.config.units import MIB, Share
from tigrismount.errors import ConfigError
from tigrismount.fuse.options import FuseConfig, PushConfig
from tigrismount.objects.endpoints import is_amazon, store_id
from tigrismount.objects.options import DEFAULT_ENDPOINT_URL, S3Config
from tigrismount.reader.options import ReaderConfig
from tigrismount.vfs.options import VfsConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tigrismount.config.host import DiskSpace, HostFacts
    from tigrismount.config.merge import Setting
    from tigrismount.config.source import Source

_GIB = 1 << 30
_SYSTEM_CACHE_DIRECTORY = "/var/cache/tigrismount"
_PROCESS_BYTES = 160 << 20  # what worker and supervisor take besides the buffers: measured 120 MiB, and threads
_TLS_PROCESSES = (4, 4)
"""Most fetch processes, and cores for each: four decrypt more than one mount can hand on."""
_HTTP_PROCESSES = (2, 8)
"""The same without TLS, of which one receives twice as much."""
_CORE_BYTES_S = 500 * MIB
"""What one core receives over TLS, and hands on, at the least."""
_LEAST_GETS = 2
_MOST_GETS = 256
"""How far the search goes by itself: 12 GB/s at 20 ms and 80 MB/s each."""
_MEMORY_OF_GETS = 0.75
"""Share of the read buffers that GETs may fill, so that what has come can wait for its reader."""
_GET_BYTES_S = 4 * MIB
"""Share of a limited bandwidth that one GET is worth: at less, each would wait for its turn by the second."""
_LEAST_BLOCKS = 4  # below this, one reader's demand and one flight ahead cannot both have a buffer
_DEFAULT_CACHE_SHARE = 0.8
_DEFAULT_FREE_FLOOR = 0.05
_DEFAULT_KERNEL_READ_AHEAD_KIB = 4096  # half a block: a plain reader keeps the next part busy while it copies this one
_REPLY_MARGIN_S = 30.0  # a request fails after the store's own deadline, with the store's reason
_KERNEL_SHARE = 0.5  # of the time after which the kernel ends the mount: requests have waited before they are ours
_KERNEL_SHARE_REPLY = 0.75


def validate(settings: Mapping[str, Setting]) -> tuple[dict[str, Any], list[str]]:
    """Return the parsed values by option key, and every fault, each naming where it was written."""
    values: dict[str, Any] = {}
    faults = []
    for key, setting in settings.items():
        try:
            values[key] = BY_KEY[key].parse(setting.value)
        except ValueError as exc:
            faults.append(f"{_place(setting)}: {exc}")
    return values, faults + _contradictions(values, settings)


def resolve(
    values: Mapping[str, Any],
    origins: Mapping[str, str],
    *,
    source: Source,
    mountpoint: str,
    nonempty: bool,
    debug: bool,
    host: HostFacts,
    disk_space: Callable[[str], DiskSpace],
    environment: Mapping[str, str],
) -> MountConfig:
    """Return the complete configuration.

    Args:
        values: What ``validate`` returned, without faults.
        origins: Where each value was written, by option key.
        source: What to mount.
        mountpoint: Absolute, without symbolic links.
        nonempty: Whether the mountpoint may hold something.
        debug: Whether tracebacks are wanted.
        host: The process and its machine.
        disk_space: Tells the space of the filesystem a directory is on; asked for the cache directories only.
        environment: Where AWS's region variables are looked up, which count for AWS's own hosts only.
    """
    blocks = _blocks(values, host)
    s3 = _s3(values, host, environment, blocks.concurrency)
    return MountConfig(
        source=source.url,
        mountpoint=mountpoint,
        fsname=source.url,
        s3=s3,
        disk_caches=_disk_caches(values, host, disk_space, blocks),
        blocks=blocks,
        reader=_reader(values, blocks),
        vfs=_vfs(values, host, source, s3),
        fuse=FuseConfig(
            request_deadline_s=min(s3.request_timeout_s + _REPLY_MARGIN_S, _KERNEL_SHARE_REPLY * host.fuse_patience_s),
            passthrough=values.get("passthrough", FuseConfig().passthrough),
        ),
        push=PushConfig(mode=values.get("push", PushConfig().mode)),
        kernel_read_ahead_kib=_kernel_read_ahead_kib(values),
        allow_other=values.get("allow_other", host.uid == 0),
        nonempty=nonempty,
        log_level=values.get("log_level", "debug" if debug else "info"),
        log_format=values.get("log_format", "text"),
        metrics_address=values.get("metrics_addr"),
        log_file=_absolute(values.get("log_file"), host),
        debug=debug,
        origins=_origins(origins, s3),
    )


def _origins(origins: Mapping[str, str], s3: S3Config) -> dict[str, str]:
    """Return where each value came from; a snapshot decides how long names are trusted."""
    frozen = dict.fromkeys(("metadata_ttl", "negative_ttl"), origins.get("snapshot", "default"))
    return {**origins, **(frozen if s3.snapshot else {})}


def check_places(config: MountConfig) -> None:
    """Refuse what the mount would cover: a worker that takes over opens it by name, and would ask itself.

    Raises:
        ConfigError: The cache or the log file lies under the mountpoint.
    """
    paths = [("cache_dir", "cache-dir", cache.directory) for cache in config.disk_caches]
    paths += [("log_file", "log-file", config.log_file)] if config.log_file else []
    for key, name, path in paths:
        if posixpath.commonpath([path, config.mountpoint]) == config.mountpoint:
            where = f"{config.origins.get(key, name)}: {path}: lies under the mountpoint, which would cover it"
            raise ConfigError(f"{where}; choose another with --{name}")


def resolve_cache_directories(values: Mapping[str, Any], host: HostFacts) -> tuple[str, ...]:
    """Return the directories of the disk cache, none where it is off.

    Args:
        values: What ``validate`` returned, without faults.
        host: The process and its machine.
    """
    default = _SYSTEM_CACHE_DIRECTORY if host.uid == 0 else posixpath.join(host.cache_home, "tigrismount")
    written = values.get("cache_dir", (default,))
    return tuple(dict.fromkeys(path for path in (_absolute(path, host) for path in written) if path))


def _place(setting: Setting) -> str:
    """Return where a value was written and what it is, unless it may hold a password."""
    shown = "…" if "@" in str(setting.value) else repr(setting.value)
    return f"{setting.origin} {shown}" if setting.origin.startswith("-") else f"{setting.origin} = {shown}"


def _contradictions(values: Mapping[str, Any], settings: Mapping[str, Setting]) -> list[str]:
    """Return faults that only two options together have."""
    faults = []
    block_bytes = values.get("block_size", BlocksConfig().block_bytes)
    memory_bytes = values.get("memory_limit")
    if memory_bytes is not None and memory_bytes < _LEAST_BLOCKS * block_bytes:
        faults.append(f"{_place(settings['memory_limit'])}: needs room for {_LEAST_BLOCKS} blocks; lower --block-size")
    read_ahead_bytes = values.get("read_ahead", 0)
    if memory_bytes is not None and read_ahead_bytes > memory_bytes:
        faults.append(f"{_place(settings['read_ahead'])}: is more than --memory-limit")
    cache_size = values.get("cache_size")
    if isinstance(cache_size, int) and cache_size < block_bytes * len(values.get("cache_dir") or " "):
        faults.append(
            f"{_place(settings['cache_size'])}: is less than one block in each directory; "
            "--cache-dir off disables the cache"
        )
    if values.get("no_sign_request") and "profile" in settings and not settings["profile"].origin.startswith("env AWS"):
        faults.append(f"{_place(settings['profile'])}: contradicts {settings['no_sign_request'].origin}")
    if values.get("all_buckets") and "snapshot" in settings:
        faults.append(f"{_place(settings['snapshot'])}: is a snapshot of one bucket; leave --all-buckets out")
    return faults


def _s3(values: Mapping[str, Any], host: HostFacts, environment: Mapping[str, str], concurrency: int) -> S3Config:
    endpoint_url = values.get("endpoint_url", DEFAULT_ENDPOINT_URL)
    base = S3Config(endpoint_url=endpoint_url)
    timeout_s = min(values.get("request_timeout", base.request_timeout_s), _KERNEL_SHARE * host.fuse_patience_s)
    return S3Config(
        endpoint_url=endpoint_url,
        region=values.get("region") or _region(endpoint_url, environment),
        profile=None if values.get("no_sign_request") else values.get("profile"),
        no_sign_request=values.get("no_sign_request", base.no_sign_request),
        addressing=values.get("addressing", base.addressing),
        ca_bundle=_absolute(values.get("ca_bundle"), host),
        request_timeout_s=timeout_s,
        metadata_timeout_s=min(base.metadata_timeout_s, timeout_s),
        max_retries=values.get("max_retries", base.max_retries),
        concurrency=with_demand(concurrency),
        bandwidth_bytes_s=values.get("bandwidth"),
        requester_pays=values.get("requester_pays", base.requester_pays),
        snapshot=values.get("snapshot"),
        consistent=values.get("consistent", base.consistent),
        tigris_prefetch=values.get("tigris_prefetch", base.tigris_prefetch),
        fetch_processes=_fetch_processes(values, host, endpoint_url),
    )


def _fetch_processes(values: Mapping[str, Any], host: HostFacts, endpoint_url: str) -> int:
    """Return how many processes may fetch besides the mount's own (docs/adr/0023).

    None where the reader needs the cores as much, or a limited bandwidth is less than what one core receives.
    """
    written: int | None = values.get("fetch_processes")
    if written is not None:
        return written
    if values.get("bandwidth", math.inf) < _CORE_BYTES_S:
        return 0
    most, cores_each = _TLS_PROCESSES if endpoint_url.startswith("https:") else _HTTP_PROCESSES
    return min(most, int(host.cores // cores_each), host.memory_bytes // _GIB)


def _concurrency(values: Mapping[str, Any], memory_bytes: int, part_bytes: int) -> int:
    """Return how many GETs there may be at most; under a limit of bytes a second few, as each must get somewhere."""
    usual = max(BlocksConfig().concurrency, min(_MOST_GETS, int(_MEMORY_OF_GETS * memory_bytes) // part_bytes))
    if (limit_bytes_s := values.get("bandwidth")) is not None:
        usual = min(usual, max(_LEAST_GETS, limit_bytes_s // _GET_BYTES_S))
    found: int = values.get("concurrency", usual)
    return found


def _region(endpoint_url: str, environment: Mapping[str, str]) -> str:
    """Return the region where none was given; AWS's variables name regions of AWS, and would confuse other stores."""
    if is_amazon(endpoint_url):
        return environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
    return S3Config().region


def _blocks(values: Mapping[str, Any], host: HostFacts) -> BlocksConfig:
    block_bytes = values.get("block_size", BlocksConfig().block_bytes)
    generous_bytes = max(256 * MIB, min(host.memory_bytes // 4, 2 * _GIB))
    # In a small control group the interpreter comes first, and the kernel's own pages need as much as we do.
    bearable_bytes = (host.memory_bytes - _PROCESS_BYTES) // 2
    default_bytes = max(_LEAST_BLOCKS * block_bytes, min(generous_bytes, bearable_bytes))
    memory_limit_bytes = values.get("memory_limit", default_bytes)
    return BlocksConfig(
        block_bytes=block_bytes,
        memory_limit_bytes=memory_limit_bytes,
        concurrency=_concurrency(values, memory_limit_bytes, max(block_bytes, BlocksConfig().part_bytes)),
    )


def _reader(values: Mapping[str, Any], blocks: BlocksConfig) -> ReaderConfig:
    default_bytes = min(512 * MIB, blocks.memory_limit_bytes * 6 // 10)
    return ReaderConfig(
        read_ahead_bytes=values.get("read_ahead", default_bytes - default_bytes % blocks.block_bytes),
        prefetch=values.get("prefetch", "auto"),
        block_bytes=blocks.block_bytes,
    )


def _disk_caches(
    values: Mapping[str, Any], host: HostFacts, disk_space: Callable[[str], DiskSpace], blocks: BlocksConfig
) -> tuple[DiskCacheConfig, ...]:
    """Return the parts of the disk cache, one a directory.

    A size in bytes is shared out, and objects are, in proportion to the filesystems; one that holds several of the
    directories counts once, in as many shares.
    """
    directories = resolve_cache_directories(values, host)
    size, floor = values.get("cache_size"), values.get("cache_free", _DEFAULT_FREE_FLOOR)
    if len(directories) == 1 and isinstance(size, int):
        usable = {directories[0]: 1}  # nothing to share out: the disk need not be asked
    else:
        spaces = {directory: disk_space(directory) for directory in directories}
        sharing = Counter(space.device for space in spaces.values())
        usable = {name: max(1, space.usable_bytes // sharing[space.device]) for name, space in spaces.items()}
    if isinstance(size, int):
        sizes = {name: size * share // sum(usable.values()) for name, share in usable.items()}
    else:
        wanted = cast("Share | None", size) or Share(_DEFAULT_CACHE_SHARE)
        sizes = {name: int(share * min(wanted.fraction, 1 - floor)) for name, share in usable.items()}
    return tuple(
        DiskCacheConfig(
            directory=name,
            size_bytes=sizes[name],
            weight=usable[name],
            free_floor_fraction=floor,
            block_bytes=blocks.block_bytes,
            verify=values.get("verify", "once"),
            # What waits for the disk holds its memory, and gives it up where it is missed: no bound is needed below it.
            write_queue_bytes=blocks.memory_limit_bytes,
        )
        for name in directories
    )


def _vfs(values: Mapping[str, Any], host: HostFacts, source: Source, s3: S3Config) -> VfsConfig:
    base = VfsConfig(bucket=source.bucket)
    return VfsConfig(
        bucket=source.bucket,
        prefix=source.prefix,
        store_id=values.get("store_id") or store_id(s3.endpoint_url),
        # What is frozen cannot change, whatever a configuration file says for all mounts.
        metadata_ttl_s=math.inf if s3.snapshot else values.get("metadata_ttl", base.metadata_ttl_s),
        negative_ttl_s=math.inf if s3.snapshot else values.get("negative_ttl", base.negative_ttl_s),
        uid=values.get("uid", host.uid),
        gid=values.get("gid", host.gid),
        file_mode=values.get("file_mode", base.file_mode),
        dir_mode=values.get("dir_mode", base.dir_mode),
    )


def _kernel_read_ahead_kib(values: Mapping[str, Any]) -> int | None:
    kib = values.get("kernel_read_ahead")
    return _DEFAULT_KERNEL_READ_AHEAD_KIB if kib is None else kib or None


def _absolute(path: str | None, host: HostFacts) -> str | None:
    if path is None:
        return None
    if path == "~" or path.startswith("~/"):
        path = host.home + path[1:]
    return posixpath.normpath(posixpath.join(host.cwd, path))
