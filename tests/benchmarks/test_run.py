"""A run from the command line: what it writes, and that no suite fails on a small model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from benchmarks import markdown
from benchmarks.run import parsed_arguments
from benchmarks.suites import SUITES
from tigrismount.testing.mount import require_fuse

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin")


@pytest.fixture
def run(tmp_path):
    """Run the benchmarks in a child; return what they saved."""
    require_fuse()
    page = tmp_path / "page.md"
    page.write_text(f"\n{markdown.BEGIN}\n{markdown.END}\n")

    def run(*arguments):
        places = ["--directory", str(tmp_path), "--results", str(tmp_path / "results"), "--markdown", str(page)]
        command = [sys.executable, "-m", "benchmarks.run", "--rounds=1", "--no-peers", *arguments, *places]
        finished = subprocess.run(command, check=False, capture_output=True, text=True, timeout=280)
        assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
        (saved,) = (tmp_path / "results").glob("*.json")
        return json.loads(saved.read_text()), page.read_text()

    yield run
    assert [name for name in os.listdir(tmp_path) if name.startswith("tigrismount-bench-")] == [], "scratch is removed"


def names(saved):
    return {row["name"] for row in saved["results"]}


@pytest.mark.fuse
@pytest.mark.slow
def test_a_suite_runs_on_a_small_model_and_its_tables_are_written(run):
    saved, page = run("--embedded", "--size=4MiB", "--only=p4")

    assert saved["failures"] == {}
    assert {"P4 second open mmap / the local file", "P4 second open read / the local file"} <= names(saved)
    assert saved["versions"]["tigrismount"]
    assert "| P4 second open mmap / the local file |" in page


@pytest.mark.fuse
@pytest.mark.slow
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_every_suite_runs_quickly_on_a_small_model(run):
    saved, _ = run("--quick", "--size=32MiB", "--fio=hf-mount")

    assert saved["failures"] == {}
    bars = {name.split()[0] for name in names(saved) if name[0] == "P"}
    assert bars == {f"P{number}" for number in range(1, 12)} - {"P2"}, "no peer, no P2"


def test_a_quick_run_is_one_round_of_a_small_model_unless_it_is_told_otherwise():
    quick = parsed_arguments(["--quick"])
    assert (quick.rounds, quick.size, quick.suites) == (1, 256 << 20, list(SUITES))
    assert (parsed_arguments([]).rounds, parsed_arguments([]).size) == (3, 1 << 30)
    assert parsed_arguments(["--quick", "--size=1MiB", "--rounds=2"]).size == 1 << 20


def test_an_unknown_suite_is_refused(capsys):
    with pytest.raises(SystemExit):
        parsed_arguments(["--only", "p1,p99"])
    assert "no such suite: p99" in capsys.readouterr().err
