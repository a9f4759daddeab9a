from __future__ import annotations

import pytest

from tigrismount.cli.failure import NOT_FOUND, CommandFailure
from tigrismount.cli.place import locate
from tigrismount.holder.mountinfo import FUSE_TYPE, MountEntry


def entry(mountpoint, type_=FUSE_TYPE):
    return MountEntry(
        mount_id=1, device="0:1", mountpoint=mountpoint, type=type_, source="s3://b", super_options=("user_id=5",)
    )


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/m", ("/m", "")),
        ("/m/", ("/m", "")),
        ("/m/a/../b/gone", ("/m", "b/gone")),
        ("/m/inner/a", ("/m/inner", "a")),
        ("/m/inner-not/a", ("/m", "inner-not/a")),
    ],
)
def test_the_mount_that_a_path_lies_in_is_found_whether_the_path_is_there_or_not(path, found):
    assert locate(path, [entry("/m"), entry("/m/inner"), entry("/", "ext4")]) == found


def test_a_link_to_a_mount_leads_there(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "m")
    assert locate(str(tmp_path / "link/a"), [entry(str(tmp_path / "m"))]) == (str(tmp_path / "m"), "a")


def test_a_path_that_is_itself_a_link_to_a_mount_leads_there(tmp_path):
    """As the one that a roll-out moves. Mutation: 'warm /srv/models/current' is under no mount."""
    mounts = [entry(str(tmp_path / "7"))]
    (tmp_path / "current").symlink_to("7")
    (tmp_path / "llama").symlink_to("current/llama/")
    assert locate(f"{tmp_path}/current", mounts) == (str(tmp_path / "7"), "")
    assert locate(f"{tmp_path}/current/", mounts) == (str(tmp_path / "7"), "")
    assert locate(f"{tmp_path}/llama", mounts) == (str(tmp_path / "7"), "llama")


def test_a_place_that_is_named_by_its_mountpoint_is_not_looked_at(monkeypatch):
    """Mutation: 'cache evict' and 'refresh' of what lies in a mount that hangs never end."""
    monkeypatch.setattr("os.path.realpath", lambda path, **_: pytest.fail(f"{path} was looked at"))
    assert locate("/m/a/b", [entry("/m")]) == ("/m", "a/b")


def test_links_that_lead_nowhere_or_in_a_circle_lie_in_no_mount(tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "gone").symlink_to("/nowhere/at/all")
    for name in ("circle", "gone"):
        with pytest.raises(CommandFailure, match="is not under a mount"):
            locate(f"{tmp_path}/{name}", [entry(str(tmp_path / "m"))])


def test_a_mount_of_another_kind_is_none():
    with pytest.raises(CommandFailure, match="is not under a mount") as failure:
        locate("/m/a", [entry("/m", "fuse.other")])
    assert failure.value.exit_code == NOT_FOUND


def test_a_path_in_no_mount_is_exit_status_3_and_one_line(fails, tmp_path):
    exit_code, said = fails("refresh", str(tmp_path))
    assert exit_code == NOT_FOUND == 3
    assert said == f"{tmp_path}: is not under a mount; 'tigrismount status' lists the mounts"


@pytest.mark.parametrize(
    "command",
    [("refresh", "."), ("warm", "./x"), ("cache", "list", "./x"), ("inspect", "x")],
    ids=lambda words: words[0],
)
def test_a_path_from_a_directory_that_was_removed_is_bad_usage(fails, tmp_path, monkeypatch, command):
    """As in a shell that stands in a mount which was taken away. Mutation: an internal error that is to be reported."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    exit_code, line = fails(*command)
    assert (exit_code, line) == (2, f"{command[-1]}: the working directory was removed; run this in another one")
