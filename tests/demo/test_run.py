from __future__ import annotations

import errno
import tempfile

from tigrismount.demo import run


def test_a_directory_in_which_nothing_can_be_made_is_one_line(tmp_path, monkeypatch, capsys):
    """As /var/tmp in a read-only container. Mutation: an internal error that asks to be reported."""

    def refuse(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(run, "_check_needs", lambda *_: None)
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    assert run.run_demo(directory=str(tmp_path)) == 1
    line = f"{tmp_path}: cannot be used: Read-only file system; choose another with --directory"
    assert capsys.readouterr().err == f"tigrismount: error: {line}\n"
