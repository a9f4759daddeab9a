"""The lane between a kernel and a library that are both sockets: who answers what, in which order, and how it ends."""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

import pyfuse3
import pytest
import trio
import trio.testing

from tigrismount.core.openmodes import OpenModes
from tigrismount.fuse import wire
from tigrismount.fuse.kernel import Kernel
from tigrismount.fuse.lane import Lane
from tigrismount.fuse.relay import LISTING_BYTES, Relay, enlarge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

LOOKUP, GETATTR = 1, 3


def request(opcode: int, unique: int, node_id: int = 7, body: bytes = b"") -> bytes:
    return struct.pack("=IIQQIIIHH", 40 + len(body), opcode, unique, node_id, 0, 0, 0, 0, 0) + body


def read(unique: int, offset: int, size: int, *, opcode: int = wire.READ) -> bytes:
    return request(opcode, unique, 7, struct.pack("=QQIIQII", 7, offset, size, 0, 0, 0, 0))


def reply(unique: int, body: bytes = b"", error: int = 0) -> bytes:
    return struct.pack("=IiQ", 16 + len(body), -error, unique) + body


class ScriptedReads:
    """Answers with the offset; from 1000 on only when told to, and from 2000 on never."""

    def __init__(self) -> None:
        self.gate = trio.Event()
        self.ended: list[int] = []

    def read_now(self, fh: int, off: int, size: int) -> bytes | None:
        return b"%d" % off if off < 1000 else None

    async def read(self, fh: int, off: int, size: int) -> bytes:
        await self.gate.wait()
        if off >= 2000:
            raise pyfuse3.FUSEError(errno.ESTALE)
        return b"%d" % off

    def end_reads(self, fh: int) -> None:
        self.ended.append(fh)


class ScriptedThrough:
    """Opens what it is told to; the states are the real ones."""

    def __init__(self) -> None:
        self.modes = OpenModes()
        self.choices: dict[int, bool | None] = {}
        self.found = trio.Event()
        self.looks: list[int] = []
        self.is_hurried = False
        self.given_up: list[int] = []

    def choice(self, node_id: int) -> bool | None:
        return self.choices.get(node_id, False)

    async def find(self, node_id: int) -> bool:
        self.looks.append(node_id)
        await self.found.wait()
        if self.is_hurried:
            return False
        self.modes.back(node_id, 5)
        return True

    def hurry(self) -> None:
        self.is_hurried = True
        self.found.set()

    def give_up(self, node_id: int) -> None:
        self.given_up.append(node_id)

    def is_through(self, node_id: int) -> bool:
        return self.modes.of(node_id).is_passthrough

    def count_through(self, node_id: int) -> int:
        return self.modes.opened(node_id, through=True).backing_id

    def count_cached(self, node_id: int) -> bool:
        if self.is_through(node_id):
            return False
        self.modes.opened(node_id, through=False)
        return True

    def uncount(self, node_id: int) -> None:
        self.modes.released(node_id)


class Ends:
    """The kernel's end and the library's, and what is between them."""

    def __init__(self) -> None:
        self.kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.library, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        device.setblocking(False)
        self.kernel.setblocking(False)
        self.library.setblocking(False)
        self.device, self.ours = device, ours
        descriptor = Kernel()
        descriptor.attach(device.fileno(), counts_sent=True)
        self.descriptor = descriptor
        self.reads, self.through = ScriptedReads(), ScriptedThrough()
        self.relay = Relay(ours, enlarge(self.library), descriptor)
        self.lane = Lane(self.reads, descriptor, self.relay, self.through)  # type: ignore[arg-type]

    async def told(self) -> bytes:
        """Return the next answer that the kernel gets."""
        await trio.lowlevel.wait_readable(self.kernel)
        return self.kernel.recv(1 << 17)

    async def handed(self) -> bytes:
        """Return the next request that the library gets."""
        await trio.lowlevel.wait_readable(self.library)
        return self.library.recv(1 << 17)

    def nothing_more(self) -> bool:
        for end in (self.kernel, self.library):
            try:
                end.recv(1 << 17)
            except BlockingIOError:
                continue
            return False
        return True


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    for sock in (made.kernel, made.device, made.library, made.ours):
        sock.close()


