"""Our file system over memory: what FUSE costs, without what a store costs. ``python -m benchmarks.stub`` mounts it.

Three cuts. ``handlers`` answers each READ from bytes that lie there: session, adapter, file system, and nothing else.
``lane`` is the same with the lane before the library, as mounts with FUSE passthrough have it.
``store`` puts the whole read path below it, blocks and planning included, on an object store in memory, without a disk
cache. Mounts a generated model at the mountpoint, says one line, and serves until it is unmounted.

The idea is ``stub_mode`` of Mountpoint's benchmarks.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from tigrismount.blocks.options import BlocksConfig
from tigrismount.blocks.store import BlockStore
from tigrismount.cache.none import NoCache
from tigrismount.core.loadlog import NoLog
from tigrismount.demo.model import plan_model
from tigrismount.fuse.adapter import Adapter
from tigrismount.fuse.kernel import Kernel
from tigrismount.fuse.options import FuseConfig
from tigrismount.fuse.passthrough import Passthrough
from tigrismount.fuse.session import Session
from tigrismount.holder.init import INIT_REQUEST_BYTES, patch_init_reply
from tigrismount.holder.knobs import raise_read_ahead
from tigrismount.holder.mountinfo import mount_at
from tigrismount.holder.mounting import MountSpec, mount
from tigrismount.integrity.openprover import OpenProver
from tigrismount.objects.memory import MemoryObjectClient
from tigrismount.reader.options import ReaderConfig
from tigrismount.reader.readers import Readers
from tigrismount.vfs.filesystem import FileSystem
from tigrismount.vfs.options import VfsConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tigrismount.core.types import ObjectId
    from tigrismount.objects.client import FetchSink

CUTS = ("handlers", "lane", "store")
KERNEL_READ_AHEAD_KIB = 4096
"""As ``mount`` sets it for root."""


@dataclass(frozen=True, slots=True)
class LyingReader:
    """Reads bytes that lie there."""

    obj: ObjectId
    """The version."""
    data: memoryview
    """All of it."""

    def try_read(self, start: int, stop: int) -> memoryview:
        """Return the bytes."""
        return self.data[start:stop]

    async def read(self, start: int, stop: int) -> memoryview:
        """Return the bytes."""
        return self.data[start:stop]


class LyingReaders:
    """Readers of bytes that lie there.

    Args:
        data: Them, by key.
    """

    def __init__(self, data: dict[str, memoryview]) -> None:
        self._data = data

    def open(self, obj: ObjectId, key: str) -> LyingReader:
        """Return a reader of *key*."""
        return LyingReader(obj, self._data[key])

    def close(self, reader: LyingReader) -> None:
        """Forget it."""


class LyingClient(MemoryObjectClient):
    """An object store in memory whose bodies are copied in a thread, as a real one's are received in one."""

    async def fetch(self, obj: ObjectId, start: int, stop: int, sink: FetchSink) -> None:
        """Put the bytes into *sink* as fast as it takes them."""
        data = self._lookup_version(obj)

        def copy() -> None:
            done = start
            while done < stop and (view := sink.next_view()):
                count = min(len(view), stop - done)
                view[:count] = data[done : done + count]
                sink.wrote(count)
                done += count

        await trio.to_thread.run_sync(copy)


@contextlib.asynccontextmanager
async def over_memory(cut: str, size_bytes: int) -> AsyncIterator[FileSystem]:
    """Run our file system, cut where *cut* says, on a generated model of *size_bytes*."""
    client = LyingClient()
    data = {shard.name: memoryview(shard.render()[0]) for shard in plan_model(size_bytes).shards}
    for key, content in data.items():
        client.put(key, content, etag="made")
    config = VfsConfig(bucket=client.bucket, metadata_ttl_s=float("inf"))
    if cut in ("handlers", "lane"):
        lying: Any = LyingReaders(data)
        yield FileSystem(client, lying, config, clock=time.monotonic)
        return
    blocks = BlocksConfig()
    store = BlockStore(client, NoCache(blocks.block_bytes), blocks)
    readers = Readers(store, ReaderConfig(), siblings=lambda obj, below: filesystem.siblings(obj, below))
    filesystem = FileSystem(client, readers, config, clock=time.monotonic)
    async with trio.open_nursery() as nursery:
        for service in (store, readers):
            await nursery.start(_run, service)
        yield filesystem
        nursery.cancel_scope.cancel()


async def _run(service: Any, *, task_status: trio.TaskStatus[None]) -> None:
    await service.run(task_status=task_status)


async def serve(mountpoint: str, cut: str, size_bytes: int) -> None:
    """Mount, and answer until it is unmounted.

    Args:
        mountpoint: Empty directory.
        cut: One of ``CUTS``.
        size_bytes: Size of the model.
    """
    config = FuseConfig()
    async with over_memory(cut, size_bytes) as filesystem:
        connection = mount(MountSpec(mountpoint=mountpoint, fsname="stub", allow_other=False))
        kernel = Kernel()
        session = Session(Adapter(filesystem, config), kernel)
        init = await trio.to_thread.run_sync(os.read, connection, INIT_REQUEST_BYTES)
        reply = await session.replay_init(init)
        background = config.max_background
        os.write(connection, patch_init_reply(reply, max_background=background, congestion_threshold=background))
        session.attach(connection, resend=False, through=nothing_through(kernel) if cut == "lane" else None)
        entry = mount_at(mountpoint)
        if entry is not None:
            raise_read_ahead(entry.device, KERNEL_READ_AHEAD_KIB)
        print("mounted", flush=True)
        await session.serve(config)
        session.close()


def nothing_through(kernel: Kernel) -> Passthrough:
    """Return what opens every file in the usual way."""
    cache = NoCache()
    return Passthrough(
        cache,
        kernel,
        version_of=lambda _: None,
        refusal=lambda _: "",
        is_refused=lambda _: False,
        journal=lambda _: None,
        on_closed=lambda _: None,
        proofs=OpenProver(  # which nobody runs
            cache,
            likely_whole=_nobody_knows,
            following=_nothing_follows,
            load_log=NoLog(),
            available_bytes=lambda: None,
            is_pressed=lambda: False,
        ),
        log=NoLog(),
    )


async def _nobody_knows(_: ObjectId) -> bool:
    return False


async def _nothing_follows(_: ObjectId) -> Sequence[ObjectId]:
    return ()


def main() -> None:
    """Serve what the command line says: mountpoint, cut, bytes."""
    mountpoint, cut, size_bytes = sys.argv[1:]
    trio.run(serve, mountpoint, cut, int(size_bytes))


if __name__ == "__main__":
    main()
