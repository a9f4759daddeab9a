"""Mounting itself, as root and as a plain user; nobody serves these mounts."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import stat
import subprocess
from collections.abc import Callable

import pytest

from tigrismount.errors import MountError
from tigrismount.holder import connection, mounting
from tigrismount.holder import mountinfo as mountinfo_module
from tigrismount.holder.connection import Connection
from tigrismount.holder.init import INIT_REQUEST_BYTES, describe_init
from tigrismount.holder.log import DaemonLog
from tigrismount.holder.mountinfo import mount_at, parse_mounts
from tigrismount.holder.mounting import MountSpec, check_can_mount, mount, unmount
from tigrismount.holder.request import MountRequest
from tigrismount.holder.supervisor import Supervisor

NOBODY = 65534

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")


def spec(path, **members: object) -> MountSpec:
    return MountSpec(**{"mountpoint": str(path), "fsname": "s3://m/a,b\\c d", "allow_other": False, **members})


def as_nobody(do: Callable[[], str]) -> str:
    """Return what *do* returns, or the error it meets, as a plain user."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            result = do()
        except BaseException as exc:  # noqa: BLE001 -- reported to the parent
            result = f"{type(exc).__name__}: {exc}"
        os.write(write_end, result.encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end) as file:
        result = file.read()
    os.waitpid(pid, 0)
    return result


@pytest.fixture
def open_device(fuse):
    """/dev/fuse for everybody, as udev sets it where the fuse3 package is installed properly."""
    mode = stat.S_IMODE(os.stat("/dev/fuse").st_mode)
    os.chmod("/dev/fuse", 0o666)
    yield
    os.chmod("/dev/fuse", mode)


@pytest.fixture
def nobodys_mountpoint(mountpoint):
    """A directory of the plain user that it can reach."""
    os.chown(mountpoint, NOBODY, NOBODY)
    reachable = mountpoint.parent
    changed = []
    while str(reachable) != "/":
        mode = stat.S_IMODE(reachable.stat().st_mode)
        if not mode & 0o001:
            reachable.chmod(mode | 0o011)
            changed.append((reachable, mode))
        reachable = reachable.parent
    yield mountpoint
    while mount_at(str(mountpoint)):
        unmount(str(mountpoint), lazy=True)
    for path, mode in changed:
        with contextlib.suppress(FileNotFoundError):
            path.chmod(mode)


@pytest.mark.fuse
def test_a_mount_is_ours_read_only_and_begins_with_init(fuse, mountpoint):
    fd = mount(spec(mountpoint))
    try:
        entry = mount_at(str(mountpoint))
        assert (entry.is_ours, entry.source, entry.owner_uid) == (True, "s3://m/a,b\\c d", os.geteuid())
        assert "default_permissions" in entry.super_options
        assert "allow_other" not in entry.super_options
        assert describe_init(os.read(fd, INIT_REQUEST_BYTES)).major == 7
        assert not os.get_inheritable(fd)
        with open("/proc/self/mountinfo") as file:
            [line] = [line for line in file if line.startswith(f"{entry.mount_id} ")]
        assert {"ro", "nosuid", "nodev", "noatime"} <= set(line.split()[5].split(","))
        unmount(str(mountpoint))
        assert mount_at(str(mountpoint)) is None
    finally:
        os.close(fd)


@pytest.mark.fuse
@only_root
def test_root_lets_others_in_when_told(fuse, mountpoint):
    fd = mount(spec(mountpoint, allow_other=True))
    assert "allow_other" in mount_at(str(mountpoint)).super_options
    unmount(str(mountpoint))
    os.close(fd)


@pytest.mark.fuse
@only_root
def test_a_mount_that_fails_leaves_no_descriptor(fuse, tmp_path):
    before = os.listdir("/proc/self/fd")
    with pytest.raises(MountError, match="cannot be mounted on: No such file"):
        mount(spec(tmp_path / "missing"))
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.fuse
def test_unmounting_what_is_not_mounted_is_an_error(fuse, tmp_path):
    with pytest.raises(MountError, match="cannot be unmounted"):
        unmount(str(tmp_path))


@pytest.mark.fuse
@only_root
def test_a_plain_user_mounts_through_the_helper(open_device, nobodys_mountpoint):
    path = str(nobodys_mountpoint)

    def do() -> str:
        check_can_mount(spec(path))
        fd = mount(spec(path))
        entry = mount_at(path)
        kernel = describe_init(os.read(fd, INIT_REQUEST_BYTES))
        unmount(path)
        return f"{entry.type} {entry.source} {entry.owner_uid} {kernel.major} {mount_at(path)}"

    assert as_nobody(do) == f"fuse.tigrismount s3://m/a,b\\c d {NOBODY} 7 None"


