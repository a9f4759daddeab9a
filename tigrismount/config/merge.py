"""First step: one value per option, the strongest, with the place it came from.

Strength: command line (flags, then ``-o``) > ``TIGRISMOUNT_<NAME>`` > the TOML file > the ecosystem's own variables >
nothing, which ``resolve`` turns into a default. Pure: the environment and the parsed file are arguments. Values are
not looked at here; names are, because a misspelt name would be silence.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tigrismount.config.options import BY_KEY, OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_IGNORED_MOUNT_OPTIONS = {
    *("_netdev", "auto", "noauto", "nofail", "fail", "user", "nouser", "users", "owner", "group", "defaults"),
    *("atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "lazytime", "nolazytime"),
    *("dev", "nodev", "suid", "nosuid", "exec", "noexec", "sync", "async", "dirsync", "ro", "default_permissions"),
}
"""mount(8)'s own, which an fstab line may carry: they steer mount(8), or hold for a read-only mount anyway."""

_PREFIX = "TIGRISMOUNT_"

NONEMPTY = "nonempty"
"""The one ``-o`` name that is no option of ours: mount over a directory that holds something."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A value as somebody wrote it."""

    value: object
    """Text, or what TOML made of it."""
    origin: str
    """Where it was written, for messages and ``status``: ``--cache-size``, ``env TIGRISMOUNT_…``, ``FILE: key``."""


@dataclass(slots=True)
class Merged:
    """What all sources together say."""

    settings: dict[str, Setting] = field(default_factory=dict)
    """By option key; options that nobody set are absent."""
    nonempty: bool = False
    """Whether ``-o nonempty`` was given."""
    faults: list[str] = field(default_factory=list)
    """Names that mean nothing, one line each."""
    warnings: list[str] = field(default_factory=list)
    """Suspicious variables: probably misspelt, but the environment belongs to everybody."""


def merge(
    *,
    flags: Mapping[str, object],
    mount_options: Iterable[str],
    environment: Mapping[str, str],
    file: Mapping[str, object],
    file_name: str,
) -> Merged:
    """Return the strongest value of each option.

    Args:
        flags: By option key; None, or nothing of a repeatable one, means that the flag was not given.
        mount_options: Arguments of ``-o``, each a comma-separated list.
        environment: The process's environment; empty values count as not set.
        file: The parsed TOML file, empty without one.
        file_name: Its name, for messages.
    """
    merged = Merged()
    _merge_ecosystem(merged, environment)
    _merge_file(merged, file, file_name)
    _merge_environment(merged, environment)
    for options in mount_options:
        _merge_mount_options(merged, options)
    for key, value in flags.items():
        if value not in (None, ()):
            merged.settings[key] = Setting(value, f"--{BY_KEY[key].name}")
    return merged


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean …?)`` when *known* has something like *word*, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _merge_ecosystem(merged: Merged, environment: Mapping[str, str]) -> None:
    for option in OPTIONS:
        for variable in reversed(option.variables):
            if environment.get(variable):
                merged.settings[option.key] = Setting(environment[variable], f"env {variable}")


def _merge_file(merged: Merged, file: Mapping[str, object], file_name: str) -> None:
    for name, value in file.items():
        option = BY_KEY.get(name.replace("-", "_"))
        if option is None:
            merged.faults.append(f"{file_name}: unknown key {name!r}{suggest(name.replace('-', '_'), BY_KEY)}")
        elif "-" in name and option.key in file:
            merged.faults.append(f"{file_name}: {name!r} and {option.key!r} are the same key; leave one out")
        else:
            merged.settings[option.key] = Setting(value, f"{file_name}: {name}")


def _merge_environment(merged: Merged, environment: Mapping[str, str]) -> None:
    variables = {option.variable: option.key for option in OPTIONS}
    for variable, value in environment.items():
        if key := variables.get(variable) if value else None:
            merged.settings[key] = Setting(value, f"env {variable}")
        elif variable.startswith(_PREFIX) and variable not in variables:
            # Others may use the prefix too, so only what is almost one of ours is worth a word.
            close = difflib.get_close_matches(variable.removeprefix(_PREFIX).lower(), BY_KEY, n=1, cutoff=0.8)
            if close:
                merged.warnings.append(
                    f"environment variable {variable} is not one of ours (did you mean {BY_KEY[close[0]].variable}?)"
                )


def _merge_mount_options(merged: Merged, options: str) -> None:
    for item in filter(None, (part.strip() for part in options.split(","))):
        name, has_value, value = item.partition("=")
        if name in _IGNORED_MOUNT_OPTIONS or name.startswith("x-") or name == "comment":
            continue
        if name == NONEMPTY:
            merged.nonempty = True
            continue
        _merge_mount_option(merged, item, name.replace("-", "_"), value if has_value else None)


def is_mount_option(item: str) -> bool:
    """Tell whether *item* of a ``-o`` list means something: to us, or to mount(8)."""
    name = item.partition("=")[0]
    key = name.replace("-", "_")
    ours = key in BY_KEY or key.removeprefix("no_") in BY_KEY or name in (NONEMPTY, "rw")
    return ours or name in _IGNORED_MOUNT_OPTIONS or name.startswith("x-") or name == "comment"


def _merge_mount_option(merged: Merged, item: str, key: str, value: str | None) -> None:
    negated = key.removeprefix("no_") if key not in BY_KEY else key
    option = BY_KEY.get(key) or (BY_KEY.get(negated) if BY_KEY.get(negated) and BY_KEY[negated].is_switch else None)
    if key == "rw":
        merged.faults.append("-o rw: this mount is read-only; leave rw out")
    elif option is None:
        merged.faults.append(f"-o {item}: unknown option{suggest(key, BY_KEY)}")
    elif value is None and not option.is_switch:
        merged.faults.append(f"-o {item}: needs a value, {key}={option.metavar}")
    else:
        origin, known = f"-o {option.key}", merged.settings.get(option.key)
        written: object = value if value is not None else key == option.key
        if option.is_repeatable and known is not None and known.origin == origin:
            written = [*(known.value if isinstance(known.value, list) else [known.value]), written]
        merged.settings[option.key] = Setting(written, origin)
