from __future__ import annotations

import dataclasses
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.errors import ConfigError
from tigrismount.holder import connection as connection_module
from tigrismount.holder import mountinfo
from tigrismount.holder.connection import Connection
from tigrismount.holder.mountinfo import canonical_mountpoint, mount_at, parse_mounts, read_mounts
from tigrismount.holder.mounting import MountSpec
from tigrismount.holder.probe import Finding, Health

LINES = rb"""
22 27 0:21 / /proc rw,relatime - proc proc rw
90 27 0:50 / /mnt/a\040b ro,nosuid shared:1 master:2 - fuse.tigrismount s3://m/a\040b ro,user_id=1000,allow_other
91 27 0:51 / /mnt/x rw - ext4 /dev/sda rw
92 91 0:52 / /mnt/x ro - fuse.tigrismount s3://m ro,user_id=0
nonsense
1 2 3 - x
"""


def test_mounts_are_parsed_and_escapes_undone():
    proc, ours, below, above = parse_mounts(LINES)
    assert (proc.type, proc.is_ours, proc.owner_uid) == ("proc", False, None)
    assert (ours.mount_id, ours.device, ours.mountpoint, ours.source) == (90, "0:50", "/mnt/a b", "s3://m/a b")
    assert (ours.is_ours, ours.owner_uid) == (True, 1000)
    assert "allow_other" in ours.super_options
    assert (below.mount_id, above.mount_id) == (91, 92)


def test_an_empty_mountpoint_is_not_the_working_directory():
    with pytest.raises(ConfigError, match="the mountpoint is empty"):
        canonical_mountpoint("")


def test_a_working_directory_that_is_gone_is_said(tmp_path, monkeypatch):
    """It was an internal error to report, and a mount that is not there to who asks for its health."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigError, match="the working directory was removed"):
        canonical_mountpoint("models")
    assert canonical_mountpoint("/") == "/"


def test_the_mount_on_top_is_the_one_that_is_seen():
    mounts = parse_mounts(LINES)
    assert mount_at("/mnt/x", mounts).mount_id == 92
    assert mount_at("/mnt", mounts) is None


def test_a_mount_that_was_given_the_numbers_of_another_one_is_not_the_same():
    _, ours, below, above = parse_mounts(LINES)
    moved = dataclasses.replace(ours, mountpoint="/elsewhere")
    assert ours.is_same_as(ours, may_have_moved=False)
    assert moved.is_same_as(ours, may_have_moved=True)
    assert not moved.is_same_as(ours, may_have_moved=False), "the next mount of the host"
    assert not above.is_same_as(below, may_have_moved=True)


def test_an_unmounted_filesystem_is_not_taken_for_the_next_mount_of_the_host():
    """Mutation: by its number alone the supervisor says that reads fail, and exits with 1."""
    connection = Connection(MountSpec(mountpoint="/gone", fsname="s3://m", allow_other=False), complain=print)
    root = mount_at("/")
    connection.entry = root
    assert connection.is_mounted()
    connection.entry = dataclasses.replace(root, mountpoint="/gone")
    assert not connection.is_mounted()


def listed(*mounts: tuple[int, str, str]) -> bytes:
    return b"".join(f"{number} 1 0:{number} / /m ro - {kind} {source} ro\n".encode() for number, kind, source in mounts)


OURS, THEIRS = (90, "fuse.tigrismount", "s3://m"), (91, "nfs", "server:/models")


@pytest.fixture
def kernel(monkeypatch):
    """The mounts at one place, the topmost last; taking one away takes the topmost."""
    mounts = [OURS]

    def unmount(mountpoint: str, *, lazy: bool = False) -> None:
        mounts.pop()

    monkeypatch.setattr(mountinfo, "_read_list", lambda: listed(*mounts))
    monkeypatch.setattr(connection_module, "unmount", unmount)
    return mounts


@pytest.fixture
def connection(kernel):
    said: list[str] = []
    found = Connection(MountSpec(mountpoint="/m", fsname="s3://m", allow_other=False), said.append)
    found.entry = mount_at("/m")
    return found, said


def test_what_somebody_has_mounted_over_ours_is_not_taken_away(connection, kernel):
    """Mutation: the end of the supervisor unmounts what the administrator has mounted there since, and not ours."""
    found, said = connection
    kernel.append(THEIRS)
    assert found.unmount_within(0.0, None, said.append)
    found.try_unmount(lazy=True)
    assert kernel == [OURS, THEIRS]
    assert said == ["/m: server:/models has been mounted over it: unmount both by hand"] * 2
    kernel.pop()
    assert not found.unmount_within(0.0, None, said.append)
    assert kernel == []


def test_a_mount_that_is_covered_while_its_supervisor_is_replaced_is_known(connection, kernel):
    """Mutation: the one that comes after takes what lies on top for its own, and unmounts that."""
    _, said = connection
    kernel.append(THEIRS)
    after = Connection(MountSpec(mountpoint="/m", fsname="s3://m", allow_other=False), said.append)
    init = struct.pack("=IIQQIIIHH", 60, 26, 2, 0, 0, 0, 0, 0, 0) + struct.pack("=IIIII", 7, 31, 131072, 0, 0)
    after.adopt(-1, -1, init, b"")
    assert after.entry is not None
    assert after.entry.mount_id == OURS[0]
    after.close()


def test_an_upgrade_knows_a_mount_whose_directory_was_renamed_from_the_next_one_there(connection, monkeypatch):
    """Mutation: its end unmounts what somebody has mounted at the old name since, and leaves its own, dead."""
    _, said = connection
    moved, next_one = listed(OURS).replace(b" /m ", b" /moved "), listed((91, "fuse.tigrismount", "s3://other"))
    unmounted = []
    monkeypatch.setattr(mountinfo, "_read_list", lambda: moved + next_one)
    monkeypatch.setattr(connection_module, "unmount", lambda path, *, lazy: unmounted.append(path))
    after = Connection(MountSpec(mountpoint="/m", fsname="s3://m", allow_other=False), said.append)
    init = struct.pack("=IIQQIIIHH", 60, 26, 2, 0, 0, 0, 0, 0, 0) + struct.pack("=IIIII", 7, 31, 131072, 0, 0)
    held_fd, other_fd = os.pipe()
    after.adopt(held_fd, -1, init, b"", known=(90, "0:90"))
    after.try_unmount(lazy=False)
    assert (unmounted, said) == (["/moved"], [])
    after.close()
    os.close(other_fd)


def test_a_mount_whose_directory_was_renamed_is_unmounted_where_it_is(connection, monkeypatch):
    """Mutation: there is nothing at the old name, and the mount stays where it is and answers nobody."""
    found, said = connection
    found.fuse_fd, waits = os.pipe()
    lines, unmounted = [listed(OURS).replace(b" /m ", b" /moved ")], []

    def unmount(mountpoint: str, *, lazy: bool = False) -> None:
        unmounted.append(mountpoint)
        lines.clear()

    monkeypatch.setattr(mountinfo, "_read_list", lambda: b"".join(lines))
    monkeypatch.setattr(connection_module, "unmount", unmount)
    assert not found.unmount_within(0.0, None, said.append)
    assert (unmounted, said) == (["/moved"], [])
    found.close()
    os.close(waits)


@pytest.mark.parametrize(("health", "left"), [(Health.OK, [OURS]), (Health.DEAD, [])], ids=["serves", "is lost"])
def test_a_mount_that_was_given_the_number_of_a_lost_one_stays(connection, kernel, monkeypatch, health, left):
    """Somebody has removed both and mounted anew, while what had files open kept the old connection alive."""
    found, _ = connection
    found.leave_below()
    monkeypatch.setattr(connection_module, "probe", lambda path, *, timeout_s: Finding(health))
    found.remove_lost()
    assert kernel == left


def test_a_mount_that_one_reading_of_the_list_lacks_is_there(monkeypatch):
    """Kernels before 5.8 leave one out where another goes away meanwhile; a driver would take down a pod's volume."""
    before, _, _ = LINES.partition(b"92 ")
    lists = [before, LINES, LINES]
    monkeypatch.setattr(mountinfo, "_read_list", lambda: lists.pop(0))
    assert mount_at("/mnt/x") == parse_mounts(LINES)[3]


