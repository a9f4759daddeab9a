"""Real mounts for tests: the command line in a child process, and nothing left behind.

A mount can hang whoever touches it, so tests follow two rules that this module makes easy. The mount is touched by
children with a deadline (``demo.command.run_child``), never by the test's own process. And what was started is found
by a mark in its environment, which all descendants inherit, so that a supervisor and its worker can be waited for
and, at last, killed, and nobody else's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tigrismount.demo.command import CommandError, mount_status, run_child, run_command, wait_until
from tigrismount.errors import MountError
from tigrismount.holder.mountinfo import mount_at
from tigrismount.holder.mounting import MountSpec, check_can_mount

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_MARK = "_TIGRISMOUNT_STARTED_BY"
"""Variable by which our descendants are known; not one of the configuration's, which begin without underscore."""


@dataclass
class Mounted:
    """A mount that serves."""

    path: str
    """Where it is, without symbolic links."""
    env: dict[str, str]
    """Environment for further commands about it."""
    pids: list[int] = field(default_factory=list)
    """Supervisor and worker, as they were right after mounting."""

    @property
    def mark(self) -> str:
        """What all processes of the mount carry in their environment."""
        return f"{_MARK}={self.env[_MARK]}"

    def status(self) -> dict[str, Any]:
        """Return what ``status --json`` says about this mount.

        Raises:
            CommandError: The command failed.
        """
        return mount_status(self.path, self.env)

    def unmount(self, *flags: str) -> None:
        """Unmount and wait until the daemon is gone.

        Args:
            *flags: Further arguments of ``unmount``.

        Raises:
            CommandError: It did not unmount, or a process outlives the mount.
        """
        run_command("unmount", self.path, *flags, env=self.env).check()
        self.wait_until_gone()

    def wait_until_gone(self) -> None:
        """Wait until nothing is mounted and no process of the mount is left.

        Raises:
            CommandError: Something is still there after the deadline.
        """
        if not wait_until(lambda: not is_mounted(self.path) and not marked_processes(self.mark)):
            left = marked_processes(self.mark)
            raise CommandError(f"left over at {self.path}: mounted {is_mounted(self.path)}, processes {left}")


@contextlib.contextmanager
def mounted(
    source: str,
    mountpoint: str | os.PathLike[str],
    env: Mapping[str, str],
    *flags: str,
    prefix: Sequence[str] = (),
) -> Iterator[Mounted]:
    """Mount *source* with the command line for a ``with`` block; afterwards nothing of it is left.

    Args:
        source: As on the command line.
        mountpoint: An empty directory.
        env: Environment, with credentials and endpoint.
        *flags: Further arguments of ``mount``.
        prefix: Command that starts the command line, as ``env`` and ``nice`` do.

    Raises:
        CommandError: ``mount`` failed, or the mount or its processes outlive the end of the block.
    """
    mount = Mounted(os.path.realpath(mountpoint), {**env, _MARK: uuid.uuid4().hex})
    try:
        command = [*prefix, sys.executable, "-m", "tigrismount", "mount", source, mount.path, *flags]
        run_child(*command, env=mount.env).check()
        mount.pids = marked_processes(mount.mark)
        yield mount
        if is_mounted(mount.path):
            mount.unmount()
        mount.wait_until_gone()
    finally:
        sweep(mount)


def marked_processes(mark: str) -> list[int]:
    """Return the processes whose environment carries *mark*, in the order of their ids; zombies are not counted.

    Args:
        mark: ``NAME=value``.
    """
    wanted = mark.encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            if wanted in file.read().split(b"\0"):
                found.append(int(name))
    return sorted(found)


def is_mounted(path: str) -> bool:
    """Tell whether something is mounted at *path*, without touching it."""
    return mount_at(path) is not None


def sweep(mount: Mounted) -> None:
    """Kill what still runs of *mount* and detach what is still mounted there; nothing to do where all is well."""
    for pid in marked_processes(mount.mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    detach = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
    while is_mounted(mount.path) and run_child(*detach, mount.path).status == 0:
        pass
    wait_until(lambda: not marked_processes(mount.mark))


def why_no_fuse() -> str | None:
    """Return why nothing can be mounted here, None where it can."""
    try:
        check_can_mount(MountSpec(mountpoint="/", fsname="probe", allow_other=False))
    except MountError as exc:
        return str(exc)
    return None


def require_fuse() -> None:
    """Skip the running test where nothing can be mounted, and say why; with TIGRISMOUNT_REQUIRE_FUSE=1, fail it."""
    # Only tests call this, and pytest is installed for them alone.
    import pytest

    reason = why_no_fuse()
    if reason is None:
        return
    if os.environ.get("TIGRISMOUNT_REQUIRE_FUSE") == "1":
        pytest.fail(f"cannot mount, and TIGRISMOUNT_REQUIRE_FUSE=1: {reason}", pytrace=False)
    pytest.skip(f"cannot mount: {reason}")
