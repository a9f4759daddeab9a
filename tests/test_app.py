"""What a worker does when its supervisor asks for something and the machine is short of what that takes."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from tigrismount.app import OF_THE_VOLUME, Worker, _metrics_server
from tigrismount.cache.none import NoCache
from tigrismount.config.loading import load
from tigrismount.config.model import MountConfig
from tigrismount.control.operations import operations
from tigrismount.core.inodes import Node
from tigrismount.core.journal import Record
from tigrismount.core.openmodes import OpenState
from tigrismount.core.types import NodeId, ObjectId
from tigrismount.engine import Engine
from tigrismount.fuse.options import FuseConfig
from tigrismount.fuse.passthrough import Passthrough
from tigrismount.holder.protocol import Channel
from tigrismount.integrity.verdicts import Compared
from tigrismount.objects.credentials import Credentials
from tigrismount.objects.s3 import S3Client
from tigrismount.telemetry import Takeovers
from tigrismount.testing.waiting import no_threads
from tigrismount.vfs.journal import NodeJournal

SECRET = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


def make_config(**flags: object) -> MountConfig:
    return load(
        source="s3://models",
        mountpoint="/m",
        flags={"no_sign_request": True, **flags},
        mount_options=[],
        config_file=None,
        debug=False,
        environment={"HOME": "/h"},
    ).config


def make_client() -> S3Client:
    return S3Client(make_config().s3, None, find_credentials=lambda: None)


async def test_a_key_that_comes_when_no_thread_is_left_is_refused_and_ends_nobody() -> None:
    """Whoever handed it in hears why, and can do it again; the mount goes on with the key that it has."""
    client = await trio.to_thread.run_sync(make_client)
    ours, theirs = Channel.pair()
    take_key = operations(
        status=dict,
        filesystem=None,  # type: ignore[arg-type] # not asked
        client=client,
        loads=None,  # type: ignore[arg-type] # not asked
        forget_name=lambda *_: None,
        keep_key=lambda _: None,
    )["credentials"]
    with no_threads():
        assert "no thread left" in await Worker(ours)._rotate({"secret": SECRET}, client)
        reply = await take_key({"access_key_id": "key", "secret_access_key": "secret"})
    assert "no thread left" in reply["error"]
    ours.close()
    theirs.close()


async def test_the_key_of_a_volume_said_once_more_leaves_one_that_was_handed_in() -> None:
    """Mutation: the mounter says it to each successor, which then signs with what the store refuses."""
    client = await trio.to_thread.run_sync(make_client)
    ours, theirs = Channel.pair()
    worker = Worker(ours)
    assert await worker._rotate({"secret": SECRET}, client) == ""
    await client.replace_key(Credentials(source="here", access_key_id="new", secret_access_key="secret"))
    assert await worker._rotate({"secret": SECRET}, client) == ""
    assert client.key_source == "here"
    assert await worker._rotate({"secret": SECRET | {"AWS_ACCESS_KEY_ID": "newer"}}, client) == ""
    assert client.key_source == OF_THE_VOLUME
    ours.close()
    theirs.close()


async def test_a_store_that_says_very_much_keeps_no_answer_from_the_supervisor() -> None:
    """Mutation: the answer is longer than a message may be and never sent, and a worker that serves counts as hung."""

    class Engine:
        def degraded(self) -> dict[str, str]:
            return {"store": "denied: " + "no " * 100_000, "cache": ""}

    ours, theirs = Channel.pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Worker(ours)._listen, None, Engine())  # type: ignore[arg-type] # a ping takes no more
        theirs.send("ping")
        with trio.fail_after(5):
            await trio.lowlevel.wait_readable(theirs)
        answer = theirs.receive()
        nursery.cancel_scope.cancel()
    assert answer is not None
    (reason,) = answer.body["degraded"]
    assert reason.startswith("store: denied: no no ")
    ours.close()
    theirs.close()


def test_an_end_goes_on_where_no_thread_is_left_to_hurry_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the blocks that wait for the disk are lost, and the worker ends as if it had crashed."""
    monkeypatch.setattr(threading.Thread, "start", refuse)
    ours, theirs = Channel.pair()
    Worker(ours)._leave_soon()
    ours.close()
    theirs.close()


def refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def journal_of(*records: Record) -> int:
    """Return the descriptor of a journal with these records."""
    fd, journal = os.memfd_create("journal", os.MFD_CLOEXEC), NodeJournal()
    journal.open(os.dup(fd), tuple)
    for record in records:
        journal.append(record)
    journal.close()
    return fd


