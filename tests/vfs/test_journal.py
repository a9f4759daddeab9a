"""The journal in a memory file, as the supervisor makes it."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import struct
import zlib

import pytest

from tigrismount.core.inodes import InodeTable, Node
from tigrismount.core.journal import MAGIC, encode_record
from tigrismount.core.names import DirectoryKey
from tigrismount.core.openmodes import OpenState
from tigrismount.errors import MountError
from tigrismount.vfs import journal as journals
from tigrismount.vfs.journal import NodeJournal

ROOT = DirectoryKey("bucket", "")


@pytest.fixture
def fd():
    """What the supervisor keeps."""
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    yield fd
    os.close(fd)


class Process:
    """A worker's table, with its journal in a duplicate of *fd*."""

    def __init__(self, fd: int, *, refuses: bool = False, **options: object) -> None:
        self.refuses = refuses
        self.sent: list[int] = []
        self.journal = NodeJournal(**options)
        self.table = InodeTable("tigris", ROOT, on_new=self.journal.append, unreferenced_limit=1)
        self.table.restore(self.journal.open(os.dup(fd), self.table.known, self.keep))

    def keep(self, fd: int) -> None:
        if self.refuses:
            raise MountError("the supervisor went away")
        self.sent.append(os.dup(fd))

    def meet(self, *names: str) -> list[int]:
        return [self.table.directory(DirectoryKey("bucket", f"{name}/")).id for name in names]

    def close(self) -> None:
        self.journal.close()
        for fd in self.sent:
            os.close(fd)


@pytest.fixture
def start():
    started = []

    def start(fd: int, **options: object) -> Process:
        started.append(Process(fd, **options))
        return started[-1]

    yield start
    for process in started:
        process.close()


def contents(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def test_a_successor_knows_every_node_under_its_id(fd, start):
    first = start(fd)
    ids = first.meet("a", "b")
    second = start(fd)
    assert [second.table.get(node_id).key for node_id in ids] == ["a/", "b/"]
    assert second.meet("a", "b") == ids
    second.table.check_invariants()


def test_inherited_nodes_stay_until_the_kernel_forgets_them(fd, start):
    first = start(fd)
    (held,) = first.meet("held")
    second = start(fd)
    second.meet("x", "y", "z")
    assert second.table.get(held).referenced
    second.table.forget(held, 5)
    assert not second.table.get(held).referenced
    second.meet("x")
    assert held not in {node.id for node in second.table.known()}
    second.table.check_invariants()


def test_the_record_is_there_before_the_id(fd):
    seen = []
    journal = NodeJournal()
    journal.open(os.dup(fd), tuple)

    def record(node):
        journal.append(node)
        seen.append(contents(fd).endswith(encode_record(node)))

    table = InodeTable("tigris", ROOT, on_new=record)
    table.directory(DirectoryKey("bucket", "a/"))
    journal.close()
    assert seen == [True]


@pytest.mark.parametrize("cut", [1, 9, 30])
def test_a_record_cut_short_is_dropped_and_written_over(fd, start, cut):
    first = start(fd)
    kept, _ = first.meet("a", "a-much-longer-name-than-the-next")
    os.ftruncate(fd, len(contents(fd)) - cut)
    second = start(fd)
    assert [node.id for node in second.table.known()] == [kept]
    (added,) = second.meet("b")
    assert [node.id for node in start(fd).table.known()] == [kept, added]


def test_a_successor_that_waits_reads_on_where_it_stopped_and_a_record_half_written_later(fd, start):
    """Mutation: without the head before what is new, nothing more is found, and all met since is ESTALE."""
    first, second = start(fd), NodeJournal()
    ids = first.meet("a")
    assert [node.id for node in second.preview(fd)] == ids
    assert second.preview(fd) == []
    kept, half = first.meet("b", "c")
    whole_bytes = len(contents(fd))
    last = os.pread(fd, 3, whole_bytes - 3)
    os.ftruncate(fd, whole_bytes - 3)
    assert [node.id for node in second.preview(fd)] == [kept]
    os.pwrite(fd, last, whole_bytes - 3)
    assert [node.id for node in second.open(os.dup(fd), tuple)] == [half]
    second.close()


def test_a_successor_reads_all_of_a_journal_that_was_written_in_the_place_of_the_one_it_knew(fd, start):
    """Mutation: what it has read of the old one is passed over in the new one, and those nodes are ESTALE."""
    first, second = start(fd, rewrite_bytes=300), NodeJournal()
    first.meet(*(f"m{n}" for n in range(4)))
    second.preview(fd)
    for n in range(100):
        first.meet(f"n{n}")
    found = {node.id for node in second.open(os.dup(first.sent[-1]), tuple)}
    assert found >= {node.id for node in first.table.known()}
    second.close()


def test_a_record_that_was_written_in_part_is_said(fd, start, monkeypatch):
    first, pwrite = start(fd), os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:-1], offset))
    first.meet("a")
    assert "bytes could be written" in first.journal.degraded


def test_another_format_is_begun_anew(fd, start):
    os.pwrite(fd, b"some other format of a later release", 0)
    first = start(fd)
    assert list(first.table.known()) == []
    ids = first.meet("a")
    assert [node.id for node in start(fd).table.known()] == ids


def test_it_is_rewritten_with_what_is_known_before_it_grows_without_end(fd, start):
    first = start(fd, rewrite_bytes=300)
    for n in range(100):
        (last,) = first.meet(f"n{n}")
    assert first.sent
    newest = contents(first.sent[-1])
    assert newest.startswith(MAGIC)
    assert len(newest) < 600
    successor = start(first.sent[-1])
    assert successor.table.get(last).key == "n99/"
    assert {node.id for node in first.table.known()} <= {node.id for node in successor.table.known()}


