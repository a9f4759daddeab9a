from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from tigrismount.demo.command import wait_until
from tigrismount.holder.launch import start_in_background
from tigrismount.holder.mountinfo import mount_at
from tigrismount.holder.mounting import unmount
from tigrismount.holder.request import Deadlines, MountRequest, Outcome
from tigrismount.testing.mount import marked_processes, require_fuse

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
        "s3": {"snapshot": None, "snapshot_version": None},
        **members,
    }


@pytest.fixture
def fuse() -> None:
    """Real mounts; says why where there can be none."""
    require_fuse()


@pytest.fixture
def mountpoint(tmp_path: Path):
    """An empty directory; whatever a test leaves mounted there is taken away."""
    path = tmp_path / "mount point"
    path.mkdir()
    yield path
    while mount_at(str(path)):
        unmount(str(path), lazy=True)


@pytest.fixture
def descriptors_left():
    """Returns a context in which this process may open so many descriptors and no more."""

    @contextlib.contextmanager
    def leave(count: int):
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = [os.dup(0) for _ in range(count + 1)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1, before[1]))
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))  # into the gaps
            for _ in range(count):
                os.close(taken.pop())
            yield
        finally:
            for fd in taken:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    return leave


@dataclass
class Supervised:
    """A supervisor in the background, and how its start went."""

    outcome: Outcome
    log: Path
    request: MountRequest

    @property
    def pid(self) -> int:
        return self.outcome.pid

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


@pytest.fixture
def supervise(fuse: None, mountpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Mount through a supervisor with a fake worker, told what to do wrong; no process may be left."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv("_TIGRISMOUNT_STARTED_BY", mark)
    started: list[Supervised] = []

    def start(
        *,
        deadlines: Deadlines | None = None,
        nonempty: bool = False,
        use_resend: bool = True,
        reload_command: tuple[str, ...] = (),
        directory: str = "/",
        **fake: object,
    ) -> Supervised:
        log = tmp_path / f"log{len(started)}"
        request = MountRequest(
            config=config_for(mountpoint, fake=fake, nonempty=nonempty, log_file=str(log)),
            worker_command=FAKE_WORKER,
            use_resend=use_resend,
            reload_command=reload_command,
            directory=directory,
            deadlines=deadlines or Deadlines(start_s=20, unmount_grace_s=0, stop_s=5),
        )
        supervised = Supervised(start_in_background(request), log, request)
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
    assert wait_until(lambda: marked_processes(mark) == [])
