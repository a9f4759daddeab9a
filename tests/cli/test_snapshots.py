from __future__ import annotations

import json

import pytest

from tigrismount.testing.fake_http import serving
from tigrismount.testing.fake_tigris import FakeTigris


@pytest.fixture
def tigris(monkeypatch):
    store = FakeTigris("tid_one")
    store.create_bucket("models")
    store.put("models", "weights", b"one")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tid_one")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    with serving(store.answer) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        yield store


def test_snapshots_are_listed_with_their_time_and_name(tigrismount, tigris):
    versions = [tigris.take_snapshot("models", name) for name in ("first", "", "se\x7fcond")]

    ended = tigrismount("snapshots", "s3://models/llama")

    assert ended.exit_code == 0
    header, *rows = ended.out.splitlines()
    assert header.split() == ["VERSION", "TAKEN", "NAME"]
    assert [row.split()[0] for row in rows] == versions
    assert rows[0].endswith("first")
    assert rows[2].endswith("se\\x7fcond"), "a name cannot steer the terminal"


def test_json_has_versions_as_text(tigrismount, tigris):
    """They are above 2**53, where JSON numbers are not safe."""
    version = tigris.take_snapshot("models", "first")
    report = json.loads(tigrismount("snapshots", "models", "--json").out)
    assert report["bucket"] == "models"
    (row,) = report["snapshots"]
    assert (row["version"], row["name"]) == (version, "first")
    assert row["taken"] == pytest.approx(int(version) / 1e9)


def test_no_snapshots_yet_says_what_works_without(tigrismount, tigris):
    assert "'mount --snapshot now'" in tigrismount("snapshots", "models").out


def test_a_bucket_that_keeps_none_is_refused(fails, tigris):
    tigris.create_bucket("plain", snapshots=False)
    exit_code, line = fails("snapshots", "plain")
    assert exit_code == 2
    assert line.startswith("s3://plain: this bucket at http")
    assert "keeps no snapshots" in line


def test_a_bucket_that_there_is_not_is_not_found(fails, tigris):
    exit_code, line = fails("snapshots", "nothing-here")
    assert exit_code == 3
    assert "no such bucket" in line


def test_ls_shows_what_a_snapshot_holds(tigrismount, tigris):
    tigris.take_snapshot("models", "first")
    tigris.put("models", "later", b"two")
    names = [line.split()[-1] for line in tigrismount("ls", "models", "--snapshot", "first").out.splitlines()]
    assert names == ["weights"]


@pytest.mark.parametrize("selector", ["", "tab\there", "2026-13-01T00:00:00Z", "2026-07-01T12:00:00", "x" * 256])
def test_malformed_snapshots_are_refused_before_anything_is_asked(fails, tigris, selector, monkeypatch):
    monkeypatch.setenv("TIGRISMOUNT_SNAPSHOT", "first")
    exit_code, line = fails("ls", "models", f"--snapshot={selector}")
    assert exit_code == 2
    assert line.startswith("--snapshot")
    assert tigris.requests == []