@pytest.fixture
async def running(ends: Ends, nursery: trio.Nursery) -> AsyncIterator[Ends]:
    nursery.start_soon(ends.lane.run)
    yield ends
    nursery.cancel_scope.cancel()


async def test_what_is_no_read_and_no_open_goes_to_the_library_and_its_answer_to_the_kernel(running: Ends) -> None:
    running.kernel.send(request(LOOKUP, 2, 1, b"name\0"))
    assert await running.handed() == request(LOOKUP, 2, 1, b"name\0")
    running.library.send(reply(2, b"entry"))
    assert await running.told() == reply(2, b"entry")


async def test_reads_are_answered_here_those_in_memory_before_those_that_wait(running: Ends) -> None:
    for unique, offset in ((2, 1000), (4, 500), (6, 2000)):
        running.kernel.send(read(unique, offset, 4096))
    assert await running.told() == reply(4, b"500")
    running.reads.gate.set()
    assert sorted([await running.told(), await running.told()]) == sorted(
        [reply(2, b"1000"), reply(6, error=errno.ESTALE)]
    )
    assert running.nothing_more()
    assert running.descriptor.take_sent(7) == len(b"500" + b"1000")


async def test_interrupts_reach_nobody(running: Ends) -> None:
    running.kernel.send(request(wire.INTERRUPT, 3, 0, struct.pack("=Q", 2)))
    running.kernel.send(request(GETATTR, 4))
    assert await running.handed() == request(GETATTR, 4)
    assert running.nothing_more()


async def test_who_waits_for_an_open_and_is_sent_a_signal_is_let_go(running: Ends) -> None:
    running.through.choices |= {7: None, 9: None}
    for unique, node_id in ((2, 7), (4, 9), (6, 9)):
        running.kernel.send(request(wire.OPEN, unique, node_id, bytes(8)))
    for interrupted in (6, 8):  # nobody waits for the latter
        running.kernel.send(request(wire.INTERRUPT, interrupted | 1, 0, struct.pack("=Q", interrupted)))
    await trio.testing.wait_all_tasks_blocked()
    assert running.through.given_up == [9]
    assert running.nothing_more()


@pytest.mark.parametrize("opcode", [wire.READDIR, wire.READDIRPLUS])
async def test_a_listing_asks_for_no_more_than_fits_through_the_socket(running: Ends, opcode: int) -> None:
    running.kernel.send(read(2, 11, 1 << 20, opcode=opcode))
    assert await running.handed() == read(2, 11, LISTING_BYTES, opcode=opcode)


async def test_a_file_with_a_backing_file_is_opened_and_released_without_the_library(running: Ends) -> None:
    running.through.choices[7] = None
    running.kernel.send(request(wire.OPEN, 2, 7, bytes(8)))
    running.kernel.send(request(wire.OPEN, 4, 7, bytes(8)))
    running.kernel.send(request(GETATTR, 6))
    assert await running.handed() == request(GETATTR, 6), "others do not wait for the look"
    running.through.found.set()
    for unique in (2, 4):
        assert await running.told() == reply(unique, struct.pack("=QIi", 7, 1 << 7, 5))
    assert running.through.looks == [7]
    assert running.through.modes.of(7).opens == 2

    running.kernel.send(request(wire.RELEASE, 8, 7, bytes(24)))
    assert await running.told() == reply(8)
    assert running.through.modes.of(7).opens == 1
    assert running.nothing_more()


async def test_reads_of_a_file_with_a_backing_file_end_with_its_last_release(running: Ends) -> None:
    """Mutation: what posix_fadvise(2) has the kernel read stays open here, and its version is never evicted."""
    running.through.modes.back(7, 5)
    running.through.choices[7] = True
    for unique in (2, 4):
        running.kernel.send(request(wire.OPEN, unique, 7, bytes(8)))
        await running.told()
    running.kernel.send(read(6, 500, 4096))
    assert await running.told() == reply(6, b"500")
    for unique, ended in ((8, []), (10, [7])):
        running.kernel.send(request(wire.RELEASE, unique, 7, bytes(24)))
        assert await running.told() == reply(unique)
        await trio.testing.wait_all_tasks_blocked()
        assert running.reads.ended == ended


