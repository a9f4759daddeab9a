"""What a Python that was built on an old C library lacks, and a mount needs."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys

import pytest

from tigrismount.demo.command import run_child
from tigrismount.memoryfile import make_memory_file

F_GET_SEALS = 1034
F_SEAL_SEAL = 1

LACKING = """
import fcntl, os, sys
for module, name in [(os, "memfd_create"), (os, "MFD_CLOEXEC"), (os, "MFD_ALLOW_SEALING"), (os, "pidfd_open"),
                     (fcntl, "F_OFD_SETLK")]:
    delattr(module, name)
from tigrismount.cache.datafile import DataFile
from tigrismount.core.openmodes import OpenState
from tigrismount.holder.heirloom import read_memory_file, write_memory_file
from tigrismount.objects.fetchers.memory import SharedMemory
from tigrismount.vfs.journal import NodeJournal
print(read_memory_file(write_memory_file(b"state")))
memory = SharedMemory.create(16 << 20)
memory.give(memory.take(8 << 20))
journal = NodeJournal(rewrite_bytes=0)
journal.open(write_memory_file(b""), tuple, lambda fd: print("rewritten"))
for node_id in range(2, 4):
    journal.append(OpenState(node_id))
file, other = DataFile(sys.argv[1], 8192), DataFile(sys.argv[1], 8192)
file.ensure(), other.ensure()
print(file.try_claim(0, 4096), other.try_claim(0, 4096), other.try_claim(4096, 4096))
"""


def test_a_python_built_on_an_old_c_library_serves_mounts_too(tmp_path):
    """Those of conda and uv. Mutation: no mount comes to be, or the first block that is fetched ends the worker."""
    done = run_child(sys.executable, "-c", LACKING, str(tmp_path / "file")).check()
    assert done.output == "b'state'\nrewritten\nTrue False True\n"


@pytest.mark.parametrize("lacks", [(), ("python",), ("python", "library")], ids=["nothing", "python", "library"])
def test_a_memory_file_is_made_whoever_knows_the_call(monkeypatch, lacks):
    if "python" in lacks:
        monkeypatch.delattr(os, "memfd_create")
    if "library" in lacks:
        monkeypatch.setattr(ctypes, "CDLL", _without_memfd_create)
    plain, sealable = make_memory_file("plain"), make_memory_file("sealable", sealable=True)
    try:
        for fd, seals in ((plain, F_SEAL_SEAL), (sealable, 0)):
            assert os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:")
            assert (os.get_inheritable(fd), fcntl.fcntl(fd, F_GET_SEALS)) == (False, seals)
            assert os.pwrite(fd, b"data", 0) == 4
    finally:
        os.close(plain)
        os.close(sealable)


def test_a_kernel_that_gives_no_memory_file_says_so(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        make_memory_file("x" * 300)


class _without_memfd_create:  # noqa: N801 -- stands for ctypes.CDLL
    def __init__(self, name: None, **options: bool) -> None:
        self.syscall = _CDLL(name, **options).syscall


_CDLL = ctypes.CDLL
