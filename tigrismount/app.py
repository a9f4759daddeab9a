"""The worker: one process that serves one FUSE connection with an engine.

Started by the supervisor with one end of a socket pair, over which it gets its configuration and, once the engine runs,
the kernel's descriptor (``holder.protocol`` has the conversation).
"""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # what is imported and built until it serves lives as long as the process: there is nothing to collect

import contextlib
import logging
import math
import os
import signal
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from tigrismount import threads
from tigrismount.config.model import MountConfig
from tigrismount.control.operations import operations
from tigrismount.control.paths import runtime_directory, socket_path
from tigrismount.control.server import ControlServer
from tigrismount.core.types import ROOT_NODE_ID
from tigrismount.descriptors import raise_descriptor_limit
from tigrismount.engine import running_engine
from tigrismount.errors import (
    ConfigError,
    CredentialsError,
    MountError,
    ObjectAccessError,
    ObjectKeyError,
    ObjectNotFoundError,
    ObjectProtocolError,
    ObjectUnavailableError,
    TigrisMountError,
)
from tigrismount.fuse.session import Session
from tigrismount.heap import share_heaps
from tigrismount.holder.init import answers_passthrough, describe_init, patch_init_reply
from tigrismount.holder.protocol import Channel, Message
from tigrismount.objects.credentials import HandedIn, credentials_in
from tigrismount.privacy import end_with_parent, keep_out_of_core_dumps
from tigrismount.telemetry import Takeovers, configure_logging, report_on_signal
from tigrismount.vfs.holdings import describe_nodes
from tigrismount.warm.engine import WarmEngine
from tigrismount.warm.serving import warm_in_mount

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tigrismount.control.server import Send
    from tigrismount.engine import Engine
    from tigrismount.fuse.adapter import Adapter
    from tigrismount.fuse.passthrough import Passthrough
    from tigrismount.holder.protocol import Message
    from tigrismount.metrics.exposition import Figures
    from tigrismount.metrics.server import MetricsServer
    from tigrismount.objects.credentials import Credentials
    from tigrismount.objects.s3 import S3Client

log = logging.getLogger(__name__)

_DRAIN_S = 5.0
"""How long blocks that were fetched may still go to the disk once the mount is gone; half of what the supervisor
grants in all."""
_PUSH_S = 1.0
"""How long a block may still go to the kernel before requests are given up: it takes milliseconds."""
_SETTLE_S = 3.0
"""How long flights may take to settle after that; a body in transit is cut at once."""
_WITHOUT_CACHE_S = 6.0
"""What a start by a given time needs besides opening the cache: to be attached, to answer the first look."""
_LEAST_OPENING_S = 1.0  # far more than a cache takes whose disk answers
_REASON_CHARACTERS = 1000
"""Of what a store or a disk has said, that the supervisor is told: a message is short, and one that is never sent is
no answer at all."""
_EXIT_FAILED = 1
_EXIT_CONFIG = 2
_EXIT_NOT_FOUND = 3

_COLLECT_AFTER = (2000, 10, 500)
"""Thresholds of the three generations. Names and versions are many, live long and form no cycles; walking all of them
each time a quarter has been added took a fifth of the CPU of listing a large tree, in pauses of a second. The oldest
generation is walked after some ten million objects now; what dies young is found as soon as ever, or nearly."""

_SHOWN = ("uid", "gid", "file_mode", "dir_mode")
"""What attributes say by configuration, and the kernel keeps for ever: a node never changes otherwise."""
_PAUSE_S = 1.0
"""Until the next try where there was no thread."""

OF_THE_VOLUME = "the volume's secret"
"""Source of a key that came with the mount itself."""

_KINDS: dict[type, str] = {
    ConfigError: "bad_option",
    CredentialsError: "bad_credentials",
    ObjectKeyError: "bad_credentials",
    ObjectAccessError: "denied",
    ObjectNotFoundError: "no_bucket",
    ObjectUnavailableError: "unreachable",
    ObjectProtocolError: "unreachable",
}
"""What each error means to a program that asked for the mount (docs/adr/0022)."""


