"""What a mount's thread in the mounter says, without a driver."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import sys
import threading

import pytest

from tigrismount.demo.command import wait_until
from tigrismount.errors import ConfigError
from tigrismount.holder.protocol import Message
from tigrismount.holder.request import Deadlines
from tigrismount.mounter.keeper import Keeper
from tigrismount.mounter.log import MountLog
from tigrismount.mounter.volumes import Installation
from tigrismount.mounter.wire import Order


def test_a_worker_that_is_killed_as_it_starts_is_told_with_what_to_look_at(tmp_path):
    """As by the kernel, where the mounter's limit is too small: the event of the pod says more than a signal."""
    said = []
    order = Order(mount_id="one", source="s3://models/llama", options={}, mountpoint=str(tmp_path), secret={})
    killed = (sys.executable, "-S", "-c", "import os; os.kill(os.getpid(), 9)")
    installation = Installation(
        environment={**os.environ, "TIGRISMOUNT_CACHE_DIR": "off"}, flags={"cache_dir": ("off",)}, worker_command=killed
    )
    log = MountLog("one", level="error", json_lines=False)
    turns = threading.Semaphore()
    keeper = Keeper(order, installation, log, lambda type_, fds=(), /, **body: said.append((type_, body)), print, turns)

    keeper.begin(Message("start", {**order.to_values(), "order": 1, "within_s": 60.0}))
    keeper.join(60)

    ((type_, body),) = said
    assert (type_, body["order"], body["kind"]) == ("failed", 1, "internal")
    assert body["message"].startswith("s3://models/llama: ")
    assert "SIGKILL" in body["message"]
    assert "memory limit" in body["message"]


BECOMES_READY = """
import sys
from tigrismount.holder.protocol import Channel
channel = Channel.from_fd(int(sys.argv[-1]))
channel.receive()
channel.send("ready")
channel.receive()
"""


@pytest.mark.parametrize("end", ["stop", "abandon"])
def test_a_connection_that_came_together_with_the_end_is_let_go_of(tmp_path, end):
    """As where a driver ends, or its time does, once it has mounted: held on to, who looks at the mount waits for ever.

    The next driver could not even mount on top of it: it would take the mount for one that is being taken over.
    """
    order = Order(mount_id="one", source="s3://models/llama", options={}, mountpoint=str(tmp_path), secret={})
    installation = Installation(
        environment={**os.environ, "TIGRISMOUNT_CACHE_DIR": "off"},
        flags={"cache_dir": ("off",)},
        worker_command=(sys.executable, "-c", BECOMES_READY),
    )
    kernel, fuse = socket.socketpair()
    fds = fuse.detach(), os.memfd_create("journal")

    def say(type_, _fds=(), /, **_body):
        if type_ == "ready":  # the thread is busy with this, and finds both when it looks again
            assert keeper.post(Message("attach", {"order": 2, "init": ""}, fds))
            assert keeper.post(Message(end, {}))

    log = MountLog("one", level="error", json_lines=False)
    keeper = Keeper(order, installation, log, say, lambda _: None, threading.Semaphore())
    keeper.begin(Message("start", {**order.to_values(), "order": 1, "within_s": 60.0}))
    keeper.join(60)

    with kernel:
        kernel.settimeout(10)
        assert kernel.recv(1) == b""


SERVE = """
import ctypes, os, sys, threading, time
from tigrismount.holder.protocol import Channel
channel, directory = Channel.from_fd(int(sys.argv[-1])), os.environ["TEST_DIRECTORY"]
channel.receive()
channel.send("ready")
channel.send("attached", init_reply=channel.receive().body["answered"])
channel.receive()
channel.send("serving")
"""
"""A worker up to where it serves."""

ENDS_SLOWLY = """
while channel.receive().type != "stop":
    pass
open(f"{directory}/stopping", "w").close()
while not os.path.exists(f"{directory}/may-end"):
    time.sleep(0.01)
"""

HOLLOW_ONCE = """
def stay():
    while True:
        print("still here", flush=True)
        time.sleep(0.1)
if not os.path.exists(f"{directory}/was-hollow"):
    open(f"{directory}/was-hollow", "w").close()
    threading.Thread(target=stay).start()
    ctypes.CDLL(None).pthread_exit(None)  # as if the thread could not be killed
while channel.receive().type != "stop":
    pass
"""

