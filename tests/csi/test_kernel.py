"""What the driver asks of the kernel, where the kernel or the node has nothing left to give."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tigrismount.csi import kernel
from tigrismount.errors import MountError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_mount_that_cannot_be_looked_up_is_taken_away_and_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: its descriptor stays open and nobody serves it, so that whoever looks at it, this driver before each
    next try included, waits for ever."""
    connection, kernels = os.pipe()
    os.write(kernels, b"INIT")
    unmounted: list[tuple[str, bool]] = []

    def no_descriptor_left(_: str) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(kernel, "mount", lambda _: connection)
    monkeypatch.setattr(kernel, "describe_init", lambda _: None)
    monkeypatch.setattr(kernel, "mount_at", no_descriptor_left)
    monkeypatch.setattr(kernel, "unmount", lambda at, *, lazy=False: unmounted.append((at, lazy)))
    with pytest.raises(MountError, match="Too many open files"):
        kernel.make_mount(tmp_path, "source", None)
    assert unmounted == [(str(tmp_path), True)]
    with pytest.raises(BrokenPipeError):
        os.write(kernels, b"\0")
    os.close(kernels)
