from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from tigrismount.core import inodes as inodes_module
from tigrismount.core.inodes import NODE_ID_MASK, UNREFERENCED_TURNS, InodeTable
from tigrismount.core.names import DirectoryKey
from tigrismount.core.types import ROOT_NODE_ID, ObjectId
from tigrismount.errors import UnknownNodeError

ROOT = DirectoryKey("bucket", "models/")


@dataclass(frozen=True)
class Info:
    id: ObjectId
    mtime_s: float = 1_700_000_000.25
    storage_class: str = "STANDARD"
    version_id: str | None = None
    symlink_target: bytes | None = None
    sha256: str = ""


def info(key: str = "models/a", etag: str = "e", size_bytes: int = 7, **rest: object) -> Info:
    return Info(ObjectId("bucket", key, etag, size_bytes), **rest)


def table(**options: object) -> InodeTable:
    return InodeTable("tigris", ROOT, **options)


def test_the_root_is_node_1_and_always_known():
    inodes = table()
    assert inodes.root.id == ROOT_NODE_ID
    assert inodes.directory(ROOT) is inodes.root
    inodes.forget(ROOT_NODE_ID, 1000)
    assert inodes.get(ROOT_NODE_ID).where == ROOT


def test_ids_are_the_same_in_every_process():
    """These numbers are a promise: st_ino must survive a remount, an upgrade and a move to another host."""
    inodes = table()
    assert inodes.file(info()).id == 5813718375544501369
    assert inodes.directory(DirectoryKey("bucket", "models/a/")).id == 3258894869560569593


def test_the_id_does_not_depend_on_what_is_mounted():
    other = InodeTable("tigris", DirectoryKey("bucket", ""))
    assert other.file(info()).id == table().file(info()).id


def test_everything_that_makes_a_version_makes_another_id():
    versions = [
        ("tigris", ObjectId("bucket", "k", "e", 7)),
        ("minio", ObjectId("bucket", "k", "e", 7)),
        ("tigris", ObjectId("bucket2", "k", "e", 7)),
        ("tigris", ObjectId("bucket", "k2", "e", 7)),
        ("tigris", ObjectId("bucket", "k", "e2", 7)),
        ("tigris", ObjectId("bucket", "k", "e", 8)),
        ("tigris", ObjectId("bucket", "ke", "", 7)),
        ("tigris", ObjectId("bucketk", "", "e", 7)),
    ]
    ids = {InodeTable(store, ROOT).file(Info(obj)).id for store, obj in versions}
    ids |= {table().directory(DirectoryKey("bucket", "k")).id}
    assert len(ids) == len(versions) + 1


@pytest.mark.parametrize("etag", ["", 'W/"e"'])
def test_versions_that_no_strong_etag_names_are_told_apart_by_the_second_of_their_change(etag):
    inodes = table()
    first = inodes.file(info(etag=etag, mtime_s=1000.0))
    assert inodes.file(info(etag=etag, mtime_s=1000.9)) is first, "a HEAD knows seconds only, a listing more"
    assert inodes.file(info(etag=etag, mtime_s=1001.0)).id != first.id
    assert inodes.file(info(etag="", mtime_s=1000.0)).id != inodes.file(info(etag="strong", mtime_s=1000.0)).id


def test_the_time_of_a_version_is_the_one_seen_first_and_its_storage_class_the_last():
    inodes = table()
    inodes.file(info(mtime_s=1000.0))
    node = inodes.file(info(mtime_s=1000.75, storage_class="GLACIER"))
    assert (node.mtime_s, node.storage_class) == (1000.0, "GLACIER")


def test_a_node_is_journaled_before_it_can_be_found():
    journal = []

    def on_new(node):
        journal.append(node.id)
        with pytest.raises(UnknownNodeError):
            inodes.get(node.id)

    inodes = table(on_new=on_new)
    node = inodes.file(info())
    inodes.file(info())
    assert journal == [node.id]


def test_identities_with_one_hash_get_neighbouring_ids_and_0_and_1_are_never_used():
    inodes = table(hash_id=lambda identity: NODE_ID_MASK)
    first, second, third = (inodes.file(info(key=key)) for key in "abc")
    assert [first.id, second.id, third.id] == [NODE_ID_MASK, 2, 3]
    assert inodes.file(info(key="b")) is second
    inodes.check_invariants()


def test_ids_that_were_not_the_hash_stay_in_a_process_that_takes_over():
    """Mutation: by its hash alone the version has a second id, and the kernel two files for one."""
    before = table(hash_id=lambda identity: NODE_ID_MASK)
    ids = {key: before.file(info(key=key)).id for key in "abc"}
    for left in ("abc", "bc", "c"):
        successor = table(hash_id=lambda identity: NODE_ID_MASK)
        successor.restore([replace(node) for node in before.known() if node.key in left])
        assert {key: successor.file(info(key=key)).id for key in left} == {key: ids[key] for key in left}
        successor.check_invariants()


def test_unreferenced_nodes_are_dropped_oldest_first_and_referenced_ones_never():
    inodes = table(unreferenced_limit=2)
    kept = inodes.file(info(key="kept"))
    inodes.add_lookup(kept)
    opened = inodes.file(info(key="opened"))
    inodes.add_handle(opened)
    a, b = inodes.file(info(key="a")), inodes.file(info(key="b"))
    inodes.file(info(key="a"))
    inodes.file(info(key="c"))
    assert inodes.get(a.id) is a, "seen again, so b was the oldest"
    with pytest.raises(UnknownNodeError):
        inodes.get(b.id)
    assert inodes.get(kept.id) is kept
    assert inodes.get(opened.id) is opened
    assert inodes.unreferenced_count == 2


