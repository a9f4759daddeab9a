from __future__ import annotations

import pytest

from tigrismount.cli.knobs import missing_knobs
from tigrismount.holder.mountinfo import FUSE_TYPE, MountEntry

ENTRY = MountEntry(
    mount_id=1, device="0:45", mountpoint="/m", type=FUSE_TYPE, source="s3://b", super_options=("user_id=5",)
)
CONFIG = {"kernel_read_ahead": {"value": 4096, "from": "default"}}


@pytest.fixture
def sys_root(tmp_path):
    """The kernel's settings of the mount."""

    def make(read_ahead: int, background: int) -> str:
        for path, value in (
            ("class/bdi/0:45/read_ahead_kb", read_ahead),
            ("fs/fuse/connections/45/max_background", background),
        ):
            (tmp_path / path).parent.mkdir(parents=True)
            (tmp_path / path).write_text(f"{value}\n")
        return str(tmp_path)

    return make


def test_what_is_lower_than_it_should_be_comes_with_the_command_that_sets_it(sys_root):
    root = sys_root(128, 12)
    ahead, background = missing_knobs(ENTRY, CONFIG, root=root)
    assert (ahead["value"], ahead["wanted"]) == (128, 4096)
    assert ahead["command"] == f"echo 4096 | sudo tee {root}/class/bdi/0:45/read_ahead_kb"
    assert background["command"] == f"echo 64 | sudo tee {root}/fs/fuse/connections/45/max_background"


def test_what_is_set_or_higher_is_not_mentioned(sys_root):
    assert missing_knobs(ENTRY, CONFIG, root=sys_root(4096, 128)) == []


def test_what_the_user_left_to_the_kernel_is_not_mentioned(sys_root):
    assert missing_knobs(ENTRY, {"kernel_read_ahead": {"value": None}}, root=sys_root(128, 64)) == []


def test_a_host_that_shows_nothing_is_not_judged(tmp_path):
    assert missing_knobs(ENTRY, CONFIG, root=str(tmp_path)) == []
