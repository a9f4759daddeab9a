"""Which mount a source is warmed through."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tigrismount.cli.warm import _serves
from tigrismount.config.loading import load
from tigrismount.config.model import MountConfig
from tigrismount.warm.selection import Target

TARGETS = [Target("bucket", "model")]


def config_of(**flags: object) -> MountConfig:
    return load(
        source="s3://bucket",
        mountpoint="/m",
        flags={"cache_dir": ["/cache"], "cache_size": "1G", **flags},
        mount_options=[],
        config_file=None,
        debug=False,
        environment={"HOME": "/h"},
    ).config


def mount_of(config: MountConfig) -> dict[str, Any]:
    return {"mountpoint": "/m", "state": "ok", "source": config.source, "config": config.report()}


@pytest.mark.parametrize("flags", [{}, {"snapshot": "1760000000000000000"}, {"profile": "team"}])
def test_a_mount_that_was_told_the_same_serves(flags: dict[str, object]) -> None:
    config = config_of(**flags)
    assert _serves(mount_of(config), config, TARGETS)
    assert not _serves(mount_of(config), replace(config, disk_caches=()), TARGETS)


@pytest.mark.parametrize("snapshot", ["latest", "now", "nightly"])
def test_a_snapshot_that_is_another_one_each_day_is_not_what_it_was_when_a_mount_was_made(snapshot: str) -> None:
    """Else an old version is warmed, and said to be all cached."""
    config = config_of(snapshot=snapshot)
    assert not _serves(mount_of(config), config, TARGETS)


@pytest.mark.parametrize("flags", [{"profile": "another"}, {"requester_pays": True}])
def test_a_mount_that_asks_in_another_way_does_not_serve(flags: dict[str, object]) -> None:
    """Its key may be refused where the one that is meant is not, or cost what nobody accepted."""
    assert not _serves(mount_of(config_of()), config_of(**flags), TARGETS)
    assert not _serves(mount_of(config_of(**flags)), config_of(), TARGETS)


@pytest.mark.parametrize(
    "arguments", [("warm", "--from-file", "/dev/null", "--spread", "inf"), ("status", "--watch", "--interval", "inf")]
)
def test_a_wait_without_an_end_is_bad_usage(fails, arguments):
    """Mutation: 'internal error: OverflowError ... please report it'."""
    assert fails(*arguments)[0] == 2