@given(st.binary())
def test_any_bytes_can_be_read(data):
    parse_mounts(data)


def test_this_host_has_a_root():
    assert mount_at("/") is not None
    assert all(os.path.isabs(entry.mountpoint) for entry in read_mounts())


@pytest.mark.parametrize("name", ["plain", "with blank", "with\nnewline", "back\\slash", "umläut"])
def test_names_survive_the_kernels_escapes(tmp_path, name):
    """An escaped line reads back to the name."""
    escaped = "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in str(tmp_path / name))
    [entry] = parse_mounts(f"1 2 0:1 / {escaped} rw - fuse.tigrismount s rw".encode())
    assert entry.mountpoint == str(tmp_path / name)


def test_links_are_followed_to_what_the_kernel_will_list(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "up").symlink_to(tmp_path)
    assert canonical_mountpoint(str(tmp_path / "link")) == str(tmp_path / "real")
    assert canonical_mountpoint(str(tmp_path / "up" / "real" / ".." / "real")) == str(tmp_path / "real")
    assert canonical_mountpoint(str(tmp_path / "missing")) == str(tmp_path / "missing")
    assert canonical_mountpoint("/proc/") == "/proc"


@pytest.mark.parametrize("target", ["{}/disk/models", "disk/models", "../{}/disk/models/", "other"])
def test_a_mount_that_a_link_leads_to_is_not_looked_at(tmp_path, monkeypatch, target):
    """Its worker may hang, or be still to come: root mounts for a unit before the unit's process looks where that is.

    Mutation: a unit whose mountpoint is a link never starts, and 'health' of such a mount hangs with it.
    """
    here = tmp_path.resolve()
    (here / "disk" / "models").mkdir(parents=True)
    (here / "other").symlink_to("disk/models")
    (here / "link").symlink_to(target.format(here if target.startswith("{") else here.name))
    mounts = parse_mounts(f"90 27 0:50 / {here}/disk/models ro - fuse.tigrismount s3://m ro".encode())
    monkeypatch.setattr(mountinfo, "read_mounts", lambda: mounts)
    asked, lstat = [], os.lstat

    def note(path: str, **options: int) -> os.stat_result:
        asked.append(os.fspath(path))
        return lstat(path, **options)

    monkeypatch.setattr(os, "lstat", note)
    assert canonical_mountpoint(str(here / "link")) == str(here / "disk" / "models")
    assert str(here / "disk" / "models") not in asked


def test_links_that_lead_nowhere_are_as_they_are(tmp_path):
    here = tmp_path.resolve()
    (here / "up").symlink_to("..")
    (here / "missing").symlink_to("not/there")
    for name in ("one", "another"):
        (here / name).symlink_to({"one": "another", "another": "one"}[name])
    assert canonical_mountpoint(str(here / "up")) == str(here.parent)
    assert canonical_mountpoint(str(here / "missing")) == str(here / "not" / "there")
    assert canonical_mountpoint(str(here / "one")) in (str(here / "one"), str(here / "another"))
