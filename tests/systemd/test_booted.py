"""The units in a booted systemd: real mounts, real restarts, and what a person would type."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tigrismount.demo.command import wait_until
from tigrismount.demo.faults import FaultRule

if TYPE_CHECKING:
    import subprocess

pytestmark = [pytest.mark.fuse, pytest.mark.slow, pytest.mark.booted]

READER = """
import json, os, select, sys, time
fd = os.open(sys.argv[1], os.O_RDONLY)
size, piece = os.fstat(fd).st_size, 64 << 10
expected = bytes(range(256)) * (piece // 256)
reads, wrong, errors, worst_s = 0, 0, [], 0.0
print("ready", flush=True)
while not select.select([0], [], [], 0)[0]:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    began_s = time.monotonic()
    try:
        wrong += os.pread(fd, piece, reads * piece % size) != expected
    except OSError as exc:
        errors.append(str(exc))
    worst_s = max(worst_s, time.monotonic() - began_s)
    reads += 1
print(json.dumps({"reads": reads, "wrong": wrong, "errors": errors, "worst_s": worst_s}), flush=True)
"""


@pytest.fixture
def reader(machine, models):
    """Start a reader of the file of the mounted unit."""
    started = []

    def start() -> subprocess.Popen[str]:
        process = machine.popen("/usr/bin/python3", "-c", READER, f"/models/{models}/file")
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def assert_no_read_failed(process) -> None:
    found = json.loads(process.communicate("done\n", timeout=90)[0])
    print(found)
    assert (found["wrong"], found["errors"]) == (0, [])
    assert found["reads"]


def status(machine, models) -> dict:
    return json.loads(machine.run("tigrismount", "status", f"/models/{models}", "--json"))["mounts"][0]


def takeovers(machine, models) -> int:
    """What a worker says of those before it; -1 between two."""
    return status(machine, models).get("takeovers", {}).get("count", -1)


def unit(models: str) -> str:
    return f"tigrismount@{models}"


def test_a_unit_starts_serves_as_a_plain_user_and_stops(machine, models):
    machine.systemctl("start", unit(models))
    assert machine.show(unit(models), "ActiveState") == "active"
    assert machine.run("ls", f"/models/{models}") == "file\n"
    pid = status(machine, models)["pid"]
    lines = machine.run("cat", f"/proc/{pid}/status").splitlines()
    facts = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    assert facts["Uid"] == [machine.run("id", "-u", "tigrismount").strip()] * 4
    assert {facts[name][0] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
    assert facts["NoNewPrivs"] == ["1"]
    assert "AWS_SECRET" not in machine.run("cat", f"/proc/{pid}/environ")
    assert "fuse" not in machine.run("ls", f"/proc/{pid}/root/dev")
    assert machine.status_of("tigrismount", "health", f"/models/{models}") == 0
    assert machine.status_of("tigrismount", "loads", f"/models/{models}") == 0, "root may ask a unit's daemon"
    machine.systemctl("stop", unit(models))
    assert machine.show(unit(models), "Result") == "success"
    assert machine.run("stat", "-c", "%a", f"/models/{models}").strip() == "0"


def test_reloads_under_load_fail_no_read(machine, models, reader):
    machine.systemctl("start", unit(models))
    main = machine.show(unit(models), "MainPID")
    busy = reader()
    for number in (1, 2, 3):
        machine.systemctl("reload", unit(models))
        assert wait_until(lambda expected=number: takeovers(machine, models) == expected, timeout_s=60), number
    assert machine.show(unit(models), "MainPID") == main
    assert machine.show(unit(models), "NRestarts") == "0"
    assert_no_read_failed(busy)
    assert "is killed" not in machine.journal()


def test_sigkill_of_everything_under_load_fails_no_read(machine, models, reader):
    machine.systemctl("start", unit(models))
    busy = reader()
    for number in (1, 2):
        machine.systemctl("kill", "-s", "KILL", unit(models))
        assert wait_until(lambda expected=number: machine.show(unit(models), "NRestarts") == str(expected))
        assert wait_until(lambda: machine.show(unit(models), "ActiveState") == "active", timeout_s=30)
    assert_no_read_failed(busy)
    assert takeovers(machine, models) == 2


def test_sigkill_of_the_worker_is_the_supervisors_to_mend(machine, models, reader):
    machine.systemctl("start", unit(models))
    busy = reader()
    machine.run("kill", "-9", str(status(machine, models)["pid"]))
    assert wait_until(lambda: takeovers(machine, models) == 1, timeout_s=60), machine.journal()
    assert machine.show(unit(models), "NRestarts") == "0"
    assert machine.show(unit(models), "StatusText").endswith("takeovers: 1")
    assert_no_read_failed(busy)


def test_a_supervisor_that_hangs_is_restarted_by_the_watchdog(machine, models, reader):
    dropin = f"/etc/systemd/system/{unit(models)}.service.d/watchdog.conf"
    machine.put(dropin, "[Service]\nWatchdogSec=6\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", unit(models))
    busy = reader()
    machine.run("kill", "-STOP", machine.show(unit(models), "MainPID"))
    assert wait_until(lambda: machine.show(unit(models), "NRestarts") == "1", timeout_s=60)
    assert wait_until(lambda: machine.show(unit(models), "ActiveState") == "active", timeout_s=30)
    assert_no_read_failed(busy)
    machine.run("rm", dropin)
    machine.systemctl("daemon-reload")


def test_a_start_with_bad_configuration_says_so_once_and_leaves_nothing(machine, models):
    machine.put(f"/etc/tigrismount/{models}.toml", 'mountpoint = "/models/x"\nno-such-option = 1\n')
    machine.systemctl("start", unit(models), check=False)
    assert wait_until(lambda: machine.show(unit(models), "ActiveState") == "failed")
    assert machine.show(unit(models), "NRestarts") == "0", "bad configuration is not tried again"
    assert "no-such-option" in machine.journal()
    assert "/models/x" not in machine.run("cat", "/proc/self/mountinfo")


def test_a_start_without_access_leaves_nothing(machine, models, s3):
    s3.inject(FaultRule(match="", action="status", status=403, code="AccessDenied", count=-1))
    try:
        machine.systemctl("start", unit(models), check=False)
        assert machine.show(unit(models), "ActiveState") in ("failed", "activating")
        machine.systemctl("stop", unit(models))
    finally:
        s3.inject()
    assert f"/models/{models} " not in machine.run("cat", "/proc/self/mountinfo")


def test_a_service_that_requires_the_mount_starts_behind_it(machine, models):
    name = f"needs-{models}.service"
    machine.put(
        f"/etc/systemd/system/{name}",
        f"[Unit]\nRequires={unit(models)}.service\nAfter={unit(models)}.service\n"
        f"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/cat /models/{models}/file\n"
        "StandardOutput=null\n",
    )
    machine.systemctl("daemon-reload")
    machine.systemctl("start", name)
    assert machine.show(name, "Result") == "success"
    machine.systemctl("stop", name)


def test_a_bucket_needs_no_file_at_all(machine, models, s3):
    env = s3.env()
    machine.run("rm", f"/etc/tigrismount/{models}.toml", f"/etc/tigrismount/{models}.credentials")
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    lines = [f"{name}={env[name]}" for name in names] + ["OPTS=--cache-size=64MiB --file-mode=0440"]
    machine.put(f"/etc/default/tigrismount-{models}", "\n".join(lines) + "\n", 0o600)
    machine.systemctl("start", unit(models))
    assert machine.run("stat", "-c", "%a", f"/mnt/tigris/{models}/file").strip() == "440"
    machine.systemctl("stop", unit(models))
    machine.run("rm", f"/etc/default/tigrismount-{models}")


def test_fstab_mounts_and_unmounts(machine, models, s3):
    env = s3.env()
    where = f"/mnt/fstab-{models}"
    machine.run("mkdir", "-p", where)
    keys = f"aws_access_key_id={env['AWS_ACCESS_KEY_ID']}\naws_secret_access_key={env['AWS_SECRET_ACCESS_KEY']}\n"
    machine.put("/root/.aws/credentials", f"[store]\n{keys}", 0o600)
    options = f"ro,_netdev,nofail,noauto,allow_other,profile=store,endpoint_url={env['AWS_ENDPOINT_URL_S3']}"
    machine.put("/etc/fstab", f"s3://{models} {where} tigris {options},cache_size=64MiB 0 0\n")
    mount_unit = machine.run("systemd-escape", "-p", "--suffix=mount", where).strip()
    machine.systemctl("daemon-reload")
    machine.systemctl("start", mount_unit)
    assert machine.run("ls", where) == "file\n"
    machine.systemctl("restart", mount_unit)
    assert machine.run("ls", where) == "file\n"
    machine.systemctl("stop", mount_unit)
    assert where not in machine.run("cat", "/proc/self/mountinfo")
    needs = f"[Unit]\nRequiresMountsFor={where}\n[Service]\nType=oneshot\nExecStart=/bin/cat {where}/file\n"
    machine.put(f"/etc/systemd/system/needs-{models}.service", f"{needs}StandardOutput=null\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", f"needs-{models}.service")
    assert machine.show(mount_unit, "ActiveState") == "active", "the service has brought it up"
    machine.systemctl("stop", mount_unit)
    machine.run("mount", where)
    assert machine.run("ls", where) == "file\n"
    machine.run("umount", where)
    wrong = f"{options},no_such_option=1"
    assert machine.status_of("mount", "-t", "tigris", "-o", wrong, f"s3://{models}", where) == 1
    assert machine.status_of("mount", "-t", "tigris", "-o", options, "s3://no-such-bucket", where) == 32
    machine.run("mount", "-t", "tigris", "-o", options.removeprefix("ro,"), f"s3://{models}", where)
    assert machine.run("ls", where) == "file\n", "mount(8) says rw where nobody says ro"
    machine.run("umount", where)
    machine.put("/etc/fstab", "")


def test_removing_takes_everything_away_again(machine, models):
    installed = {line.split()[-1] for line in machine.run("tigrismount", "install-systemd").splitlines()}
    assert len(installed) >= 4
    removed = {line.split()[-1] for line in machine.run("tigrismount", "install-systemd", "--remove").splitlines()}
    try:
        assert removed == installed | {"/usr/sbin/mount.tigris"}
        assert all(machine.status_of("test", "-e", path) == 1 for path in removed)
        assert machine.status_of("systemctl", "start", unit(models)) != 0
    finally:
        machine.run("tigrismount", "install-systemd")


@pytest.fixture
def open_device(machine):
    """/dev/fuse for everybody, as udev makes it."""
    mode = machine.run("stat", "-c", "%a", "/dev/fuse").strip()
    machine.run("chmod", "666", "/dev/fuse")
    yield
    machine.run("chmod", mode, "/dev/fuse")


def test_a_users_own_unit_mounts_in_their_home(machine, models, s3, open_device):
    env = s3.env()
    machine.run("useradd", "--create-home", "somebody")
    uid = machine.run("id", "-u", "somebody").strip()
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    lines = [f"{name}={env[name]}" for name in names] + ["OPTS=--cache-dir=off"]
    machine.put("/home/somebody/.config/tigrismount/environment", "\n".join(lines) + "\n")
    machine.run("chown", "-R", "somebody:", "/home/somebody")
    # What pam_systemd does, which not every root tree has.
    machine.put("/etc/systemd/system/user@.service.d/run.conf", "[Service]\nEnvironment=XDG_RUNTIME_DIR=/run/user/%i\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", f"user@{uid}")

    def as_user(*command: str) -> str:
        return machine.run("runuser", "-u", "somebody", "--", "env", f"XDG_RUNTIME_DIR=/run/user/{uid}", *command)

    try:
        as_user("systemctl", "--user", "start", unit(models))
        where = f"/home/somebody/mnt/tigris/{models}"
        assert as_user("ls", where) == "file\n"
        pid = json.loads(as_user("tigrismount", "status", where, "--json"))["mounts"][0]["pid"]
        as_user("systemctl", "--user", "reload", unit(models))
        assert wait_until(lambda: json.loads(as_user("tigrismount", "status", "--json"))["mounts"][0]["pid"] != pid)
        as_user("systemctl", "--user", "stop", unit(models))
        assert where not in machine.run("cat", "/proc/self/mountinfo")
    finally:
        machine.systemctl("stop", f"user@{uid}", check=False)
