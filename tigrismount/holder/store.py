"""What systemd keeps of a mount between two processes of its unit: its file descriptor store, by name.

``fuse`` and ``init`` (the connection, and the kernel's first message) come from the privileged helper, ``state`` and
the journal from the supervisor, each time they change. Of the journal there are two names, used in turn, so that a
process killed between two messages leaves a state and the journal that goes with it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from tigrismount.errors import MountError
from tigrismount.holder.conversation import StartError
from tigrismount.holder.heirloom import Heirloom, read_memory_file, write_memory_file
from tigrismount.holder.notify import Notifier, take_stored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tigrismount.holder.connection import Connection
    from tigrismount.holder.request import MountRequest

NAMES = ("fuse", "init", "state", "journal0", "journal1")
"""Everything that is kept."""
_OTHER = {"journal0": "journal1", "journal1": "journal0"}


class Store:
    """systemd's store, where this process was started by a unit that uses it; else nothing.

    Args:
        notify: How systemd is spoken to.
        is_used: Whether there is one.
    """

    def __init__(self, notify: Notifier, *, is_used: bool) -> None:
        self._notify = notify
        self._is_used = is_used
        self._left = (-1, -1)
        self.journal = ""
        """Name of the journal that goes with the state which systemd has; it stays until there is another state."""

    def take(self) -> tuple[int, bytes, Heirloom | None]:
        """Return the connection, the kernel's INIT request, and the state of a supervisor before this one, if any.

        Raises:
            StartError: There is no connection.
            MountError: The state is not valid.
        """
        stored = take_stored(os.environ)
        if "fuse" not in stored or "init" not in stored:
            raise StartError("systemd has passed no descriptor named 'fuse'; the unit needs its ExecStartPre= line")
        os.set_blocking(stored["fuse"], True)
        init_request = read_memory_file(stored["init"])
        if "state" not in stored:
            return stored["fuse"], init_request, None
        heirloom = Heirloom.from_bytes(read_memory_file(stored["state"]))
        fds = {"fuse": stored["fuse"], "journal": stored.get(heirloom.journal, -1)}
        return stored["fuse"], init_request, replace(heirloom, fds=fds, journal_is_there=heirloom.journal in stored)

    def go_on(self, heirloom: Heirloom, connection: Connection) -> None:
        """Go on with what another process has left, whose *connection* was just adopted.

        Its journal keeps its name: systemd takes no file that it has into its store by another one, without a word.
        """
        self.journal = heirloom.journal
        if heirloom.journal and heirloom.journal_is_there:
            self._left = (connection.journal_number, -1)

    def has_journal(self, connection: Connection) -> bool:
        """Tell whether systemd has the journal that is in force, and not only one before it."""
        return self._left[0] == connection.journal_number

    def is_current(self, connection: Connection, count: int) -> bool:
        """Whether what was left is what there is, after *count* takeovers; always so where no store is used."""
        return not self._is_used or self._left == (connection.journal_number, count)

    def leave(self, connection: Connection, heirloom: Heirloom) -> None:
        """Have systemd keep what its next start of this unit needs to take over; it is not current where that fails."""
        has_journal = self.has_journal(connection)
        name = self.journal if has_journal else _OTHER.get(self.journal, "journal0")
        try:
            fd = write_memory_file(replace(heirloom, journal=name, journal_is_there=True).to_bytes())
        except OSError:  # such as no descriptor left on this machine
            return
        has_journal = has_journal or self._notify.store(name, connection.journal_fd)
        if has_journal and self._notify.store("state", fd):
            self._left, self.journal = (connection.journal_number, heirloom.count), name
        os.close(fd)

    def clear(self) -> None:
        """Have systemd keep nothing."""
        if self._is_used:
            self._notify.remove(*NAMES)
            self._notify.wait_until_heard()


def request_of_stored(environment: Mapping[str, str]) -> MountRequest | None:
    """Return what the mount was asked for that systemd holds; None where it holds none that has served.

    What it holds stays for :meth:`Store.take`.
    """
    fd = take_stored(dict(environment)).get("state", -1)
    if fd < 0:
        return None
    try:
        return Heirloom.from_bytes(read_memory_file(fd)).mount_request()
    except MountError:
        return None
