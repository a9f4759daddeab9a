"""One data file: made, locked, removed."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tigrismount.cache.datafile import DataFile, is_unused, remove_file
from tigrismount.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_new_file_is_new_once(tmp_path: Path) -> None:
    path = tmp_path / "ab" / "file"
    first, second = DataFile(str(path), 5000), DataFile(str(path), 5000)
    assert not first.open_existing()
    assert first.ensure()
    assert not first.ensure()
    assert not second.ensure()
    assert (first.inode, path.stat().st_size) == (second.inode, 5000)
    for file in (first, second, second):
        file.close()
    assert first.inode == 0


def test_open_file_is_not_removed(tmp_path: Path) -> None:
    """Not even the records are touched; once it is closed both go, the records first."""
    path = tmp_path / "file"
    file = DataFile(str(path), 5000)
    file.ensure()
    seen: list[bool] = []
    assert not remove_file(str(path), lambda: bool(seen.append(path.exists())) or True)
    assert (seen, file.linked()) == ([], True)
    file.close()
    assert remove_file(str(path), lambda: bool(seen.append(path.exists())) or True)
    assert (seen, path.exists()) == ([True], False)


def test_file_that_has_a_record_after_all_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    assert not remove_file(str(path), lambda: False)
    assert path.exists()


def test_two_evictions_at_once_remove_one_file(tmp_path: Path) -> None:
    """The slower one waits, and touches neither the records nor the file that has taken the name since."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    slower: list[Future[bool]] = []
    forgotten: list[str] = []

    def first() -> bool:
        slower.append(pool.submit(remove_file, str(path), lambda: bool(forgotten.append("second")) or True))
        while len(os.listdir("/proc/self/fd")) == before:
            pass  # until it has the old file open
        return not forgotten.append("first")

    with ThreadPoolExecutor(1) as pool:
        before = len(os.listdir("/proc/self/fd")) + 1
        assert remove_file(str(path), first)
        path.write_bytes(b"new")
        assert slower[0].result()
    assert (forgotten, path.read_bytes()) == (["first"], b"new")


def test_removing_what_is_gone_still_forgets_it(tmp_path: Path) -> None:
    assert remove_file(str(tmp_path / "file"), lambda: True)


def test_file_that_is_being_evicted_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An eviction that never ends costs the cache, not the reader."""
    path = tmp_path / "file"
    path.touch()
    monkeypatch.setattr("tigrismount.cache.datafile._RETRY_S", 0.0)
    file = DataFile(str(path), 5000)

    def open_meanwhile() -> bool:
        with pytest.raises(CacheError, match="locked by an eviction"):
            file.open_existing()
        return True

    assert remove_file(str(path), open_meanwhile)
    assert not file.open_existing()


def make_link(path: str) -> None:
    """A link to a file that would do."""
    other = DataFile(f"{path}-other", 5000)
    other.ensure()
    other.close()
    os.symlink(f"{path}-other", path)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, make_link])
def test_what_is_not_a_plain_file_is_refused(tmp_path: Path, make: Callable[[str], None]) -> None:
    path = str(tmp_path / "file")
    make(path)
    with pytest.raises((CacheError, OSError)):
        DataFile(path, 5000).open_existing()


class WatchedFile(DataFile):
    """Notes how long the file is after each write."""

    def __init__(self, path: str, size_bytes: int) -> None:
        super().__init__(path, size_bytes)
        self.lengths: list[int] = []

    def _transfer(self, call: Callable[[int, Any, int], int], data: Any, offset: int) -> int:
        done = super()._transfer(call, data, offset)
        self.lengths.append(os.stat(self._path).st_size)
        return done


def test_the_file_ends_where_the_object_does_at_every_moment(tmp_path: Path) -> None:
    """The kernel may be reading it by itself: not one byte may be behind the end, not even for a moment."""
    path, size = tmp_path / "file", 3 * 4096 + 5
    file = WatchedFile(str(path), size)
    file.ensure()
    with mmap.mmap(-1, 4 * 4096) as memory, memoryview(memory) as buffer:
        buffer[:size] = bytes(range(256)) * 48 + b"x" * 5
        file.write(0, buffer, size)
        assert set(file.lengths) == {size}
        assert path.read_bytes() == bytes(buffer[:size])
    file.close()


def test_a_piece_that_is_refused_leaves_blocks_past_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a filesystem wants 64 KiB aligned. Mutation: read as blocks are, it ends that for the file."""
    preadv = os.preadv

    def strict(fd: int, buffers: list[memoryview], offset: int) -> int:
        if offset % 65536 and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return preadv(fd, buffers, offset)

    size = 3 * 65536
    file = DataFile(str(tmp_path / "file"), size)
    file.ensure()
    if not fcntl.fcntl(file._fd, fcntl.F_GETFL) & os.O_DIRECT:
        pytest.skip("no O_DIRECT here")
    monkeypatch.setattr(os, "preadv", strict)
    with pytest.raises(OSError, match="Invalid argument"):
        file.read_bytes(70000, 100)
    assert fcntl.fcntl(file._fd, fcntl.F_GETFL) & os.O_DIRECT
    assert file.read_bytes(65536 + 10, 100) == bytes(100)
    file.close()


