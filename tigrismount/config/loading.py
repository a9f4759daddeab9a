"""The three steps run in order, with the TOML file and the host read: what the command line calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tigrismount.config.host import read_disk_space, read_host_facts
from tigrismount.config.merge import merge
from tigrismount.config.resolve import resolve, resolve_cache_directories, validate
from tigrismount.config.source import ALL_BUCKETS, SOURCE_VARIABLES, Source, parse_source, source_from_environment
from tigrismount.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from tigrismount.config.model import MountConfig

CONFIG_VARIABLE = "TIGRISMOUNT_CONFIG"
"""Environment variable that names the TOML file where ``--config`` does not."""


NO_MOUNTPOINT = "/"
"""Stands for the mountpoint where nothing is to be mounted."""
_PLACES = ("source", "mountpoint")
"""Keys of the TOML file of a systemd unit, whose command line has no arguments."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and what was odd about how it was written."""

    config: MountConfig
    """Complete and checked."""
    warnings: tuple[str, ...]
    """One line each."""


def load(
    *,
    source: str | None,
    mountpoint: str,
    flags: Mapping[str, object],
    mount_options: Sequence[str],
    config_file: str | None,
    debug: bool,
    environment: Mapping[str, str],
    leave_out: Collection[str] = (),
) -> Loaded:
    """Return the configuration of a mount.

    Args:
        source: As written on the command line; None looks into the environment.
        mountpoint: Absolute, without symbolic links.
        flags: Flags given, by option key; None values count as not given.
        mount_options: Arguments of ``-o``.
        config_file: TOML file to read; None looks into the environment.
        debug: Whether tracebacks are wanted.
        environment: The process's environment.
        leave_out: Keys of options that do not count, wherever they are said.

    Raises:
        ConfigError: Something is wrong; the message holds every fault, separated by ``; ``.
    """
    file_name = config_file or environment.get(CONFIG_VARIABLE, "")
    file = _read_toml(file_name) if file_name else {}
    places = {key: file.pop(key, None) for key in _PLACES}
    if source is None and isinstance(places["source"], str):
        source = places["source"]
    merged = merge(
        flags=flags,
        mount_options=mount_options,
        environment=environment,
        file=file,
        file_name=file_name,
    )
    for key in leave_out:
        merged.settings.pop(key, None)
    values, faults = validate(merged.settings)
    faults += [
        f"{file_name}: {key} = {value!r}: expected text"
        for key, value in places.items()
        if not isinstance(value, str | None)
    ]
    origins = {key: setting.origin for key, setting in merged.settings.items()}
    try:
        if source is None and mountpoint != NO_MOUNTPOINT:
            _check_named(mountpoint, environment, values)
        parsed, origins["source"] = _source(source, environment, origins.get("all_buckets", ""), values)
    except ConfigError as exc:
        faults.insert(0, exc.detail)
    if faults := faults + merged.faults:
        raise ConfigError("; ".join(faults))
    config = resolve(
        values,
        origins,
        source=parsed,
        mountpoint=mountpoint,
        nonempty=merged.nonempty,
        debug=debug,
        host=read_host_facts(environment),
        disk_space=read_disk_space,
        environment=environment,
    )
    return Loaded(config, tuple(merged.warnings))


def cache_directory(flag: str | None, environment: Mapping[str, str]) -> str | None:
    """Return the first cache directory that a mount with these settings would use, None where the cache is off.

    Args:
        flag: As written on the command line, None when it was not.
        environment: The process's environment.

    Raises:
        ConfigError: What was written is no directory.
    """
    return next(iter(cache_directories(() if flag is None else (flag,), environment)), None)


def cache_directories(flags: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the cache directories that a mount with these settings would use, none where the cache is off.

    Args:
        flags: As written on the command line, empty when none was.
        environment: The process's environment.

    Raises:
        ConfigError: What was written is no directory.
    """
    file_name = environment.get(CONFIG_VARIABLE, "")
    merged = merge(
        flags={"cache_dir": tuple(flags)},
        mount_options=(),
        environment=environment,
        file=_read_toml(file_name) if file_name else {},
        file_name=file_name,
    )
    values, faults = validate({key: value for key, value in merged.settings.items() if key == "cache_dir"})
    if faults:
        raise ConfigError("; ".join(faults))
    return resolve_cache_directories(values, read_host_facts(environment))


def _check_named(mountpoint: str, environment: Mapping[str, str], values: Mapping[str, Any]) -> None:
    """Refuse a mountpoint without a source: who writes one word means it as the bucket."""
    if not values.get("all_buckets") and not any(environment.get(variable) for variable in SOURCE_VARIABLES):
        what = f"no source to mount on {mountpoint}: name a bucket before it, or set {' or '.join(SOURCE_VARIABLES)}"
        raise ConfigError(f"{what}; example: tigrismount mount s3://my-bucket/models {mountpoint}")


def _source(
    text: str | None, environment: Mapping[str, str], all_buckets_origin: str, values: Mapping[str, Any]
) -> tuple[Source, str]:
    """Return what to mount and where that was written; ``--all-buckets`` leaves room for a bare scheme only."""
    if values.get("all_buckets"):
        if text in (None, "s3://", "t3://"):
            return ALL_BUCKETS, all_buckets_origin
        raise ConfigError(f"source {text!r}: contradicts {all_buckets_origin}, which shows all buckets; leave one out")
    if text is not None:
        return parse_source(text), "command line"
    source, variable = source_from_environment(environment)
    return source, f"env {variable}"


def _read_toml(path: str) -> dict[str, Any]:
    import tomllib  # only where there is a file: it costs as much as all our own imports

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ConfigError(f"{path}: is not TOML: {exc}") from exc