class Worker:
    """One worker's conversation with its supervisor.

    Args:
        channel: Our end.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._secret: Credentials | None = None
        self._given: Credentials | None = None
        """The secret that the client was given last."""
        self._before: dict[str, Any] = {}
        self._releasing = False
        self._released = trio.Event()

    async def run(self) -> int:
        """Serve until the mount is gone; return the exit status."""
        start = await self._expect("start")
        try:
            config = MountConfig.from_json(start.body["config"])
            configure_logging(config)
            takeovers = Takeovers(start.body.get("takeovers", 0), start.body.get("takeover_reason", ""))
            self._before = start.body.get("before", {})
            self._take_secret(start.body)
            self._given = self._secret
            find, key = self._find if self._secret is not None else None, HandedIn.from_values(start.body.get("key"))
            until_s = float(start.body.get("until_s", math.inf))
            cache_s = max(_LEAST_OPENING_S, until_s - time.monotonic() - _WITHOUT_CACHE_S)
            async with running_engine(config, takeovers, find, key, cache_s=cache_s) as engine:
                await self._serve(engine)
        except (TigrisMountError, BaseExceptionGroup) as exc:
            error = _ours(exc)
            if error is None:
                raise
            exit_code = _exit_code(error)
            self._say("failed", exit_code=exit_code, kind=_kind(error), message=str(error))
            return exit_code
        self._say("stopped", reason="unmounted")
        return 0

    def _take_secret(self, body: Mapping[str, Any]) -> None:
        """Keep the key that came with a message, if one did: this mount signs with it, and with none from elsewhere.

        Raises:
            CredentialsError: It is half a key.
        """
        secret = body.get("secret")
        if isinstance(secret, dict) and secret:
            self._secret = credentials_in({name: str(value) for name, value in secret.items()}, OF_THE_VOLUME)

    def _find(self) -> Credentials | None:
        return self._secret

    async def _serve(self, engine: Engine) -> None:
        session = Session(engine.adapter, engine.kernel)
        client = engine.client
        self._channel.send(
            "ready",
            listable=client.listable,
            warnings=_warnings(engine),
            snapshot_version=engine.config.s3.snapshot_version,
        )
        if engine.config.metrics_address is not None:
            engine.metrics = _metrics_server(engine, engine.adapter, engine.config.metrics_address)
        try:
            through = await self._attach(session, engine)
            path = socket_path(runtime_directory(os.environ, uid=os.geteuid()), engine.config.mountpoint)

            layers = WarmEngine(client, engine.cache, engine.store, engine.verifier)

            async def warm(request: Mapping[str, Any], send: Send) -> Mapping[str, Any]:
                return await warm_in_mount(layers, engine.config, request, send)

            async def inspect(request: Mapping[str, Any]) -> Mapping[str, Any]:
                nodes = request.get("nodes")
                ids = nodes if isinstance(nodes, list) else []
                files = await describe_nodes(engine.filesystem, engine.cache, ids)
                return {"files": files, "cache_dirs": [cache.directory for cache in engine.config.disk_caches]}

            short = operations(
                status=engine.status,
                filesystem=engine.filesystem,
                client=client,
                loads=engine.loads,
                forget_name=engine.kernel.forget_name,
                keep_key=partial(self._keep_key, client),
            )

            async def say_metrics(_: Mapping[str, Any]) -> Mapping[str, Any]:
                text = await trio.to_thread.run_sync(_metrics_text(engine, engine.adapter))
                return {"mountpoint": engine.config.mountpoint, "text": text}

            handlers = {**short, "inspect": inspect, "metrics": say_metrics}
            async with trio.open_nursery() as nursery:
                try:
                    await nursery.start(ControlServer(path, handlers, {"warm": warm}).run)
                except MountError as exc:
                    if not engine.takeovers.count:
                        raise
                    # A user's runtime directory goes when they log out; those who read the mount are still there.
                    log.warning("serving without status: %s", exc)
                await nursery.start(engine.pusher.run, engine.store, engine.pushed_node)
                if engine.verifying is not None:  # else what is refused is read all the same
                    await nursery.start(engine.withdrawal.run)
                if through is not None:
                    await nursery.start(engine.through.run)
                    await nursery.start(engine.prover.run)
                    await nursery.start(engine.open_prover.run)
                nursery.start_soon(self._leave_on_signal, session)
                nursery.start_soon(report_on_signal, engine.status)
                if engine.metrics is not None:
                    await nursery.start(engine.metrics.run)
                nursery.start_soon(self._listen, session, engine)
                if _shows_otherwise(self._before.get("vfs", {}), engine.config):
                    nursery.start_soon(_show_anew, engine)
                self._channel.send("serving", warnings=_late_warnings(engine))
                _collect_from_now_on()
                await session.serve(engine.config.fuse)
                if self._releasing:
                    await self._released.wait()
                self._leave_soon()
                await engine.pusher.drain(_SETTLE_S)
                with trio.move_on_after(_DRAIN_S):
                    await engine.store.drain()
                nursery.cancel_scope.cancel()
        finally:
            # Else a thread is still inside the library, and the process ends anyway.
            if not (engine.pusher.is_busy or engine.withdrawal.is_busy):
                session.close()

    def _leave_soon(self) -> None:
        """End the process even where a thread still waits for the store or the disk: no reader does any more.

        The cache loses nothing: its records are written when they are made, and only a power cut could tell that the
        last second of them was not synced.
        """

        def leave() -> None:
            self._say("stopped", reason="unmounted")
            os._exit(0)

        timer = threading.Timer(_DRAIN_S + _SETTLE_S, leave)
        timer.daemon = True
        with contextlib.suppress(RuntimeError):  # no thread is left; the supervisor ends what takes too long as well
            timer.start()

    async def _attach(self, session: Session, engine: Engine) -> Passthrough | None:
        """Get the kernel's descriptor and put it behind the library; know every id that the kernel may ask for.

        Returns:
            What decides which files the kernel reads by itself, None where INIT was answered without that.
        """
        attach = await self._expect("attach")
        config = engine.config
        fuse_fd, journal_fd = attach.fds
        engine.restore(engine.journal.preview(journal_fd))
        init, answered = bytes.fromhex(attach.body["init"]), bytes.fromhex(attach.body.get("answered", ""))
        through = engine.through if _is_through(engine.through, init, answered, first=attach.body["first"]) else None
        reply = patch_init_reply(
            await session.replay_init(init),
            max_background=config.fuse.max_background,
            congestion_threshold=config.fuse.max_background * 3 // 4,
            passthrough=through is not None,
        )
        self._channel.send("attached", init_reply=reply.hex())
        serve = await self._expect("serve")  # from here on no other worker writes the journal
        if serve.fds:
            os.close(journal_fd)
            (journal_fd,) = serve.fds
            engine.through.forget()  # the one that was written anew says all of how files are open
        engine.restore(engine.journal.open(journal_fd, engine.records, self._send_journal))
        # Where there are cores to spare, READs are answered without the interpreter's lock (docs/adr/0024).
        lane = config.s3.fetch_processes > 0
        session.attach(fuse_fd, resend=serve.body["resend"], lane=lane, through=through)
        return through

    async def _listen(self, session: Session, engine: Engine) -> None:
        """Do what the supervisor says, as long as there is one."""
        while True:
            await trio.lowlevel.wait_readable(self._channel)
            message = self._channel.receive()
            if message is None:
                log.warning("the supervisor is gone: nobody looks after this mount any more")
                return
            if message.type == "ping":
                degraded = {part: why for part, why in engine.degraded().items() if why}
                self._say("pong", degraded=[f"{part}: {why[:_REASON_CHARACTERS]}" for part, why in degraded.items()])
            elif message.type == "note":
                engine.note_handover(str(message.body.get("handover", "")))
            elif message.type == "credentials":
                self._say("rotated", error=await self._rotate(message.body, engine.client))
            elif message.type == "release":
                self._releasing = True
                await engine.pusher.drain(_PUSH_S)  # while the reads that a push may wait for are still answered
                resend = await session.release(cancel=bool(message.body.get("cancel")))
                engine.journal.close()  # the successor writes it now
                self._say("released", resend=resend)
                self._released.set()
            elif message.type == "stop":
                await engine.pusher.drain(_PUSH_S)
                session.stop()

    async def _rotate(self, body: Mapping[str, Any], client: S3Client) -> str:
        """Sign with another key from now on; return why not, empty where all is well."""
        try:
            self._take_secret(body)
            if self._secret is None or self._secret == self._given:
                return ""  # the same one again says nothing of a key that was handed in since
            if await client.replace_key(self._secret):
                log.info("going on with the new key of the volume")
            self._given = self._secret
        except (ConfigError, threads.NoThreadError) as exc:
            return str(exc)
        return ""

    async def _leave_on_signal(self, session: Session) -> None:
        """Ask for a successor where somebody wants this process to end; until one serves, this one does."""
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                log.info("SIGTERM: asking for a successor")
                try:
                    self._channel.send("leaving")
                except MountError:
                    session.stop()  # there is nobody who could find one

    def _keep_key(self, client: S3Client, key: Credentials) -> None:
        """Have the supervisor give a key that was handed in to who comes after this process."""
        self._say("key", key=HandedIn(key, client.outdated_keys).to_values())

    def _send_journal(self, fd: int) -> None:
        self._channel.send("journal", [fd])

    async def _expect(self, type_: str) -> Message:
        await trio.lowlevel.wait_readable(self._channel)
        message = self._channel.receive()
        if message is None:
            raise MountError("the supervisor went away")
        if message.type != type_:
            raise MountError(f"the supervisor said {message.type!r} where {type_!r} was due")
        return message

    def _say(self, type_: str, **body: object) -> None:
        with contextlib.suppress(MountError):  # nobody listens any more
            self._channel.send(type_, **body)


def _shows_otherwise(before: Mapping[str, Any], config: MountConfig) -> bool:
    """Tell whether files look otherwise than a worker before this one has told the kernel."""
    return any(name in before and before[name] != getattr(config.vfs, name) for name in _SHOWN)


async def _show_anew(engine: Engine) -> None:
    """Have the kernel ask for all attributes again: it lets in by them whom the configuration keeps out by now."""
    nodes = [ROOT_NODE_ID, *(node.id for node in engine.filesystem.nodes())]
    while True:
        try:
            return await threads.run_sync(partial(engine.kernel.forget_attributes, nodes))
        except threads.NoThreadError:
            await trio.sleep(_PAUSE_S)


def _is_through(through: Passthrough, init: bytes, answered: bytes, *, first: bool) -> bool:
    """Tell whether files may be opened onto files of the cache: what INIT was answered with holds for ever."""
    if first and not describe_init(init).has_passthrough:
        through.off = through.off or "this kernel has no FUSE passthrough (Linux 6.9)"
    if first:
        return not through.off
    agreed = answers_passthrough(answered)
    if not agreed:
        through.off = through.off or "the mount was made without it; it comes with the next mount"
    return agreed


def _ours(error: BaseException) -> TigrisMountError | None:
    """Return the error a person can act on out of what a nursery raised; None when something else went wrong too."""
    if not isinstance(error, BaseExceptionGroup):
        return error if isinstance(error, TigrisMountError) else None
    found = [_ours(inner) for inner in error.exceptions]
    return None if None in found else found[0]


def _exit_code(error: TigrisMountError) -> int:
    """Return the exit status of a mount that could not be made."""
    if isinstance(error, ObjectNotFoundError):
        return _EXIT_NOT_FOUND
    return _EXIT_CONFIG if isinstance(error, ConfigError) else _EXIT_FAILED


def _kind(error: TigrisMountError) -> str:
    """Return why a mount could not be made, as a word for programs: the most specific class wins."""
    return next((_KINDS[kind] for kind in type(error).__mro__ if kind in _KINDS), "internal")


def _figures(engine: Engine, adapter: Adapter) -> Figures:
    from tigrismount.metrics.exposition import Figures  # prometheus_client takes a while, and few mounts want it

    timings = {**engine.client.timings(), "read": adapter.read_times.snapshot()}
    return Figures(engine.status(), timings, dict(adapter.errors))


def _metrics_text(engine: Engine, adapter: Adapter) -> Callable[[], str]:
    """Return what makes the text of today's figures, in any thread."""
    figures = _figures(engine, adapter)

    def text() -> str:
        from tigrismount.metrics.exposition import Exposition

        return Exposition(lambda: figures).text().decode()

    return text


