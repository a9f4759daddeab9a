from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tigrismount.cli.busy import Process, processes_using

HOLD = {
    "working directory": "os.chdir(d)",
    "open file": "f = open(d + '/file')",
    "open directory": "f = os.open(d, os.O_RDONLY)",
    "mapping": "f = open(d + '/file', 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close()",
}


@pytest.fixture
def hold(tmp_path):
    """Start a child that uses a directory in some way."""
    (tmp_path / "file").write_text("x")
    started = []

    def start(statement: str) -> subprocess.Popen:
        code = f"import os, mmap, sys; d = sys.argv[1]; {statement}; print('holding', flush=True); sys.stdin.read()"
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
        )
        started.append(child)
        assert child.stdout.readline() == b"holding\n"
        return child

    yield start
    for child in started:
        child.communicate(timeout=90)


@pytest.mark.parametrize("way", HOLD)
def test_every_way_to_hold_a_directory_is_seen(hold, tmp_path, way):
    child = hold(HOLD[way])
    [process] = processes_using(str(tmp_path))
    assert process.pid == child.pid
    assert str(process).endswith(f"(pid {child.pid})")


def test_a_directory_with_the_same_beginning_is_another(hold, tmp_path):
    hold(HOLD["working directory"])
    assert processes_using(str(tmp_path)[:-1]) == []


def test_this_process_uses_its_working_directory():
    assert os.getpid() in [process.pid for process in processes_using(os.getcwd())]
    assert str(Process(1, "init")) == "init (pid 1)"
