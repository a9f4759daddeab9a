from __future__ import annotations

import pytest

from tigrismount.errors import MountError
from tigrismount.holder.preflight import prepare_mountpoint


def prepare(path, *, nonempty=False):
    prepare_mountpoint(str(path), nonempty=nonempty, log=pytest.fail)


def test_an_empty_directory_is_fit(tmp_path):
    prepare(tmp_path)


def test_a_directory_that_is_missing_says_how_to_make_it(tmp_path):
    with pytest.raises(MountError, match=f"does not exist; 'mkdir -p {tmp_path}/a/b' first"):
        prepare(tmp_path / "a" / "b")


def test_a_command_to_copy_is_one_word_for_a_path_with_spaces(tmp_path):
    """Mutation: two directories are made, and neither is the one."""
    with pytest.raises(MountError, match=f"'mkdir -p '{tmp_path}/my models'' first"):
        prepare(tmp_path / "my models")


def test_a_file_is_no_mountpoint(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MountError, match="is not a directory"):
        prepare(tmp_path / "file")


def test_what_a_directory_holds_is_not_hidden_unasked(tmp_path):
    (tmp_path / "precious").touch()
    with pytest.raises(MountError, match="is not empty \\(there is 'precious'\\)"):
        prepare(tmp_path)
    prepare(tmp_path, nonempty=True)


def test_a_path_through_a_file_is_told_with_its_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MountError, match="cannot be mounted on: Not a directory"):
        prepare(tmp_path / "file" / "x")
