"""A name server that knows one name, and commands that ask it and no other.

``getaddrinfo`` reads ``/etc/resolv.conf`` and knows no other port than 53, so the server listens there, on a loopback
address of its own, and the commands run in a mount namespace in which another file lies over that one. Both take root.
What is mounted in the namespace is seen outside where the directory it is mounted in is shared.

Source: RFC 1035 section 4.1; resolv.conf(5); mount_namespaces(7).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

Mood = Literal["answer", "silent", "servfail", "nxdomain"]
_CODES: dict[Mood, int] = {"answer": 0, "servfail": 2, "nxdomain": 3}
_HEADER = struct.Struct("!6H")
_TYPE_A = 1
_OVERLAY = """
for name in resolv.conf nsswitch.conf; do
    file=/etc/$name
    mount --make-private "$(stat -L -c %m "$file")" && mount --bind "$0/$name" "$file" || exit 1
done
echo ready
exec sleep 3600
"""
"""Private is only the mount that the files lie on: what lies over them shall be seen nowhere else."""


class NameServer:
    """The server, for a ``with`` block.

    Args:
        name: The name that has an address; it is 127.0.0.1.

    Raises:
        OSError: Not allowed to listen on port 53.
    """

    def __init__(self, name: str) -> None:
        self._name = name.lower().rstrip(".")
        self.address = f"127.84.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"
        """Where it listens."""
        self.mood: Mood = "answer"
        """What it does with questions from now on."""
        self.questions = 0
        """Questions so far, answered or not."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((self.address, 53))

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # says that it is not connected, and wakes the thread
        self._socket.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                question, sender = self._socket.recvfrom(4096)
                if not question:
                    return
                self.questions += 1
                if self.mood != "silent":
                    self._socket.sendto(self._answer(question), sender)

    def _answer(self, question: bytes) -> bytes:
        number, flags, *_ = _HEADER.unpack_from(question)
        end = question.index(b"\0", _HEADER.size) + 5
        asked = question[_HEADER.size : end]
        kind = struct.unpack_from("!H", asked, len(asked) - 4)[0]
        code = _CODES[self.mood] if _name_of(asked) == self._name else _CODES["nxdomain"]
        record = b""
        if code == 0 and kind == _TYPE_A:  # of no validity beyond this answer
            record = struct.pack("!HHHLH4s", 0xC00C, _TYPE_A, 1, 0, 4, socket.inet_aton("127.0.0.1"))
        header = _HEADER.pack(number, 0x8080 | flags & 0x0100 | code, 1, bool(record), 0, 0)
        return header + asked + record


def _name_of(asked: bytes) -> str:
    labels, position = [], 0
    while asked[position]:
        labels.append(asked[position + 1 : position + 1 + asked[position]])
        position += 1 + asked[position]
    return b".".join(labels).decode("latin-1").lower()


@contextlib.contextmanager
def asking(server: NameServer, directory: Path) -> Iterator[list[str]]:
    """Make a namespace in which names are asked of *server*, and give what to put in front of a command.

    Args:
        server: The server.
        directory: An empty directory for the namespace's files.

    Raises:
        OSError: This machine lets us make none.
    """
    # Loopback answers at once or not at all, so the shortest wait there is.
    options = "options timeout:1 attempts:1\n"
    (directory / "resolv.conf").write_text(f"nameserver {server.address}\n{options}")
    (directory / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    command = ["unshare", "--mount", "--propagation=unchanged", "sh", "-c", _OVERLAY, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            if process.stdout.readline() != "ready\n":
                raise PermissionError(process.stderr.read().strip())
            yield ["nsenter", "--target", str(process.pid), "--mount", "--"]
        finally:
            process.kill()