def _metrics_server(engine: Engine, adapter: Adapter, address: str) -> MetricsServer:
    from tigrismount.metrics.page import MOST_LOADS
    from tigrismount.metrics.server import MetricsServer

    host, _, port = address.rpartition(":")

    async def reports() -> Sequence[Mapping[str, Any]]:
        # Of this mount: others that share the cache have addresses of their own, or want none.
        found = [report for report in await engine.loads.reports() if report.get("source") == engine.config.source]
        return found[-MOST_LOADS:]

    return MetricsServer(host.strip("[]"), int(port), partial(_figures, engine, adapter), reports)


def _warnings(engine: Engine) -> list[str]:
    """Return what whoever mounts should hear at once."""
    degraded = engine.access.degraded
    away = [f"mounted with what is cached of the snapshot, as the store cannot be used: {degraded}"] if degraded else []
    return away + (engine.client.dangers() if engine.client.listable else engine.client.notes())


def _late_warnings(engine: Engine) -> list[str]:
    """Return what is known only once it serves."""
    why = engine.metrics.degraded if engine.metrics is not None else ""
    return [f"no metrics: {why}; it is tried again until that works"] if why else []


def _collect_from_now_on() -> None:
    """Let cycles be looked for again, among what is made from now on."""
    gc.freeze()  # what start-up made
    gc.set_threshold(*_COLLECT_AFTER)
    gc.enable()


def main(arguments: list[str]) -> int:
    """Run a worker for the supervisor that passed ``--holder-fd``; return its exit status.

    Args:
        arguments: ``--holder-fd N``, our end of the conversation, and ``--end-with-parent`` where it shall not outlive
            the supervisor.
    """
    if "--end-with-parent" in arguments:
        end_with_parent()
    keep_out_of_core_dumps()
    share_heaps()
    # Each cached version that is open holds a descriptor, and so does each connection to the store.
    raise_descriptor_limit()
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # until somebody listens: their default is to end the process
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # somebody opens a cache file while we ask who has it open
    return trio.run(Worker(Channel.from_fd(int(arguments[arguments.index("--holder-fd") + 1]))).run)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    # Abandoned fetching threads may still wait for the store; the process has nothing left to lose.
    with contextlib.suppress(OSError):  # the supervisor and its end of the pipe may be gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)