async def test_what_was_open_counts_no_more_where_the_journal_was_written_anew_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its backing file may be gone: who opens it onto that gets EIO, in this worker and in every one after it."""
    nothing: Any = None
    through = Passthrough(
        nothing,
        nothing,
        version_of=nothing,
        refusal=nothing,
        is_refused=nothing,
        journal=lambda _: None,
        on_closed=nothing,
        proofs=nothing,
        log=nothing,
    )
    monkeypatch.setattr("tigrismount.app.patch_init_reply", lambda reply, **_: reply)
    monkeypatch.setattr("tigrismount.app._is_through", lambda *_, **__: through)

    async def replay_init(_: bytes) -> bytes:
        return b""

    session: Any = SimpleNamespace(replay_init=replay_init, attach=lambda fd, **_: os.close(fd))
    engine: Any = SimpleNamespace(
        config=SimpleNamespace(fuse=FuseConfig(), s3=SimpleNamespace(fetch_processes=0)),
        journal=NodeJournal(),
        through=through,
        records=tuple,
        restore=lambda records: through.restore(item for item in records if isinstance(item, OpenState)),
    )
    still = OpenState(3, opens=1, is_through=True, backing_id=8)
    before = journal_of(OpenState(2, opens=1, is_through=True, backing_id=7), still)
    anew = journal_of(Node(NodeId(2), "b", "d/", None), still)
    fuse_fd = os.open(os.devnull, os.O_RDONLY)
    ours, theirs = Channel.pair()
    async with trio.open_nursery() as nursery:
        theirs.send("attach", [fuse_fd, before], init="", first=False)
        nursery.start_soon(Worker(ours)._attach, session, engine)
        await trio.lowlevel.wait_readable(theirs)
        assert theirs.receive().type == "attached"  # type: ignore[union-attr]
        theirs.send("serve", [anew], resend=True)
    assert through.modes.states() == [still]
    engine.journal.close()
    ours.close()
    theirs.close()
    for fd in (fuse_fd, before, anew):
        os.close(fd)


async def test_whoever_takes_in_an_orphan_is_not_called_its_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the user's systemd, say, which an upgrade would send the signal that is meant for a supervisor."""
    client, supervisor_pid = await trio.to_thread.run_sync(make_client), os.getppid()
    engine = Engine(make_config(), client, NoCache(4096), Takeovers(0, ""))
    assert engine.status()["supervisor_pid"] == supervisor_pid
    monkeypatch.setattr("os.getppid", lambda: supervisor_pid + 1)
    assert engine.status()["supervisor_pid"] == 0
    await client.aclose()


async def test_no_open_waits_for_a_proof_for_longer_than_the_kernel_does() -> None:
    """Mutation: the twenty seconds that a slow disk is given; the kernel ends the whole mount after fifteen."""
    client, config = await trio.to_thread.run_sync(make_client), make_config()
    config = replace(config, fuse=replace(config.fuse, request_deadline_s=0.75 * 15.0))
    engine = Engine(config, client, NoCache(4096), Takeovers(0, ""))
    assert engine.open_prover._patience_s < 0.5 * 15.0
    await client.aclose()


@pytest.mark.parametrize(("verify", "choice"), [("off", True), ("once", False)])
async def test_what_a_warm_run_finds_wrong_is_refused_to_nobody_who_asked_for_no_verifying(
    verify: str, choice: bool
) -> None:
    """Else an open of what the kernel reads by itself comes to nothing there: it is answered with EIO."""
    client = await trio.to_thread.run_sync(make_client)
    engine = Engine(make_config(verify=verify), client, NoCache(4096), Takeovers(0, ""))
    obj = ObjectId("models", "m", "etag", 2 << 20)
    node = Node(NodeId(2), "models", "m", obj)
    engine.restore([node, OpenState(2, opens=1, is_through=True, backing_id=7)])
    compared = Compared("sha256", "00", "11", "its name")
    await engine.verdicts.keep(obj, [compared])  # as 'warm --check' does
    assert engine.through.choice(2) is choice
    assert engine.is_refused(obj) is not choice
    await client.aclose()


async def test_the_page_of_a_mount_shows_no_loads_of_others() -> None:
    """Whoever reaches the address asks without a key: it tells of the mount that has it, not of all in the cache."""
    kept = [{"source": source, "started": 1.0} for source in ("s3://models", "s3://theirs", "s3://models/other")]

    async def reports(*_: int) -> list[dict[str, Any]]:
        return kept

    engine: Any = SimpleNamespace(config=make_config(), loads=SimpleNamespace(reports=reports))
    server = _metrics_server(engine, SimpleNamespace(), "127.0.0.1:0")  # type: ignore[arg-type]
    assert server._reports is not None
    assert await server._reports() == kept[:1]