WRITES_ITS_JOURNAL_LAST = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while channel.receive().type != "stop":
    pass
channel.send("journal", [os.memfd_create("journal")])
"""

KEEPS_THE_CONNECTION = """
while channel.receive():
    pass
"""


WAS_HANDED_A_KEY_ONCE = """
def receive():
    while (message := channel.receive()).type != "credentials":
        pass
    return message
if not os.path.exists(f"{directory}/has-key"):
    channel.send("key", key={"access_key_id": "handed in"})
    open(f"{directory}/has-key", "w").close()
    while True:
        receive()
        channel.send("rotated")
with open(f"{directory}/keys", "a") as file:
    print(receive().body.get("key"), file=file)
while channel.receive():
    pass
"""


IS_REPLACED_WITH_ROTATIONS_OPEN = """
if not os.path.exists(f"{directory}/was-replaced"):
    open(f"{directory}/was-replaced", "w").close()
    told = 0
    while (message := channel.receive()).type != "release":
        told += message.type == "credentials"
        if told == 3:  # as it began to serve, and twice since
            channel.send("leaving")
    channel.send("released", resend=True)
    sys.exit()
while (message := channel.receive()) is not None:
    if message.type in ("credentials", "ping"):
        channel.send("rotated" if message.type == "credentials" else "pong")
"""


@pytest.fixture
def adopt(tmp_path, monkeypatch):
    """Have a worker take over a connection; return its keeper, the kernel's end, and what was said."""
    monkeypatch.setenv("TEST_DIRECTORY", str(tmp_path))
    ends = []

    def begin(program, deadlines=None):
        said = []
        order = Order(mount_id="one", source="s3://models/llama", options={}, mountpoint=str(tmp_path), secret={})
        installation = Installation(
            environment={**os.environ, "TIGRISMOUNT_CACHE_DIR": "off"},
            flags={"cache_dir": ("off",)},
            worker_command=(sys.executable, "-c", SERVE + program),
            deadlines=deadlines or Deadlines(),
        )
        log = MountLog("one", level="error", json_lines=False)

        def say(type_, fds=(), /, **body):
            said.append((type_, body))

        keeper = Keeper(order, installation, log, say, print, threading.Semaphore())
        kernel, fuse = socket.socketpair()
        # The kernel's INIT; it can send requests again.
        init = struct.pack("=IIQ24x5I44x", 104, 26, 2, 7, 45, 131072, 1 << 30, 1 << 7)
        body = {**order.to_values(), "init": init.hex(), "init_reply": "00"}
        keeper.begin(Message("adopt", body, (fuse.detach(), os.memfd_create("journal"))))
        ends.append((keeper, kernel))
        assert wait_until(lambda: any(body.get("serves") for _, body in said), timeout_s=60)
        return keeper, kernel, said

    yield begin
    for keeper, kernel in ends:
        keeper.post(Message("stop", {}))
        keeper.join(60)
        kernel.close()


@pytest.mark.parametrize("is_another", [False, True])
def test_the_key_of_a_volume_said_once_more_takes_none_that_was_handed_in_from_successors(adopt, tmp_path, is_another):
    """Kubernetes has a volume published again every minute or two, with the key of its Secret, mostly the same one.

    Mutation: who takes over signs with that, which the store refuses.
    """
    keeper, _, said = adopt(WAS_HANDED_A_KEY_ONCE)
    assert wait_until((tmp_path / "has-key").exists, timeout_s=60)
    secret = {"AWS_ACCESS_KEY_ID": "new"} if is_another else {}
    keeper.post(Message("rotate", {"order": 7, "secret": secret}))
    assert wait_until(lambda: ("rotated", {"id": "one", "order": 7}) in said, timeout_s=60)
    keeper.post(Message("kill", {}))
    assert wait_until(lambda: (tmp_path / "keys").exists() and (tmp_path / "keys").read_text(), timeout_s=60)
    assert ("handed in" in (tmp_path / "keys").read_text()) is not is_another


def test_each_rotation_is_answered_also_where_a_worker_is_replaced_meanwhile(adopt):
    """Mutation: each later answer is taken for that of one before, and every publication of the volume times out."""
    keeper, _, said = adopt(IS_REPLACED_WITH_ROTATIONS_OPEN)
    for number in (7, 8):
        keeper.post(Message("rotate", {"order": number, "secret": {}}))
    assert wait_until(lambda: ("rotated", {"id": "one", "order": 8}) in said, timeout_s=60)
    keeper.post(Message("rotate", {"order": 9, "secret": {}}))
    assert wait_until(lambda: ("rotated", {"id": "one", "order": 9}) in said, timeout_s=60)
    assert ("rotated", {"id": "one", "order": 7}) in said


