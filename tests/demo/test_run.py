from __future__ import annotations

import contextlib
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


class Nothing(contextlib.AbstractContextManager[None]):
    """Stands for the server, and for the mount."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def env(self) -> dict[str, str]:
        return {}


def test_a_directory_may_be_named_from_here(tmp_path, monkeypatch):
    """Mutation: with Python 3.11 all of the demo runs, and then there is an internal error in place of its figures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "_check_needs", lambda *_: None)
    monkeypatch.setattr(run, "EmbeddedS3", Nothing)
    monkeypatch.setattr(run, "DemoMount", Nothing)
    monkeypatch.setattr(run._Scenes, "__init__", lambda *_: None)
    monkeypatch.setattr(run._Scenes, "play", lambda *_: None)
    assert run.run_demo(directory=".") == 0