@pytest.mark.fuse
@only_root
def test_a_plain_user_is_told_what_the_helper_says(open_device, tmp_path):
    """The directory belongs to root."""
    result = as_nobody(lambda: str(mount(spec(tmp_path))))
    assert result.startswith(f"MountError: {tmp_path}: cannot be mounted: ")


@pytest.mark.fuse
@only_root
def test_a_directory_of_somebody_else_is_said_with_the_remedy(open_device, nobodys_mountpoint):
    """Mutation: who made /models with sudo is told that they have no write access, of a read-only mount."""
    os.chown(nobodys_mountpoint, 0, 0)
    result = as_nobody(lambda: str(mount(spec(nobodys_mountpoint))))
    give = f"sudo chown {NOBODY} {shlex.quote(str(nobodys_mountpoint))}"
    assert f"name a directory of yours, or '{give}' first" in result


@pytest.mark.fuse
@only_root
def test_a_plain_user_may_not_let_others_in_unless_permitted(open_device, tmp_path):
    with open("/etc/fuse.conf") as file:
        if any(line.strip() == "user_allow_other" for line in file):
            pytest.skip("this host permits it")
    result = as_nobody(lambda: str(check_can_mount(spec(tmp_path, allow_other=True))))
    assert "a line 'user_allow_other' in /etc/fuse.conf" in result
    assert "--no-allow-other" in result


@pytest.mark.fuse
@only_root
def test_a_device_that_a_plain_user_cannot_open_is_said_with_the_remedy(fuse, tmp_path):
    if stat.S_IMODE(os.stat("/dev/fuse").st_mode) & 0o006 == 0o006:
        pytest.skip("everybody may open /dev/fuse here")
    result = as_nobody(lambda: str(check_can_mount(spec(tmp_path))))
    assert result == (
        "MountError: /dev/fuse: cannot be opened: Permission denied; 'sudo chmod 666 /dev/fuse' lets all users mount"
    )


@pytest.mark.fuse
@only_root
def test_a_missing_helper_is_said_with_the_remedy(open_device, tmp_path, monkeypatch):
    monkeypatch.setattr("tigrismount.holder.mounting._FUSERMOUNT", "fusermount-not-there")
    result = as_nobody(lambda: str(check_can_mount(spec(tmp_path))))
    assert "sudo apt-get install fuse3" in result


