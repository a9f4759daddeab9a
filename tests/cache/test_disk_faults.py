"""The disk cache on a disk that hangs, fails or is full: it costs blocks, for a while, and nothing else."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tigrismount.cache import datafile, disk, room, versions
from tigrismount.cache.base import Claim
from tigrismount.cache.none import UncachedObject
from tigrismount.cache.storage import StoredVersion
from tigrismount.core.types import ObjectId
from tigrismount.errors import CacheCorruptError, CacheError
from tigrismount.testing.cache_contract import (
    BLOCK_BYTES,
    aligned_buffer,
    block_content,
    check,
    check_all,
    fill,
    object_id,
    write,
)
from tigrismount.testing.waiting import no_threads, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tigrismount.cache.records import BlockRecord

OBJ = object_id("model", blocks=4.5)


async def test_hung_disk_is_waited_for_briefly_and_once(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first look hangs, the next ones do not look. Mutations: without the bound each takes a minute; without the
    silence after it each looks."""
    async with place.open() as cache:
        await fill(cache, OBJ)
        monkeypatch.setattr(disk, "_PATIENCE_S", 0.1)
        hung = threading.Event()
        opened = datafile.DataFile._open_direct

        looks: list[int] = []

        def open_hangs(self: datafile.DataFile, flags: int) -> int:
            looks.append(flags)
            hung.wait(60)
            return opened(self, flags)

        monkeypatch.setattr(datafile.DataFile, "_open_direct", open_hangs)
        with trio.fail_after(30):
            for _ in range(3):
                handle = await cache.open_object(OBJ)
                assert not handle.has(0)
                assert not await write(handle, OBJ, 0)
                handle.close()
        assert cache.statistics().degraded == "the disk has not answered for 0.1 s"
        assert len(looks) == 1
        hung.set()
        monkeypatch.undo()
        cache._silent_until_s = 0.0
        cache._health._next_try_s = 0.0
        await place.until(lambda: not cache.statistics().degraded)  # it comes back by itself
        assert await fill(cache, OBJ) == 5


async def test_second_look_at_an_open_version_that_hangs_is_not_waited_for(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by who asks for an attribute of an open file. Mutation: a thread that is waited for keeps it as it hangs."""
    async with place.open() as cache:
        await fill(cache, OBJ)
        handle = await cache.open_object(OBJ)
        monkeypatch.setattr(disk, "_PATIENCE_S", 0.1)
        hung = threading.Event()
        load = StoredVersion.load

        def load_hangs(storage: StoredVersion, block_bytes: int | None = None) -> dict[int, BlockRecord]:
            hung.wait(60)
            return load(storage, block_bytes)

        monkeypatch.setattr(StoredVersion, "load", load_hangs)
        try:
            with trio.fail_after(30):
                again = await cache.open_object(OBJ)
            assert not again.has(0)
            await check(handle, OBJ, 0)
        finally:
            hung.set()
        handle.close()


async def test_data_file_that_hangs_as_it_is_opened_again_is_not_waited_for(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by who opens a file onto it, who has patience for a moment.

    Mutation: a thread that is waited for keeps it as it hangs; and one that is left leaves the file open, and locked.
    """
    async with place.open() as cache:
        await fill(cache, OBJ)
        handle = await cache.open_object(OBJ)
        hung, fds = threading.Event(), []
        open_again = datafile.DataFile.open_again

        def hangs(file: datafile.DataFile) -> int:
            hung.wait(60)
            fds.append(open_again(file))
            return fds[0]

        monkeypatch.setattr(datafile.DataFile, "open_again", hangs)
        try:
            with trio.fail_after(30), trio.move_on_after(0.1):
                await handle.open_file()
            assert not hung.is_set()
        finally:
            hung.set()
            handle.close()
        await place.until(lambda: not cache._read_limiter.borrowed_tokens)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fds[0])
        (path,) = place.data_files()
        with path.open() as file:
            assert datafile.is_unused(file.fileno())