def test_a_node_that_nobody_refers_to_goes_after_some_turns_without_being_seen():
    inodes = table()
    seen, unseen, held = (inodes.file(info(key)) for key in ("seen", "unseen", "held"))
    inodes.add_lookup(held)
    for _ in range(UNREFERENCED_TURNS):
        inodes.grow_old()
        assert inodes.file(info("seen")) is seen
    assert inodes.get(unseen.id) is unseen
    inodes.grow_old()
    with pytest.raises(UnknownNodeError):
        inodes.get(unseen.id)
    assert (inodes.get(seen.id), inodes.get(held.id)) == (seen, held)
    inodes.forget(held.id, 1)
    for _ in range(UNREFERENCED_TURNS + 1):
        inodes.grow_old()
    assert len(inodes) == 1, "the root"
    inodes.check_invariants()


def test_tables_of_very_many_nodes_shrink_when_most_have_gone(monkeypatch):
    monkeypatch.setattr(inodes_module, "COMPACT_FROM", 1000)
    inodes = table(unreferenced_limit=100)
    ids = []
    for number in range(1000):
        node = inodes.file(info(f"models/{number}"))
        inodes.add_lookup(node)
        ids.append(node.id)
    inodes.grow_old()
    large = sys.getsizeof(inodes._nodes)
    for id_ in ids:
        inodes.forget(id_, 1)
    inodes.grow_old()
    assert sys.getsizeof(inodes._nodes) < large / 4
    assert len(inodes) == 101
    assert inodes.get(ids[-1]).key == "models/999"
    inodes.check_invariants()


def test_forgetting_too_much_or_what_is_not_known_is_no_error():
    inodes = table()
    node = inodes.file(info())
    inodes.add_lookup(node)
    inodes.forget(node.id, 5)
    inodes.forget(12345, 1)
    inodes.drop_handle(12345)
    inodes.drop_handle(node.id)
    assert (node.lookups, node.handles) == (0, 0)
    inodes.check_invariants()


def test_at_least_one_unreferenced_node_is_kept():
    with pytest.raises(ValueError, match="at least one"):
        table(unreferenced_limit=0)


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_no_two_names_are_framed_alike(left, right):
    identities = []
    for bucket, key in (left, right):
        inodes = table(hash_id=lambda identity: identities.append(identity) or 2)
        inodes.file(Info(ObjectId(bucket, key, "e", 1)))
    assert (identities[0] == identities[1]) == (left == right)


def few_bits(identity: bytes) -> int:
    """Return a hash with so few values that most identities share one."""
    return hashlib.blake2b(identity, digest_size=1).digest()[0] % 5


class Lifetimes(RuleBasedStateMachine):
    """Counts against a dict, with a hash that collides all the time and room for two unreferenced nodes."""

    nodes = Bundle("nodes")

    def __init__(self):
        super().__init__()
        self.inodes = table(unreferenced_limit=2, hash_id=few_bits)
        self.lookups: dict[int, int] = {}
        self.handles: dict[int, int] = {}
        self.keys: dict[int, str] = {}

    def referenced(self, node_id: int) -> bool:
        return self.lookups.get(node_id, 0) > 0 or self.handles.get(node_id, 0) > 0

    @rule(target=nodes, key=st.sampled_from("abcdefgh"), is_dir=st.booleans())
    def lookup(self, key, is_dir):
        if is_dir:
            key += "/"
            node = self.inodes.directory(DirectoryKey("bucket", key))
        else:
            node = self.inodes.file(info(key=key))
        assert node.key == key
        if self.referenced(node.id):
            assert self.keys[node.id] == key, "an id was given to another while it was referred to"
        for node_id, known in self.keys.items():
            if known == key and self.referenced(node_id):
                assert node.id == node_id, "a second id for what is referred to"
        self.inodes.add_lookup(node)
        self.keys[node.id] = key
        self.lookups[node.id] = self.lookups.get(node.id, 0) + 1
        return node.id

    @rule(node_id=nodes, count=st.integers(1, 3))
    def forget(self, node_id, count):
        self.inodes.forget(node_id, count)
        self.lookups[node_id] = max(0, self.lookups.get(node_id, 0) - count)

    @rule(node_id=nodes)
    def open(self, node_id):
        try:
            node = self.inodes.get(node_id)
        except UnknownNodeError:
            assert not self.referenced(node_id)
        else:
            self.inodes.add_handle(node)
            self.keys[node_id] = node.key
            self.handles[node_id] = self.handles.get(node_id, 0) + 1

    @rule(node_id=nodes)
    def release(self, node_id):
        self.inodes.drop_handle(node_id)
        self.handles[node_id] = max(0, self.handles.get(node_id, 0) - 1)

    @rule(turns=st.integers(1, UNREFERENCED_TURNS + 1))
    def grow_old(self, turns):
        for _ in range(turns):
            self.inodes.grow_old()

    @invariant()
    def holds(self):
        self.inodes.check_invariants()
        for node_id in self.keys:
            if self.referenced(node_id):
                node = self.inodes.get(node_id)
                assert node.key == self.keys[node_id]
                assert node.lookups == self.lookups.get(node_id, 0)
                assert node.handles == self.handles.get(node_id, 0)


TestLifetimes = Lifetimes.TestCase
