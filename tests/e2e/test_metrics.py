"""A mount that tells of itself: metrics over HTTP, its state on a signal."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

from tigrismount.demo.command import run_child, wait_until


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def fetch(port: int, path: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}{path}", timeout=20) as reply:
        return reply.read().decode()


@contextlib.contextmanager
def listening(env) -> Iterator[int]:
    """``tigrismount metrics`` at a port; it ends well when it is told to."""
    port = free_port()
    command = [sys.executable, "-m", "tigrismount", "metrics", f"--listen={port}"]
    with subprocess.Popen(command, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == f"metrics of all mounts: http://127.0.0.1:{port}/metrics\n"
            yield port
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_a_mount_serves_its_figures_and_logs_its_state_when_told_to(bucket, mount, mountpoint, tmp_path):
    bucket.put("file", b"x" * 100_000)
    port, log = free_port(), tmp_path / "log"
    flags = [f"--metrics-addr={port}", f"--log-file={log}", "--log-format=json"]
    with mount(f"s3://{bucket.name}", *flags) as mounted:
        run_child("cat", str(mountpoint / "file")).check()
        text = fetch(port, "/metrics")
        status = mounted.status()
        assert fetch(port, "/healthz") == fetch(port, "/readyz") == "ok\n"
        together = mount.run("metrics").check().output
        with listening(mount.env) as of_all:
            assert f'tigrismount_fuse_read_seconds_count{{mountpoint="{mounted.path}"}}' in fetch(of_all, "/metrics")
        for number in (signal.SIGUSR2, signal.SIGUSR1):
            os.kill(status["supervisor_pid"], number)
        assert wait_until(lambda: '"state: ' in log.read_text())
        assert mounted.status()["pid"] == status["pid"], "nobody was killed by that"
    ours = [line for line in together.splitlines() if f'mountpoint="{mounted.path}"' in line]
    ours.remove(f'tigrismount_up{{mountpoint="{mounted.path}"}} 1.0')
    assert len(ours) == sum(not line.startswith("#") for line in text.splitlines()), "each sample, and whose it is"
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures['tigrismount_store_requests_total{operation="get"}']) == status["requests"]["get"] > 0
    assert float(figures["tigrismount_store_get_seconds_count"]) > 0
    assert float(figures["tigrismount_fuse_read_seconds_count"]) > 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (state,) = [line["message"] for line in lines if line["message"].startswith("state: ")]
    assert json.loads(state.removeprefix("state: "))["pid"] == status["pid"]
    assert any("logging from level debug" in line["message"] for line in lines)


def test_an_address_that_is_taken_is_told_by_the_command_that_mounts(bucket, mount, mountpoint):
    """Mutation: the mount serves, and nobody hears that its figures are not there."""
    bucket.put("file", b"x")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = [*mount.flags, f"--metrics-addr={port}"]
        done = mount.run("mount", f"s3://{bucket.name}", str(mountpoint), *flags).check()
    mount.run("unmount", str(mountpoint)).check()
    assert f"warning: no metrics: cannot listen on 127.0.0.1 port {port}" in done.errors
    assert done.errors.count("metrics") == 1
