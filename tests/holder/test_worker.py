from __future__ import annotations

import os
import signal
import sys

import pytest

from tigrismount.errors import MountError
from tigrismount.holder.conversation import Conversation, StartError
from tigrismount.holder.events import Events
from tigrismount.holder.protocol import Channel
from tigrismount.holder.worker import Worker

LAST_MESSAGE = """
import sys
from tigrismount.holder.protocol import Channel
channel = Channel.from_fd(int(sys.argv[-1]))
channel.send("ready")
channel.send("failed", message="why")
print("one", "two", sep="\\n", end="", file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture
def events():
    with Events() as events:
        yield events


@pytest.fixture
def run(events):
    """Run a worker's program to its end, without having listened to it."""
    lines: list[str] = []

    def start(program: str) -> tuple[Worker, list[str]]:
        worker = Worker.start((sys.executable, "-c", program), events, lines.append)
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        return worker, lines

    return start


def test_nothing_that_a_dead_worker_said_is_lost(run):
    worker, lines = run(LAST_MESSAGE)
    assert worker.has_ended()
    worker.drain()
    assert [message.type for message in worker.messages] == ["ready", "failed"]
    assert not worker.is_connected
    worker.close()
    assert lines == ["one", "two"]
    assert worker.describe_end() == "ended with exit status 3: two"


def test_the_journal_of_a_dead_worker_is_taken_whatever_it_said_before(events):
    """Mutation: what is no message to others ends the search; a successor goes on with a journal that is no more."""
    program = """
import os, sys
from tigrismount.holder.protocol import Channel
channel = Channel.from_fd(int(sys.argv[-1]))
channel.send("pong")
channel.send("journal", [os.memfd_create("older")])
channel.send("pong")
channel.send("journal", [os.memfd_create("newest")])
"""
    kept: list[str] = []

    def keep(fd: int) -> None:
        kept.append(os.readlink(f"/proc/self/fd/{fd}"))
        os.close(fd)

    worker = Worker.start((sys.executable, "-c", program), events, print, keep)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    worker.drain()
    assert [name.split()[0] for name in kept] == ["/memfd:older", "/memfd:newest"]
    worker.close()


def test_a_worker_that_said_nothing_has_an_end_too(run):
    worker, lines = run("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    assert worker.has_ended()
    worker.close()
    assert (lines, worker.describe_end()) == ([], "was killed by SIGTERM")


def test_a_successor_can_be_told_how_one_ended_that_said_very_much(run):
    """Mutation: what it is started with is longer than a message may be, so no successor serves and the mount ends."""
    worker, lines = run("print(chr(34) * 60_000)")
    assert worker.has_ended()
    worker.close()
    assert lines == ['"' * 60_000], "the log has all of it"
    reason = worker.describe_end()
    assert reason.startswith('ended with exit status 0: """')
    ours, theirs = Channel.pair()
    ours.send("start", takeover_reason=reason)
    assert theirs.receive().body["takeover_reason"] == reason
    ours.close()
    theirs.close()


def test_a_worker_that_is_gone_before_it_is_told_anything_is_described(run, events):
    """Not that nothing could be sent to it: what it wrote says why, or the signal does."""
    worker, _ = run("raise SystemExit('no module named tigrismount')")
    talk = Conversation(worker, events, within_s=60.0, check=lambda: None, warn=print)
    with pytest.raises(StartError, match="exit status 1: no module named"):
        talk.start(config={})
    worker.close()


def test_a_signal_without_a_name_ends_a_worker_and_not_its_supervisor(run):
    """Most real-time signals have none, and all of them end a process that does not expect them."""
    worker, _ = run("import os, signal; os.kill(os.getpid(), signal.SIGRTMIN + 1)")
    assert worker.has_ended()
    worker.close()
    assert worker.describe_end() == f"was killed by signal {signal.SIGRTMIN + 1}"


def test_a_program_that_is_not_there_is_an_error_and_leaves_nothing_open(events):
    before = os.listdir("/proc/self/fd")
    with pytest.raises(MountError, match="/nowhere/worker: cannot be started: No such file"):
        Worker.start(("/nowhere/worker",), events, print)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("left", range(6))
def test_a_machine_without_a_descriptor_left_is_an_error_and_leaves_nothing_open(events, descriptors_left, left):
    """The supervisor tries again after that; after anything else it undoes the mount."""
    before = os.listdir("/proc/self/fd")
    with descriptors_left(left), pytest.raises(MountError, match="cannot be started: Too many open files"):
        Worker.start((sys.executable,), events, print)
    assert os.listdir("/proc/self/fd") == before


def test_descriptors_are_closed_with_the_worker(run, events):
    before = os.listdir("/proc/self/fd")
    worker, _ = run(LAST_MESSAGE)
    worker.has_ended()
    worker.close()
    assert os.listdir("/proc/self/fd") == before


ANSWERS = """
import sys
from tigrismount.holder.protocol import Channel
channel = Channel.from_fd(int(sys.argv[-1]))
channel.send("pong", degraded=["store: away", "cache: full"])
"""


def test_an_answer_tells_what_works_less_well_than_it_should(run):
    worker, _ = run(ANSWERS)
    worker.ping()
    worker.drain()
    assert worker.unanswered == 0
    assert worker.degraded == "store: away; cache: full"
    worker.close()


NEW_JOURNAL = """
import os, sys
from tigrismount.holder.protocol import Channel
channel = Channel.from_fd(int(sys.argv[-1]))
channel.send("journal", [os.memfd_create("journal")])
channel.send("pong", degraded=["store: away"])
"""


def test_a_journal_that_finds_no_descriptor_left_is_lost_and_the_mount_is_not(run, descriptors_left):
    """Mutation: the supervisor takes it for a mistake of its own, and unmounts; a mounter gives the mount up."""
    worker, lines = run(NEW_JOURNAL)
    with descriptors_left(0):
        worker._take_message()
    worker.drain()
    assert worker.degraded == "store: away"
    worker.close()
    assert "what it said is lost: a message from the other process was cut" in lines[0]
