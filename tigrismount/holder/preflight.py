"""Is this directory fit to be mounted on? Asked before anything is started. And does the mount answer? Asked after.

An absent, used or full directory is the user's to correct, and is refused with the remedy. One thing is put right
here: a mount of ours whose daemon is gone. It can serve nobody, so it is detached and mounting goes on.
"""

from __future__ import annotations

import os
import shlex
import stat
from typing import TYPE_CHECKING

from tigrismount.errors import MountError
from tigrismount.holder.conversation import StartError
from tigrismount.holder.mountinfo import mount_at
from tigrismount.holder.mounting import unmount
from tigrismount.holder.probe import Finding, Health, Probe, probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.holder.conversation import Conversation
    from tigrismount.holder.events import Events

_PROBE_TIMEOUT_S = 5.0  # a healthy daemon answers statvfs in milliseconds even under load
_MOST_STACKED = 16  # dead mounts can lie on each other; more than this is no accident


def prepare_mountpoint(path: str, *, nonempty: bool, log: Callable[[str], None]) -> None:
    """Make sure that *path* can be mounted on; dead mounts of ours are detached from it.

    Args:
        path: Absolute, without symbolic links.
        nonempty: Whether the directory may hold something.
        log: Told about each dead mount that was detached.

    Raises:
        MountError: It cannot be mounted on; says why and what to do.
    """
    for _ in range(_MOST_STACKED):
        entry = mount_at(path)
        if entry is None or not entry.is_ours:
            break
        health = probe(path, timeout_s=_PROBE_TIMEOUT_S).health
        if health is not Health.DEAD:
            state, option = ("and does not answer", "--lazy ") if health is Health.HUNG else ("already", "")
            remedy = f"'tigrismount unmount {option}{shlex.quote(path)}' first"
            raise MountError(f"{path}: {entry.source} is mounted there {state}; {remedy}")
        unmount(path, lazy=True)
        log(f"{path}: detached the mount of {entry.source}, whose daemon is gone")
    _check_directory(path, nonempty=nonempty)


def prove(mountpoint: str, talk: Conversation, events: Events, *, listing: bool) -> None:
    """Look through the mountpoint as any process would, until the deadline of *talk*.

    Args:
        mountpoint: Where a worker serves.
        talk: What is said with that worker.
        events: The loop to wait in.
        listing: Whether one page of the listing is read as well.

    Raises:
        StartError: There was no answer, an error, or the worker ended.
    """
    probe = Probe(mountpoint, listing=listing)
    answered: list[bool] = []
    events.watch(probe.fileno(), lambda: answered.append(True))
    finding = Finding(Health.HUNG)
    try:
        while not answered and talk.left_s:
            talk.turn()
    finally:
        events.unwatch(probe.fileno())
        finding = probe.finish()
    if finding.health is Health.HUNG:
        raise StartError(f"the mount did not answer within {talk.within_s:g} s")
    if finding.health is not Health.OK:
        raise StartError(f"the first look through the mountpoint failed: {finding.detail}")


def _check_directory(path: str, *, nonempty: bool) -> None:
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise MountError(f"{path}: is not a directory; name an empty one")
        with os.scandir(path) as entries:
            first = next(entries, None)
    except FileNotFoundError:
        raise MountError(f"{path}: does not exist; 'mkdir -p {shlex.quote(path)}' first") from None
    except OSError as exc:
        raise MountError(f"{path}: cannot be mounted on: {exc.strerror}") from exc
    if first is not None and not nonempty:
        raise MountError(
            f"{path}: is not empty (there is {first.name!r}); mount elsewhere, or hide what is there with -o nonempty"
        )
