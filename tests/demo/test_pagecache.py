from __future__ import annotations

import os

import pytest

from tigrismount.demo import pagecache
from tigrismount.demo.pagecache import drop_pages, resident_bytes

MIB = 1 << 20


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(2 * MIB + 5))
    return str(path)


def test_a_file_just_written_is_resident(file):
    assert resident_bytes(file) >= 2 * MIB


def test_looking_at_residency_brings_nothing_in(file):
    drop_pages([file])

    assert resident_bytes(file) == resident_bytes(file) < MIB


def test_dropped_pages_are_gone(file):
    means, left_bytes = drop_pages([file])

    assert means in ("posix_fadvise", "drop_caches")
    assert left_bytes == resident_bytes(file) == 0


def test_an_empty_file_has_nothing_resident(tmp_path):
    (tmp_path / "empty").touch()

    assert resident_bytes(str(tmp_path / "empty")) == 0


def test_where_root_may_not_empty_the_cache_of_the_machine_it_is_told_what_is_left(file, tmp_path, monkeypatch):
    """As in a container whose /var/tmp is memory. Mutation: the demo ends in its middle with an internal error."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "sync", lambda: None)
    monkeypatch.setattr(pagecache, "_DROP_CACHES", str(tmp_path / "none" / "drop_caches"))
    monkeypatch.setattr(pagecache, "resident_bytes", lambda _path: 4096)

    assert drop_pages([file]) == ("posix_fadvise", 4096)
