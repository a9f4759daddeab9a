"""``tigrismount unmount``: take a mount away, and say who is in the way."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable

import click

from tigrismount.cli.busy import processes_using
from tigrismount.cli.completing import mountpoints
from tigrismount.cli.failure import NOT_FOUND, CommandFailure, print_outcome
from tigrismount.config.units import parse_seconds
from tigrismount.control.client import request
from tigrismount.control.paths import find_socket
from tigrismount.errors import MountError
from tigrismount.holder.mountinfo import MountEntry, canonical_mountpoint, mount_at
from tigrismount.holder.mounting import BusyError
from tigrismount.holder.mounting import unmount as remove_mount

_RETRY_S = 0.2  # how soon a busy mount is tried again
_ASK_TIMEOUT_S = 1.0  # for the daemon's pids; without them there is just nothing to wait for
_END_TIMEOUT_S = 15.0  # a daemon has its last cache records to write
_MOST_NAMED = 5  # processes named in an error; it is one line


@click.command(epilog="Example: tigrismount unmount /models")
@click.argument("mountpoint", shell_complete=mountpoints)
@click.option("--lazy", is_flag=True, help="Take it out of sight now; it ends with the last open file.")
@click.option("--timeout", default="5s", show_default=True, metavar="TIME", help="How long to wait for a busy mount.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
def unmount(mountpoint: str, lazy: bool, timeout: str) -> int:
    """Unmount MOUNTPOINT and wait for its daemon to end."""
    try:
        timeout_s = parse_seconds(timeout)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--timeout") from exc
    path = canonical_mountpoint(mountpoint)
    entry = mount_at(path)
    if entry is None or not entry.is_ours:
        what = f"holds a mount of another kind ({entry.type})" if entry else "is not mounted"
        raise CommandFailure(f"{path}: {what}; 'tigrismount status' lists the mounts", NOT_FOUND)
    if entry.owner_uid is not None and os.geteuid() not in (0, entry.owner_uid):  # fusermount3 speaks of an mtab
        raise CommandFailure(f"{path}: belongs to user {entry.owner_uid}: only they, or root, can unmount it")
    daemons = _daemons(path)
    _remove(entry, lazy=lazy, timeout_s=timeout_s)
    if not lazy:  # a lazy one may serve open files for hours
        _wait_for_end(daemons)
    print_outcome(f"{path} is unmounted")
    return 0


def _remove(entry: MountEntry, *, lazy: bool, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            remove_mount(entry.mountpoint, lazy=lazy)
        except BusyError:
            if time.monotonic() >= deadline_s:
                raise CommandFailure(_busy(entry.mountpoint)) from None
            time.sleep(_RETRY_S)
        else:
            return


def _busy(path: str) -> str:
    users = processes_using(path)
    named = ", ".join(str(process) for process in users[:_MOST_NAMED])
    if len(users) > _MOST_NAMED:
        named += f" and {len(users) - _MOST_NAMED} more"
    return f"{path}: is in use by {named or 'a process that you may not see'}; end it, or unmount with --lazy"


def _daemons(path: str) -> list[int]:
    """Return the pids of the worker and the supervisor, as far as they are known."""
    socket = find_socket(os.environ, uid=os.geteuid(), mountpoint=path)
    try:
        status = request(socket, "status", timeout_s=_ASK_TIMEOUT_S)
    except MountError:
        return []
    return [pid for pid in (status.get("pid"), status.get("supervisor_pid")) if isinstance(pid, int) and pid > 1]


def _wait_for_end(pids: Iterable[int]) -> None:
    """Wait for processes that are not our children, so that what they keep is on disk when we say that it is done."""
    deadline_s = time.monotonic() + _END_TIMEOUT_S
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue  # it has ended
        except (AttributeError, OSError):  # a Python built on old headers, a kernel before 5.3, a sandbox
            while _is_there(pid) and time.monotonic() < deadline_s:
                time.sleep(_RETRY_S)
            continue
        try:
            select.select([pidfd], [], [], max(0.0, deadline_s - time.monotonic()))
        finally:
            os.close(pidfd)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True
