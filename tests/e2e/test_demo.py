"""``tigrismount demo`` keeps its promises, and leaves nothing behind however it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from tigrismount.demo import report as names
from tigrismount.demo.command import run_child, run_command, wait_until
from tigrismount.testing.mount import is_mounted, marked_processes


@pytest.fixture
def demo(env, tmp_path):
    """Run the demo on a small model: ``demo(*flags)``."""
    return lambda *flags: run_command("demo", "--size=24MiB", f"--directory={tmp_path}", *flags, env=env)


def test_the_json_shows_that_every_claim_held(demo, tmp_path):
    finished = demo("--json").check()
    found = json.loads(finished.output)
    steps = {step["name"]: step for step in found["steps"]}

    assert found["ok"] is True
    assert found["problems"] == []
    assert found["tensors_compared"] == 5 * found["model"]["tensors"] > 400
    assert steps[names.COLD]["store_bytes"] >= found["model"]["bytes"]
    for name in (names.WARM_PAGES, names.WARM_NVME, names.AFTER_REMOUNT):
        assert (steps[name]["store_bytes"], steps[name]["hit_ratio"]) == (0, 1.0)
    assert steps[names.AFTER_REMOUNT]["nvme_bytes"] >= found["model"]["bytes"]
    assert finished.errors == ""
    assert os.listdir(tmp_path) == []


def test_people_get_a_table_and_keep_leaves_the_cache_and_says_where(demo, tmp_path):
    finished = demo("--keep").check()

    assert "load after remount" in finished.output
    assert "comparisons of tensors equal" in finished.output
    assert max(map(len, finished.output.splitlines())) <= 80
    (kept,) = os.listdir(tmp_path)
    assert f"{tmp_path}/{kept}" in finished.errors
    assert os.listdir(tmp_path / kept / "cache" / "objects")
    assert not is_mounted(str(tmp_path / kept / "mnt"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_in_the_middle_leaves_nothing(env, tmp_path, number):
    command = [sys.executable, "-m", "tigrismount", "demo", "--size=64MiB", f"--directory={tmp_path}"]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert wait_until(lambda: any(is_mounted(str(path)) for path in tmp_path.glob("*/mnt")), timeout_s=60)
            process.send_signal(number)
            errors = process.communicate(timeout=60)[1]
        finally:
            process.kill()

    assert process.returncode == 130
    assert "interrupted" in errors
    assert os.listdir(tmp_path) == []
    assert marked_processes(f"_TIGRISMOUNT_TEST={env['_TIGRISMOUNT_TEST']}") == []


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["--size=1MiB"], 2, "16 MiB"),
        (["--size=some"], 2, "--size"),
        (["--size=900TiB"], 1, "--directory"),
        (["--directory=/nowhere/at/all"], 1, "/nowhere/at/all"),
    ],
)
def test_what_it_cannot_do_is_one_line(demo, flags, status, said):
    finished = demo(*flags)

    assert (finished.status, finished.output) == (status, "")
    assert len(finished.errors.splitlines()) == 1
    assert said in finished.errors


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare(1)")
def test_without_dev_fuse_it_says_so_before_it_does_anything(env, tmp_path):
    script = 'mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9 && exec "$@"'
    command = [sys.executable, "-m", "tigrismount", "demo", f"--directory={tmp_path}"]
    finished = run_child("unshare", "-m", "sh", "-c", script, "sh", *command, env=env)

    assert (finished.status, finished.output) == (1, "")
    assert len(finished.errors.splitlines()) == 1
    assert "/dev/fuse" in finished.errors
