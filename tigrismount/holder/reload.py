"""Asking the installed program how it would mount today: before it takes this supervisor's place.

It is another program than this one after an upgrade, and it reads the files anew. What it prints is the request that a
supervisor would be started with; that it prints one at all shows that it runs. Nothing is replaced before that.
"""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING, Any

from tigrismount.errors import MountError
from tigrismount.holder.heirloom import PROGRAM
from tigrismount.holder.log import DaemonLog
from tigrismount.holder.request import MountRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.holder.events import Events

_WITHIN_S = 30.0
"""A command that takes longer is stuck; it takes half a second otherwise."""
_READ_BYTES = 64 << 10
_FIXED = ("mountpoint", "fsname", "allow_other")
"""Members of the configuration that the kernel was told: with others it is another mount."""


def another_mount(config: dict[str, Any], before: dict[str, Any]) -> str:
    """Return what makes *config* that of another mount than *before*; empty where nothing does.

    Another snapshot does, or none: files that are open are of the one there was, and of a mount that was not frozen no
    version was found that all workers after this one would stay with.
    """
    other = next((name for name in _FIXED if config[name] != before[name]), "")
    if not other and config["s3"].get("snapshot") != before["s3"].get("snapshot"):
        other = "snapshot"
    return other and f"{other} is another one now"


class Reload:
    """One question to the installed program.

    Args:
        request: What is mounted.
        events: The loop to wait in.
        check: Called while waiting; raises where there is a reason to give up.
    """

    def __init__(self, request: MountRequest, events: Events, check: Callable[[], None]) -> None:
        self._request = request
        self._events = events
        self._check = check
        self._output = b""
        self._ended = False

    def ask(self) -> tuple[MountRequest, str]:
        """Return what to mount from now on, and why that is not known; that is empty where it is."""
        request = self._request
        try:
            if request.reload_command:
                fresh = MountRequest.from_json(self._run(request.reload_command))
            else:
                self._run((*PROGRAM, "--check"))
                fresh = request
            DaemonLog.check(fresh.config["log_file"])  # who takes our place must not end for want of it
        except MountError as exc:
            return request, str(exc)
        other = another_mount(fresh.config, request.config)
        return (request, f"{other}; unmount, and mount again") if other else (fresh, "")

    def _run(self, command: tuple[str, ...]) -> bytes:
        """Run *command*; return the last line that it wrote."""
        try:
            process = subprocess.Popen(
                command,
                cwd=self._request.directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except OSError as exc:
            what = exc.filename or command[0]  # the directory, where that is what is not there
            raise MountError(f"the installed program cannot be started: {what}: {exc.strerror}") from exc
        with process:
            assert process.stdout is not None
            fd = process.stdout.fileno()
            self._events.watch(fd, lambda: self._read(fd))
            try:
                self._wait()
            finally:
                self._events.unwatch(fd)
                if not self._ended:
                    process.kill()
        *_, last = [b"no answer", *self._output.strip().splitlines()]
        if process.returncode:
            raise MountError(f"the installed program does not run: {last.decode(errors='replace')}")
        return last

    def _wait(self) -> None:
        deadline_s = time.monotonic() + _WITHIN_S
        while not self._ended and (left_s := deadline_s - time.monotonic()) > 0:
            self._events.turn(left_s)
            self._check()

    def _read(self, fd: int) -> None:
        data = os.read(fd, _READ_BYTES)
        self._output += data
        self._ended = not data
