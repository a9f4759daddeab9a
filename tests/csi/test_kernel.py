"""What the driver asks of the kernel, where the kernel or the node has nothing left to give."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tigrismount.csi import kernel
from tigrismount.errors import MountError
from tigrismount.holder.probe import Health
from tigrismount.testing.waiting import wait_until

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


def test_a_look_that_nobody_waits_for_has_an_answer_once_the_child_has(tmp_path: Path) -> None:
    """As the patrol asks. Mutation: every mount counts as hung, loses its worker after 20 s, and is ended after 60."""
    look = kernel.Look(tmp_path)
    wait_until(lambda: look.finding().health is Health.OK)
    assert look.finding().health is Health.OK
    look.close()


def test_a_look_that_hangs_is_waited_for_no_longer_than_asked(tmp_path: Path) -> None:
    look = kernel.Look(tmp_path)
    look._process.send_signal(signal.SIGSTOP)
    assert [look.finding(timeout_s).health for timeout_s in (0.0, -1.0, 0.05)] == [Health.HUNG] * 3
    look.close()
    assert look._process.returncode == -signal.SIGKILL
