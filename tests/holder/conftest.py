from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tigrismount.holder.launch import start_in_background
from tigrismount.holder.mountinfo import mount_at
from tigrismount.holder.request import Deadlines, MountRequest, Outcome

FAKE_WORKER = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))


def config_for(mountpoint: Path | str, **members: object) -> dict:
    """The members the supervisor reads, as the command line writes them."""
    return {
        "mountpoint": str(mountpoint),
        "fsname": "s3://models/llama",
        "allow_other": False,
        "nonempty": False,
        "kernel_read_ahead_kib": None,
        "log_file": None,
        "log_format": "text",
        "log_level": "debug",
        **members,
    }


@pytest.fixture
def fuse() -> None:
    """Real mounts; skips where there can be none, unless they are required."""
    reason = ""
    if os.geteuid() != 0:
        reason = "mounting needs root"
    elif not os.access("/dev/fuse", os.R_OK | os.W_OK):
        reason = "/dev/fuse cannot be opened"
    if reason and os.environ.get("TIGRISMOUNT_REQUIRE_FUSE") == "1":
        pytest.fail(f"FUSE is required here, but {reason}")
    elif reason:
        pytest.skip(reason)


@pytest.fixture
def mountpoint(tmp_path: Path):
    """An empty directory; whatever a test leaves mounted there is taken away."""
    path = tmp_path / "mount point"
    path.mkdir()
    yield path
    while mount_at(str(path)):
        subprocess.run(["umount", "-l", str(path)], check=True, timeout=30)


@dataclass
class Supervised:
    """A supervisor in the background, and how its start went."""

    outcome: Outcome
    log: Path

    @property
    def pid(self) -> int:
        return self.outcome.pid

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


@pytest.fixture
def supervise(fuse: None, mountpoint: Path, tmp_path: Path):
    """Mount through a supervisor with a fake worker, told what to do wrong."""
    started: list[Supervised] = []

    def start(*, deadlines: Deadlines | None = None, nonempty: bool = False, **fake: object) -> Supervised:
        log = tmp_path / f"log{len(started)}"
        request = MountRequest(
            config=config_for(mountpoint, fake=fake, nonempty=nonempty, log_file=str(log)),
            worker_command=FAKE_WORKER,
            deadlines=deadlines or Deadlines(start_s=20, unmount_grace_s=0, stop_s=5),
        )
        supervised = Supervised(start_in_background(request), log)
        started.append(supervised)
        return supervised

    yield start
    for supervised in started:
        if supervised.outcome.ok:
            for pid in (supervised.outcome.worker_pid, supervised.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(supervised.pid, 0)
