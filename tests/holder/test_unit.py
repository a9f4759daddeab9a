from __future__ import annotations

import pytest

from tigrismount.errors import MountError
from tigrismount.holder.unit import read_unit


def read(tmp_path, text: str | None, name: str = "models"):
    if text is not None:
        (tmp_path / ".config/tigrismount").mkdir(parents=True)
        (tmp_path / f".config/tigrismount/{name}.toml").write_text(text)
    return read_unit(name, uid=1000, home=str(tmp_path))


def test_without_a_file_the_name_is_the_bucket(tmp_path):
    unit = read(tmp_path, None, "my-bucket")
    assert (unit.source, unit.mountpoint) == ("s3://my-bucket", f"{tmp_path}/mnt/tigris/my-bucket")
    assert unit.file is None


def test_roots_mounts_are_the_systems():
    assert read_unit("no-such-unit", uid=0, home="/root").mountpoint == "/mnt/tigris/no-such-unit"


def test_a_file_says_otherwise(tmp_path):
    unit = read(tmp_path, 'source = "t3://b/p"\nmountpoint = "/models/b"\nkernel-read-ahead = 0\n')
    assert (unit.source, unit.mountpoint) == ("t3://b/p", "/models/b")
    assert unit.settings["kernel-read-ahead"] == 0
    assert unit.file == f"{tmp_path}/.config/tigrismount/models.toml"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("source = 1", "source must be a text"),
        ('mountpoint = ""', "mountpoint must be a text"),
        ('mountpoint = "models"', "must be an absolute path"),
        ('mountpoint = "/models/../etc"', "must be an absolute path"),
        ('mountpoint = "/models/"', "must be an absolute path"),
        ("mountpoint = ", "is not TOML"),
    ],
    ids=str,
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path, text, why):
    with pytest.raises(MountError, match=why):
        read(tmp_path, text)


@pytest.mark.parametrize("name", ["", "../etc/shadow", ".hidden", "a/b"])
def test_a_name_is_a_file_name(tmp_path, name):
    with pytest.raises(MountError, match="is not a file name"):
        read_unit(name, uid=1000, home=str(tmp_path))
