"""What the driver remembers of its mounts over its own end: one small file for each, in a directory of its own.

The mounter knows more, and is asked first; these files say what there is when both have ended, and that a path is the
driver's own to unmount. They hold no secret. A file is replaced whole, so that one which is there can be read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
from typing import TYPE_CHECKING

from tigrismount.errors import MountError
from tigrismount.mounter.wire import Order

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

_SUFFIX = ".json"
_UNREAD = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)


class Records:
    """The files.

    Args:
        directory: Where; made when it is missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, order: Order) -> None:
        """Remember a mount, before it is made.

        Raises:
            MountError: It cannot be written.
        """
        path = self._path(order.mount_id)
        values = order.to_values()
        del values["secret"]
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            temporary = path.with_suffix(".new")
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(values, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as exc:
            raise MountError(f"{path}: cannot be written: {exc.strerror}") from exc

    def forget(self, mount_id: str) -> None:
        """Remove the file of a mount, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(mount_id))

    def read(self) -> Iterator[Order]:
        """Yield what is remembered; a file that makes no sense is left where it is, and said.

        Raises:
            MountError: This machine is short of something, or its disk fails: a mount that is passed over would be
                ended by whoever hears of it.
        """
        with contextlib.suppress(FileNotFoundError):
            for path in sorted(self._directory.iterdir()):
                if path.suffix != _SUFFIX:
                    continue
                try:
                    yield Order.from_values({**json.loads(path.read_text("utf-8")), "secret": {}})
                except (OSError, ValueError, TypeError, MountError) as exc:
                    if isinstance(exc, OSError) and exc.errno in _UNREAD:
                        raise MountError(f"{path}: cannot be read: {exc.strerror}") from exc
                    log.warning("%s: makes no sense and is passed over: %s", path, exc)

    def _path(self, mount_id: str) -> Path:
        return self._directory / (hashlib.sha256(mount_id.encode()).hexdigest()[:32] + _SUFFIX)
