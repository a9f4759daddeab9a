"""The control socket: one line in, one line out, and never another's socket removed."""

from __future__ import annotations

import json
import os
import resource
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from tigrismount.cli import inspect_places, refresh
from tigrismount.control.client import request, stream
from tigrismount.control.server import MAX_REQUEST_BYTES, ControlServer
from tigrismount.errors import MountError


async def _status(_: Mapping[str, object]) -> Mapping[str, object]:
    await trio.lowlevel.checkpoint()
    return {"mountpoint": "/models"}


async def _broken(_: Mapping[str, object]) -> Mapping[str, object]:
    await trio.lowlevel.checkpoint()
    raise ZeroDivisionError


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "run" / "a.sock")


def _server(path: str) -> ControlServer:
    return ControlServer(path, {"status": _status, "broken": _broken})


async def _ask(path: str, command: str) -> Mapping[str, object]:
    return await trio.to_thread.run_sync(lambda: request(path, command, timeout_s=30))


async def test_a_command_is_answered(path: str, nursery: trio.Nursery) -> None:
    await nursery.start(_server(path).run)
    assert await _ask(path, "status") == {"mountpoint": "/models"}
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700


async def test_an_unknown_command_says_which_there_are(path: str, nursery: trio.Nursery) -> None:
    await nursery.start(_server(path).run)
    with pytest.raises(MountError, match="broken, status"):
        await _ask(path, "launch")


async def test_a_command_that_fails_is_an_answer_and_the_server_goes_on(path: str, nursery: trio.Nursery) -> None:
    await nursery.start(_server(path).run)
    with pytest.raises(MountError, match="ZeroDivisionError"):
        await _ask(path, "broken")
    assert await _ask(path, "status")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"[]\n",
        b"nonsense\n",
        b"\xff\xfe\n",
        b"[" * 60_000 + b"\n",
        b'{"command": []}\n',
        b"x" * (MAX_REQUEST_BYTES + 10),
    ],
)
async def test_nonsense_harms_nobody(path: str, nursery: trio.Nursery, line: bytes) -> None:
    await nursery.start(_server(path).run)
    with trio.fail_after(30):
        async with await trio.open_unix_socket(path) as stream:
            try:
                await stream.send_all(line)
                await stream.send_eof()
                answer = await stream.receive_some(1 << 16)
            except trio.BrokenResourceError:
                answer = b""
    if answer:
        assert "error" in json.loads(answer)
    assert await _ask(path, "status")


async def test_a_leftover_socket_is_replaced_and_ours_is_removed_at_the_end(path: str) -> None:
    os.makedirs(os.path.dirname(path), mode=0o700)
    with socket.socket(socket.AF_UNIX) as leftover:
        leftover.bind(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(_server(path).run)
        assert await _ask(path, "status")
        nursery.cancel_scope.cancel()
    assert not os.path.exists(path)


async def test_a_successors_socket_is_left_alone(path: str) -> None:
    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as first:
            await first.start(_server(path).run)
            await outer.start(_server(path).run)
            first.cancel_scope.cancel()
        assert await _ask(path, "status"), "the successor still answers"
        outer.cancel_scope.cancel()


async def test_a_shortage_of_descriptors_delays_answers_and_ends_nothing(
    path: str, nursery: trio.Nursery, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    await nursery.start(_server(path).run)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        try:
            await trio.sleep(5)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "cannot take a control connection" in caplog.text
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(b'{"command": "status"}\n')
        assert json.loads(await stream.receive_some(1 << 16)) == {"mountpoint": "/models"}


@pytest.mark.parametrize(
    "waits_s", [refresh._ANSWER_TIMEOUT_S, inspect_places._ANSWER_TIMEOUT_S], ids=["refresh", "inspect"]
)
async def test_an_answer_may_take_as_long_as_who_asks_waits(
    path: str, nursery: trio.Nursery, autojump_clock: object, waits_s: float
) -> None:
    """As where the program of the profile hangs that the key before was from, or the cache's disk is busy.

    Mutation: the work is given up after 10 s, and who asked is told that the daemon gave no valid answer.
    """

    async def slow(_: Mapping[str, object]) -> Mapping[str, object]:
        await trio.sleep(waits_s)
        return {"replaced": True}

    await nursery.start(ControlServer(path, {"slow": slow}).run)
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(b'{"command": "slow"}\n')
        assert json.loads(await stream.receive_some(1 << 16)) == {"replaced": True}


async def test_a_client_that_says_nothing_is_hung_up_on(
    path: str, nursery: trio.Nursery, autojump_clock: object
) -> None:
    await nursery.start(_server(path).run)
    with trio.fail_after(15):
        async with await trio.open_unix_socket(path) as stream:
            assert await stream.receive_some(1) == b""


async def test_a_socket_that_cannot_be_made_is_an_error_of_one_line(tmp_path: Path) -> None:
    path = str(tmp_path / ("d" * 120) / "a.sock")
    with pytest.raises(MountError, match="control socket cannot be made"):
        await _server(path).run()


# --- streams


async def _counting(request, send):
    for number in range(request["to"]):
        await send({"number": number})
    return {"done": request["to"]}


async def test_a_stream_sends_lines_and_then_its_result(path, nursery):
    await nursery.start(ControlServer(path, {}, {"count": _counting}).run)
    lines = await trio.to_thread.run_sync(lambda: list(stream(path, "count", timeout_s=30, to=3)))
    assert lines == [{"number": 0}, {"number": 1}, {"number": 2}, {"done": 3}]


async def test_a_stream_ends_when_its_client_leaves(path, nursery):
    ended = trio.Event()

    async def endless(_request, send):
        try:
            while True:
                await send({"more": True})
                await trio.sleep(0.01)
        finally:
            ended.set()

    await nursery.start(ControlServer(path, {}, {"endless": endless}).run)

    def leave() -> None:
        for _ in stream(path, "endless", timeout_s=30):
            return

    await trio.to_thread.run_sync(leave)
    with trio.fail_after(30):
        await ended.wait()


async def test_a_stream_that_fails_says_so_and_the_server_goes_on(path, nursery):
    async def failing(_request, send):
        await send({"number": 1})
        raise RuntimeError("broken")

    await nursery.start(ControlServer(path, {}, {"fail": failing, "count": _counting}).run)
    with pytest.raises(MountError, match="internal error"):
        await trio.to_thread.run_sync(lambda: list(stream(path, "fail", timeout_s=30)))
    lines = await trio.to_thread.run_sync(lambda: list(stream(path, "count", timeout_s=30, to=0)))
    assert lines == [{"done": 0}]
