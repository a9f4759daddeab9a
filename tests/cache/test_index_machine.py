"""Any order of what daemons do to one index: sums, reservations and records stay what a plain model says they are."""

from __future__ import annotations

import tempfile
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tigrismount.cache.index import CacheIndex
from tigrismount.cache.records import BlockRecord, ObjectRecord, boot_token

# Few places and little room: rules must meet each other.
DIGESTS = st.sampled_from([b"a" * 32, b"b" * 32])
INDEXES = st.integers(0, 2)
CHECKSUMS = st.integers(0, 1)
OBJECT = ObjectRecord("store", "bucket", "key", "etag", 3 * 4096, 4096)
BOUND_BYTES = 4 * 4096
ROOMS = st.sampled_from([4096, 3 * 4096, BOUND_BYTES])


class IndexMachine(RuleBasedStateMachine):
    """One daemon that is killed, cut off or ended at any time; the model is a dict of blocks and a number.

    Mutations that turn it red: ``drop_object`` that leaves the sum, ``put_block`` that counts an existing block again
    or keeps its reservation, ``reserve`` that forgets what is set aside or one of its bounds, ``replace_blocks`` that
    does not compare. Each does so under five seeds of six, or all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.boot = 0
        self.blocks: dict[tuple[bytes, int], BlockRecord] = {}
        self.known: set[bytes] = set()
        self.reserved_bytes = 0
        self.wrote = False
        self.epoch = 0
        self.start()

    def start(self) -> None:
        self.index = CacheIndex(self.directory.name)
        found = self.index.begin_session(f"boot {self.boot}", BOUND_BYTES)
        assert found == self.epoch
        self.wrote = False
        self.reserved_bytes = 0

    def record(self, checksum: int) -> BlockRecord:
        return BlockRecord(4096, checksum, boot_token(f"boot {self.boot}"), self.epoch, synced=False)

    @rule(room_bytes=ROOMS)
    def reserve(self, room_bytes: int = BOUND_BYTES) -> None:
        taken = self.index.reserve(4096, BOUND_BYTES, room_bytes)
        need_bytes = self.reserved_bytes + 4096
        assert taken == (need_bytes <= room_bytes and 4096 * len(self.blocks) + need_bytes <= BOUND_BYTES)
        self.reserved_bytes += 4096 * taken
        self.wrote = True

    @precondition(lambda self: self.reserved_bytes)
    @rule()
    def release(self) -> None:
        self.index.release(4096)
        self.reserved_bytes -= 4096

    @rule(digest=DIGESTS, index=INDEXES, checksum=CHECKSUMS)
    def write(self, digest: bytes, index: int, checksum: int) -> None:
        """As a daemon does it: set aside, then record. Without it few runs get as far as to have anything to drop."""
        self.reserve()
        if self.reserved_bytes:
            self.put(digest, index, checksum)

    @precondition(lambda self: self.reserved_bytes)
    @rule(digest=DIGESTS, index=INDEXES, checksum=CHECKSUMS)
    def put(self, digest: bytes, index: int, checksum: int) -> None:
        """Only what was set aside is written; who comes second gets the first one's record."""
        recorded = self.index.put_block(digest, OBJECT, index, self.record(checksum), reserved_bytes=4096)
        assert recorded == self.blocks.setdefault((digest, index), self.record(checksum))
        self.known.add(digest)
        self.reserved_bytes -= 4096

    @precondition(lambda self: self.reserved_bytes and self.blocks)
    @rule(data=st.data(), checksum=CHECKSUMS)
    def put_again(self, data: st.DataObject, checksum: int) -> None:
        digest, index = data.draw(st.sampled_from(sorted(self.blocks)))
        recorded = self.index.put_block(digest, OBJECT, index, self.record(checksum), reserved_bytes=4096)
        assert recorded == self.blocks[digest, index]
        self.reserved_bytes -= 4096

    @rule(digest=DIGESTS, index=INDEXES, checksum=CHECKSUMS)
    def other_block_size(self, digest: bytes, index: int, checksum: int) -> None:
        if digest in self.known:
            assert self.index.put_block(digest, replace(OBJECT, block_bytes=8192), index, self.record(checksum)) is None
            self.wrote = True

    @rule(digest=DIGESTS, index=INDEXES, checksum=CHECKSUMS)
    def drop_block(self, digest: bytes, index: int, checksum: int) -> None:
        """Only a record with the checksum that was found wrong goes."""
        expected = self.blocks.get((digest, index))
        dropped = self.index.drop_block(digest, index, self.record(checksum))
        assert dropped == (expected is not None and expected.checksum == checksum)
        if dropped:
            del self.blocks[digest, index]
        self.wrote = True

    @rule(digest=DIGESTS, indexes=st.sets(INDEXES), hold=st.booleans())
    def trim(self, digest: bytes, indexes: set[int], hold: bool) -> None:
        gone = [key for key in self.blocks if key[0] == digest and key[1] in indexes]
        assert self.index.drop_blocks(digest, indexes, hold=hold) == 4096 * len(gone)
        self.forget(gone, hold)

    @rule(digest=DIGESTS, hold=st.booleans())
    def evict(self, digest: bytes, hold: bool) -> None:
        gone = [key for key in self.blocks if key[0] == digest]
        assert self.index.drop_object(digest, hold=hold) == 4096 * len(gone)
        self.known.discard(digest)
        self.forget(gone, hold)

    def forget(self, gone: list[tuple[bytes, int]], hold: bool) -> None:
        for key in gone:
            del self.blocks[key]
        self.reserved_bytes += 4096 * len(gone) * hold
        self.wrote = True

    @rule(digest=DIGESTS, index=INDEXES, checksum=CHECKSUMS)
    def publish(self, digest: bytes, index: int, checksum: int) -> None:
        """A record that is no longer what it was is left alone."""
        old = self.record(checksum)
        self.index.replace_blocks([(digest, index, old, old._replace(synced=True))])
        if self.blocks.get((digest, index)) == old:
            self.blocks[digest, index] = old._replace(synced=True)
        self.wrote = True

    @rule()
    def end_cleanly(self) -> None:
        self.index.end_session()
        self.index.close()
        self.start()

    @rule()
    def power_cut(self) -> None:
        """The session still stands and is of another boot: the epoch rises, what was set aside is free."""
        self.index.sync()
        self.index.close()
        self.boot += 1
        self.epoch += self.wrote
        self.start()
        assert self.index.reserved_bytes() == 0

    @invariant()
    def agrees(self) -> None:
        found = {(digest, i): block for digest in self.known for i, block in self.index.blocks(digest).items()}
        assert found == self.blocks
        assert set(self.index.objects()) == self.known
        assert self.index.bytes_cached == 4096 * len(self.blocks)
        assert self.index.objects_cached == len(self.known)
        assert self.index.reserved_bytes() == self.reserved_bytes
        assert 4096 * len(self.blocks) + self.reserved_bytes <= BOUND_BYTES
        self.index.check()

    def teardown(self) -> None:
        self.index.close()
        self.directory.cleanup()


TestIndexMachine = IndexMachine.TestCase
TestIndexMachine.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
