"""Every mount that can be found, asked through its control socket or judged from outside.

Two lists are joined: the control sockets of this user, whose workers tell about themselves, and the kernel's mounts,
which also hold those whose daemon is gone or does not answer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from tigrismount.cli.knobs import missing_knobs
from tigrismount.control.client import StaleSocketError, drop_stale, request, sockets
from tigrismount.control.paths import socket_path
from tigrismount.errors import MountError
from tigrismount.holder.mountinfo import MountEntry
from tigrismount.holder.probe import Health, probe

_ANSWER_TIMEOUT_S = 3.0  # a healthy daemon answers in milliseconds; a person waits


def collect_mounts(directories: Sequence[str], mounted: Iterable[MountEntry]) -> list[dict[str, Any]]:
    """Return what ``status --json`` shows of each mount, by mountpoint.

    Each has a ``state``: ``ok``, ``degraded``, ``detached`` (unmounted lazily, still in use), ``dead``,
    ``not answering``, or ``unknown`` (it serves, but has no control socket that we may ask).

    Args:
        directories: Where the control sockets are that this user may ask.
        mounted: The kernel's mounts.

    Returns:
        What each worker tells of itself, or what can be seen from outside.
    """
    entries = {entry.mountpoint: entry for entry in mounted if entry.is_ours}
    mounts = {mount["mountpoint"]: mount for directory in directories for mount in _ask_all(directory, entries.keys())}
    for mountpoint, entry in entries.items():
        if mountpoint not in mounts:
            mounts[mountpoint] = _judge(entry)
        mounts[mountpoint]["knobs"] = missing_knobs(entry, mounts[mountpoint].get("config", {}))
    return [mounts[mountpoint] for mountpoint in sorted(mounts)]


def _ask_all(directory: str, mountpoints: Collection[str]) -> list[dict[str, Any]]:
    """Ask every control socket of this user; sockets that nobody listens on are removed, but not of live mounts."""
    mounts = []
    # A worker that takes over may be about to listen where the one before it did.
    in_use = {socket_path(directory, mountpoint) for mountpoint in mountpoints}
    for path in sockets(directory):
        try:
            mount = request(path, "status", timeout_s=_ANSWER_TIMEOUT_S)
        except StaleSocketError:
            if path not in in_use:
                drop_stale(path)
        except MountError:
            continue  # the kernel's list has it, if it is mounted
        else:
            if isinstance(mount.get("mountpoint"), str):
                there = mount["mountpoint"] in mountpoints
                mounts.append({**mount, "state": _state(mount) if there else "detached"})
    return mounts


def _state(mount: dict[str, Any]) -> str:
    return "degraded" if mount.get("degraded") else "ok"


def _judge(entry: MountEntry) -> dict[str, Any]:
    """Return what can be said of a mount whose worker tells nothing."""
    finding = probe(entry.mountpoint, timeout_s=_ANSWER_TIMEOUT_S)
    state = {Health.DEAD: "dead", Health.HUNG: "not answering"}.get(finding.health, "unknown")
    reasons = {
        "dead": "its daemon is gone: mount it again, or unmount it",
        "not answering": "its daemon does not answer",
        "unknown": f"it belongs to user {entry.owner_uid}, or its control socket is gone",
    }
    return {
        "mountpoint": entry.mountpoint,
        "source": entry.source,
        "state": state,
        "pid": None,
        "supervisor_pid": None,
        "cache_dir": None,
        "cache_dirs": [],
        "snapshot": None,
        "degraded": [reasons[state]],
        "bytes": {},
        "loads": [],
    }
