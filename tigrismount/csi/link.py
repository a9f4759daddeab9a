"""The driver's end of its conversation with the mounter: one socket, one thread that reads.

Any thread may ask, and waits for the answer that repeats its number; what comes without a number goes to who made the
link, in the reading thread. One mounter is spoken to at a time. One that connects meanwhile waits in the socket's queue
until the first has gone, which is what a rollout wants.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import socket
import threading
import time
from typing import TYPE_CHECKING

from tigrismount.errors import MountError
from tigrismount.mounter.wire import channel_on, driver_socket, peer_uid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tigrismount.holder.protocol import Channel, Message

log = logging.getLogger(__name__)

_BACKLOG = 4
_SOCKET_UMASK = 0o111
_NUMBER_BYTES = 6
"""Of the first question's number: whole in any program's idea of a number in JSON."""


class MounterGoneError(Exception):
    """There is no mounter, or it went away before it answered."""


class AnswerTimeoutError(Exception):
    """The mounter did not answer in time."""


class Link:
    """Listens for mounters in a directory.

    Args:
        comm_dir: Where; made when it is missing.
        mounter_uid: Who may connect, besides root and this process's own user.
        on_message: Told each message that answers nothing; owns its descriptors.
    """

    def __init__(self, comm_dir: str, mounter_uid: int, on_message: Callable[[Message], None]) -> None:
        self._comm_dir = comm_dir
        self._mounter_uid = mounter_uid
        self._on_message = on_message
        self._listener: socket.socket | None = None
        self._channel: Channel | None = None
        self._changed = threading.Condition()
        self._alone_since_s = time.monotonic()
        self._waiting: dict[int, queue.SimpleQueue[Message | None]] = {}
        # Not from 1: the mounter may still owe an answer to a driver before this one, and gives it to whoever is there.
        self._numbers = itertools.count(int.from_bytes(os.urandom(_NUMBER_BYTES)))

    def open(self) -> None:
        """Listen, and serve mounters from now on.

        Raises:
            MountError: The directory cannot be used.
        """
        path = driver_socket(self._comm_dir)
        try:
            os.makedirs(self._comm_dir, mode=0o700, exist_ok=True)
            _give_directory(self._comm_dir, self._mounter_uid)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            # What lies in the directory is the mounter's to replace: nothing there may have its owner or mode changed
            # by name. Nobody else can enter, so the socket is for all who can.
            umask = os.umask(_SOCKET_UMASK)
            try:
                self._listener.bind(path)
            finally:
                os.umask(umask)
            self._listener.listen(_BACKLOG)
        except OSError as exc:
            raise MountError(f"{self._comm_dir}: cannot be used to meet the mounter: {exc.strerror or exc}") from exc
        threading.Thread(target=self._serve, name="link to the mounter", daemon=True).start()

    def close(self) -> None:
        """Listen no longer; the mounter serves on and waits for the next driver."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        channel = self._channel
        if channel is not None:
            channel.shutdown()

    @property
    def is_connected(self) -> bool:
        """Whether there is a mounter."""
        return self._channel is not None

    def alone_s(self) -> float:
        """Return for how many seconds there has been no mounter, 0 where there is one."""
        return 0.0 if self._channel is not None else time.monotonic() - self._alone_since_s

    def wait_for_mounter(self, timeout_s: float) -> bool:
        """Return whether there is a mounter within *timeout_s* seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._channel is not None, timeout_s)

    def tell(self, type_: str, fds: Sequence[int] = (), /, **body: object) -> None:
        """Send a message that wants no answer; nobody misses it where there is no mounter."""
        channel = self._channel
        if channel is not None:
            with contextlib.suppress(MountError):
                channel.send(type_, fds, **body)

    def ask(self, type_: str, fds: Sequence[int] = (), /, *, timeout_s: float, **body: object) -> Message:
        """Send a question and return its answer.

        Raises:
            MounterGoneError: There is no mounter, or it went away.
            AnswerTimeoutError: It did not answer in time.
        """
        number = next(self._numbers)
        answers: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._waiting[number] = answers
        try:
            channel = self._channel
            if channel is None:
                raise MounterGoneError
            try:
                channel.send(type_, fds, order=number, **body)
            except MountError as exc:
                raise MounterGoneError from exc
            try:
                answer = answers.get(timeout=max(0.0, timeout_s))
            except queue.Empty:
                raise AnswerTimeoutError from None
        finally:
            del self._waiting[number]
        if answer is None:
            raise MounterGoneError
        return answer

    # ------------------------------------------------------------------ the reading thread

    def _serve(self) -> None:
        while (listener := self._listener) is not None:
            try:
                sock, _ = listener.accept()
            except OSError as exc:
                if self._listener is None:
                    return
                log.warning("a mounter cannot be taken: %s", exc)
                time.sleep(1)
                continue
            uid = peer_uid(sock)
            if uid not in (0, os.geteuid(), self._mounter_uid):
                log.error("user %d connected, who is not the mounter (%d): hung up", uid, self._mounter_uid)
                sock.close()
                continue
            self._converse(channel_on(sock))

    def _converse(self, channel: Channel) -> None:
        log.info("a mounter has connected")
        with self._changed:
            self._channel = channel
            self._changed.notify_all()
        try:
            while (message := self._receive(channel)) is not None:
                self._dispatch(message)
        finally:
            with self._changed:
                self._alone_since_s = time.monotonic()
                self._channel = None
            channel.close()
            for answers in list(self._waiting.values()):
                answers.put(None)
        log.warning("the mounter has gone; the next one is given all mounts")

    @staticmethod
    def _receive(channel: Channel) -> Message | None:
        try:
            return channel.receive()
        except (MountError, OSError) as exc:
            log.warning("the mounter does not make sense and is hung up on: %s", exc)
            return None

    def _dispatch(self, message: Message) -> None:
        number = message.body.get("order")
        if isinstance(number, int):
            answers = self._waiting.get(number)
            if answers is not None and not message.fds:
                answers.put(message)
                return
        try:
            self._on_message(message)
        except Exception:
            log.exception("a message of the mounter was not understood: %s", message.type)


def _give_directory(path: str, uid: int) -> None:
    """Make *path* a directory that only *uid*, and root, can enter."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(fd, 0o700)
        if os.geteuid() == 0:
            os.fchown(fd, uid, -1)
    finally:
        os.close(fd)
