"""The configuration of one mount, complete and checked: what the worker gets, as JSON, from the command line.

It nests the configuration of each layer; a component receives only its own. It holds no secrets: the worker looks
credentials up where they are used, so the JSON may be logged, shown by ``status`` and kept by the supervisor.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tigrismount.blocks.options import BlocksConfig
from tigrismount.cache.options import DiskCacheConfig
from tigrismount.errors import ConfigError
from tigrismount.fuse.options import FuseConfig, PushConfig
from tigrismount.objects.options import S3Config
from tigrismount.reader.options import ReaderConfig
from tigrismount.vfs.options import VfsConfig

_SECTIONS: dict[str, type] = {
    "s3": S3Config,
    "blocks": BlocksConfig,
    "reader": ReaderConfig,
    "vfs": VfsConfig,
    "fuse": FuseConfig,
    "push": PushConfig,
}
_DEFAULTS = "defaults"
"""Beside the members: what those are that have a default. A member that is added must have one, by which all is as it
was before there was such a member."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountConfig:
    """Everything that one mount was told or decided."""

    source: str
    """What is mounted, as ``s3://bucket/prefix``."""
    mountpoint: str
    """Where, absolute and without symbolic links."""
    fsname: str
    """What ``df`` and ``/proc/mounts`` show in the first column: the source, which never holds secrets."""
    s3: S3Config
    """How to reach the store."""
    disk_caches: tuple[DiskCacheConfig, ...]
    """The disk cache, a part for each of its directories; empty for none."""
    blocks: BlocksConfig
    """Memory and flights."""
    reader: ReaderConfig
    """Read-ahead and prefetch."""
    vfs: VfsConfig
    """Attributes and freshness."""
    fuse: FuseConfig
    """Limits of the connection."""
    push: PushConfig = field(default_factory=PushConfig)
    """Pages that the kernel is given before it asks."""
    kernel_read_ahead_kib: int | None = 4096
    """The mount's ``read_ahead_kb``; None leaves the kernel's value."""
    allow_other: bool = False
    """Whether other users may enter."""
    nonempty: bool = False
    """Whether the mountpoint may hold something."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages that are logged."""
    log_format: Literal["text", "json"] = "text"
    """Shape of log lines."""
    log_file: str | None = None
    """Where messages go; None means the system log, or standard error in the foreground."""
    metrics_address: str | None = None
    """Where metrics are served, as ``HOST:PORT``; None serves none."""
    debug: bool = False
    """Show tracebacks."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where each option's value came from, by option key: a place, or ``default``."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; infinite times become ``"inf"``, which JSON has no number for.

        With them go all defaults: what is at its default says no more than leaving it out, so an older version may
        leave out such a member that it does not know.
        """
        values = {key: _finite(value) for key, value in dataclasses.asdict(self).items()}
        return {**values, _DEFAULTS: {key: _finite(value) for key, value in _defaults().items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MountConfig:
        """Return what ``to_json`` was called on.

        Raises:
            ConfigError: *data* says something that this version does not know, or lacks some of what it must know.
        """
        try:
            defaults = data.get(_DEFAULTS, {})
            values = _known(cls, {name: value for name, value in data.items() if name != _DEFAULTS}, defaults)
            for name, section in _SECTIONS.items():
                if values[name] is not None:
                    values[name] = section(**_times(section, _known(section, values[name], defaults, f"{name}.")))
            caches = [_known(DiskCacheConfig, part, defaults, "disk_caches.") for part in values["disk_caches"]]
            values["disk_caches"] = tuple(DiskCacheConfig(**_times(DiskCacheConfig, part)) for part in caches)
            return cls(**values)
        except (KeyError, TypeError, AttributeError) as exc:
            raise ConfigError(f"the configuration is from another version of tigrismount: {exc}") from exc

    def report(self) -> dict[str, dict[str, Any]]:
        """Return each option's value in force and where it came from, for ``status``.

        Returns:
            By option key: ``{"value": …, "from": "default" | "--flag" | "env …" | "FILE: key"}``; sizes in bytes,
            times in seconds, ``"inf"`` for endless ones.
        """
        values = _finite(self._values())
        return {key: {"value": value, "from": self.origins.get(key, "default")} for key, value in values.items()}

    def _values(self) -> dict[str, Any]:
        caches = self.disk_caches
        directories = [cache.directory for cache in caches]
        return {
            "endpoint_url": self.s3.endpoint_url,
            "region": self.s3.region,
            "profile": self.s3.profile,
            "no_sign_request": self.s3.no_sign_request,
            "addressing": self.s3.addressing,
            "ca_bundle": self.s3.ca_bundle,
            "request_timeout": self.s3.request_timeout_s,
            "max_retries": self.s3.max_retries,
            "all_buckets": not self.vfs.bucket,
            "store_id": self.vfs.store_id,
            "requester_pays": self.s3.requester_pays,
            "cache_dir": directories if len(directories) > 1 else next(iter(directories), None),
            "cache_size": sum(cache.size_bytes for cache in caches) if caches else None,
            "cache_free": caches[0].free_floor_fraction if caches else None,
            "block_size": self.blocks.block_bytes,
            "memory_limit": self.blocks.memory_limit_bytes,
            "concurrency": self.blocks.concurrency,
            "fetch_processes": self.s3.fetch_processes,
            "bandwidth": self.s3.bandwidth_bytes_s,
            "read_ahead": self.reader.read_ahead_bytes,
            "prefetch": self.reader.prefetch,
            "push": self.push.mode,
            "passthrough": self.fuse.passthrough,
            "kernel_read_ahead": self.kernel_read_ahead_kib,
            "verify": caches[0].verify if caches else None,
            "metadata_ttl": self.vfs.metadata_ttl_s,
            "negative_ttl": self.vfs.negative_ttl_s,
            "snapshot": self.s3.snapshot,
            "consistent": self.s3.consistent,
            "tigris_prefetch": self.s3.tigris_prefetch,
            "uid": self.vfs.uid,
            "gid": self.vfs.gid,
            "file_mode": f"{self.vfs.file_mode:04o}",
            "dir_mode": f"{self.vfs.dir_mode:04o}",
            "allow_other": self.allow_other,
            "metrics_addr": self.metrics_address,
            "log_level": self.log_level,
            "log_format": self.log_format,
            "log_file": self.log_file,
        }


def _defaults() -> dict[str, Any]:
    """Return the default of each member that has one, by its name behind that of its section."""
    found: dict[str, Any] = {}
    parts: dict[str, type] = {"": MountConfig, "disk_caches.": DiskCacheConfig}
    parts |= {f"{name}.": part for name, part in _SECTIONS.items()}
    for prefix, part in parts.items():
        for item in dataclasses.fields(part):
            if item.default is not dataclasses.MISSING:
                found[prefix + item.name] = item.default
            elif item.default_factory is not dataclasses.MISSING:
                value = item.default_factory()
                found[prefix + item.name] = dataclasses.asdict(value) if item.name in _SECTIONS else value
    return found


def _known(part: type, values: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return *values* without those that *part* does not know and that are at their defaults."""
    known = {item.name for item in dataclasses.fields(part)}
    missing = object()
    return {
        name: value for name, value in values.items() if name in known or defaults.get(prefix + name, missing) != value
    }


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return "inf" if value == math.inf else value


def _times(section: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return *values* with the floats of *section* as floats again, ``"inf"`` included."""
    floats = {item.name for item in dataclasses.fields(section) if item.type in (float, "float")}
    return {name: float(value) if name in floats else value for name, value in values.items()}