def test_a_mount_that_is_made_anew_is_not_lost_with_the_one_before(adopt, tmp_path):
    """The worker of the old one may be stuck for seconds; what is said of the name by then is of the new one."""
    keeper, kernel, said = adopt(ENDS_SLOWLY)
    kernel.close()  # the connection ends
    assert wait_until((tmp_path / "stopping").exists, timeout_s=60)
    keeper.supersede()
    (tmp_path / "may-end").touch()
    keeper.join(60)
    assert "lost" not in [type_ for type_, _ in said]


def test_a_worker_that_the_kernel_keeps_is_replaced_without_waiting_for_its_pings(adopt):
    """As when it was killed for its memory while it pushed pages: it hangs on to its descriptors, and all is quiet."""
    _, _, said = adopt(HOLLOW_ONCE, Deadlines(hang_s=6000.0))
    assert wait_until(lambda: said[-1][1].get("count") == 2, timeout_s=30)


def test_a_mount_is_taken_over_also_where_the_list_of_mounts_cannot_be_read(adopt, monkeypatch):
    """Mutation: a mounter without a free descriptor loses all mounts that it is given, with the files that are open."""

    def fail():
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    monkeypatch.setattr("tigrismount.holder.connection.read_mounts", fail)
    _, _, said = adopt(KEEPS_THE_CONNECTION)
    assert "lost" not in [type_ for type_, _ in said]


def test_a_mount_is_not_given_up_because_its_options_cannot_be_read_now(tmp_path, monkeypatch):
    """As where descriptors are short. It lets go of the connection, and the driver gives it again.

    Mutation: the driver hears that it is lost for good, and has the kernel end it with the files that are open.
    """

    def resolve(*_args: object, **_options: object) -> None:
        raise ConfigError("tigrismount.toml: cannot be read") from OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    monkeypatch.setattr("tigrismount.mounter.keeper.resolve", resolve)
    order = Order(mount_id="one", source="s3://models/llama", options={}, mountpoint=str(tmp_path), secret={})
    said = []
    log = MountLog("one", level="error", json_lines=False)
    installation = Installation(environment={})
    keeper = Keeper(order, installation, log, lambda *what, **_: said.append(what), print, threading.Semaphore())
    kernel, fuse = socket.socketpair()
    keeper.begin(Message("adopt", order.to_values(), (fuse.detach(), os.memfd_create("journal"))))
    keeper.join(60)
    with kernel:
        kernel.settimeout(10)
        assert kernel.recv(1) == b""
    assert said == []


def is_ignoring(pid: int, number: int) -> bool:
    with open(f"/proc/{pid}/status") as file:
        (mask,) = [line.split()[1] for line in file if line.startswith("SigIgn:")]
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_a_journal_that_is_written_anew_as_its_mount_ends_ends_no_thread(adopt):
    """Mutation: the connection is let go of first, so there is no journal to close; the worker is never collected."""
    keeper, _, said = adopt(WRITES_ITS_JOURNAL_LAST)
    pid = said[-1][1]["pid"]
    assert wait_until(lambda: is_ignoring(pid, signal.SIGTERM), timeout_s=60)
    keeper.post(Message("stop", {"order": 7}))
    keeper.join(60)
    assert said[-1] == ("stopped", {"id": "one", "order": 7})
    assert not os.path.exists(f"/proc/{pid}")


def test_a_worker_that_does_not_let_go_is_gone_before_the_next_mounter_begins(adopt, monkeypatch):
    """Mutation: it takes requests beside its successor for ten seconds more, and what it has then is never answered."""
    monkeypatch.setattr("tigrismount.mounter.keeper._RELEASE_S", 0.5)
    keeper, _, said = adopt(KEEPS_THE_CONNECTION, Deadlines(stop_s=60))
    pid = said[-1][1]["pid"]
    keeper.post(Message("leave", {}))
    assert keeper.has_released.wait(30)
    assert not os.path.exists(f"/proc/{pid}")
    keeper.join(30)
