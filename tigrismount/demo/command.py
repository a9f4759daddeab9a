"""The command line as a child process, for those who want exactly what a user gets: the demo and the tests.

Output goes to files, not pipes: a daemon that inherited a pipe would keep its reader waiting for ever. Every wait has
a deadline.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tigrismount.errors import MountError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MODULE = (sys.executable, "-P", "-m")
"""Runs a module of ours; ``-P`` keeps the working directory, which may be anybody's, off the module path."""
COMMAND_S = 90.0
"""Deadline of one command: a mount takes a second, and gives up by itself after a minute."""
END_S = 60.0
"""Deadline for processes to end and mounts to go: seconds, but for a machine with many times more to do than it can."""
_POLL_S = 0.02


class CommandError(MountError):
    """A command did not end in time, or ended otherwise than it had to."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended."""

    command: str
    """What ran, for messages."""
    status: int
    """Exit status; negative is a signal."""
    output: str
    """Standard output."""
    errors: str
    """Standard error."""

    def check(self) -> Finished:
        """Return itself.

        Raises:
            CommandError: The exit status is not 0.
        """
        if self.status != 0:
            raise CommandError(f"{self.command}: exit status {self.status}: {self.errors.strip() or 'without a word'}")
        return self


def run_command(*arguments: str, env: Mapping[str, str], timeout_s: float = COMMAND_S) -> Finished:
    """Run ``tigrismount`` with *arguments* and wait for its end.

    Args:
        *arguments: Command line.
        env: Whole environment of the child.
        timeout_s: Deadline in seconds.

    Raises:
        CommandError: It did not end in time; it has been killed.
    """
    return run_child(*MODULE, "tigrismount", *arguments, env=env, timeout_s=timeout_s)


def run_child(*command: str, env: Mapping[str, str] | None = None, timeout_s: float = COMMAND_S) -> Finished:
    """Run *command* and wait for its end, whatever keeps its output open.

    Args:
        *command: Program and arguments.
        env: Whole environment; None is our own.
        timeout_s: Deadline in seconds.

    Raises:
        CommandError: It did not end in time; it has been killed.
    """
    name = " ".join(command[len(MODULE) :] if command[: len(MODULE)] == MODULE else command)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=env) as process:
            try:
                status = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                raise CommandError(f"{name}: did not end within {timeout_s:.0f} s") from None
            finally:
                process.kill()
        output.seek(0)
        errors.seek(0)
        return Finished(name, status, output.read().decode(errors="replace"), errors.read().decode(errors="replace"))


def wait_until(condition: Callable[[], bool], *, timeout_s: float = END_S) -> bool:
    """Wait for *condition*, and return whether it came true in time.

    Args:
        condition: Asked again and again.
        timeout_s: Deadline in seconds.
    """
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_POLL_S)
    return True


def mount_status(mountpoint: str, env: Mapping[str, str]) -> dict[str, Any]:
    """Return what ``tigrismount status --json`` says about the mount at *mountpoint*.

    Args:
        mountpoint: Absolute, without symbolic links.
        env: Whole environment of the child.

    Raises:
        CommandError: The command failed, or speaks of another number of mounts.
    """
    finished = run_command("status", mountpoint, "--json", env=env).check()
    mounts = json.loads(finished.output)["mounts"]
    if len(mounts) != 1:
        raise CommandError(f"{finished.command}: speaks of {len(mounts)} mounts, not of one")
    return dict(mounts[0])
