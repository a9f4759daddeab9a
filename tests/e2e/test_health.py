"""``health`` on mounts in every state; it must be right, and back in time."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tigrismount.demo.command import wait_until
from tigrismount.demo.faults import FaultRule
from tigrismount.testing.mount import is_mounted, marked_processes


def health(mount, *arguments) -> tuple[int, str]:
    done = mount.run("health", *map(str, arguments))
    return done.status, json.loads(done.output)["state"] if "--json" in arguments else done.output + done.errors


def test_a_live_mount_is_ok(mount, bucket):
    bucket.put("file", b"x")
    with mount(f"s3://{bucket.name}") as mounted:
        assert health(mount, mounted.path) == (0, f"{mounted.path}: ok\n")
        assert health(mount, mounted.path, "--json") == (0, "ok")


def test_nothing_mounted_is_1(mount, mountpoint):
    assert health(mount, mountpoint, "--json") == (1, "not mounted")
    assert health(mount, "/proc", "--json") == (1, "not mounted")
    assert health(mount, "/no/such/place", "--json") == (1, "not mounted")


@pytest.mark.parametrize(
    "arguments",
    [(), ("a", "b"), ("/x", "--timeout=soon"), ("/x", "--no-such-flag")],
    ids=["none", "two", "time", "flag"],
)
def test_bad_usage_is_64(mount, arguments):
    assert mount.run("health", *arguments).status == 64


def test_a_dead_mount_is_2(mount, bucket):
    bucket.put("file", b"x")
    with mount(f"s3://{bucket.name}") as mounted:
        status = mounted.status()
        for pid in (status["supervisor_pid"], status["pid"]):  # the one that would start another worker first
            os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: marked_processes(mounted.mark) == [])
        assert health(mount, mounted.path, "--json") == (2, "dead")
        assert is_mounted(mounted.path)
        mount.run("unmount", mounted.path).check()
        mount.run("status").check()  # clears the dead worker's socket


def test_a_hung_mount_is_3_and_does_not_hang_us(mount, bucket):
    bucket.put("file", b"x")
    with mount(f"s3://{bucket.name}") as mounted:
        pid = mounted.status()["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            assert health(mount, mounted.path, "--timeout=0.5s", "--json") == (3, "not answering")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert wait_until(lambda: health(mount, mounted.path)[0] == 0)


def test_a_mount_that_serves_from_its_cache_is_4_or_0_where_that_will_do(mount, bucket, s3):
    bucket.put("file", b"x")
    with mount(f"s3://{bucket.name}") as mounted:
        s3.inject(FaultRule(match="", action="status", status=403, code="AccessDenied", count=-1))
        try:
            before = mounted.status()["pid"]
            os.kill(before, signal.SIGKILL)  # a successor looks at the store, and finds it away
            assert wait_until(lambda: health(mount, mounted.path, "--json") == (4, "degraded"))
            assert health(mount, mounted.path, "--degraded-ok", "--json") == (0, "degraded")
            assert "store: " in health(mount, mounted.path)[1]
        finally:
            s3.inject()
        assert wait_until(lambda: health(mount, mounted.path)[0] == 0, timeout_s=30)
