from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tigrismount.csi.records import Records
from tigrismount.errors import MountError
from tigrismount.mounter.wire import Order

SECRET = {"AWS_SECRET_ACCESS_KEY": "hidden"}


def order(mount_id: str) -> Order:
    return Order(mount_id=mount_id, source="s3://models", options={"push": "off"}, mountpoint="/m", secret=SECRET)


def test_what_is_written_is_read_without_its_secret(tmp_path):
    records = Records(tmp_path / "mounts")
    assert list(records.read()) == []
    for mount_id in ("one", "../two", "ü" * 200):
        records.write(order(mount_id))
    assert {found.mount_id for found in records.read()} == {"one", "../two", "ü" * 200}
    assert all(not found.secret and found.options == {"push": "off"} for found in records.read())
    assert os.listdir(tmp_path) == ["mounts"], "an id chooses no path"
    assert not [path for path in (tmp_path / "mounts").iterdir() if b"hidden" in path.read_bytes()]
    records.forget("../two")
    records.forget("../two")
    assert {found.mount_id for found in records.read()} == {"one", "ü" * 200}


def test_a_file_that_makes_no_sense_is_passed_over(tmp_path):
    records = Records(tmp_path)
    records.write(order("one"))
    (tmp_path / "damaged.json").write_text('{"id": 1')
    (tmp_path / "other.json").write_text("[]")
    (tmp_path / "half.new").write_text("{")
    assert [found.mount_id for found in records.read()] == ["one"]


@pytest.mark.parametrize("code", [errno.ENFILE, errno.EIO], ids=errno.errorcode.get)
def test_no_mount_is_passed_over_because_its_record_cannot_be_read_now(tmp_path, monkeypatch, code):
    """Mutation: the driver knows nothing of it, and has the mounter end it as soon as that speaks of it."""
    records = Records(tmp_path)
    records.write(order("one"))

    def fail(*_: object) -> str:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "read_text", fail)
    with pytest.raises(MountError, match=os.strerror(code)):
        list(records.read())


def test_a_directory_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MountError, match="cannot be written"):
        Records(tmp_path / "file" / "mounts").write(order("one"))
