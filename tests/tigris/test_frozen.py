"""Remounts of a snapshot: nothing is listed again, and what is kept serves while the store is away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tigrismount.demo.command import wait_until
from tigrismount.testing.fake_http import serving

pytestmark = pytest.mark.fuse

KEYS = {"config.json": b"{}", "weights": b"first", "d/e": b"deep", "none": b""}


class Switch:
    """A store that can be away."""

    def __init__(self, tigris) -> None:
        self.tigris = tigris
        self.away = False

    def answer(self, request):
        if self.away:
            raise ConnectionResetError
        return self.tigris.answer(request)


@pytest.fixture
def switch(tigris):
    switch = Switch(tigris.tigris)
    with serving(switch.answer) as url:
        switch.url = url
        yield switch


@pytest.fixture
def version(tigris):
    for key, body in KEYS.items():
        tigris.tigris.put("models", key, body)
    version = tigris.tigris.take_snapshot("models", "v1")
    tigris.tigris.put("models", "weights", b"second")
    return version


@pytest.fixture
def cached(mount, tmp_path):
    return replace(mount, cache_dir=str(tmp_path / "cache"))


def look(mount) -> list[str]:
    """Look at everything there is, and at something that is not."""
    return [mount.ls(), *map(mount.cat, ("weights", "d/e", "none", "d/missing"))]


LOOKED = ["config.json d none weights", "first", "deep", "", "ENOENT"]


@pytest.mark.claim("fresh-kept")
def test_a_remount_lists_nothing(switch, version, cached):
    with cached(switch.url, "--snapshot", version):
        assert look(cached) == LOOKED
    switch.tigris.requests.clear()
    with cached(switch.url, "--snapshot", version) as mounted:
        assert look(cached) == LOOKED
        assert mounted.status()["degraded"] == []
    assert [request.operation for request in switch.tigris.requests] == ["HeadBucket"], "that the key is still good"
    switch.tigris.requests.clear()
    with cached(switch.url, "--snapshot", "v1"):
        assert look(cached) == LOOKED
    assert [request.operation for request in switch.tigris.requests] == ["HeadBucket", "ListBuckets"]


@pytest.mark.claim("fresh-kept-away")
def test_a_frozen_mount_begins_while_the_store_is_away_and_says_so(switch, version, cached):
    for selector in (version, "v1"):
        with cached(switch.url, "--snapshot", selector):
            assert look(cached) == LOOKED
    switch.away = True
    for selector in (version, "v1"):
        with cached(switch.url, "--snapshot", selector) as mounted:
            assert look(cached) == LOOKED
            status = mounted.status()
            assert status["snapshot"] == version
            assert status["degraded"][0].startswith("store: ")
    switch.tigris.requests.clear()
    with cached(switch.url, "--snapshot", version) as mounted:
        switch.away = False
        assert wait_until(lambda: mounted.status()["degraded"] == [], timeout_s=30.0)


def test_what_is_not_known_is_refused_while_the_store_is_away(switch, version, cached, tmp_path):
    with cached(switch.url, "--snapshot", "v1"):
        assert look(cached) == LOOKED
    switch.tigris.keys.add("tid_two")
    other = replace(cached, env=cached.env | {"AWS_ACCESS_KEY_ID": "tid_two"})
    switch.away = True
    elsewhere = replace(cached, cache_dir=str(tmp_path / "elsewhere"))
    for mount, selector in ((cached, "latest"), (cached, "v2"), (other, "v1"), (elsewhere, version)):
        ended = mount.refused(switch.url, "--snapshot", selector)
        assert (ended.status, switch.url in ended.errors) == (1, True), ended


def test_a_key_that_was_revoked_is_refused_whatever_is_kept(switch, version, cached):
    with cached(switch.url, "--snapshot", version):
        assert look(cached) == LOOKED
    switch.tigris.keys.clear()
    ended = cached.refused(switch.url, "--snapshot", version)
    assert "access denied: the key from AWS_ACCESS_KEY_ID" in ended.errors


def test_another_key_lists_for_itself(switch, version, cached):
    with cached(switch.url, "--snapshot", version):
        assert look(cached) == LOOKED
    switch.tigris.keys.add("tid_two")
    switch.tigris.requests.clear()
    other = replace(cached, env=cached.env | {"AWS_ACCESS_KEY_ID": "tid_two"})
    with other(switch.url, "--snapshot", version):
        assert look(other) == LOOKED
    assert len(switch.tigris.operations("ListObjectsV2")) >= 3


@pytest.mark.slow
def test_a_store_that_goes_away_while_a_mount_serves_is_named_until_it_is_back(switch, version, cached):
    with cached(switch.url, "--metadata-ttl=1h", "--request-timeout=2s", "--prefetch=off") as mounted:
        assert cached.ls() == "config.json d none weights"
        switch.away = True
        assert cached.cat("weights") == "EIO"
        assert wait_until(lambda: mounted.status()["degraded"] != [], timeout_s=40.0)
        assert mounted.status()["degraded"][0].startswith("store: ")
        switch.away = False
        assert wait_until(lambda: mounted.status()["degraded"] == [], timeout_s=40.0)
        assert cached.cat("weights") == "second"
