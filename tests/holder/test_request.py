from __future__ import annotations

import json

import pytest

from tigrismount.config.loading import load
from tigrismount.errors import MountError
from tigrismount.holder.mounting import MountSpec
from tigrismount.holder.request import Deadlines, MountRequest, Outcome


@pytest.fixture
def config():
    """What the command line really sends."""
    loaded = load(
        source="s3://models",
        mountpoint="/m",
        flags={"allow_other": True},
        mount_options=["nonempty,kernel_read_ahead=0"],
        config_file=None,
        debug=False,
        environment={"HOME": "/h"},
    )
    return loaded.config.to_json()


def test_a_request_travels_and_says_what_the_kernel_is_told(config):
    sent = MountRequest(config=config, deadlines=Deadlines(start_s=1.5))
    request = MountRequest.from_json(sent.to_json())
    assert request == sent
    assert request.spec == MountSpec(mountpoint="/m", fsname="s3://models", allow_other=True)
    assert request.nonempty
    assert request.kernel_read_ahead_kib is None


def test_a_request_of_a_later_version_is_understood(config):
    """The program that runs reads what the installed one prints: else it could not be upgraded to that one."""
    values = MountRequest(config=config, deadlines=Deadlines(start_s=1.5)).to_values()
    values["deadlines"]["rest_s"] = values["manner"] = 1.0
    assert MountRequest.from_json(json.dumps(values).encode()).deadlines == Deadlines(start_s=1.5)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"config": {}, "worker_command": [], "deadlines": {}}'])
def test_what_is_no_request_is_refused(data):
    with pytest.raises(MountError, match="not valid"):
        MountRequest.from_json(data)


def test_an_outcome_travels():
    outcome = Outcome(ok=False, exit_code=2, message="why", warnings=("a", "b"))
    assert Outcome.from_json(outcome.to_json()) == outcome


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b'{"warnings": [], "x": 1}'])
def test_a_supervisor_that_ends_without_a_word_is_an_error(data):
    with pytest.raises(MountError, match="without saying why"):
        Outcome.from_json(data)
