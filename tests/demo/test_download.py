"""The demo's download to files, from a client that gives what a test wants."""

from __future__ import annotations

import errno
import io
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tigrismount.demo.download import download
from tigrismount.errors import MountError

if TYPE_CHECKING:
    from pathlib import Path

FILES = {"m/a": bytes(range(256)) * 70_000, "m/b": b"short", "m/empty": b""}
pwrite = os.pwrite


class Client:
    """Has objects, and gives ranges of them."""

    def list_objects_v2(self, **wanted: str) -> dict[str, Any]:
        assert wanted == {"Bucket": "bucket", "Prefix": "m/"}
        return {"Contents": [{"Key": key, "Size": len(data)} for key, data in FILES.items()]}

    def get_object(self, **wanted: str) -> dict[str, Any]:
        first, _, last = wanted["Range"].removeprefix("bytes=").partition("-")
        return {"Body": io.BytesIO(FILES[wanted["Key"]][int(first) : int(last) + 1])}


def _download(directory: Path) -> int:
    counts, lock = [0], threading.Lock()

    def advance(count: int) -> None:
        with lock:
            counts[0] += count

    download(Client(), "bucket", "m", str(directory), advance)
    return counts[0]


def _found(directory: Path) -> dict[str, bytes]:
    return {f"m/{path.name}": path.read_bytes() for path in directory.iterdir()}


def test_all_parts_of_all_files_are_where_they_belong(tmp_path: Path) -> None:
    assert _download(tmp_path) == sum(map(len, FILES.values()))
    assert _found(tmp_path) == {key: data for key, data in FILES.items() if data}


def test_a_write_that_takes_less_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: where what pwrite returns is not looked at, files have holes."""
    monkeypatch.setattr(os, "pwrite", lambda fd, data, start: pwrite(fd, data[:300_000], start))

    _download(tmp_path)

    assert _found(tmp_path) == {key: data for key, data in FILES.items() if data}


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: memoryview, start: int) -> int:
        if start > 9 << 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(fd, data, start)

    monkeypatch.setattr(os, "pwrite", full)

    with pytest.raises(MountError, match="No space left on device; choose another with --directory"):
        _download(tmp_path)
