from __future__ import annotations

import subprocess
import sys

import pytest


def test_without_its_extra_the_demo_says_how_to_get_it():
    """A finder that knows no moto stands for a machine without it."""
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "moto":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from tigrismount.cli.main import main
sys.exit(main(["demo"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (
        done.stderr == f"tigrismount: error: the demo needs moto: {sys.executable} -m pip install 'tigrismount[demo]'\n"
    )


def test_a_bench_in_a_directory_that_is_not_there_says_so():
    """Mutation: 'internal error ... please report it' of a directory that is misspelt."""
    pytest.importorskip("moto")
    command = [sys.executable, "-m", "tigrismount", "bench", "--demo", "--directory", "/nowhere/at/all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    said = "/nowhere/at/all: cannot be used: No such file or directory; choose another with --directory"
    assert done.stderr == f"tigrismount: error: {said}\n"