async def test_who_opens_a_file_to_write_gets_no_backing_file(running: Ends) -> None:
    """What they write would be in the cache, and every reader's."""
    running.through.modes.back(7, 5)
    running.through.choices[7] = True
    asked = request(wire.OPEN, 2, 7, struct.pack("=II", os.O_RDWR, 0))
    running.kernel.send(asked)
    assert await running.handed() == asked
    running.library.send(reply(2, error=errno.EROFS))
    assert await running.told() == reply(2, error=errno.EROFS)
    assert running.through.modes.of(7).opens == 0


async def test_where_no_file_is_opened_onto_another_the_library_answers_each_open_and_release(
    ends: Ends, nursery: trio.Nursery
) -> None:
    lane = Lane(ends.reads, ends.descriptor, ends.relay, None)
    nursery.start_soon(lane.run)
    ends.through.choices[7] = True  # nobody asks
    for unique, opcode, body in ((2, wire.OPEN, bytes(8)), (4, wire.RELEASE, bytes(24))):
        ends.kernel.send(request(opcode, unique, 7, body))
        assert await ends.handed() == request(opcode, unique, 7, body)
        ends.library.send(reply(unique, bytes(16)))
        assert await ends.told() == reply(unique, bytes(16))
    ends.kernel.send(read(6, 5, 10))
    assert await ends.told() == reply(6, b"5"), "READs are answered here all the same"
    assert ends.nothing_more()
    nursery.cancel_scope.cancel()


async def test_an_open_that_the_library_answers_counts_until_its_release_is_answered(running: Ends) -> None:
    running.kernel.send(request(wire.OPEN, 2, 7, bytes(8)))
    await running.handed()
    assert running.through.modes.of(7).is_cached, "before the kernel hears of it"
    running.library.send(reply(2, struct.pack("=QIi", 7, 2, 0)))
    await running.told()
    running.kernel.send(request(wire.RELEASE, 4, 7, bytes(24)))
    await running.handed()
    assert running.through.modes.of(7).opens == 1
    running.library.send(reply(4))
    await running.told()
    await trio.testing.wait_all_tasks_blocked()
    assert running.through.modes.of(7).opens == 0


async def test_an_open_that_the_library_refuses_does_not_count(running: Ends) -> None:
    running.kernel.send(request(wire.OPEN, 2, 7, bytes(8)))
    await running.handed()
    running.library.send(reply(2, error=errno.EIO))
    assert await running.told() == reply(2, error=errno.EIO)
    await trio.testing.wait_all_tasks_blocked()
    assert running.through.modes.of(7).opens == 0


async def test_an_open_that_is_refused_while_the_file_is_open_onto_another_takes_nothing_back(running: Ends) -> None:
    running.through.modes.back(7, 5)
    running.through.modes.opened(7, through=True)
    running.kernel.send(request(wire.OPEN, 2, 7, bytes(8)))
    await running.handed()
    running.library.send(reply(2, error=errno.EIO))
    await running.told()
    await trio.testing.wait_all_tasks_blocked()
    assert running.through.modes.of(7).opens == 1


async def test_no_more_is_handed_over_than_the_answers_have_room_for_but_statfs_is(ends: Ends) -> None:
    ends.relay._room_bytes = 10_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.lane.run)
        for unique in (2, 4, 6):
            ends.kernel.send(request(LOOKUP, unique, 1, b"name\0"))
        ends.kernel.send(request(wire.STATFS, 8, 1))
        assert [struct.unpack_from("=Q", await ends.handed(), 8)[0] for _ in range(3)] == [2, 4, 8]
        await trio.testing.wait_all_tasks_blocked()
        assert ends.nothing_more()
        ends.library.send(reply(8))
        ends.library.send(reply(2))
        assert struct.unpack_from("=Q", await ends.handed(), 8)[0] == 6
        nursery.cancel_scope.cancel()


