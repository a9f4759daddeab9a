"""The directory below a plain user's mount, which must not be seen while another mount takes the place of a lost one.

Root stacks the new mount on the lost one. ``fusermount3`` refuses to: the lost one has to go first, and for some
milliseconds the directory below would be there for all to see, empty, like a bucket without objects. So its permission
to be listed is taken away meanwhile. It is held open from before the first mount, as no path leads to it any more.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from tigrismount.errors import MountError

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNLISTABLE = 0o300
"""What fusermount3 asks of a mountpoint (to enter it and to write) and nothing for anybody else."""


def open_directory(path: str) -> int:
    """Return a descriptor of the directory itself, which keeps meaning it once something is mounted there."""
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1  # mounting will say why


@contextlib.contextmanager
def unlistable(fd: int, path: str) -> Iterator[None]:
    """Let nobody list the directory behind *fd* meanwhile.

    Raises:
        MountError: It is not known, or not this user's.
    """
    name = f"/proc/self/fd/{fd}"
    try:
        mode = stat.S_IMODE(os.stat(name).st_mode)
        os.chmod(name, _UNLISTABLE)
    except OSError as exc:
        raise MountError(f"{path}: the directory below cannot be hidden meanwhile: {exc.strerror}") from exc
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.chmod(name, mode)
