from __future__ import annotations

from tigrismount.cli import unmount as command
from tigrismount.holder.mountinfo import FUSE_TYPE, MountEntry


def test_who_may_unmount_a_mount_of_somebody_else_is_said(fails, monkeypatch):
    """Mutation: "fusermount3: entry for /models not found in /etc/mtab" of a mount that is there."""
    entry = MountEntry(1, "0:1", "/models", FUSE_TYPE, "s3://models", ("user_id=4242",))
    monkeypatch.setattr(command, "mount_at", lambda _: entry)
    monkeypatch.setattr(command.os, "geteuid", lambda: 4243)
    assert fails("unmount", "/models") == (1, "/models: belongs to user 4242: only they, or root, can unmount it")