async def test_a_library_that_takes_nothing_keeps_nobody_and_gets_everything_in_order_later(running: Ends) -> None:
    for unique in range(2, 1000, 2):
        running.kernel.send(request(wire.FORGET, unique, 7, bytes(8 << 10)))
        if unique % 16 == 0:
            await trio.testing.wait_all_tasks_blocked()
    running.kernel.send(read(1001, 5, 10))
    assert await running.told() == reply(1001, b"5")
    got = [struct.unpack_from("=Q", await running.handed(), 8)[0] for _ in range(2, 1000, 2)]
    assert got == list(range(2, 1000, 2))


async def test_no_name_that_the_kernel_forgets_is_lost_however_many_it_forgets_at_once(running: Ends) -> None:
    """It fills what it is given to read into: a megabyte of them where its memory is short, or on umount."""
    forgotten = [(node_id, 1) for node_id in range(2, 2 + ((1 << 20) - 48) // 16)]
    body = struct.pack("=II", len(forgotten), 0) + b"".join(struct.pack("=QQ", *one) for one in forgotten)
    running.relay.hand(memoryview(request(wire.BATCH_FORGET, 2, 0, body)))
    running.relay.hand(memoryview(request(GETATTR, 4)))
    got: list[tuple[int, int]] = []
    while (message := await running.handed()) != request(GETATTR, 4):
        assert wire.parse_request(memoryview(message)).opcode == wire.BATCH_FORGET
        (count,) = struct.unpack_from("=I", message, wire.HEADER_BYTES)
        assert len(message) == wire.HEADER_BYTES + 8 + 16 * count
        got += struct.iter_unpack("=QQ", message[wire.HEADER_BYTES + 8 :])
    assert got == forgotten


async def test_the_end_waits_for_what_is_in_service_and_takes_nothing_more(ends: Ends) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.lane.run)
        ends.kernel.send(read(2, 1000, 4096))
        ends.kernel.send(request(GETATTR, 4))
        await ends.handed()
        ends.lane.stop()
        ends.kernel.send(request(GETATTR, 6))
        await trio.testing.wait_all_tasks_blocked()
        assert ends.nothing_more()
        ends.reads.gate.set()
        assert await ends.told() == reply(2, b"1000")
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks
        ends.library.send(reply(4))
        assert await ends.told() == reply(4)
    assert ends.device.recv(100) == request(GETATTR, 6), "left for the next worker"


async def test_the_end_does_not_wait_for_answers_to_what_the_kernel_forgets(ends: Ends) -> None:
    """Mutation: it waits for ever where names that had to wait for the library were the last that it got."""
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends.lane.run)
            body = struct.pack("=II", 60_000, 0) + bytes(16 * 60_000)
            ends.relay.hand(memoryview(request(wire.BATCH_FORGET, 2, 0, body)))
            await trio.testing.wait_all_tasks_blocked()
            assert not ends.relay.is_idle, "the socket is full"
            ends.lane.stop()
            await trio.testing.wait_all_tasks_blocked()
            count = 0
            while count < 60_000:
                count += struct.unpack_from("=I", await ends.handed(), wire.HEADER_BYTES)[0]


async def test_the_end_waits_for_no_proof_and_the_library_answers_the_opens_that_did(ends: Ends) -> None:
    """Mutation: without the hurry the end waits for as long as the disk needs for the file."""
    ends.through.choices[7] = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.lane.run)
        for unique in (2, 4):
            ends.kernel.send(request(wire.OPEN, unique, 7, bytes(8)))
        await trio.testing.wait_all_tasks_blocked()
        assert (ends.through.looks, ends.through.is_hurried) == ([7], False)
        ends.lane.stop()
        with trio.fail_after(30):
            for unique in (2, 4):
                assert await ends.handed() == request(wire.OPEN, unique, 7, bytes(8))
        assert nursery.child_tasks, "and the end waits for the answers"
        for unique in (2, 4):
            ends.library.send(reply(unique, struct.pack("=QIi", 7, 2, 0)))
            assert await ends.told() == reply(unique, struct.pack("=QIi", 7, 2, 0))
    assert ends.through.modes.of(7).opens == 2
    assert ends.nothing_more()
