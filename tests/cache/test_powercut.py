"""Power cuts and kills at random moments of a load: right bytes, nothing lost but what was in flight.

Mutations that turn it red: a publisher that flags blocks without syncing their data ("cut": promised blocks are gone);
``storage.write`` recording a block before it writes it ("killed": corrupt blocks are counted).
"""

from __future__ import annotations

import importlib.util
import logging
import random
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tigrismount.cache.disk import DiskBlockCache
from tigrismount.cache.records import object_digest
from tigrismount.errors import CacheCorruptError
from tigrismount.testing.cache_contract import BLOCK_BYTES, block_count, check, fill, object_id, write

_spec = importlib.util.spec_from_file_location("powercut", Path(__file__).with_name("powercut.py"))
assert _spec is not None
assert _spec.loader is not None
powercut = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(powercut)

OBJECTS = [object_id(f"model-{number}", blocks=number % 3 + 1.5) for number in range(9)]
CAPACITY_BYTES = 14 * BLOCK_BYTES
BLOCKS = {(object_digest("test", obj), index): obj for obj in OBJECTS for index in range(block_count(obj))}


async def load(place: Any, draw: random.Random, recorder: Any, steps: int) -> None:
    """Write, publish, read and evict at random."""
    cache = await place.start(boot_id="first boot", size_bytes=CAPACITY_BYTES)
    recorder.index = cache._index
    for _ in range(steps):
        obj = draw.choice(OBJECTS)
        handle = await cache.open_object(obj)
        for index in draw.sample(range(block_count(obj)), draw.randint(1, block_count(obj))):
            await write(handle, obj, index)
        handle.close()
        if draw.random() < 0.4:
            await cache._publisher.publish()
    recorder.index = None
    await cache.aclose()


async def right_blocks(cache: DiskBlockCache) -> set[tuple[bytes, int]]:
    """Return the blocks that the cache serves; that they are right is checked on the way."""
    found = set()
    for (digest, index), obj in BLOCKS.items():
        handle = await cache.open_object(obj)
        if handle.has(index):
            with suppress(CacheCorruptError):
                await check(handle, obj, index)
                found.add((digest, index))
        handle.close()
    return found


async def judge(place: Any, path: Path, end: str, image: Any, promised: set[tuple[bytes, int]], verify: str) -> None:
    """Start on what was found and check all that was promised."""
    powercut.restore(path, image)
    config = replace(place.config, directory=str(path), size_bytes=CAPACITY_BYTES, verify=verify)
    boot_id = "first boot" if end == "killed" else "next boot"
    cache = await DiskBlockCache.open(config, store_id="test", boot_id=boot_id, clock=place.clock)
    found = await right_blocks(cache)
    assert promised <= found
    assert end == "cut" or cache.statistics().corrupt_blocks == 0
    for obj in OBJECTS[:3]:
        assert await fill(cache, obj) == block_count(obj)
    assert len(await right_blocks(cache)) >= sum(block_count(obj) for obj in OBJECTS[:3])
    assert cache.statistics().degraded == ""
    await cache.aclose()
    shutil.rmtree(path)


@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 40))])
async def test_nothing_wrong_is_served_and_nothing_synced_is_lost(
    place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    """Some ten moments a seed, each ended by a kill and by a power cut: hundreds of rounds with the slow ones."""
    draw = random.Random(seed)
    # An image is no copy to the cache: it lies where it was written.
    monkeypatch.setattr("tigrismount.cache.index._place_of", lambda _: b"here")
    with monkeypatch.context() as hooks:
        recorder = powercut.Recorder(place.path, draw, hooks, cut_every=10)
        await load(place, draw, recorder, steps=20)
    assert len(recorder.images) >= 6
    with caplog.at_level(logging.WARNING):
        for number, (end, image, promised) in enumerate(recorder.images):
            await judge(place, tmp_path / str(number), end, image, promised, draw.choice(("once", "off")))
    assert "set aside" not in caplog.text
