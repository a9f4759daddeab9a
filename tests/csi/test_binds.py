"""Bind mounts in the kernel, of mounts of our type that nobody serves."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tigrismount.csi.binds import KernelBinds, canonical
from tigrismount.csi.refusal import Code, RefusalError
from tigrismount.demo.command import run_child
from tigrismount.holder.mountinfo import mount_at, read_mounts
from tigrismount.holder.mounting import MountSpec, mount
from tigrismount.testing.mount import require_fuse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.fuse


@dataclass
class Place:
    """A directory on which our type can be mounted, with no worker behind it."""

    at: Path
    fds: list[int]

    def mount(self) -> int:
        fd = mount(MountSpec(mountpoint=str(self.at), fsname="s3://models", allow_other=True))
        self.fds.append(fd)
        return fd

    def die(self) -> None:
        """End the connections, as the kernel does when the last descriptor goes."""
        while self.fds:
            os.close(self.fds.pop())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    require_fuse()
    if os.geteuid() != 0:
        pytest.skip("bind mounts are root's")
    place = Place(tmp_path / "at", [])
    place.at.mkdir()
    place.mount()
    yield place
    place.die()
    for entry in reversed(read_mounts()):
        if entry.mountpoint.startswith(str(tmp_path)):
            run_child("umount", "-l", entry.mountpoint).check()


def layers(path: str) -> int:
    return sum(entry.mountpoint == path for entry in read_mounts())


@pytest.fixture
def target(tmp_path: Path) -> str:
    return str(tmp_path / "pods" / "a" / "mount")


def test_a_target_is_made_shows_the_mount_and_goes(place, target):
    binds = KernelBinds()
    assert not binds.is_bound(place.at, target)

    binds.bind(place.at, target)

    assert binds.is_bound(place.at, target)
    assert binds.has_mount(target)
    assert mount_at(target).source == "s3://models"
    binds.unbind(target)
    assert not binds.has_mount(target)
    assert not os.path.exists(target)
    assert mount_at(str(place.at)) is not None, "the mount itself stays"


def test_targets_in_a_shared_directory_live_and_end_apart(place, tmp_path):
    """What is done to one must not propagate to the others, as it would between binds of a shared mount."""
    shared = tmp_path / "kubelet"
    shared.mkdir()
    run_child("mount", "--bind", str(shared), str(shared)).check()
    run_child("mount", "--make-shared", str(shared)).check()
    place.die()
    place.at = shared / "at"
    place.at.mkdir()
    place.mount()
    targets = [str(shared / name) for name in ("first", "second")]
    binds = KernelBinds()
    for target in targets:
        binds.bind(place.at, target)
    place.die()
    place.mount()
    assert [binds.is_bound(place.at, target) for target in targets] == [False, False]
    for target in targets:
        binds.bind(place.at, target)

    binds.unbind(targets[0])

    assert binds.is_bound(place.at, targets[1])
    binds.unbind(targets[1])
    assert mount_at(str(place.at)) is not None


def test_unbinding_is_idempotent(place, target):
    KernelBinds().unbind(target)
    os.makedirs(target)

    KernelBinds().unbind(target)

    assert not os.path.exists(target)


def test_a_dead_mount_is_covered_by_the_new_one_and_all_layers_go(place, target):
    binds = KernelBinds()
    binds.bind(place.at, target)
    place.die()
    assert binds.look(target, 30).fault == "Transport endpoint is not connected (ENOTCONN)"
    place.mount()
    assert not binds.is_bound(place.at, target)

    binds.bind(place.at, target)

    assert binds.is_bound(place.at, target)
    assert layers(target) == 2
    binds.unbind(target)
    assert not os.path.exists(target)


def test_who_looks_through_a_mount_that_hangs_comes_back(place, target):
    binds = KernelBinds()
    binds.bind(place.at, target)

    assert binds.look(target, 0.2).fault == "no answer within 0.2 s"


def test_a_target_in_use_goes_all_the_same(place, target):
    """By a process that a pod has left behind; what it has open it keeps."""
    binds = KernelBinds()
    binds.bind(place.at, target)
    fd = os.open(target, os.O_PATH)

    binds.unbind(target)

    os.close(fd)
    assert not os.path.exists(target)


def test_another_filesystem_is_left_alone(place, target):
    os.makedirs(target)
    run_child("mount", "-t", "tmpfs", "other", target).check()
    binds = KernelBinds()

    for call in (lambda: binds.bind(place.at, target), lambda: binds.unbind(target)):
        with pytest.raises(RefusalError, match="type tmpfs is there"):
            call()

    assert mount_at(target).type == "tmpfs"


def test_what_was_written_below_is_neither_hidden_nor_deleted(place, target):
    os.makedirs(target)
    with open(f"{target}/precious", "w"):
        pass

    with pytest.raises(RefusalError, match="not empty; look what is in it") as caught:
        KernelBinds().unbind(target)

    assert caught.value.code is Code.FAILED_PRECONDITION
    assert os.listdir(target) == ["precious"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_target_that_is_no_directory_is_refused(place, target, tmp_path, kind):
    os.makedirs(os.path.dirname(target))
    if kind == "file":
        with open(target, "w"):
            pass
    else:
        (tmp_path / "elsewhere").mkdir()
        os.symlink(tmp_path / "elsewhere", target)

    with pytest.raises(RefusalError, match="is not a directory"):
        KernelBinds().bind(place.at, target)

    assert layers(str(tmp_path / "elsewhere")) == 0


def test_a_bind_that_fails_leaves_no_directory(target, tmp_path):
    require_fuse()
    (tmp_path / "at").mkdir()
    with pytest.raises(RefusalError, match=r"at: mount\(2\) failed: Invalid argument"):
        KernelBinds().bind(tmp_path / "at", target)

    assert not os.path.exists(target)


def test_paths_are_as_the_kernel_lists_them(tmp_path):
    (tmp_path / "real").mkdir()
    with contextlib.suppress(FileExistsError):
        os.symlink(tmp_path / "real", tmp_path / "link")

    assert canonical(f"/{tmp_path}/link//x/") == str(tmp_path / "real" / "x")
    assert canonical(str(tmp_path / "link")) == str(tmp_path / "link"), "the target itself is not looked at"