def test_it_is_rewritten_a_part_at_a_time_and_what_comes_meanwhile_holds(fd, monkeypatch):
    """Mutations: all at once keeps everybody waiting; without what came meanwhile a file is open as it was before."""
    monkeypatch.setattr(journals, "_RECORDS_A_TURN", 3)
    journal, sent, states = NodeJournal(rewrite_bytes=4000), [], {}
    table = InodeTable("tigris", ROOT, on_new=journal.append, unreferenced_limit=1)
    journal.open(
        os.dup(fd), lambda: [*table.known(), *states.values()], lambda journal_fd: sent.append(os.dup(journal_fd))
    )
    held = []
    for n in range(20):
        node = table.directory(DirectoryKey("bucket", f"held{n}/"))
        table.add_lookup(node)
        held.append(node.id)
    states[held[0]] = OpenState(held[0], opens=1)
    met = []
    for n in itertools.count():
        if sent:
            break
        begun = journal._rewriting is not None
        if begun:
            states[held[0]] = OpenState(held[0], opens=2 + len(met))
            journal.append(states[held[0]])
        node = table.directory(DirectoryKey("bucket", f"met{n}/"))
        met += [node.id] if begun else []
    assert len(met) >= 3, "a few records with each"
    found = NodeJournal().preview(sent[0])
    assert {item.id for item in found if isinstance(item, Node)} >= {*held, *met}
    assert [item for item in found if isinstance(item, OpenState)] == list(states.values())
    journal.close()
    os.close(sent[0])


def test_a_journal_that_is_closed_while_it_is_rewritten_leaves_nothing_open(fd, start, monkeypatch):
    monkeypatch.setattr(journals, "_RECORDS_A_TURN", 1)
    first = start(fd, rewrite_bytes=300)
    before = len(os.listdir("/proc/self/fd"))
    n = 0
    while first.journal._rewriting is None:
        first.meet(f"n{n}")
        n += 1
    assert len(os.listdir("/proc/self/fd")) == before + 1
    first.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    first.sent.clear()


def test_what_is_known_is_never_rewritten_away(fd, start):
    first = start(fd, rewrite_bytes=300)
    ids = []
    for n in range(100):
        ids += first.meet(f"n{n}")
        first.table.add_lookup(first.table.get(ids[-1]))
    assert first.sent == [], "it would not become shorter"
    assert {node.id for node in start(fd).table.known()} >= set(ids)
    first.table.forget(ids[0], 1)
    for id_ in ids[10:]:
        first.table.forget(id_, 1)
    for n in range(300):
        first.meet(f"m{n}")
    assert 0 < len(first.sent) < 40, "a rewriting makes room for as much again"
    assert {node.id for node in start(first.sent[-1]).table.known()} >= set(ids[1:10])


def test_how_a_node_is_open_replaces_what_was_said_of_that_before_and_not_the_node(fd, start):
    first = start(fd)
    (id_,) = first.meet("a")
    first.journal.append(OpenState(id_, opens=1))
    first.journal.append(OpenState(id_, opens=2, is_through=True))
    found = NodeJournal().preview(fd)
    assert [item.id for item in found if isinstance(item, Node)] == [id_]
    assert [item for item in found if isinstance(item, OpenState)] == [OpenState(id_, opens=2, is_through=True)]


def test_a_journal_nobody_takes_is_given_up_and_said(fd, start):
    first = start(fd, refuses=True, rewrite_bytes=300)
    for n in range(100):
        first.meet(f"n{n}")
    assert "the supervisor went away" in first.journal.degraded


def test_a_journal_that_cannot_be_rewritten_for_now_goes_on_and_is_rewritten_later(fd, start, monkeypatch):
    """A new one takes a descriptor, of which a machine may be short for a moment; the one that is there takes none.

    Mutation: it is given up, and the next worker knows nothing of what is opened for as long as this one lives.
    """

    def no_descriptor(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    first = start(fd, rewrite_bytes=300)
    with monkeypatch.context() as patch:
        patch.setattr(journals, "make_memory_file", no_descriptor)
        for n in range(50):
            first.meet(f"n{n}")
    assert (first.journal.degraded, first.sent) == ("", [])
    assert "n49/" in [item.key for item in NodeJournal().preview(fd) if isinstance(item, Node)]
    for n in range(50, 500):
        first.meet(f"n{n}")
    assert first.sent
    assert len(contents(first.sent[-1])) < len(contents(fd))


def test_a_journal_that_cannot_be_written_is_no_error_of_the_mount(fd, start):
    first = start(fd)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    first.meet("a")
    assert "will not know the files met since" in first.journal.degraded


def test_what_another_version_has_added_is_neither_known_nor_lost(fd, start):
    """It is for the one that comes back: a downgrade may be followed by an upgrade."""
    ids = start(fd).meet("a")
    record = struct.pack("<BQqqd", 9, 7, 0, 0, 0.0)
    os.pwrite(fd, struct.pack("<II", len(record), zlib.crc32(record)) + record, os.fstat(fd).st_size)
    before = contents(fd)
    successor = start(fd)
    assert [node.id for node in successor.table.known()] == ids
    ids += successor.meet("b")
    assert contents(fd).startswith(before)
    assert [node.id for node in start(fd).table.known()] == ids
