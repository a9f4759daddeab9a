from __future__ import annotations

import os
import signal
import sys

import pytest

from tigrismount.demo.command import CommandError, run_child, run_command
from tigrismount.demo.embedded import EmbeddedS3


def test_output_and_status_come_back():
    finished = run_child(sys.executable, "-c", "import sys; print('out'); sys.exit('err')")

    assert (finished.status, finished.output, finished.errors) == (1, "out\n", "err\n")
    with pytest.raises(CommandError, match="exit status 1: err"):
        finished.check()


def test_a_child_that_keeps_the_output_open_does_not_keep_us():
    forks = "import os, time\nif child := os.fork(): print(child)\nelse: time.sleep(600)"

    finished = run_child(sys.executable, "-c", forks)
    os.kill(int(finished.output), signal.SIGKILL)
    assert finished.status == 0


def test_a_command_that_does_not_end_is_killed():
    with pytest.raises(CommandError, match="did not end within"):
        run_child(sys.executable, "-c", "import time; time.sleep(60)", timeout_s=0.2)


def test_nothing_is_run_from_the_working_directory(tmp_path, monkeypatch):
    """'sudo tigrismount demo' in /tmp ran, as root, what anybody had put there under our name."""
    (tmp_path / "tigrismount").mkdir()
    (tmp_path / "tigrismount/__init__.py").write_text("raise SystemExit('planted')")
    monkeypatch.chdir(tmp_path)
    finished = run_command("--version", env=os.environ).check()
    assert finished.output.startswith("tigrismount ")
    with EmbeddedS3(directory=str(tmp_path)) as server:
        assert server.env()
