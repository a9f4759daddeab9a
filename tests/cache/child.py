"""A second daemon on a cache directory, as a program: ``child.py DIRECTORY SIZE_BYTES ACTION NAME``.

``fill`` writes four blocks of NAME and prints how many were taken and the total; ``hold`` opens NAME, says so, and
waits for its stdin to end; ``claim`` claims its first two blocks, says so, and after a line on stdin writes the first
and takes both claims back; ``change`` opens NAME, says so, and stays in the middle of a change to the index for
half a minute; ``storm`` writes versions NAME-0, NAME-1, … until killed, a line for each block.
"""

from __future__ import annotations

import sys

import trio

from tigrismount.cache.disk import DiskBlockCache
from tigrismount.cache.options import DiskCacheConfig
from tigrismount.testing.cache_contract import BLOCK_BYTES, fill, object_id, write


def say(text: object) -> None:
    print(text, flush=True)


async def fill_and_count(cache: DiskBlockCache, name: str) -> None:
    say(await fill(cache, object_id(name)))
    say(cache.statistics().bytes_cached)


async def hold(cache: DiskBlockCache, name: str) -> None:
    handle = await cache.open_object(object_id(name))
    say(handle.count())
    await trio.to_thread.run_sync(sys.stdin.read)
    handle.close()


async def claim(cache: DiskBlockCache, name: str) -> None:
    obj = object_id(name)
    handle = await cache.open_object(obj)
    said, count = await handle.claim([0, 1])
    say(f"{said.name} {count}")
    await trio.to_thread.run_sync(sys.stdin.readline)
    await write(handle, obj, 0)
    for index in (0, 1):
        handle.unclaim(index)
    say("done")
    await trio.to_thread.run_sync(sys.stdin.read)


async def change(cache: DiskBlockCache, name: str) -> None:
    handle = await cache.open_object(object_id(name))
    with cache._index._env._env.begin(write=True):
        say(handle.count())
        await trio.sleep(30.0)
    handle.close()


async def storm(cache: DiskBlockCache, name: str) -> None:
    for number in range(10_000):
        obj = object_id(f"{name}-{number}", blocks=4.5)
        handle = await cache.open_object(obj)
        for index in range(5):
            assert await write(handle, obj, index)
            say(number)
        handle.close()


async def main(directory: str, size_bytes: str, action: str, name: str) -> None:
    config = DiskCacheConfig(
        directory=directory, size_bytes=int(size_bytes), free_floor_fraction=0.0, block_bytes=BLOCK_BYTES
    )
    cache = await DiskBlockCache.open(config, store_id="test")
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        await {"fill": fill_and_count, "hold": hold, "claim": claim, "change": change, "storm": storm}[action](
            cache, name
        )
        nursery.cancel_scope.cancel()
    await cache.aclose()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
