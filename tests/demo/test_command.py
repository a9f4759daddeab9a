from __future__ import annotations

import os
import signal
import sys

import pytest

from tigrismount.demo.command import CommandError, run_child


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
