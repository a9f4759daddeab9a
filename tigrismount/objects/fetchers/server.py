"""The fetch process: sends GETs and receives their bodies straight into the worker's memory.

It decides nothing: a GET comes with all that it takes, its answer is judged by the worker, and so is every failure. A
thread serves each line (``wire``), and between a range that is lent and the answer to it, that thread alone writes
there. The main thread listens to the worker, whose end is ours. Another one says from time to time that the interpreter
still turns.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from tigrismount.errors import ObjectError, ObjectProtocolError, ObjectUnavailableError
from tigrismount.objects.connection import make_boto_client
from tigrismount.objects.failures import translated
from tigrismount.objects.fetchers import wire
from tigrismount.objects.gets import object_getter
from tigrismount.objects.ranges import range_answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tigrismount.objects.fetchers.memory import SharedMemory
    from tigrismount.objects.keys import PassedKeys
    from tigrismount.objects.options import S3Config
    from tigrismount.objects.ranges import RangeAnswer, RangeGet

log = logging.getLogger(__name__)

BEAT_S = 0.5
"""Time between two signs of life."""
_SEEN = ("server", "x-cache")
"""Headers of answers that are errors from which the worker learns who answers."""
_SEEN_CHARACTERS = 200
"""Of each of them: what is looked for stands at the beginning, and messages are short."""


class FetchServer:
    """Serves the worker at the other end of *control*.

    Args:
        control: Where it speaks.
        memory: Its memory.
        index: Which of its fetch processes this is.
        config: How to reach the store.
        keys: Sign requests with the keys that come with them.
    """

    def __init__(
        self, control: socket.socket, memory: SharedMemory, index: int, config: S3Config, keys: PassedKeys
    ) -> None:
        self._control = control
        self._memory = memory
        self._index = index
        self._keys = keys
        boto = make_boto_client(config, keys, config.concurrency)
        self._headers = GivenHeaders()
        self._headers.register(boto.meta.events)
        self._get_object = object_getter(boto, keys, self._headers)
        self._lines: dict[int, _Line] = {}

    def run(self) -> None:
        """Serve until the worker is gone."""
        threading.Thread(target=self._beat, daemon=True).start()
        while True:
            message, fds, _, _ = socket.recv_fds(self._control, wire.SHORT_BYTES, 1)
            if not message:
                return
            if message[:1] == wire.LINE:
                if fds:  # else no descriptor is left: the kernel has closed it, and the worker sees the end of the line
                    self._serve_line(wire.take_line(message), socket.socket(fileno=fds[0]))
            elif message[:1] == wire.INTERRUPT:
                number, serial = wire.take_interrupt(message)
                self._lines[number].interrupt(serial)

    def _serve_line(self, number: int, connection: socket.socket) -> None:
        line = self._lines[number] = _Line(connection, self)
        try:
            threading.Thread(target=line.run, daemon=True).start()
        except RuntimeError:  # the system has no thread left: the worker sees the end of a line that said nothing
            connection.close()

    def send(self, get: RangeGet, key: wire.SigningKey | None) -> RangeAnswer:
        """Send a GET from the calling thread."""
        self._headers.give(get)
        self._keys.sign_with(key)
        with translated(get.target):
            return range_answer(self._get_object(**get.arguments))

    def seen(self) -> Mapping[str, str]:
        """Return what headers of the last answer to the calling thread tell of who answers."""
        return self._headers.seen

    def view(self, offset: int, size_bytes: int) -> memoryview:
        """Return memory that is lent."""
        return self._memory.view(offset, size_bytes)

    def _beat(self) -> None:
        while True:
            self._memory.beat(self._index)
            time.sleep(BEAT_S)


class GivenHeaders(threading.local):
    """The headers that came with the request of each thread, and what its answer's tell."""

    def __init__(self) -> None:
        self._get: RangeGet | None = None
        self.seen: dict[str, str] = {}
        """Headers of the last answer from which the worker learns who answers."""

    def register(self, events: Any) -> None:
        """Work for the boto3 client that owns *events*, where that sends the requests (``gets``)."""
        events.register("before-sign.s3.GetObject", self._before_sign)
        events.register("before-send.s3.GetObject", self._before_send)
        events.register("after-call.s3.GetObject", self._after_call)

    def give(self, get: RangeGet) -> None:
        """Send what this thread sends next with its headers."""
        self._get, self.seen = get, {}

    def signed(self, _operation: str) -> Mapping[str, str]:
        """Return what this thread's request has to sign."""
        return self._get.signed if self._get is not None else {}

    def unsigned(self) -> Mapping[str, str]:
        """Return what goes with it beside that."""
        return self._get.unsigned if self._get is not None else {}

    def observe(self, headers: Mapping[str, str]) -> None:
        """Keep what tells who answers."""
        self.seen = {name: headers[name][:_SEEN_CHARACTERS] for name in _SEEN if name in headers}

    def _before_sign(self, request: Any, **_: Any) -> None:
        for name, value in self.signed("").items():
            del request.headers[name]  # assignment alone would add a second one to a request that is signed again
            request.headers[name] = value

    def _before_send(self, request: Any, **_: Any) -> None:
        request.headers.update(self.unsigned())

    def _after_call(self, http_response: Any, **_: Any) -> None:
        self.observe(http_response.headers)


