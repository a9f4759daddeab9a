"""The kernel's descriptor, and what is said to the kernel without having been asked.

Notifications do not go through the library: where a lane stands before it (``lane``), the library does not hold this
descriptor, and a block that is pushed would not fit through the socket that it holds instead. They are written whole or
not at all, and the kernel's answer is the errno.

Some of them wait in the kernel, for pages whose READ is under way or for a directory that a look-up holds. So they are
written in threads, and never by who answers requests.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
from typing import TYPE_CHECKING

from tigrismount.fuse import wire

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)

_BACKING_OPEN = 0x4010E501
"""``FUSE_DEV_IOC_BACKING_OPEN``: _IOW(229, 1, struct fuse_backing_map) (linux/fuse.h)."""
_BACKING_CLOSE = 0x4004E502
"""``FUSE_DEV_IOC_BACKING_CLOSE``: _IOW(229, 2, uint32_t)."""
_BACKING_MAP = struct.Struct("=iIQ")  # fd, flags, padding


class Kernel:
    """One connection's descriptor; before :meth:`attach` everything fails with EBADF."""

    def __init__(self) -> None:
        self.fd = -1
        """The descriptor; whoever attached it closes it."""
        self._counts_sent = False
        self._sent_bytes: dict[int, int] = {}

    def attach(self, fd: int, *, counts_sent: bool = False) -> None:
        """Speak to the kernel through *fd* from now on.

        Args:
            fd: The connection.
            counts_sent: Whether somebody asks how much of each node was sent.
        """
        self.fd = fd
        self._counts_sent = counts_sent

    def answer(self, *parts: bytes | memoryview) -> bool:
        """Write an answer; return whether anybody waited for it.

        A request may be gone: its process was killed before it was read, or it has been answered by another worker.
        """
        try:
            os.writev(self.fd, parts)
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENODEV, errno.ECONNABORTED):
                log.warning("the kernel does not take an answer: %s", exc.strerror)
            return False
        return True

    def resend(self) -> None:
        """Have the kernel send requests again that a former worker took with it."""
        try:
            os.write(self.fd, wire.RESEND)
        except OSError as exc:
            log.warning("this kernel cannot send requests again (%s): reads in flight may fail", exc.strerror)

    def store_pages(self, node_id: int, start: int, data: memoryview) -> None:
        """Put bytes into the kernel's cache of a node; in a thread, since it waits for pages whose READ is under way.

        Args:
            node_id: A node that the kernel knows.
            start: First byte, at the start of a page.
            data: What is there; ends with a page or with the file, and never behind it.

        Raises:
            OSError: The kernel does not know the node (ENOENT), cannot (ENOSYS), or the connection is gone.
        """
        os.writev(self.fd, [wire.store_pages(node_id, start, len(data)), data])
        self.note_sent(node_id, len(data))

    def forget_name(self, parent_id: int, name: bytes) -> None:
        """Have a name forgotten; in a thread, since it waits for look-ups in the directory.

        Raises:
            OSError: The kernel does not know it (ENOENT), or the connection is gone.
        """
        os.write(self.fd, wire.forget_name(parent_id, name))

    def forget_pages(self, node_id: int) -> None:
        """Have all pages of a node dropped; in a thread, since it waits for those whose READ is under way.

        One that the kernel does not know is no error.
        """
        try:
            os.write(self.fd, wire.forget_node(node_id))
        except FileNotFoundError:
            pass
        except OSError as exc:
            log.warning("the kernel keeps pages of node %d: %s", node_id, exc)

    def forget_attributes(self, node_ids: Iterable[int]) -> None:
        """Have attributes of nodes asked for again, and keep their pages; in a thread, where they are many.

        Those that the kernel does not know are no error.
        """
        for node_id in node_ids:
            try:
                os.write(self.fd, wire.forget_node(node_id, pages=False))
            except FileNotFoundError:
                pass
            except OSError as exc:
                log.warning("the kernel keeps attributes: %s", exc)
                return

    def note_sent(self, node_id: int, size_bytes: int) -> None:
        """Note that the kernel has got bytes of a node for its page cache."""
        if self._counts_sent:
            self._sent_bytes[node_id] = self._sent_bytes.get(node_id, 0) + size_bytes

    def take_sent(self, node_id: int) -> int:
        """Return about how many bytes of a node the kernel has got since this was last asked."""
        return self._sent_bytes.pop(node_id, 0)

    def open_backing(self, fd: int) -> int:
        """Return the id of an open file that reads may go to; the kernel keeps it open until :meth:`close_backing`.

        Raises:
            OSError: Not privileged (EPERM), or the file's filesystem is itself stacked (ELOOP).
        """
        # Only with memory that can be written does Python return what the call did.
        return int(fcntl.ioctl(self.fd, _BACKING_OPEN, bytearray(_BACKING_MAP.pack(fd, 0, 0))))

    def close_backing(self, backing_id: int) -> None:
        """Let the kernel close a backing file, once no file is open onto it; an unknown id is no mistake."""
        try:
            fcntl.ioctl(self.fd, _BACKING_CLOSE, struct.pack("=I", backing_id))
        except OSError as exc:
            if exc.errno != errno.ENOENT:
                log.warning("the kernel keeps backing file %d: %s", backing_id, exc)