@pytest.mark.parametrize(
    "call", [lambda path: mount(spec(path)), lambda path: unmount(str(path), lazy=True)], ids=["mount", "unmount"]
)
def test_a_helper_that_cannot_be_started_is_an_error_like_any_other(tmp_path, monkeypatch, call):
    """Who unmounts at a limit of processes goes on to end the worker; a mistake of ours would leave it behind."""

    def no_process_left(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    monkeypatch.setattr(subprocess, "run", no_process_left)
    monkeypatch.setattr(mounting, "_find_fusermount", lambda: "/bin/fusermount3")
    with pytest.raises(MountError, match="/bin/fusermount3: cannot be started: Resource temporarily unavailable"):
        call(tmp_path)


@pytest.fixture
def watched_helper(tmp_path, monkeypatch):
    """fusermount3, which writes down first what its caller sees in the directory that it is called for."""
    real = shutil.which("fusermount3")
    seen = tmp_path / "seen"
    seen.touch()
    seen.chmod(0o666)
    directory = tmp_path / "bin"
    directory.mkdir()
    wrapper = directory / "fusermount3"
    wrapper.write_text(
        f"""#!/bin/sh
for last; do :; done
ls -A "$last" >/dev/null 2>{shlex.quote(str(seen))}.last && echo listed >>{shlex.quote(str(seen))}
cat {shlex.quote(str(seen))}.last >>{shlex.quote(str(seen))}
exec {real} "$@"
"""
    )
    wrapper.chmod(0o755)
    last = tmp_path / "seen.last"
    last.touch()
    last.chmod(0o666)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return seen


@pytest.mark.fuse
@only_root
def test_a_plain_users_lost_mount_is_replaced_and_the_directory_below_is_never_listed(
    open_device, nobodys_mountpoint, watched_helper
):
    path = str(nobodys_mountpoint)

    def do() -> str:
        connection = Connection(spec(path), lambda _: None)
        connection.mount()
        connection.close()
        connection.leave_below()
        connection.mount()
        answer = f"{connection.is_mounted()} {connection.is_connected()}"
        connection.close()
        unmount(path, lazy=True)
        return answer

    assert as_nobody(do) == "True True"
    seen = [line.rpartition(": ")[2] for line in watched_helper.read_text().splitlines()]
    lost = "Transport endpoint is not connected"
    assert seen == ["listed", lost, "Permission denied", lost]
    assert stat.S_IMODE(nobodys_mountpoint.stat().st_mode) == 0o755


@pytest.mark.fuse
@only_root
def test_a_lost_mount_stays_where_the_directory_below_is_anothers(open_device, nobodys_mountpoint):
    path = str(nobodys_mountpoint)
    nobodys_mountpoint.chmod(0o777)
    os.chown(nobodys_mountpoint, 0, 0)

    def do() -> str:
        connection = Connection(spec(path), lambda _: None)
        connection.mount()
        connection.close()
        connection.leave_below()
        connection.mount()
        return "mounted"

    assert "cannot be hidden meanwhile: Operation not permitted" in as_nobody(do)
    assert mount_at(path) is not None


def test_of_two_who_mount_at_the_same_time_none_hides_the_other(monkeypatch):
    """Both found the directory free, and waited for the store since; the end of one would unmount the other."""
    there = parse_mounts(b"90 27 0:50 / /models ro - fuse.tigrismount s3://m/a ro,user_id=0")[0]
    monkeypatch.setattr(connection, "mount_at", lambda _: there)
    monkeypatch.setattr(connection, "mount", lambda _: pytest.fail("it hides the other one"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(MountError, match="s3://m/a has been mounted there"):
        Connection(spec("/models"), complain=print).mount()


@pytest.mark.parametrize("uid", [0, 65534])
def test_a_mount_that_is_made_anew_hides_nothing_that_covers_the_lost_one(monkeypatch, uid):
    """Mutation: what the administrator has mounted on top is gone from sight when a worker below it ends.

    Below a plain user's it is even taken away: fusermount3 unmounts what is on top, whoever has mounted it.
    """
    lost, cover = parse_mounts(
        b"90 1 0:50 / /models ro - fuse.tigrismount s3://m ro\n91 90 0:51 / /models rw - nfs4 server:/models rw\n"
    )
    monkeypatch.setattr(connection, "mount_at", lambda _: cover)
    monkeypatch.setattr(connection, "mount", lambda _: pytest.fail("hides it"))
    monkeypatch.setattr(connection, "unmount", lambda *_, **__: pytest.fail("takes it away"))
    monkeypatch.setattr(connection, "unlistable", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    anew = Connection(spec("/models"), complain=print)
    anew.entry = lost
    anew.leave_below()
    with pytest.raises(MountError, match="server:/models has been mounted there"):
        anew.mount()


def test_a_mount_that_cannot_be_looked_up_is_taken_away_again(monkeypatch):
    """Mutation: on a host without a descriptor left a dead mount stays, and who asked for it is told nothing."""
    unmounted = []
    listed = [None]

    def look(_: str) -> None:
        if listed:
            return listed.pop()
        raise OSError(23, os.strerror(23))

    monkeypatch.setattr(connection, "mount_at", look)
    monkeypatch.setattr(connection, "mount", lambda _: os.dup(0))
    monkeypatch.setattr(connection, "unmount", lambda path, *, lazy: unmounted.append(path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    made = Connection(spec("/models"), complain=print)
    with pytest.raises(MountError, match="Too many open files in system"):
        made.mount()
    assert unmounted == ["/models"]
    made.close()


@pytest.mark.parametrize("is_known", [False, True])
def test_who_asked_is_told_also_where_the_list_of_mounts_cannot_be_read(tmp_path, monkeypatch, capfd, is_known):
    """Mutation: on a host without a descriptor left the worker goes on, and who asked is told nothing."""

    def fail(*_: object) -> None:
        raise OSError(23, os.strerror(23))

    def start() -> None:
        raise MountError("the kernel did not begin the conversation")

    outcomes, ended = [], []
    log = DaemonLog(path=None, foreground=True, level="info", json_lines=False)
    request = MountRequest(config={"mountpoint": str(tmp_path), "fsname": "s3://m", "allow_other": False})
    supervisor = Supervisor(request, log, outcomes.append)
    monkeypatch.setattr(supervisor, "_start", start)
    monkeypatch.setattr(supervisor._workers, "end_all", lambda *, ask_first: ended.append(ask_first))
    monkeypatch.setattr(supervisor._connection, "entry", mount_at("/") if is_known else None)
    monkeypatch.setattr(mountinfo_module, "_read_list", fail)
    assert supervisor.run() == 1
    log.close()
    assert [outcome.message for outcome in outcomes] == ["the kernel did not begin the conversation"]
    assert ended
    assert ("may be left mounted" in capfd.readouterr().err) == is_known