async def test_data_file_whose_close_fails_is_closed_all_the_same(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network's filesystem; the descriptor is gone. Mutation: who closes a version fails, and so does trio
    where a thread that was left behind had it open last."""
    async with place.open() as cache:
        await fill(cache, OBJ)
        handle = await cache.open_object(OBJ)
        (path,) = place.data_files()
        close = os.close

        def fails(fd: int) -> None:
            is_data = os.fstat(fd).st_ino == path.stat().st_ino
            close(fd)
            if is_data:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "close", fails)
        handle.close()
        monkeypatch.undo()
        with path.open() as file:
            assert datafile.is_unused(file.fileno())


async def test_read_that_hangs_is_told_of(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it has come back."""
    hung = threading.Event()
    read = datafile.DataFile.read

    def read_hangs(*arguments: Any) -> None:
        hung.wait(60)
        read(*arguments)

    async with place.open() as cache:
        await fill(cache, OBJ)
        monkeypatch.setattr(datafile.DataFile, "read", read_hangs)
        handle = await cache.open_object(OBJ)
        monkeypatch.setattr(disk, "_PATIENCE_S", 0.1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(check, handle, OBJ, 0)
            assert cache.statistics().degraded == ""
            await place.until(lambda: cache.statistics().degraded == "the disk has not answered for 0.1 s")
            hung.set()
        assert cache.statistics().degraded == ""
        handle.close()


@contextmanager
def small_tmpfs(path: Path, size_bytes: int) -> Iterator[None]:
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", path], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a full disk needs a small tmpfs, and mounting one failed: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def fill_disk(hog: Path) -> None:
    with hog.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


async def test_full_disk_costs_the_cache_only_and_only_for_a_while(place: Any) -> None:
    with small_tmpfs(place.path, 4 << 20):
        cache = await place.start()  # without ``run``, so that nothing looks at the disk but the write
        handle = await cache.open_object(OBJ)
        assert await write(handle, OBJ, 0)
        fill_disk(place.path / "hog")
        assert not await write(handle, OBJ, 1)
        assert "the cache's disk is full" in cache.statistics().degraded
        assert not await write(handle, OBJ, 2)
        await check(handle, OBJ, 0)
        (place.path / "hog").unlink()
        assert not await write(handle, OBJ, 1)  # not at once
        cache._room._no_room_until_s = 0.0
        assert await write(handle, OBJ, 1)
        assert cache.statistics().degraded == ""
        handle.close()
        await cache.aclose()
        async with place.open() as cache:
            assert await check_all(cache, OBJ) == 2


async def test_disk_that_is_full_at_the_first_write_is_no_failure(place: Any, caplog: pytest.LogCaptureFixture) -> None:
    """To see that there is no room takes none. Mutation: where the index is asked, it notes its session first."""
    with small_tmpfs(place.path, 4 << 20):
        cache = await place.start()
        handle = await cache.open_object(OBJ)
        fill_disk(place.path / "hog")
        assert not await write(handle, OBJ, 0)
        assert cache.statistics().degraded.startswith("the cache's disk is full")
        (place.path / "hog").unlink()
        handle.close()
        await cache.aclose()
    assert caplog.records == []


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.ENOSPC])
@pytest.mark.parametrize("call", ["pwrite", "preadv", "fdatasync", "ftruncate"])
async def test_disk_that_fails_costs_blocks_and_nothing_else(
    place: Any, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """A failing, read-only or full disk, in any call: nothing but a ``CacheError`` of a read, and it comes back."""
    async with place.open() as cache:
        await fill(cache, OBJ)
        handle, other = await cache.open_object(OBJ), await cache.open_object(object_id("other"))
        with monkeypatch.context() as hooks:
            hooks.setattr(os, call, partial(fails, number))
            if call == "preadv":
                with pytest.raises(CacheError, match=f"cannot be read back: {os.strerror(number)}"):
                    await check(handle, OBJ, 0)
            elif call == "fdatasync":
                assert await write(other, object_id("other"), 0)
                await place.until(lambda: cache.statistics().degraded == os.strerror(number))
            else:
                assert not await write(other, object_id("other"), 0)
                assert cache.statistics().degraded == os.strerror(number)
            if call not in ("preadv", "fdatasync"):  # what was just written cannot be synced either
                await check(handle, OBJ, 1)
        cache._health._next_try_s = 0.0
        await place.until(lambda: not cache.statistics().degraded)
        assert await fill(cache, OBJ) == 5
        assert await fill(cache, object_id("other")) == 4
        handle.close()
        other.close()


async def test_block_that_could_not_be_synced_is_not_read_again(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel drops what it could not write, and says so once. Mutation: who has read it before reads what is left
    of it, with no further look."""
    cache = await place.start()
    handle = await cache.open_object(OBJ)
    assert await write(handle, OBJ, 4)
    await check(handle, OBJ, 4)
    with monkeypatch.context() as hooks:
        hooks.setattr(os, "fdatasync", partial(fails, errno.EIO))
        await cache._attempt(cache._publisher.publish)
    place.flip(4 * BLOCK_BYTES)
    assert not handle.has(4)
    with pytest.raises(CacheError, match="is not cached"):
        await check(handle, OBJ, 4)
    cache._health._next_try_s = 0.0
    assert await write(handle, OBJ, 4)
    await check(handle, OBJ, 4)
    handle.close()
    await cache.aclose()


@pytest.mark.parametrize("verify", ["once", "off"])
@pytest.mark.parametrize("closed", [True, False])
async def test_block_that_could_not_be_synced_nor_dropped_is_looked_at(
    place: Any, monkeypatch: pytest.MonkeyPatch, verify: Any, closed: bool
) -> None:
    """The index lies on the disk that fails. Mutation: what is left of the block is read with no further look, as it
    was verified before or nothing is, by who opens the version again."""

    def drop_fails(*_: object) -> bool:
        raise CacheError("the cache index failed")

    cache = await place.start(verify=verify)
    handle = await cache.open_object(OBJ)
    assert await write(handle, OBJ, 4)
    await check(handle, OBJ, 4)
    if closed:
        handle.close()
    with monkeypatch.context() as hooks:
        hooks.setattr(os, "fdatasync", partial(fails, errno.EIO))
        hooks.setattr(cache._index, "drop_block", drop_fails)
        await cache._attempt(cache._publisher.publish)
    (path,) = (path for path in (place.path / "objects").rglob("*") if path.is_file())
    before = path.stat()
    place.flip(4 * BLOCK_BYTES)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a disk changes bytes, which is no writing
    again = await cache.open_object(OBJ)
    assert again.has(4)
    assert not again.proven(4)
    with pytest.raises(CacheCorruptError):
        await check(again, OBJ, 4)
    again.close()
    handle.close()
    await cache.aclose()


async def test_block_that_could_not_be_synced_while_it_was_read_is_looked_at(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: the read that ends later notes that it was found right, and what is left of it is read unseen."""

    def drop_fails(*_: object) -> bool:
        raise CacheError("the cache index failed")

    begun, go_on, read = threading.Event(), threading.Event(), StoredVersion.read

    def waits(storage: StoredVersion, *arguments: Any, **options: Any) -> None:
        read(storage, *arguments, **options)
        begun.set()
        go_on.wait(60)

    cache = await place.start()
    handle = await cache.open_object(OBJ)
    assert await write(handle, OBJ, 4)
    with monkeypatch.context() as hooks:
        hooks.setattr(StoredVersion, "read", waits)
        hooks.setattr(os, "fdatasync", partial(fails, errno.EIO))
        hooks.setattr(cache._index, "drop_block", drop_fails)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(check, handle, OBJ, 4)
            await trio.to_thread.run_sync(begun.wait, 60)
            await cache._attempt(cache._publisher.publish)
            go_on.set()
    place.flip(4 * BLOCK_BYTES)
    again = await cache.open_object(OBJ)
    assert again.has(4)
    with pytest.raises(CacheCorruptError):
        await check(again, OBJ, 4)
    again.close()
    handle.close()
    await cache.aclose()


async def test_block_that_could_not_be_synced_is_proven_as_the_disk_has_it(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails leaves its bytes in memory, as if they were on the disk.

    Mutation: they are found right there, and what the disk has is read past them, or after them, with no further look.
    """

    def drop_fails(*_: object) -> bool:
        raise CacheError("the cache index failed")

    def shows_the_disk(_fd: int, offset: int, length_bytes: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_DONTNEED
        assert (offset, offset + length_bytes) == (4 * BLOCK_BYTES, OBJ.size_bytes), "not to its end: its page stays"
        place.flip(4 * BLOCK_BYTES)

    cache = await place.start(verify="once")
    handle = await cache.open_object(OBJ)
    assert await write(handle, OBJ, 4)
    handle.close()
    with monkeypatch.context() as hooks:
        hooks.setattr(os, "fdatasync", partial(fails, errno.EIO))
        hooks.setattr(cache._index, "drop_block", drop_fails)
        await cache._attempt(cache._publisher.publish)
    handle = await cache.open_object(OBJ)
    (path,) = (path for path in (place.path / "objects").rglob("*") if path.is_file())
    fd = os.open(path, os.O_RDONLY)
    monkeypatch.setattr(os, "posix_fadvise", shows_the_disk)
    with pytest.raises(CacheCorruptError):
        await handle.prove_block(4, fd)
    assert not handle.has(4)
    os.close(fd)
    handle.close()
    await cache.aclose()


async def test_system_without_a_thread_costs_blocks_and_nothing_else(
    place: Any, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a container with too few tasks. Mutation: with trio's own function upkeep ends, and the daemon with it."""
    other = object_id("other")
    async with place.open() as cache:
        await fill(cache, OBJ)
        handle = await cache.open_object(OBJ)
        await check(handle, OBJ, 1)
        with no_threads():
            with pytest.raises(CacheError, match="block 0 cannot be read: the system has no thread left"):
                await check(handle, OBJ, 0)
            with pytest.raises(CacheError, match="a piece of block 1 cannot be read: the system has no thread left"):
                await handle.read_piece(1, 0, 1)
            with pytest.raises(CacheError, match="cannot be opened: the system has no thread left"):
                await handle.open_file()
            unknown = await cache.open_object(other)
            assert not await write(unknown, other, 0)
            await cache.records.put("orders", b"key", b"value")
            await handle.refresh()
            await trio.sleep(30)  # of upkeep
            assert "raise the limit of tasks" in cache.statistics().degraded
        await place.until(lambda: not cache.statistics().degraded)
        await check(handle, OBJ, 0)
        assert await fill(cache, other) == 4
        handle.close()
    assert [record.message for record in caplog.records if "no thread" in record.message] == [
        f"the cache in {place.path} is not used for now: the system has no thread left: raise the limit of tasks"
    ]


async def test_what_could_not_be_published_for_want_of_a_thread_is_published_later(place: Any) -> None:
    """Else its data is never synced, and nobody would hear that the disk has lost it."""
    cache = await place.start()
    await fill(cache, OBJ)
    with no_threads(), pytest.raises(OSError, match="no thread left"):
        await cache._publisher.publish()
    await cache._publisher.publish()
    assert all_synced(cache)
    await cache.aclose()


async def test_what_could_not_be_published_for_want_of_a_descriptor_is_published_later(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: its records are dropped, and all of its data stays on the disk, beyond the bound, counted by nobody."""
    cache = await place.start()
    assert await fill(cache, OBJ) == 5
    with monkeypatch.context() as hooks:
        hooks.setattr(os, "open", partial(fails, errno.EMFILE))
        with pytest.raises(OSError, match="Too many open files"):
            await cache._publisher.publish()
    assert await check_all(cache, OBJ) == 5
    assert not all_synced(cache)
    await cache._publisher.publish()
    assert all_synced(cache)
    await cache.aclose()


async def test_what_waits_for_a_thread_when_the_mount_ends_is_published_on_its_way_out(place: Any) -> None:
    cache = await place.start()
    await fill(cache, OBJ)
    limiter = trio.to_thread.current_default_thread_limiter()
    most, limiter.total_tokens = limiter.total_tokens, 1
    try:
        async with limiter, trio.open_nursery() as nursery:
            nursery.start_soon(cache._publisher.publish)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    finally:
        limiter.total_tokens = most
    await cache._publisher.publish()
    assert all_synced(cache)
    await cache.aclose()


class _Late(threading.Event):
    def is_set(self) -> bool:
        assert self.wait(60)
        time.sleep(0.2)  # who gives up goes on meanwhile
        return True


async def test_a_cache_that_opens_as_it_is_given_up_is_left_once(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the thread or by who gave up. Mutation: both close the descriptor, and the second may close another's."""

    left = []
    leave = disk.DiskBlockCache._leave
    monkeypatch.setattr(disk.DiskBlockCache, "_leave", lambda cache: (left.append(cache), leave(cache)))
    monkeypatch.setattr(disk, "_OPENING_S", 2.0)
    with monkeypatch.context() as hooks:
        hooks.setattr(disk, "threading", SimpleNamespace(Event=_Late))
        with pytest.raises(CacheError, match="could not be opened within 2 s"):
            await place.start()
    await place.until(lambda: bool(left))
    await trio.sleep(0.5)
    assert len(left) == 1


async def test_a_version_that_opens_as_it_is_given_up_is_closed_once(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a cache is. Mutation: who gave up and the thread both close its file, and the second may close another's."""
    closed = []
    close = datafile.DataFile.close
    async with place.open() as cache:
        await fill(cache, OBJ)
        with monkeypatch.context() as hooks:
            hooks.setattr(versions, "threading", SimpleNamespace(Event=_Late))
            hooks.setattr(datafile.DataFile, "close", lambda file: (closed.append(file), close(file)))
            with trio.move_on_after(0.5):
                await cache.open_object(OBJ)
            await trio.sleep(0.5)
    assert len(closed) == 1


def all_synced(cache: disk.DiskBlockCache) -> bool:
    return all(block.synced for digest in cache._index.objects() for block in cache._index.blocks(digest).values())


def fails(number: int, *_: Any) -> int:
    raise OSError(number, os.strerror(number))


async def test_full_disk_at_the_start_leaves_what_is_cached(place: Any) -> None:
    with small_tmpfs(place.path, 4 << 20):
        async with place.open() as cache:
            await fill(cache, OBJ)
        fill_disk(place.path / "hog")
        cache = await place.start()
        assert await check_all(cache, OBJ) == 5
        assert await fill(cache, object_id("other")) == 0
        assert cache.statistics().degraded
        await cache.aclose()
        (place.path / "hog").unlink()
        async with place.open() as cache:
            assert await check_all(cache, OBJ) == 5
            assert await fill(cache, object_id("other")) == 4


async def test_closing_a_version_on_a_disk_that_is_gone_ends_nothing(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XFS that has shut down answers EIO to a look at an open file. Mutations: the event loop meets that where a
    version is closed; what was found right then counts for any file of which nobody can tell whether it is the same."""

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with place.open() as cache:
        await fill(cache, OBJ)
        handle = await cache.open_object(OBJ)
        await check_all(cache, OBJ)
        assert handle.proven(0)
        with monkeypatch.context() as disk_is_gone:
            disk_is_gone.setattr(os, "fstat", fails)
            handle.close()
        assert cache.tables() == {"cache_open": 0, "cache_verified": 0}
        again = await cache.open_object(OBJ)
        assert again.has(0)
        assert not again.proven(0)
        again.close()


async def test_closing_a_file_that_says_what_was_lost_ends_nothing(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS does where a quota is spent. Mutation: the event loop meets it where a version is closed."""
    async with place.open() as cache:
        await fill(cache, OBJ)
        handle = await cache.open_object(OBJ)
        really_close = os.close

        def close_and_say(fd: int) -> None:
            really_close(fd)
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

        with monkeypatch.context() as quota_is_spent:
            quota_is_spent.setattr(os, "close", close_and_say)
            handle.close()


async def test_start_on_a_disk_without_one_free_block_needs_none(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where root has filled it into what is reserved: what is written over needs no room, what was cut does.

    Mutation: who uses the directory is written into a file that was emptied, and there is no cache until a remount.
    """
    async with place.open() as cache:
        await fill(cache, OBJ)
    pwrite = os.pwrite

    def writes_over(fd: int, data: bytes, offset: int) -> int:
        if offset + len(data) > os.fstat(fd).st_size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", writes_over)
    cache = await place.start()
    assert await check_all(cache, OBJ) == 5
    await cache.aclose()


async def test_recovery_is_noticed_without_a_write(
    place: Any, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A mount that only reads does not stay degraded; one line begins the trouble and one ends it."""
    with small_tmpfs(place.path, 4 << 20), caplog.at_level(logging.INFO):
        async with place.open() as cache:
            await fill(cache, OBJ)
            fill_disk(place.path / "hog")
            cache._health.fail(OSError(28, "No space left on device"))
            await trio.sleep(100)
            assert await check_all(cache, OBJ) == 5
            assert cache.statistics().degraded
            (place.path / "hog").unlink()
            await place.until(lambda: not cache.statistics().degraded)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_disk_smaller_than_the_bound_evicts_instead_of_filling_up(place: Any) -> None:
    with small_tmpfs(place.path, 4 << 20):
        async with place.open() as cache:
            for name in "abcdefghijklmnop":
                assert await fill(cache, object_id(name)) == 4
            assert cache.statistics().evicted_objects > 8
            assert await check_all(cache, object_id("p")) == 4


@pytest.mark.parametrize("alignment", [0, 1])
async def test_memory_that_is_not_aligned_goes_through_the_page_cache(place: Any, alignment: int) -> None:
    async with place.open() as cache:
        handle = await cache.open_object(OBJ)
        for index in range(5):
            content = block_content(OBJ, index)
            padded = aligned_buffer(2 * BLOCK_BYTES)[alignment:]
            padded[: len(content)] = content
            assert await handle.write_block(index, padded, len(content))
            exact = memoryview(bytearray(len(content)))
            await handle.read_block(index, exact)
            assert exact == content
        handle.close()
        assert place.data_files()[0].stat().st_size == OBJ.size_bytes


async def test_broken_index_costs_the_cache_only_and_is_logged_once(
    place: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with place.open() as cache:
        handle = await cache.open_object(OBJ)
        cache._index.close()
        for index in range(3):
            cache._health._next_try_s = 0.0
            assert not await write(handle, OBJ, index)
        assert (await cache.open_object(object_id("other"))).count() == 0
        await handle.refresh()
        handle.close()
        assert cache.statistics().degraded
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_object_of_more_blocks_than_the_index_counts_is_not_cached(place: Any) -> None:
    """A store may say of an object that it has 4 EiB. Mutation: claim its last block, whose number the index cannot
    hold: that counts as damage, and nothing of other files is cached for ten seconds."""
    obj = ObjectId("bucket", "huge", "e1", 1 << 62)
    async with place.open() as cache:
        handle = await cache.open_object(obj)
        last = obj.size_bytes // BLOCK_BYTES - 1
        for _ in range(2):
            await handle.claim([last])
        handle.close()
        assert cache.tables()["cache_open"] == 0
        assert not cache.statistics().degraded
        assert isinstance(handle, UncachedObject)
        assert await fill(cache, OBJ) == 5


async def test_file_larger_than_its_filesystem_takes_is_no_failure_of_the_disk(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of 20 TiB on ext4. Mutation: nothing of other files is cached either, for ten seconds after each read."""
    large = ObjectId("bucket", "large", "e1", 1 << 40)
    truncate = os.ftruncate

    def of_at_most_a_gigabyte(fd: int, length: int) -> None:
        if length > 1 << 30:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        truncate(fd, length)

    monkeypatch.setattr(os, "ftruncate", of_at_most_a_gigabyte)
    async with place.open() as cache:
        handle = await cache.open_object(large)
        assert await handle.claim([0]) == (Claim.OURS, 1)
        handle.close()
        assert not cache.statistics().degraded
        assert await fill(cache, OBJ) == 5


async def test_the_first_look_at_a_file_of_many_blocks_may_take_longer(place, monkeypatch) -> None:
    """A file of a million blocks takes seconds to look up: that was a disk that hangs, for every file, at each open."""
    async with place.open() as cache:
        assert await fill(cache, OBJ)
        monkeypatch.setattr(disk, "_PATIENCE_S", 0.0)
        monkeypatch.setattr(disk, "_BLOCK_PATIENCE_S", 60.0)
        handle = await cache.open_object(OBJ)
        assert handle.count()
        assert not cache.statistics().degraded
        handle.close()


async def test_a_refresh_gives_the_event_loop_only_what_has_changed(place) -> None:
    """A file of a million blocks kept the loop busy for a fifth of a second at each look for what others did."""
    async with place.open() as cache:
        assert await fill(cache, OBJ)
        handle = await cache.open_object(OBJ)
        blocks = handle._version.storage.blocks
        taken = []

        class Counted(dict):
            def setdefault(self, key, default=None):
                taken.append(key)
                return super().setdefault(key, default)

        handle._version.storage.blocks = Counted(blocks)
        await handle.refresh()
        assert taken == []
        del handle._version.storage.blocks[1]
        await handle.refresh()
        assert taken == [1]
        assert handle._version.storage.blocks == blocks
        handle.close()


async def test_quota_that_has_no_room_for_the_index_either_makes_some(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes is forgotten first, which takes pages of the index; while others look at it none is used again.

    Mutation: nothing can go, so nothing is cached any more, and 'cache evict' fails as well.
    """
    fallocate = os.posix_fallocate

    def within_quota(fd: int, offset: int, length: int) -> None:
        try:
            fallocate(fd, offset, length)
        except OSError as error:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)) from error

    def has_recovered() -> bool:
        cache._health._next_try_s = 0.0
        return not cache.statistics().degraded

    with small_tmpfs(place.path, 4 << 20):
        async with place.open() as cache:
            for name in ("old", "new"):
                assert await fill(cache, object_id(name)) == 4
            monkeypatch.setattr(os, "posix_fallocate", within_quota)
            monkeypatch.setattr(room, "disk_room_bytes", lambda *_: 1 << 40)
            with cache._index._env._env.begin():
                fill_disk(place.path / "hog")
                with suppress(CacheError):
                    while True:
                        cache._index.rewrite_totals()
                cache._health.fail(OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)))
                with trio.fail_after(30):
                    await until(has_recovered)
            assert (await check_all(cache, object_id("old")), await check_all(cache, object_id("new"))) == (0, 4)
            assert cache.statistics().bytes_cached == 4 * BLOCK_BYTES
