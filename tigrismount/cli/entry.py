"""Where the executables begin, and Ctrl-C is told in one line from the first import on.

To import a command takes a tenth of a second or two, in which people see what they have typed wrong. So nothing is
imported here that Python does not have at hand when it starts.
"""

from __future__ import annotations

import os
import sys

_INTERRUPTED, _INTERRUPTED_MOUNT = 130, 8
"""As ``failure`` and ``mount_tigris`` have them."""


def run() -> None:
    """Be ``tigrismount``."""
    try:
        from tigrismount.cli.main import run as begin

        begin()
    except KeyboardInterrupt:
        _end(_INTERRUPTED)


def mount_tigris() -> None:
    """Be ``mount.tigris``, which has exit statuses of its own."""
    try:
        from tigrismount.cli.mount_tigris import run as begin

        begin()
    except KeyboardInterrupt:
        _end(_INTERRUPTED_MOUNT)


def _end(status: int) -> None:
    try:  # noqa: SIM105 -- contextlib would have to be imported
        os.write(2, b"tigrismount: error: interrupted\n")
    except OSError:
        pass
    sys.exit(status)
