"""Which mounts ``tigrismount metrics`` says of that they do not answer."""

from __future__ import annotations

from tigrismount.cli.metrics import silent_among
from tigrismount.holder.mountinfo import FUSE_TYPE, MountEntry


def entry(mountpoint: str, device: str, uid: int = 0, kind: str = FUSE_TYPE) -> MountEntry:
    return MountEntry(
        mount_id=1,
        device=device,
        mountpoint=mountpoint,
        type=kind,
        source="s3://b",
        super_options=(f"user_id={uid}",),
    )


def test_a_mount_of_ours_that_said_nothing_is_silent():
    assert silent_among([entry("/a", "0:1"), entry("/dead", "0:2")], {"/a"}, {0}) == {"/dead"}


def test_what_answers_is_not_silent_where_it_is_bound_to_another_place():
    assert silent_among([entry("/a", "0:1"), entry("/bound", "0:1")], {"/a"}, {0}) == set()


def test_mounts_of_others_were_not_asked():
    others = [entry("/b", "0:2", uid=1000), entry("/c", "0:3", kind="fuse.sshfs"), entry("/d", "0:4", kind="ext4")]
    assert silent_among(others, set(), {0}) == set()
    assert silent_among(others, set(), {0, 1000}) == {"/b"}, "root asks those of units as well"
