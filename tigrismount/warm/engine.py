"""An engine without a mount: the client, the disk cache and the block store, for as long as a command runs.

What an init container uses: no FUSE, no privileges, no daemon. The cache is the one that mounts use, and may be in use
by them at the same time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from tigrismount.blocks.store import BlockStore
from tigrismount.cache.disk import DiskBlockCache
from tigrismount.cache.spread import SpreadBlockCache
from tigrismount.errors import ConfigError, TigrisMountError
from tigrismount.integrity.verdicts import Verdicts
from tigrismount.integrity.verifier import Verifier
from tigrismount.objects.credentials import find_credentials, home_directory, read_text_file
from tigrismount.objects.fetchers.pool import open_fetchers
from tigrismount.objects.frozen import with_snapshot
from tigrismount.objects.s3 import S3Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tigrismount.cache.base import BlockCache
    from tigrismount.config.model import MountConfig
    from tigrismount.objects.client import ObjectClient

_MEMORY_SHARE = 2
"""Warming may hold one half of the block buffers: the other one is for those who read."""


class WarmEngine(NamedTuple):
    """What warming works with."""

    client: ObjectClient
    """The store."""
    cache: BlockCache
    """The disk cache."""
    store: BlockStore
    """Brings blocks from the one to the other."""
    verifier: Verifier
    """Compares what came with known checksums."""


@contextlib.asynccontextmanager
async def warming_engine(config: MountConfig) -> AsyncIterator[WarmEngine]:
    """Run the layers that warming needs while the context lasts.

    Args:
        config: As of a mount of the same source.

    Raises:
        ConfigError: There is no disk cache to fill, or the endpoint or the credentials are unusable.
        CacheError: The disk cache cannot be opened.
    """
    if not config.disk_caches:
        raise ConfigError("the disk cache is configured off, and there is nothing else to warm; pass --cache-dir")
    find = partial(find_credentials, config.s3, os.environ, home_directory(), read_text_file)
    credentials = find()
    s3 = await with_snapshot(config.s3, config.vfs.bucket, credentials)
    fetchers = open_fetchers(s3, config.blocks.memory_limit_bytes, log_json=config.log_format == "json")
    async with contextlib.AsyncExitStack() as stack:
        if fetchers is not None:
            stack.push_async_callback(_shielded, partial(trio.to_thread.run_sync, fetchers.close))
        connect = partial(S3Client, s3, credentials, find_credentials=find, fetchers=fetchers)
        client, cache = await _connect_beside_opening(config, connect, stack)
        store = BlockStore(client, cache, config.blocks, shared=fetchers.memory if fetchers is not None else None)
        verifier = Verifier(client, cache, Verdicts(cache.records, config.vfs.store_id))
        await verifier.verdicts.load()
        async with trio.open_nursery() as nursery:
            for service in (cache, store):
                await nursery.start(_run_service, service)
            yield WarmEngine(client, cache, store, verifier)
            nursery.cancel_scope.cancel()


async def _connect_beside_opening(
    config: MountConfig, connect: Callable[[], S3Client], stack: contextlib.AsyncExitStack
) -> tuple[S3Client, DiskBlockCache | SpreadBlockCache]:
    """Make a client while the cache is opened, which waits for the disk and for a child; *stack* closes both."""
    clients: list[S3Client] = []
    caches: list[DiskBlockCache | SpreadBlockCache] = []
    failures: list[TigrisMountError] = []

    async def make() -> None:
        clients.append(await trio.to_thread.run_sync(connect))
        stack.push_async_callback(_shielded, clients[0].aclose)

    async def open_cache() -> None:
        caches.append(await _open_cache(config))
        stack.push_async_callback(_shielded, caches[0].aclose)

    async def attempt(work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except TigrisMountError as exc:
            failures.append(exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(attempt, make)
        nursery.start_soon(attempt, open_cache)
    if failures:
        raise failures[0]
    return clients[0], caches[0]


async def _shielded(finish: Callable[[], Awaitable[None]]) -> None:
    with trio.CancelScope(shield=True):
        await finish()


def most_jobs(config: MountConfig, wanted: int | None) -> int:
    """Return how many blocks may be on their way at once.

    Args:
        config: Whose memory and connections they use.
        wanted: What was asked for; None leaves it to the configuration.
    """
    return max(1, min(wanted or config.blocks.concurrency, config.blocks.concurrency, most_held(config)))


def most_held(config: MountConfig) -> int:
    """Return how many blocks may be in memory at once, on their way or waiting for the disk."""
    return max(1, config.blocks.memory_limit_bytes // _MEMORY_SHARE // config.blocks.block_bytes)


def with_jobs(config: MountConfig, jobs: int | None) -> MountConfig:
    """Return *config* with as many connections as *jobs* asks for; for an engine of our own, which nobody shares."""
    if jobs is None:
        return config
    blocks = dataclasses.replace(config.blocks, concurrency=jobs)
    return dataclasses.replace(config, blocks=blocks, s3=dataclasses.replace(config.s3, concurrency=jobs + 1))


async def _open_cache(config: MountConfig) -> DiskBlockCache | SpreadBlockCache:
    if len(config.disk_caches) > 1:
        return await SpreadBlockCache.open(config.disk_caches, store_id=config.vfs.store_id)
    return await DiskBlockCache.open(config.disk_caches[0], store_id=config.vfs.store_id)


async def _run_service(service: Any, *, task_status: trio.TaskStatus[None]) -> None:
    await service.run(task_status=task_status)
