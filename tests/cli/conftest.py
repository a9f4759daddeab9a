from __future__ import annotations

from dataclasses import dataclass

import pytest

from tigrismount.cli.main import main
from tigrismount.testing.mount import require_fuse


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    exit_code: int
    out: str
    err: str


@pytest.fixture
def tigrismount(capfd, monkeypatch):
    """Run the command line in this process, with none of the caller's own settings."""
    for variable in ("BUCKET_NAME", "TIGRIS_STORAGE_BUCKET", "MODEL_BUCKET_NAME", "AWS_CA_BUNDLE", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)

    def run(*arguments: str) -> Ended:
        exit_code = main(arguments)
        captured = capfd.readouterr()
        return Ended(exit_code, captured.out, captured.err)

    return run


@pytest.fixture
def fuse():
    """Real mounts; says why where there can be none."""
    require_fuse()


@pytest.fixture
def fails(tigrismount):
    """Run a command that must fail, and return its exit code and the one line it said."""

    def run(*arguments: str) -> tuple[int, str]:
        ended = tigrismount(*arguments)
        assert ended.out == ""
        assert ended.err.startswith("tigrismount: error: ")
        assert ended.err.count("\n") == 1
        return ended.exit_code, ended.err.removeprefix("tigrismount: error: ").strip()

    return run
