"""The layers of one mount, wired together: built bottom-up, run while the mount lasts, taken down top-down.

Each service is started only when the one below it runs, in one nursery that owns them all. So a wrong key, a missing
bucket or a broken cache directory is found before anything is mounted.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from tigrismount.blocks.store import BlockStore
from tigrismount.cache.disk import DiskBlockCache
from tigrismount.cache.none import NoCache
from tigrismount.cache.spread import SpreadBlockCache
from tigrismount.core.loadlog import LoadLog
from tigrismount.core.openmodes import OpenState
from tigrismount.errors import CacheError, ConfigError, TigrisMountError
from tigrismount.fuse.adapter import Adapter
from tigrismount.fuse.kernel import Kernel
from tigrismount.fuse.passthrough import Passthrough
from tigrismount.fuse.permission import effective_capabilities, why_off
from tigrismount.fuse.pusher import Pusher
from tigrismount.fuse.room import MemoryRoom, read_text
from tigrismount.integrity.openprover import OpenProver
from tigrismount.integrity.prover import Prover
from tigrismount.integrity.readers import CheckedReaders
from tigrismount.integrity.verdicts import Verdicts
from tigrismount.integrity.verifier import Verifier
from tigrismount.integrity.withdrawal import Withdrawal
from tigrismount.objects.access import AccessWatch
from tigrismount.objects.credentials import find_credentials, home_directory, read_text_file
from tigrismount.objects.fetchers.pool import FetcherStatistics, open_fetchers
from tigrismount.objects.keys import LOOKUP_S
from tigrismount.objects.s3 import S3Client
from tigrismount.reader.loads import LoadRecorder
from tigrismount.reader.readers import Readers
from tigrismount.telemetry import MountFacts, Takeovers, mount_status
from tigrismount.vfs.filesystem import FileSystem
from tigrismount.vfs.frozen import begin_frozen, kept_names, prove_frozen
from tigrismount.vfs.journal import NodeJournal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from tigrismount.config.model import MountConfig
    from tigrismount.core.journal import Record
    from tigrismount.core.types import ObjectId
    from tigrismount.fuse.options import PushConfig
    from tigrismount.metrics.server import MetricsServer
    from tigrismount.objects.credentials import Credentials, HandedIn
    from tigrismount.objects.fetchers.pool import FetchProcesses
    from tigrismount.objects.keys import FindCredentials

log = logging.getLogger(__name__)

FILL_SHARE = 4
"""A file that is read in earnest is fetched to its end for the disk cache while it is at most this share of it."""


class Engine:
    """The layers of one mount, wired together.

    Args:
        config: The mount.
        client: The store.
        cache: The disk cache, or none.
        takeovers: What happened to the workers before this one.
        away: Why the store cannot be used at the moment; empty where that is not known.
        fetchers: The client's fetch processes, which blocks share their memory with; None for none.
    """

    def __init__(
        self,
        config: MountConfig,
        client: S3Client,
        cache: DiskBlockCache | SpreadBlockCache | NoCache,
        takeovers: Takeovers,
        *,
        away: str = "",
        fetchers: FetchProcesses | None = None,
    ) -> None:
        self.config = config
        self.fetchers = fetchers
        self.takeovers = takeovers
        self.client = client
        self.cache = cache
        log = LoadLog(time.monotonic)
        self.loads = LoadRecorder(
            log,
            cache.records,
            counters=client.statistics,
            identity={"source": config.source, "mountpoint": config.mountpoint},
            wall_clock=time.time,
        )
        room = MemoryRoom(time.monotonic)
        self.kernel = Kernel()
        self.pusher = Pusher(_push_config(config), self.kernel.store_pages, room, log)
        self.verdicts = Verdicts(cache.records, config.vfs.store_id)
        self.verifier = Verifier(client, cache, self.verdicts, quiet=lambda: self.store.quiet)
        verifies = bool(config.disk_caches) and config.disk_caches[0].verify != "off"
        self.verifying = self.verifier if verifies else None
        on_whole = self.verifier.note_whole if verifies else _ignore
        self.store = BlockStore(
            client,
            cache,
            config.blocks,
            log,
            on_complete=self.pusher.arrived,
            on_whole=on_whole,
            is_pressed=room.is_pressed,
            shared=fetchers.memory if fetchers is not None else None,
            completes=config.reader.prefetch != "off",
        )
        held = cache.statistics()
        self.readers = Readers(
            self.store,
            config.reader,
            log,
            siblings=lambda obj, below: self.filesystem.siblings(obj, below),
            records=cache.records,
            pushes=self.pusher,
            fill_limit_bytes=min(held.capacity_bytes // FILL_SHARE, held.largest_bytes),
        )
        self.journal = NodeJournal()
        self.kept_names = kept_names(client, config.s3, config.vfs, cache.records)
        self.filesystem = FileSystem(
            client,
            CheckedReaders(self.readers, self.verdicts) if verifies else self.readers,
            config.vfs,
            clock=time.monotonic,
            cache=cache,
            verified_sha256=self.verdicts.sha256 if verifies else None,
            names=self.kept_names,
            on_new=self.journal.append,
            on_bookmark=self.journal.append,
        )
        self.withdrawal = Withdrawal(
            self.verdicts, self.filesystem.nodes_of, self.pusher.ended, self.kernel.forget_pages, self.store.forget
        )
        self.adapter = Adapter(self.filesystem, config.fuse)
        self.prover = Prover(cache, quiet=lambda: self.store.quiet)
        self.open_prover = OpenProver(
            cache,
            likely_whole=self.readers.likely_whole,
            following=self.readers.following,
            load_log=log,
            available_bytes=room.available_bytes,
            is_pressed=room.is_pressed,
            # The kernel may end the whole mount for an OPEN that it waits for too long, as for any request.
            patience_s=config.fuse.request_deadline_s / 2,
        )
        self.through = Passthrough(
            cache,
            self.kernel,
            version_of=self.filesystem.version_of,
            refusal=self._why_not_through,
            is_refused=self.is_refused,
            journal=self.journal.append,
            on_closed=self.prover.note,
            proofs=self.open_prover,
            log=log,
            even_in_memory=config.fuse.passthrough == "on",
            off=why_off(
                config.fuse,
                verify=config.disk_caches[0].verify if config.disk_caches else None,
                capabilities=effective_capabilities(read_text),
                uid_map=read_text("/proc/self/uid_map"),
            ),
        )
        proved = not takeovers.count and not away
        self.access = AccessWatch(client, config.vfs.bucket, config.vfs.prefix, proved=proved, degraded=away)
        self.metrics: MetricsServer | None = None
        self._started_s = time.monotonic()
        self._supervisor_pid = os.getppid()

    def pushed_node(self, obj: ObjectId) -> int | None:
        """Return the node that *obj* may be pushed to; None where it is not open, or refused."""
        return None if self.is_refused(obj) else self.filesystem.cached_node(obj)

    def is_refused(self, obj: ObjectId) -> bool:
        """Tell whether a version must not be read: with ``--verify off`` none, also where a warm run found it wrong."""
        return self.verifying is not None and obj in self.verdicts.refused

    def _why_not_through(self, obj: ObjectId) -> str:
        """Return why the kernel must not begin to read a version by itself at the moment, empty where it may."""
        # What is found wrong later cannot be taken back from a mapping that the kernel made by itself.
        return "its checksum is not compared yet" if self.verifier.is_waiting(obj) else ""

    def records(self) -> Iterator[Record]:
        """Give all that a successor must know."""
        return itertools.chain(self.filesystem.records(), self.through.modes.states())

    def restore(self, records: Sequence[Record]) -> None:
        """Take over what an earlier process of this mount knew; before the first request."""
        self.filesystem.restore(records)
        self.through.restore(record for record in records if isinstance(record, OpenState))

    def note_handover(self, failure: str) -> None:
        """Keep why an attempt to replace this worker failed, for ``status``."""
        if failure:
            self.takeovers = replace(self.takeovers, attempts=self.takeovers.attempts + 1, failure=failure)

    def degraded(self) -> dict[str, str]:
        """Return, by what part, why it works less well than it could; empty where it does not."""
        return {
            "cache": self.cache.statistics().degraded or self.store.degraded,
            "store": self.access.degraded,
            "journal": self.journal.degraded,
            "metrics": self.metrics.degraded if self.metrics else "",
        }

    def status(self) -> dict[str, Any]:
        """Return what ``status`` shows of this mount."""
        fetchers = self.fetchers.statistics() if self.fetchers is not None else FetcherStatistics()
        facts = MountFacts(
            takeovers=self.takeovers,
            degraded=self.degraded(),
            # Who takes in an orphan is another process, which nobody is to signal for our supervisor.
            supervisor_pid=self._supervisor_pid if os.getppid() == self._supervisor_pid else 0,
            uptime_s=time.monotonic() - self._started_s,
            credentials=self.client.key_source,
            notes=[*self.client.notes(), *([fetchers.degraded] if fetchers.degraded else [])],
            objects=self.client.statistics(),
            fetchers=fetchers,
            cache=self.cache.statistics(),
            blocks=self.store.statistics(),
            pusher=self.pusher.statistics(),
            vfs=self.filesystem.statistics(),
            checksums=self.verifier.statistics(),
            loads=self.loads.in_progress(),
            finished_loads=self.loads.finished(),
            passthrough=self.through.statistics(),
            kernel_reads=(self.adapter.reads, self.adapter.read_bytes),
            tables=self._tables(),
        )
        return mount_status(self.config, facts)

    def _tables(self) -> dict[str, int]:
        """Return how much is remembered, by kind."""
        readers = self.readers.statistics()
        return {
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "readers_open": readers.open,
            "readers_kept": readers.kept,
            "layouts": readers.layouts,
            "models": readers.models,
            "block_versions": self.store.statistics().objects,
            "push_plans": self.pusher.remembered,
            "version_ids": self.client.version_ids,
            **self.cache.tables(),
        }


@contextlib.asynccontextmanager
async def running_engine(
    config: MountConfig,
    takeovers: Takeovers,
    find: FindCredentials | None = None,
    key: HandedIn | None = None,
    *,
    cache_s: float = math.inf,
) -> AsyncIterator[Engine]:
    """Open the store and the cache, prove access, and run the layers while the context lasts.

    Where this worker takes over, access was proved long ago: the store is looked at while it serves.

    Args:
        config: The mount.
        takeovers: What happened to the workers before this one.
        find: Gives the key, again whenever the store has refused one; None looks in the usual places.
        key: A key that a worker before this one was handed in; None for none.
        cache_s: Longest wait for the cache to be opened, where that is less than it may take.

    Raises:
        TigrisMountError: Something is wrong that a person can mend; one line says what.
    """
    find = find or partial(find_credentials, config.s3, os.environ, home_directory(), read_text_file)
    credentials = _first(find, key)
    async with contextlib.AsyncExitStack() as stack:
        away = ""
        fetchers = open_fetchers(config.s3, config.blocks.memory_limit_bytes, log_json=config.log_format == "json")
        if fetchers is not None:
            stack.push_async_callback(_shielded, partial(trio.to_thread.run_sync, fetchers.close))
        connect = partial(_connect, credentials=credentials, find=find, fetchers=fetchers, key=key)
        if config.s3.snapshot is not None and config.s3.snapshot_version is None:
            cache = await _open_cache(config, cache_s)
            stack.push_async_callback(_shielded, cache.aclose)
            beginning = await begin_frozen(config.s3, config.vfs, credentials, cache.records)
            config, away = replace(config, s3=beginning.s3), beginning.away
            client = await connect(config)
            stack.push_async_callback(_shielded, client.aclose)
            await prove_frozen(client, config.vfs, cache.records, beginning)
        else:
            client = await connect(config)
            stack.push_async_callback(_shielded, client.aclose)
            if takeovers.count:
                cache = await _open_cache(config, cache_s, or_none=(CacheError, ConfigError))
            else:
                cache = await _open_beside_check(config, client, cache_s)
            stack.push_async_callback(_shielded, cache.aclose)
        engine = Engine(config, client, cache, takeovers, away=away, fetchers=fetchers)
        stack.push_async_callback(_shielded, engine.loads.finish)
        async with trio.open_nursery() as nursery:
            services = (
                *(cache, engine.store, engine.readers, engine.loads, engine.kept_names, engine.verifying),
                engine.filesystem,
            )
            for service in services:
                if service is not None:
                    await nursery.start(_run_service, service)
            nursery.start_soon(engine.access.run)
            yield engine
            nursery.cancel_scope.cancel()


def _first(find: FindCredentials, key: HandedIn | None) -> Credentials | None:
    """Return what to begin with; where nothing is found any more, a key that was handed in is enough."""
    try:
        return find()
    except ConfigError:
        if key is None:
            raise
        return key.key


async def _connect(
    config: MountConfig,
    *,
    credentials: Credentials | None,
    find: FindCredentials,
    fetchers: FetchProcesses | None,
    key: HandedIn | None,
) -> S3Client:
    """Return a client; with a key that was handed in, whatever becomes of the program that the found one is from."""

    def make(found: Credentials | None) -> S3Client:
        client = S3Client(config.s3, found, find_credentials=find, fetchers=fetchers)
        if key is not None:
            client.inherit_key(key)
        return client

    if key is not None:
        with trio.move_on_after(LOOKUP_S), contextlib.suppress(ConfigError):
            return await trio.to_thread.run_sync(make, credentials, abandon_on_cancel=True)
        credentials = key.key
    return await trio.to_thread.run_sync(make, credentials)


async def _shielded(finish: Callable[[], Awaitable[None]]) -> None:
    with trio.CancelScope(shield=True):
        await finish()


def _ignore(_: ObjectId) -> None:
    """Take no note: with ``--verify off`` no checksum is looked for."""


async def _run_service(service: Any, *, task_status: trio.TaskStatus[None]) -> None:
    await service.run(task_status=task_status)


async def _open_cache(
    config: MountConfig, cache_s: float, or_none: tuple[type[TigrisMountError], ...] = (CacheError,)
) -> DiskBlockCache | SpreadBlockCache | NoCache:
    """Open the cache; what of *or_none* goes wrong with it costs speed and not the mount."""
    if not config.disk_caches:
        return NoCache(config.blocks.block_bytes)
    try:
        if len(config.disk_caches) > 1:
            open_one = partial(DiskBlockCache.open, within_s=cache_s)
            return await SpreadBlockCache.open(config.disk_caches, open_one, store_id=config.vfs.store_id)
        return await DiskBlockCache.open(config.disk_caches[0], store_id=config.vfs.store_id, within_s=cache_s)
    except or_none as exc:
        log.warning("mounting without the disk cache: %s", exc)
        return NoCache(config.blocks.block_bytes, degraded=str(exc))


async def _open_beside_check(
    config: MountConfig, client: S3Client, cache_s: float
) -> DiskBlockCache | SpreadBlockCache | NoCache:
    """Open the cache while the store proves access: both take a round trip, and somebody waits."""
    opened: list[DiskBlockCache | SpreadBlockCache | NoCache] = []

    async def open_cache() -> None:
        opened.append(await _open_cache(config, cache_s))

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_cache)
            await client.check_access(config.vfs.bucket, config.vfs.prefix)
    except BaseException:
        with trio.CancelScope(shield=True):
            for cache in opened:
                await cache.aclose()
        raise
    return opened[0]


def _push_config(config: MountConfig) -> PushConfig:
    """Return whether to push: ``auto`` leaves it where root has raised the kernel's read-ahead (docs/adr/0012)."""
    raised = config.kernel_read_ahead_kib is not None and os.geteuid() == 0
    return replace(config.push, mode="off") if raised and config.push.mode == "auto" else config.push
