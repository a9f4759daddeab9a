"""A limit of tasks, as containers have one: where it is reached a read takes longer, and the mount stays."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tigrismount.testing.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
_PIDS = Path("/sys/fs/cgroup/pids")
_DIGEST = "import hashlib, sys\nprint(hashlib.file_digest(open(sys.argv[1], 'rb'), 'sha256').hexdigest())"


@contextmanager
def _limited(pid: int) -> Iterator[Path]:
    """Let a process have no task more than it has; give its group."""
    group = _PIDS / f"tigrismount-{uuid.uuid4().hex}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text("1")
        yield group
    finally:
        with suppress(ProcessLookupError):
            (_PIDS / "cgroup.procs").write_text(str(pid))
        group.rmdir()


@pytest.mark.skipif(
    os.geteuid() != 0 or not os.access(_PIDS / "cgroup.procs", os.W_OK), reason="no group of tasks can be made here"
)
def test_a_read_for_which_there_is_no_thread_waits_and_the_mount_stays(mount, bucket, noise) -> None:
    """Mutation: where Python's own error comes through, the worker ends."""
    data = noise(24 * MIB + 11, 3)
    bucket.put("model", data)
    with mount(f"s3://{bucket.name}") as at:
        worker = at.status()["pid"]
        with _limited(worker) as group:
            reader = subprocess.Popen(
                [sys.executable, "-c", _DIGEST, f"{at.path}/model"], stdout=subprocess.PIPE, text=True
            )
            wait_until(lambda: int((group / "pids.events").read_text().split()[1]) >= 3 or reader.poll() is not None)
            (group / "pids.max").write_text("max")
            assert reader.communicate()[0].strip() == hashlib.sha256(data).hexdigest()
            assert int((group / "pids.events").read_text().split()[1]) > 0
        assert at.status()["pid"] == worker
