"""What the benchmarks count of a mount's processes."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.mounts import process_cpu_seconds, tree_cpu_seconds

BURNS_S = 0.2
"""Of each child; the kernel tells times in hundredths, each rounded down."""
_BURN = f"import sys, time\nwhile time.process_time() < {BURNS_S}: pass\n"
_STAY = "print(flush=True); sys.stdin.read()"
_PARENT = f"""
import subprocess, sys
ended = subprocess.run([sys.executable, "-c", {_BURN!r}])
child = subprocess.Popen([sys.executable, "-c", {_BURN + _STAY!r}], stdout=subprocess.PIPE)
child.stdout.readline()
{_STAY}
"""


def test_the_time_of_a_daemon_is_that_of_its_fetch_processes_too() -> None:
    """Mutation: without its children, ended or not, most of a load costs nothing where others fetch."""
    command = [sys.executable, "-c", _PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdout.readline()
        own_s, all_s = process_cpu_seconds(parent.pid), tree_cpu_seconds(parent.pid)
        parent.stdin.close()
    assert all_s >= own_s + 1.5 * BURNS_S
