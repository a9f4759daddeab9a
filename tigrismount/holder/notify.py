"""Telling systemd how it goes, and leaving descriptors with it: sd_notify(3) without its library.

Every call does nothing where no systemd waits for it. Descriptors in the *store* come back to the process that systemd
starts after this one has died, which is how a mount outlives its supervisor on a host.

Source: sd_notify(3), sd_listen_fds(3).
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

_FIRST_FD = 3  # SD_LISTEN_FDS_START
_BARRIER_MS = 5000


class Notifier:
    """Speaks to the service manager that started this process, if one did.

    Args:
        environment: Where ``NOTIFY_SOCKET`` is looked up.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address

    @property
    def is_heard(self) -> bool:
        """Whether anybody waits for what is said here."""
        return bool(self._address)

    def say(self, *lines: str, fds: Sequence[int] = ()) -> bool:
        """Send *lines*, and *fds* with them; return whether that was possible, where somebody waits for it."""
        if not self._address:
            return True
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(self._address)
            sender.sendmsg(["\n".join(lines).encode()], ancillary)
            return True
        return False

    def store(self, name: str, fd: int) -> bool:
        """Leave a duplicate of *fd* with systemd, in the place of what it may have under that name; as :meth:`say`."""
        # Of two under one name the older one would be found.
        return self.remove(name) and self.say("FDSTORE=1", f"FDNAME={name}", fds=[fd])

    def remove(self, *names: str) -> bool:
        """Have systemd close what it keeps under *names*; as :meth:`say`."""
        said = [self.say("FDSTOREREMOVE=1", f"FDNAME={name}") for name in names]
        return all(said)

    def wait_until_heard(self) -> None:
        """Wait until everything said so far was taken: what a process that ends at once has said may get lost."""
        if not self._address:
            return
        try:
            read_fd, write_fd = os.pipe()
        except OSError:  # such as no descriptor left on this machine: nothing depends on being heard
            return
        try:
            self.say("BARRIER=1", fds=[write_fd])
            os.close(write_fd)
            poll = select.poll()
            poll.register(read_fd, 0)
            poll.poll(_BARRIER_MS)
        finally:
            os.close(read_fd)


def take_stored(environment: MutableMapping[str, str]) -> dict[str, int]:
    """Return the descriptors that systemd has passed to this process, by name; only the first call finds any."""
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "0")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    fds = range(_FIRST_FD, _FIRST_FD + int(count))
    for fd in fds:
        os.set_inheritable(fd, False)
    return dict(zip(names, fds, strict=False))