class _Line:
    """One line; run by a thread of its own.

    Args:
        connection: To the worker.
        server: Whose line it is.
    """

    def __init__(self, connection: socket.socket, server: FetchServer) -> None:
        self._connection = connection
        self._server = server
        self._lock = threading.Lock()
        self._serial = 0
        self._get: RangeGet | None = None
        self._answer: RangeAnswer | None = None
        """What is being read, until it ends or fails."""

    def interrupt(self, serial: int) -> None:
        """End the read of a GET, if it is still that one's; called from the main thread."""
        with self._lock:
            if self._answer is not None and self._serial == serial:
                self._answer.body.interrupt()

    def run(self) -> None:
        """Answer messages until the worker is gone."""
        # Whatever ends it, the worker must see the end of the line: it waits for as long as this process is alive.
        with self._connection, contextlib.suppress(OSError):
            while message := self._connection.recv(wire.HEAD_BYTES):
                reply = self._reply(message)
                if reply:
                    self._connection.send(reply)
        # The worker is ending, or has given this process up: the main thread will hear of it.

    def _reply(self, message: bytes) -> bytes:
        """Do what *message* asks and return what to say to it; nothing where it expects no word."""
        if message[:1] == wire.END:
            self._end(complete=wire.take_end(message))
            return b""
        try:
            return self._head(message) if message[:1] == wire.GET else self._filled(message)
        except ObjectError as exc:
            self._end(complete=False)
            return wire.error_message(exc, self._server.seen())
        except Exception as exc:
            log.exception("a fetch process failed")
            self._end(complete=False)
            return wire.error_message(ObjectUnavailableError(f"a fetch process failed: {exc!r}"), {})

    def _head(self, asked: bytes) -> bytes:
        serial, get, key = wire.take_get(asked)
        self._get = get
        answer = self._server.send(get, key)
        with self._lock:
            self._serial, self._answer = serial, answer
        message = wire.head_message(wire.Head(answer.status, answer.headers, answer.version_id))
        if len(message) > wire.HEAD_BYTES:
            detail = f"an answer with headers of more than {wire.HEAD_BYTES} bytes"
            raise ObjectProtocolError(detail, bucket=get.target.bucket, key=get.target.key)
        return message

    def _filled(self, message: bytes) -> bytes:
        if self._answer is None or self._get is None:
            return wire.error_message(ObjectUnavailableError("the body has ended"), {})
        view = self._server.view(*wire.take_read(message))
        with translated(self._get.target):
            return wire.filled_message(self._answer.body.readinto(view))

    def _end(self, *, complete: bool) -> None:
        with self._lock:
            answer, self._answer = self._answer, None
        if answer is not None:
            answer.body.close(complete=complete)
