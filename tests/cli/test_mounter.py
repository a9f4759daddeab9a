"""``tigrismount mounter`` as a process, with no driver to serve."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tigrismount.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--comm-dir"),
        (["--cache-size", "much"], "--cache-size"),
        (["--config", "/none/such.toml"], "cannot be read"),
        (["--log-format", "xml"], "xml"),
    ],
)
def test_what_is_wrong_is_said_before_it_waits_for_anybody(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    place = ["--comm-dir", str(tmp_path)] if arguments else []
    assert main(["mounter", *place, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_it_waits_for_a_driver_until_it_is_told_to_end(tmp_path):
    command = [sys.executable, "-m", "tigrismount", "mounter", "--comm-dir", str(tmp_path), "--cache-dir=off"]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TIGRISMOUNT_", "AWS_"))}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    try:
        assert "no driver in" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert "leaving" in rest
