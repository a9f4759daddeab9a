"""Real mounts of the fakes: what a process that reads files gets to see."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import pytest

from tigrismount.demo.command import run_command, wait_until

pytestmark = pytest.mark.fuse


@pytest.mark.claim("fresh-snapshot")
def test_a_mounted_snapshot_never_changes_and_is_asked_about_once(tigris, mount):
    tigris.tigris.put("models", "weights", b"first")
    version = tigris.tigris.take_snapshot("models", "v1")
    tigris.tigris.put("models", "weights", b"second")
    tigris.tigris.requests.clear()

    with mount(tigris.url, "--snapshot", "v1", "--metadata-ttl=0") as mounted:
        assert (mount.ls(), mount.cat("weights"), mount.cat("missing")) == ("weights", "first", "ENOENT")
        tigris.tigris.put("models", "missing", b"now there")
        asked = len(tigris.tigris.requests)
        assert (mount.ls(), mount.cat("weights"), mount.cat("missing")) == ("weights", "first", "ENOENT")
        assert len(tigris.tigris.requests) == asked, "nothing frozen is asked for twice"
        status = mounted.status()

    assert status["snapshot"] == version
    assert status["config"]["metadata_ttl"] == {"value": "inf", "from": "--snapshot"}
    assert status["config"]["snapshot"]["value"] == "v1"
    resolving = {"HeadBucket", "ListBuckets"}
    live = [r for r in tigris.tigris.requests if r.headers.get("x-tigris-snapshot-version") != version]
    assert [request.operation for request in live if request.operation not in resolving] == [
        "ListObjectsV2",
        "HeadObject",
    ], "the look for a gateway, before there is a version"
    frozen = [request for request in tigris.tigris.requests if request not in live]
    assert {request.operation for request in frozen} >= {"ListObjectsV2", "GetObject"}
    assert all("x-tigris-snapshot-version" in request.signed_headers for request in frozen)


def test_latest_is_fixed_when_it_is_mounted(tigris, mount):
    tigris.tigris.put("models", "weights", b"first")
    tigris.tigris.take_snapshot("models")
    with mount(tigris.url, "--snapshot", "latest"):
        tigris.tigris.put("models", "weights", b"second")
        tigris.tigris.take_snapshot("models")
        assert mount.cat("weights") == "first"


def test_snapshots_are_refused_in_one_line_where_there_are_none(tigris, tag, mount):
    tigris.tigris.put("models", "weights", b"w")
    ended = mount.refused(tag.url, "--snapshot", "now")
    assert (ended.status, "is TAG" in ended.errors) == (2, True)
    tigris.tigris.create_bucket("models", snapshots=False)
    ended = mount.refused(tigris.url, "--snapshot", "now")
    assert (ended.status, "keeps no snapshots" in ended.errors) == (2, True)
    ended = mount.refused(tigris.url, "--snapshot", "2026-07-01T25:00:00Z")
    assert (ended.status, "expected a time" in ended.errors) == (2, True)


def test_behind_tag_overwrites_and_deletes_are_seen(tag, mount):
    tag.tigris.put("models", "weights", b"first")
    tag.tigris.put("models", "empty", b"")
    with mount(tag.url, "--metadata-ttl=0", "--negative-ttl=0") as mounted:
        assert (mount.cat("weights"), mount.cat("empty")) == ("first", "")
        assert mounted.status()["notes"] == [f"behind TAG: {tag.url} answers with X-Cache"]
        tag.tigris.put("models", "weights", b"second")
        assert mount.cat("weights") == "second"
        tag.tigris.delete("models", "weights")
        assert mount.cat("weights") == "ENOENT"
        assert mounted.status()["degraded"] == []


def test_a_revoked_key_is_a_refusal_and_a_new_one_mends_it_without_a_remount(tigris, mount):
    tigris.tigris.put("models", "weights", b"w")
    config = os.path.join(mount.env["HOME"], ".tigris", "config.json")
    os.mkdir(os.path.dirname(config))

    def write(key: str) -> None:
        with open(config, "w", encoding="utf-8") as file:
            json.dump({"version": 2, "credentials": {"saved": {"accessKeyId": key, "secretAccessKey": "s"}}}, file)

    write("tid_one")
    env = {name: value for name, value in mount.env.items() if not name.startswith("AWS_")}
    with replace(mount, env=env)(tigris.url, "--metadata-ttl=0", "--negative-ttl=0") as mounted:
        tigris.tigris.keys = {"tid_two"}
        assert mount.cat("weights") == "EACCES"
        write("tid_two")
        assert wait_until(lambda: mount.cat("weights") == "w")
        assert mounted.status()["credentials"] == config


def test_a_key_from_the_environment_is_replaced_by_hand(tigris, mount):
    tigris.tigris.put("models", "weights", b"w")
    with mount(tigris.url, "--metadata-ttl=0", "--negative-ttl=0") as mounted:
        tigris.tigris.keys = {"tid_two"}
        assert mount.cat("weights") == "EACCES"
        env = mount.env | {"AWS_ACCESS_KEY_ID": "tid_two"}
        run_command("refresh", "--credentials", mounted.path, env=env).check()
        assert mount.cat("weights") == "w"
        assert mounted.status()["credentials"] == "tigrismount refresh --credentials"
        # Who comes next starts with the environment of before, and the key in it is refused.
        os.kill(mounted.status()["pid"], signal.SIGKILL)
        tigris.tigris.put("models", "later", b"later")
        assert (mount.cat("weights"), mount.cat("later")) == ("w", "later")
        assert mounted.status()["takeovers"]["count"] == 1
        run_command("upgrade", mounted.path, env=mount.env).check()
        tigris.tigris.put("models", "latest", b"latest")
        assert (mount.cat("weights"), mount.cat("latest")) == ("w", "latest")
        assert mounted.status()["credentials"] == "tigrismount refresh --credentials"
        bare = {name: value for name, value in mount.env.items() if not name.startswith("AWS_")}
        refused = run_command("refresh", "--credentials", mounted.path, env=bare)
        assert (refused.status, "no access key is found here" in refused.errors) == (1, True)


def test_a_public_bucket_that_may_not_be_listed_mounts_with_a_warning_and_never_looks_empty(tigris, mount):
    tigris.tigris.create_bucket("models", public=True)
    tigris.tigris.put("models", "weights", b"w")
    with mount(tigris.url, "--no-sign-request") as mounted:
        assert mount.cat("weights") == "w"
        assert mount.cat("missing") == "ENOENT"
        assert mount.ls() == "EACCES"
        assert "refuses anonymous listings" in mounted.status()["notes"][0]
