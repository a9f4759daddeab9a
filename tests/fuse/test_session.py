"""The INIT reply: what a successor must answer byte for byte, so any change of it must be noticed here."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

import pytest

from tigrismount.fuse.options import FuseConfig
from tigrismount.holder.init import patch_init_reply

# pyfuse3 keeps one session per process: each test needs its own.
PROGRAM = """
import json, struct, sys, trio
from tigrismount.fuse.adapter import Adapter
from tigrismount.fuse.kernel import Kernel
from tigrismount.fuse.options import FuseConfig
from tigrismount.fuse.session import Session
IN = struct.Struct("=IIQQIIIHH")
body = struct.pack("=IIIII", 7, 45, 131072, {flags}, {flags2}) + bytes(44)
init = IN.pack(IN.size + len(body), 26, 2, 0, 0, 0, 0, 0, 0) + body
async def main():
    session = Session(Adapter(None, FuseConfig()), Kernel())
    return await session.replay_init(init)
print(json.dumps(trio.run(main).hex()))
"""
OFFERED = 0x73FFFFFB  # what Linux 6.18 offers, FUSE_INIT_EXT included
OFFERED2 = 0x000001FF
OF_THE_LIBRARY = 0x0FFFFFFF
"""Flags that the oldest library we run with knows; a newer one may say more of itself above them."""
ALWAYS_TAKEN = 0x0040B029
"""Asynchronous READs, O_TRUNC, large WRITEs, page invalidation by attributes, READDIRPLUS, asynchronous DIO, pages."""


def _reply(flags: int = OFFERED, flags2: int = OFFERED2) -> bytes:
    program = PROGRAM.format(flags=flags, flags2=flags2)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return bytes.fromhex(json.loads(done.stdout))


def test_the_reply_is_the_same_every_time() -> None:
    first = _reply()
    assert first == _reply()
    length, error, unique, major, minor = struct.unpack_from("=IiQII", first)
    assert (length, error, unique, major) == (len(first), 0, 2, 7)
    assert minor >= 31


def test_the_reply_is_that_of_the_releases_before() -> None:
    """A worker of another release that answers otherwise cannot take a mount over: its readers see it made anew.

    Mutation: ``supports_dot_lookup`` or ``enable_acl`` in the adapter, an option that the library is begun with.
    """
    read_ahead, flags, _, write, grain_ns, pages = struct.unpack_from("=IIIIIH", _reply(), 24)
    assert (read_ahead, write, grain_ns, pages) == (131_072, 1 << 20, 1, 256)
    assert flags & OF_THE_LIBRARY == ALWAYS_TAKEN, hex(flags)
    assert FuseConfig().max_background == 64, "written into the reply on its way"


def test_the_limits_are_ours_and_nothing_else_changes() -> None:
    reply = _reply()
    patched = patch_init_reply(reply, max_background=64, congestion_threshold=48)
    assert struct.unpack_from("=HH", patched, 32) == (64, 48)
    assert patched[:32] == reply[:32]
    assert patched[36:] == reply[36:]


def test_features_that_the_reply_must_and_must_not_take() -> None:
    flags = struct.unpack_from("=I", _reply(), 28)[0]
    assert flags & 1 << 0, "FUSE_ASYNC_READ: read-ahead would be one request at a time"
    assert flags & 1 << 13, "FUSE_DO_READDIRPLUS"
    assert not flags & 1 << 16, "FUSE_WRITEBACK_CACHE: read-only"
    max_pages = struct.unpack_from("=H", _reply(), 44)[0]
    assert max_pages == 256, "READs of 1 MiB"


WHO_READS = """
import os, sys, trio, pyfuse3
from tigrismount.fuse.kernel import Kernel
from tigrismount.fuse.session import Session
kernel = Kernel()
session = Session(pyfuse3.Operations(), kernel)
session._room_bytes = int(sys.argv[1])  # what the system allows is not ours to choose
connection, _ = os.pipe()
os.set_blocking(connection, sys.argv[3] == "blocks")
session.attach(connection, resend=False, lane=sys.argv[2] == "lane")
print("lane" if kernel.fd == connection else "library", "blocks" if os.get_blocking(kernel.fd) else "never blocks")
"""


@pytest.mark.parametrize("left", ["blocks", "never blocks"])
@pytest.mark.parametrize(
    ("room_bytes", "wanted", "who"),
    [
        (16 << 20, "lane", "lane never blocks"),
        (16 << 20, "no lane", "library blocks"),
        (212_992, "lane", "library blocks"),
    ],
)
def test_requests_are_read_past_the_library_where_that_is_wanted_and_its_answers_have_room(
    room_bytes, wanted, who, left
):
    """However the worker before has left the connection: the library ends at one that has nothing to read (EAGAIN)."""
    command = [sys.executable, "-c", WHO_READS, str(room_bytes), wanted, left]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == who


LARGE_PAGES = """
import os, struct, sys, trio, pyfuse3
from tigrismount.fuse import session as module
from tigrismount.fuse.kernel import Kernel
asked = []
module.Lane = lambda *arguments: asked.append(arguments[-1])
session = module.Session(pyfuse3.Operations(), Kernel())
async def library():
    body = struct.pack("=IIIIHHIIHHII", 7, 31, 131072, 0, 12, 9, 16 << 20, 1, 256, 0, 0, 0) + bytes(24)
    os.write(session._fd, struct.pack("=IiQ", 16 + len(body), 0, 2) + body)
    await trio.sleep_forever()
pyfuse3.main = library
trio.run(session.replay_init, b"INIT")
session._room_bytes = 16 << 20
session.attach(os.pipe()[0], resend=False, lane=True)
print(*asked)
"""


def test_requests_are_read_into_as_much_room_as_the_library_has_promised():
    """With pages of 64 KiB it promises 16 MiB, and the kernel lets nobody read with less: no mount came up there."""
    done = subprocess.run([sys.executable, "-c", LARGE_PAGES], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == str((16 << 20) + 4096)
