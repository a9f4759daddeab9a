"""What a worker does when its supervisor asks for something and the machine is short of what that takes."""

from __future__ import annotations

import threading

import pytest
import trio

from tigrismount.app import Worker
from tigrismount.config.loading import load
from tigrismount.control.operations import operations
from tigrismount.holder.protocol import Channel
from tigrismount.objects.s3 import S3Client
from tigrismount.testing.waiting import no_threads

SECRET = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


def make_client() -> S3Client:
    loaded = load(
        source="s3://models",
        mountpoint="/m",
        flags={"no_sign_request": True},
        mount_options=[],
        config_file=None,
        debug=False,
        environment={"HOME": "/h"},
    )
    return S3Client(loaded.config.s3, None, find_credentials=lambda: None)


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
    )["credentials"]
    with no_threads():
        assert "no thread left" in await Worker(ours)._rotate({"secret": SECRET}, client)
        reply = await take_key({"access_key_id": "key", "secret_access_key": "secret"})
    assert "no thread left" in reply["error"]
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
