"""The mounter: one process without privilege that keeps a worker behind each mount the driver gives it.

It connects to the driver, says what it holds, and does what it is told; each mount is a thread (``keeper``). When the
driver goes away the workers serve on, and the next driver is told everything. SIGTERM hands over: the workers give up
their connections, unanswered requests are left to be sent again, and the driver, which holds all of it as well, has the
next mounter take over. Where there is no driver at that moment it is waited for, since nobody else would hold the
mounts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from tigrismount.config.host import usable_cores
from tigrismount.errors import MountError
from tigrismount.holder.events import Events
from tigrismount.holder.protocol import Message
from tigrismount.mounter.keeper import Keeper
from tigrismount.mounter.wire import Order, channel_on, driver_socket, peer_uid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tigrismount.holder.log import DaemonLog
    from tigrismount.holder.protocol import Channel
    from tigrismount.mounter.log import MountLog
    from tigrismount.mounter.volumes import Installation

RETRY_S = 0.25
"""How soon the driver is looked for again: a mount without a worker may wait for it."""
_LEAST_TAKEOVERS, _TAKEOVERS_PER_CORE = 8, 4
"""Workers that take over at once when a mounter begins; each start takes a second or two of a core."""
_DRIVER_WAIT_S = 10.0
"""How long a driver is waited for on the way out; a third of the time that Kubernetes gives a pod to end."""
_END_S = 15.0
"""How long the keepers may take to end: a worker that is told to has ten seconds."""
_CONNECT_S = 5.0
"""How long connecting may take where others wait already."""


class Mounter:
    """Serves the driver that listens in a directory.

    Args:
        comm_dir: Where it listens.
        installation: What holds for all mounts.
        log: Where messages go.
        make_log: Makes a mount's part of the log from its id.
    """

    def __init__(
        self,
        comm_dir: str,
        installation: Installation,
        log: DaemonLog,
        make_log: Callable[[str], MountLog],
    ) -> None:
        self._comm_dir = comm_dir
        self._installation = installation
        self._log = log
        self._make_log = make_log
        self._events = Events()
        self._keepers: dict[str, Keeper] = {}
        self._keepers_lock = threading.Lock()
        self._channel: Channel | None = None
        self._was_alone = False
        self._leaving = False
        self._turns = threading.Semaphore(max(_LEAST_TAKEOVERS, int(_TAKEOVERS_PER_CORE * usable_cores())))

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return the exit status."""
        with self._events:
            while not self._leaving:
                self._turn()
            self._log.info("leaving: the mounts are left to the next mounter")
            deadline_s = time.monotonic() + _DRIVER_WAIT_S
            while self._channel is None and self._keepers and time.monotonic() < deadline_s:
                self._turn()
            self._leave()
        return 0

    def _turn(self) -> None:
        if self._channel is None:
            self._connect()
        self._events.turn(None if self._channel is not None else RETRY_S)
        while (number := self._events.take_signal()) is not None:
            self._leaving = self._leaving or number in (signal.SIGTERM, signal.SIGINT)

    def _leave(self) -> None:
        keepers = self._all()
        for keeper in keepers:
            keeper.post(Message("leave", {}))
        deadline_s = time.monotonic() + _END_S
        for keeper in keepers:
            keeper.has_released.wait(max(0.0, deadline_s - time.monotonic()))
        self._disconnect()  # the next mounter may begin
        for keeper in keepers:
            keeper.join(max(0.0, deadline_s - time.monotonic()))

    # ------------------------------------------------------------------ the driver

    def _connect(self) -> None:
        sock: socket.socket | None = None
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.settimeout(_CONNECT_S)
            sock.connect(driver_socket(self._comm_dir))
        except OSError as exc:
            if sock is not None:
                sock.close()
            if not self._was_alone:
                self._log.info(f"no driver in {self._comm_dir} yet: {exc.strerror}")
                self._was_alone = True
            return
        uid = peer_uid(sock)
        if uid not in (0, os.geteuid()):
            self._log.error(f"{self._comm_dir}: user {uid} listens there, who is not the driver")
            sock.close()
            time.sleep(RETRY_S)
            return
        self._was_alone = False
        self._channel = channel_on(sock)
        self._events.watch(self._channel.fileno(), self._receive)
        keepers = self._all()
        self._log.info(f"connected to the driver, holding mounts: {len(keepers)}")
        self._say("hello", ids=[keeper.order.mount_id for keeper in keepers if keeper.is_serving])
        for keeper in keepers:
            keeper.post(Message("introduce", {}))

    def _disconnect(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            self._events.unwatch(channel.fileno())
            channel.close()

    def _receive(self) -> None:
        assert self._channel is not None
        try:
            message = self._channel.receive()
        except MountError as exc:
            self._log.error(str(exc))
            return
        if message is None:
            self._log.info("the driver is gone; the mounts are served on")
            self._disconnect()
            for keeper in self._all():
                keeper.post(Message("abandon", {}))
            return
        try:
            self._obey(message)
        except (MountError, KeyError, TypeError, ValueError) as exc:
            self._log.error(f"the driver says what this version does not know: {exc!r}")
            self._close(message.fds)

    def _obey(self, message: Message) -> None:
        if message.type == "ping":
            self._say("pong", order=message.body.get("order"))
            return
        mount_id = str(message.body.get("id"))
        keeper = self._keepers.get(mount_id)
        if message.type in ("start", "adopt"):
            if keeper is not None:  # it ends, or its connection is lost, and another one takes its place
                keeper.supersede()
            self._begin(message)
        elif keeper is not None and keeper.post(message):
            return
        elif message.type == "stop":
            self._say("stopped", order=message.body.get("order"))
        else:
            self._close(message.fds)
            if message.type == "kill":
                self._say("unknown", id=mount_id)
            elif "order" in message.body:
                text = "the mounter does not know this mount"
                self._say("failed", order=message.body["order"], kind="internal", message=text)

    def _begin(self, message: Message) -> None:
        order = Order.from_values(message.body)
        try:
            self._keep(order, message)
        except (OSError, RuntimeError) as exc:  # no descriptor or no thread left: that is this one mount's trouble
            self._log.error(f"{order.mount_id}: cannot be served for now: {exc}")
            self._close(message.fds)
            if "order" in message.body:  # else the driver gives it again, once it has found that nobody serves it
                text = f"{order.source}: the mounter cannot serve another mount: {exc}"
                self._say("failed", order=message.body["order"], kind="internal", message=text)

    def _keep(self, order: Order, message: Message) -> None:
        with contextlib.ExitStack() as stack:
            log = self._make_log(order.mount_id)
            stack.callback(log.close)
            keeper = Keeper(order, self._installation, log, self._say, self._forget, self._turns)
            stack.callback(self._forget, keeper)
            with self._keepers_lock:
                self._keepers[order.mount_id] = keeper
            keeper.begin(message)
            stack.pop_all()

    def _say(self, type_: str, fds: Sequence[int] = (), /, **body: Any) -> None:
        channel = self._channel
        if channel is not None:
            with contextlib.suppress(MountError):  # it has gone, and the next one is told everything
                channel.send(type_, fds, **body)

    # ------------------------------------------------------------------ the mounts

    def _all(self) -> list[Keeper]:
        with self._keepers_lock:
            return list(self._keepers.values())

    def _forget(self, keeper: Keeper) -> None:
        """Called from the keeper's thread at its end."""
        with self._keepers_lock:
            if self._keepers.get(keeper.order.mount_id) is keeper:
                del self._keepers[keeper.order.mount_id]

    @staticmethod
    def _close(fds: Sequence[int]) -> None:
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)
