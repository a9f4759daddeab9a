"""The mount of the demo: made, watched and taken down by the command line, as a user's would be."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any, Self

from tigrismount.demo.command import CommandError, mount_status, run_command, wait_until
from tigrismount.errors import MountError
from tigrismount.holder.mountinfo import mount_at
from tigrismount.holder.mounting import unmount

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType


class DemoMount:
    """One mountpoint, for a ``with`` block that may mount and unmount it at will.

    Whatever happens in the block, nothing is mounted and no daemon runs after it.

    Args:
        source: What to mount.
        path: An empty directory, absolute.
        cache_directory: Disk cache of its own.
        env: Whole environment of the commands.
        memory_bytes: Memory limit of the daemon.
        options: Further flags of the mount.
    """

    def __init__(
        self,
        source: str,
        path: str,
        cache_directory: str,
        env: Mapping[str, str],
        *,
        memory_bytes: int,
        options: Sequence[str] = (),
    ) -> None:
        self.path = os.path.realpath(path)
        self.cache_directory = cache_directory
        self._source = source
        self._env = env
        self._memory_bytes = memory_bytes
        self._options = options
        self._log_file = f"{os.path.dirname(self.path)}/daemon.log"
        self._pids: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(MountError):
            while mount_at(self.path) is not None:
                unmount(self.path, lazy=True)
        if not wait_until(lambda: not self._running()):
            for pid in self._running():
                os.kill(pid, signal.SIGKILL)

    def mount(self) -> None:
        """Mount; returns once it serves.

        Raises:
            CommandError: It could not be mounted.
        """
        flags = [f"--cache-dir={self.cache_directory}", f"--memory-limit={self._memory_bytes}", *self._options]
        run_command("mount", self._source, self.path, *flags, f"--log-file={self._log_file}", env=self._env).check()
        status = self.status()
        self._pids = [status["supervisor_pid"], status["pid"]]

    def status(self) -> dict[str, Any]:
        """Return what ``status --json`` says of it.

        Raises:
            CommandError: The command failed.
        """
        return mount_status(self.path, self._env)

    def unmount(self) -> None:
        """Unmount and wait until its processes have ended.

        Raises:
            CommandError: It was not unmounted, or a process is left.
        """
        run_command("unmount", self.path, env=self._env).check()
        if not wait_until(lambda: not self._running() and mount_at(self.path) is None):
            raise CommandError(f"after unmount: mounted {mount_at(self.path) is not None}, running {self._running()}")

    def _running(self) -> list[int]:
        """Return those of its processes that still are: by id, and by name, since ids are used again."""
        running = []
        for pid in self._pids:
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
                if b"tigrismount" in file.read():
                    running.append(pid)
        return running