def test_filesystem_that_refuses_two_threads_at_once_gives_both_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the flag and not the I/O. Mutation: the second one to hear so takes it for a failing disk."""
    both = threading.Barrier(2)
    preadv = os.preadv

    def refuses(fd: int, buffers: list[memoryview], offset: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            both.wait(30)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return preadv(fd, buffers, offset)

    file = DataFile(str(tmp_path / "file"), 8192)
    file.ensure()
    if not fcntl.fcntl(file._fd, fcntl.F_GETFL) & os.O_DIRECT:
        pytest.skip("no O_DIRECT here")
    monkeypatch.setattr(os, "preadv", refuses)

    def read(offset: int) -> bytes:
        buffer = memoryview(mmap.mmap(-1, 4096))
        file.read(offset, buffer, 4096)
        return bytes(buffer)

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(read, [0, 4096])) == [bytes(4096)] * 2
    file.close()


def test_another_descriptor_keeps_the_file_and_says_when_nobody_else_has_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    file = DataFile(str(path), 5000)
    file.ensure()
    fd = file.open_again()
    assert not is_unused(fd), "open by the cache"
    file.close()
    assert is_unused(fd)
    assert not remove_file(str(path), lambda: True), "locked all the same"
    with path.open("rb") as reader:
        mapping = mmap.mmap(reader.fileno(), 5000, prot=mmap.PROT_READ)
    assert not is_unused(fd), "mapped"
    mapping.close()
    assert is_unused(fd)
    os.close(fd)
    assert remove_file(str(path), lambda: True)


def test_a_file_that_is_another_one_now_is_not_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    file = DataFile(str(path), 5000)
    file.ensure()
    path.unlink()
    path.write_bytes(bytes(5000))
    with pytest.raises(CacheError):
        file.open_again()
    file.close()
    fd = os.open(path, os.O_RDONLY)
    assert is_unused(fd), "nothing was left open"
    os.close(fd)


def test_a_file_of_the_same_number_on_another_disk_is_not_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new cache disk, mounted over a running daemon's and filled alike, has the numbers of the old one: the kernel
    would read the holes in its file by itself."""
    path = tmp_path / "file"
    file = DataFile(str(path), 5000)
    file.ensure()
    really, own_fd = os.fstat, file._fd

    def fstat(fd: int) -> os.stat_result:
        facts = list(really(fd))
        facts[2] += fd != own_fd  # st_dev
        return os.stat_result(facts)

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(CacheError, match="not the file that it was"):
        file.open_again()
    monkeypatch.undo()
    file.close()


@pytest.mark.parametrize("size_bytes", [4096, 6000])
def test_a_file_that_is_not_as_long_as_the_object_is_not_opened_again(tmp_path: Path, size_bytes: int) -> None:
    """The kernel would read it by itself. Mutation: without the look at its size, readers get a short file."""
    path = tmp_path / "file"
    file = DataFile(str(path), 5000)
    file.ensure()
    os.truncate(path, size_bytes)
    with pytest.raises(CacheError, match="not the file that it was"):
        file.open_again()
    file.close()


def test_a_filesystem_that_locks_alone_only_what_is_open_for_writing_gives_up_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS does. Mutation: a cache in a home directory there is never evicted, and not used any more once full."""
    flock = fcntl.flock

    def flock_of_nfs(fd: int, kind: int) -> None:
        if kind & fcntl.LOCK_EX and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(fd, kind)

    monkeypatch.setattr(fcntl, "flock", flock_of_nfs)
    path = tmp_path / "file"
    file = DataFile(str(path), 5000)
    file.ensure()
    assert not remove_file(str(path), lambda: True)
    file.close()
    assert remove_file(str(path), lambda: True)
    assert not path.exists()
