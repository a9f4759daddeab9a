"""Several daemons on one directory, and daemons that are killed."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from tigrismount.cache import access, disk, probe
from tigrismount.cache.access import open_cache_access
from tigrismount.cache.environment import Environment
from tigrismount.errors import CacheError
from tigrismount.testing.cache_contract import BLOCK_BYTES, check, check_all, fill, object_id, write

OBJECT_BYTES = 4 * BLOCK_BYTES


def lines(child: Any, count: int) -> list[int]:
    return [int(child.stdout.readline()) for _ in range(count)]


def told(child: Any) -> list[int]:
    """Return what a child that ends by itself has printed."""
    return [int(line) for line in child.communicate()[0].split()]


def on_disk_bytes(path: Any) -> int:
    try:
        return int(path.stat().st_blocks) * 512
    except FileNotFoundError:
        return 0


async def test_daemons_see_each_others_blocks_and_agree_on_the_size(place: Any, children: Any) -> None:
    mine, theirs = object_id("mine"), object_id("theirs")
    async with place.open() as cache:
        await fill(cache, mine)
        before = await cache.open_object(theirs)
        assert lines(children("fill", "theirs"), 2) == [4, 2 * OBJECT_BYTES]
        assert before.count() == 0
        await before.refresh()
        assert before.count() == 4
        await check(before, theirs, 3)
        assert await check_all(cache, theirs) == 4
        assert await write(before, theirs, 0)
        await cache._room.enforce()  # which ``run`` does about once a second
        assert (cache.statistics().bytes_cached, cache.statistics().objects_cached) == (2 * OBJECT_BYTES, 2)
        assert await fill(cache, object_id("mine too")) == 4
        assert cache.statistics().bytes_cached == 3 * OBJECT_BYTES
        before.close()


READS = """
import sys
from tigrismount.cache.environment import Environment
environment = Environment(sys.argv[1], [b"objects"], readonly=False)
reading = environment._env.begin()
print("reads", flush=True)
sys.stdin.read()
"""


def test_readers_that_were_killed_are_cleared_while_others_go_on(tmp_path: Path) -> None:
    """Mutation: without ``reader_check`` the pages of their time are never used again, and the index grows for ever."""
    command = [sys.executable, "-c", READS, str(tmp_path)]
    with contextlib.ExitStack() as ends:
        children = []
        for _ in range(2):
            children.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            ends.enter_context(children[-1])
            ends.callback(children[-1].kill)
            assert children[-1].stdout.readline() == "reads\n"
        lives, dies = children
        dies.kill()
        dies.wait()
        environment = Environment(str(tmp_path), [b"objects"], readonly=False)
        pids = [line.split()[0] for line in environment._env.readers().splitlines()[1:]]
        environment.close()
    assert pids == [str(lives.pid)]


async def test_a_cache_in_use_is_not_set_aside_because_its_disk_is_busy(
    place: Any, children: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: the walk of the index that does not end in time counts as damage, and the daemon loses its cache."""
    async with place.open() as cache:
        await fill(cache, object_id("mine"))
    child = children("hold", "mine")
    assert lines(child, 1) == [4]
    with monkeypatch.context() as patch:
        patch.setattr(probe, "_TIMEOUT_S", 0.0)
        with pytest.raises(CacheError, match="which others use, did not end within 0 s"):
            await place.start()
    async with place.open() as cache:
        assert await check_all(cache, object_id("mine")) == 4
    child.communicate()
    with monkeypatch.context() as patch:
        patch.setattr(probe, "_TIMEOUT_S", 0.0)
        async with place.open() as cache:  # where nobody can use it, either, it is begun anew
            assert await check_all(cache, object_id("mine")) == 0


