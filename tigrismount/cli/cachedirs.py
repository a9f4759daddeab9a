"""What the ``cache`` commands share: which directories are meant, and which objects."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import click

from tigrismount.cli.completing import values
from tigrismount.cli.failure import NOT_FOUND, CommandFailure
from tigrismount.cli.mounted import collect_mounts
from tigrismount.cli.place import is_source, locate
from tigrismount.config.loading import cache_directories
from tigrismount.config.source import parse_source
from tigrismount.control.paths import runtime_directories
from tigrismount.holder.mountinfo import read_mounts


def cache_command(epilog: str, *, name: str | None = None) -> Callable[[Callable[..., Any]], click.Command]:
    """Return a decorator that makes a command with the options that all ``cache`` commands have.

    Args:
        epilog: Its example.
        name: Its name; None is the function's.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        for option in (
            click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails."),
            click.option("--json", "as_json", is_flag=True, help="Print JSON."),
            click.option(
                "--cache-dir",
                "cache_dirs",
                metavar="DIR",
                shell_complete=values,
                multiple=True,
                help="The cache's directory, once for each. [as 'mount' would choose; of a PATH, its mount's]",
            ),
        ):
            function = option(function)
        return click.command(name, epilog=epilog)(function)

    return decorate


def existing_directories(flags: Sequence[str], names: Sequence[str] = ()) -> list[str]:
    """Return the cache directories that are meant.

    Args:
        flags: As given with ``--cache-dir``.
        names: What is to be found there, as ``cache_prefix`` takes it: a path under a mount lies in that mount's cache.

    Raises:
        CommandFailure: There is none, or one is not there.
    """
    paths = [name for name in names if _is_path(name)] if not flags else []
    directories = list(cache_directories(flags, os.environ)) if len(paths) < len(names) or not names else []
    for path in paths:
        directories += [each for each in _mount_of(path)[0].get("cache_dirs", ()) if each not in directories]
    if not directories:
        raise CommandFailure("the disk cache is configured off; name one with --cache-dir", NOT_FOUND)
    for directory in directories:
        if not os.path.isdir(directory):
            raise CommandFailure(f"{directory}: there is no cache; name one with --cache-dir", NOT_FOUND)
    return directories


def cache_prefix(name: str) -> str:
    """Return what ``bucket/key`` begins with for *name*: a SOURCE, a PATH under a mount, or that prefix itself.

    Raises:
        ConfigError: A source that cannot be one.
        CommandFailure: A path under no mount that tells its source.
    """
    if is_source(name):
        source = parse_source(name)
        return f"{source.bucket}/" + (source.prefix if name.endswith("/") else source.prefix.removesuffix("/"))
    if not _is_path(name):
        return name
    mount, below = _mount_of(name)
    prefix = "/".join(filter(None, (str(mount["source"]).removeprefix("s3://"), below)))
    if not prefix:  # all buckets
        return ""
    return prefix + ("/" if name.endswith("/") or not below or "/" not in prefix else "")


def _is_path(name: str) -> bool:
    return name.startswith(("/", "./", "../")) or name in (".", "..")


def _mount_of(path: str) -> tuple[dict[str, Any], str]:
    """Return what the mount that *path* lies under tells of itself, and the rest of the path.

    Raises:
        CommandFailure: There is none that tells.
    """
    mounts = read_mounts()
    mountpoint, below = locate(path, mounts)
    for mount in collect_mounts(runtime_directories(os.environ, uid=os.geteuid()), mounts):
        if mount["mountpoint"] == mountpoint and mount["state"] in ("ok", "degraded"):
            return mount, below
    raise CommandFailure(f"{mountpoint}: its daemon does not say what is mounted; name the source", NOT_FOUND)