async def test_nobody_waits_for_long_to_open_beside_a_daemon_that_was_stopped_as_it_changed_the_index(
    place: Any, children: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that starts, or takes over, goes on without the cache; once the daemon is gone it can be opened again.

    Mutation: waiting in ``open_db`` keeps Python's lock, so that nothing at all runs; without the bound the mount ends.
    """
    async with place.open() as cache:
        await fill(cache, object_id("mine"))
    monkeypatch.setattr(disk, "_OPENING_S", 2.0)
    child = children("change", "mine")
    assert lines(child, 1) == [4]
    began_s = trio.current_time()
    with pytest.raises(CacheError, match="could not be opened within 2 s"):
        await place.start()
    assert trio.current_time() - began_s < 20.0
    child.kill()
    child.wait()
    monkeypatch.setattr(disk, "_OPENING_S", 120.0)
    with trio.fail_after(60):
        while True:  # until the thread that was left behind has closed it
            try:
                cache = await place.start()
                break
            except CacheError:
                await trio.sleep(0.02)
    assert await check_all(cache, object_id("mine")) == 4
    await cache.aclose()


async def test_no_command_waits_for_long_beside_a_daemon_that_was_stopped_as_it_changed_the_index(
    place: Any, children: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: 'cache evict' hangs, and hears no Ctrl-C. Who only looks waits for nobody."""
    async with place.open() as cache:
        await fill(cache, object_id("mine"))
    monkeypatch.setattr(access, "_OPENING_S", 1.0)
    path = str(place.path)
    child = children("change", "mine")
    assert lines(child, 1) == [4]
    with open_cache_access(path) as found:
        assert [report.key for report in found.objects()] == ["mine"]
    with pytest.raises(CacheError, match="could not be opened within 1 s"), open_cache_access(path, write=True):
        pass
    child.kill()


async def test_version_open_in_one_daemon_is_not_evicted_by_another(place: Any, children: Any) -> None:
    """And is as soon as it is closed there."""
    mine = object_id("mine")
    async with place.open() as cache:
        await fill(cache, mine)
        handle = await cache.open_object(mine)
        assert lines(children("fill", "theirs", size_bytes=OBJECT_BYTES), 2) == [0, OBJECT_BYTES]
        await check(handle, mine, 0)
        handle.close()
        assert lines(children("fill", "theirs", size_bytes=OBJECT_BYTES), 2) == [4, OBJECT_BYTES]
        assert await check_all(cache, mine) == 0
        assert await check_all(cache, object_id("theirs")) == 4
        assert cache.statistics().bytes_cached == OBJECT_BYTES


async def test_own_eviction_passes_over_what_another_daemon_has_open(place: Any, children: Any) -> None:
    held, free, new = (object_id(name) for name in ("held", "free", "new"))
    async with place.open(size_bytes=2 * OBJECT_BYTES) as cache:
        await fill(cache, held)
        await fill(cache, free)
        child = children("hold", "held")
        assert lines(child, 1) == [4]
        assert await fill(cache, new) == 4
        assert [await check_all(cache, obj) for obj in (held, free, new)] == [4, 0, 4]
        child.communicate()


async def test_cache_of_a_killed_daemon_can_be_evicted(place: Any, children: Any) -> None:
    """Its locks die with it."""
    held, new = object_id("held"), object_id("new")
    async with place.open(size_bytes=OBJECT_BYTES) as cache:
        await fill(cache, held)
        child = children("hold", "held")
        assert lines(child, 1) == [4]
        assert await fill(cache, new) == 0
        child.kill()
        child.wait()
        cache._room._no_room_until_s = 0.0  # the pause before the next look
        assert await fill(cache, new) == 4


@pytest.mark.parametrize(
    "blocks", [1, 7, 23, *(pytest.param(blocks, marks=pytest.mark.slow) for blocks in range(24, 124))]
)
async def test_killed_while_writing_every_recorded_block_is_right(place: Any, children: Any, blocks: int) -> None:
    child = children("storm", "s")
    last = max(lines(child, blocks))
    child.send_signal(signal.SIGKILL)
    last = max([last, *(int(line) for line in child.stdout.read().split())])
    child.wait()
    found = 0
    async with place.open(verify="always", boot_id="next boot") as cache:
        for number in range(last + 2):
            found += await check_all(cache, object_id(f"s-{number}", blocks=4.5))
        assert (cache.statistics().corrupt_blocks, cache.statistics().degraded) == (0, "")
    assert found >= blocks


async def test_three_storms_at_once_keep_the_bound_and_the_sums(place: Any, children: Any) -> None:
    """Each evicts what the other wrote; what is left is right, adds up, and was never more on the disk.

    Mutation: with ``reserve`` that always says yes the disk holds more.
    """
    bound_bytes = 20 * BLOCK_BYTES
    storms = [children("storm", name, size_bytes=bound_bytes) for name in "xyz"]
    most_bytes = 0
    for _ in range(60):
        for storm in storms:
            lines(storm, 1)
        most_bytes = max(most_bytes, sum(on_disk_bytes(path) for path in place.data_files()))
    assert most_bytes <= bound_bytes + 8 * 4096  # each version's last block is rounded up
    for storm in storms:
        storm.kill()
        storm.wait()
    found_bytes = 0
    async with place.open(size_bytes=bound_bytes, verify="always") as cache:
        total_bytes = cache.statistics().bytes_cached
        for digest, record in cache._index.objects().items():
            assert record.cached_bytes == sum(block.length_bytes for block in cache._index.blocks(digest).values())
            found_bytes += record.cached_bytes
        cache._index.check()
    assert found_bytes == total_bytes <= bound_bytes


@pytest.fixture
def elsewhere() -> Any:
    """Command that runs another one in a pid namespace of its own."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("a pid namespace needs unshare and root")
    return command


async def test_daemons_of_another_pid_namespace_get_a_cache_beside_it(
    place: Any, children: Any, elsewhere: Any
) -> None:
    """For as long as one is there: the index knows pids. Mutation: with one name for all namespaces they share it."""
    async with place.open() as cache:
        await fill(cache, object_id("mine"))
        assert told(children("fill", "theirs", prefix=elsewhere)) == [4, OBJECT_BYTES]
        assert told(children("fill", "third", prefix=elsewhere)) == [4, 2 * OBJECT_BYTES], "the same one again"
        assert told(children("fill", "ours")) == [4, 2 * OBJECT_BYTES]
        assert await check_all(cache, object_id("theirs")) == 0
    assert [path.name for path in place.path.glob("beside-*")] == ["beside-1"]


async def test_what_another_pid_namespace_cached_before_is_found(place: Any, children: Any, elsewhere: Any) -> None:
    """An init container warms, the next container serves. Mutation: with a directory for each namespace it is not."""
    assert told(children("fill", "warmed", prefix=elsewhere)) == [4, OBJECT_BYTES]
    async with place.open() as cache:
        assert await check_all(cache, object_id("warmed")) == 4
    assert list(place.path.glob("beside-*")) == []


async def test_what_work_from_outside_may_do_from_another_pid_namespace(
    place: Any, children: Any, elsewhere: Any
) -> None:
    child = children("hold", "held", prefix=elsewhere)
    lines(child, 1)
    with open_cache_access(str(place.path)) as access:
        assert access.objects() == []
    with (
        pytest.raises(CacheError, match=r"daemons of another pid namespace use the cache in .*: run this in their"),
        open_cache_access(str(place.path), write=True),
    ):
        pass
    child.communicate()
