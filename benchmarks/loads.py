"""What is timed, each in a fresh process: ``python -m benchmarks.loads WHAT …``.

A process of its own gives each variant the same empty heap and its own CPU account. The last line of its output is one
JSON object: seconds, bytes and CPU seconds, imports and clients excluded.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measuring import PAGE_BYTES, RANGE_BYTES, Measurement, measured, one_by_one, scattered
from benchmarks.plain import download, download_plain, gets, list_pages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DISK_THREADS = 4
"""Reads in flight on the disk: where ours stopped gaining."""


def start(*arguments: str) -> subprocess.Popen[str]:
    """Run this module with *arguments* in a new process; ``finished`` waits for it."""
    command = [sys.executable, "-m", "benchmarks.loads", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str], limit_s: float | None = None) -> Measurement:
    """Return the measurement of a process that was started.

    Args:
        process: What ``start`` returned.
        limit_s: After as long it is killed.

    Raises:
        CalledProcessError: It failed.
        TimeoutExpired: It is far too slow to go on with.
    """
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return Measurement(**json.loads(output.splitlines()[-1]))


# ------------------------------------------------------------------------------------------------------------ loads


def load(paths: Sequence[Path], how: str, most_bytes: int) -> Measurement:
    """Take tensors of the safetensors files *paths* into memory of our own, one after the other.

    Args:
        paths: Shards in order.
        how: ``mmap`` copies out of a mapping, as safetensors does; ``read`` reads each tensor by one call.
        most_bytes: Stops with the tensor that reaches so many bytes; 0 loads all.
    """
    tensors = _mapped(paths) if how == "mmap" else _read(paths)

    def work() -> int:
        total = 0
        for size_bytes in tensors:
            total += size_bytes
            if most_bytes and total >= most_bytes:
                break
        return total

    return measured(work)


def _mapped(paths: Sequence[Path]) -> Iterator[int]:
    import numpy as np  # noqa: F401 -- before the clock starts: the library imports it with the first tensor
    from safetensors import safe_open

    def sizes() -> Iterator[int]:
        for path in paths:
            with safe_open(path, framework="numpy") as shard:
                for name in shard.offset_keys():
                    yield shard.get_tensor(name).nbytes

    return sizes()


def _read(paths: Sequence[Path]) -> Iterator[int]:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
        header = json.loads(os.pread(descriptor, length, 8))
        places = sorted(entry["data_offsets"] for name, entry in header.items() if name != "__metadata__")
        for begin, end in places:
            tensor = bytearray(end - begin)
            done = 0
            while done < len(tensor):
                done += os.preadv(descriptor, [memoryview(tensor)[done:]], 8 + length + begin + done)
            yield len(tensor)
        os.close(descriptor)


# ------------------------------------------------------------------------------------------------------- small reads


def first_bytes(path: Path, how: str, seed: int, count: int) -> Measurement:
    """Touch one byte in each of *count* ranges of a file at random, one after the other; ``mmap`` or ``read``."""
    descriptor = os.open(path, os.O_RDONLY)
    size_bytes = os.fstat(descriptor).st_size
    mapping = mmap.mmap(descriptor, size_bytes, mmap.MAP_SHARED, mmap.PROT_READ)

    def touch(offset: int) -> None:
        _ = mapping[offset] if how == "mmap" else os.pread(descriptor, 1, offset)

    return one_by_one(touch, scattered(size_bytes, seed, count))


def scatter(path: Path, how: str, seed: int, count: int) -> Measurement:
    """Read *count* pages of a file at random, of any block; ``mmap`` or ``read``."""
    draw = random.Random(seed)
    descriptor = os.open(path, os.O_RDONLY)
    size_bytes = os.fstat(descriptor).st_size
    mapping = mmap.mmap(descriptor, size_bytes, mmap.MAP_SHARED, mmap.PROT_READ)

    def read_page(offset: int) -> None:
        _ = mapping[offset : offset + PAGE_BYTES] if how == "mmap" else os.pread(descriptor, PAGE_BYTES, offset)

    offsets = [draw.randrange(size_bytes // PAGE_BYTES) * PAGE_BYTES for _ in range(count)]
    return one_by_one(read_page, offsets)


def read_disk(paths: Sequence[Path]) -> Measurement:
    """Read the files *paths* past the page cache, in whole ranges by several threads: what the disk can give."""

    def read_range(part: tuple[int, int]) -> int:
        descriptor, offset = part
        with mmap.mmap(-1, RANGE_BYTES) as buffer:
            return os.preadv(descriptor, [buffer], offset)

    descriptors = {os.open(path, os.O_RDONLY | os.O_DIRECT): path.stat().st_size for path in paths}
    parts = [(fd, offset) for fd, size_bytes in descriptors.items() for offset in range(0, size_bytes, RANGE_BYTES)]
    with ThreadPoolExecutor(DISK_THREADS) as pool:
        return measured(lambda: sum(pool.map(read_range, parts)))


def list_directory(directory: Path) -> Measurement:
    """Run ``ls -l`` on a directory; its size counts lines."""

    def work() -> int:
        listed = subprocess.run(
            ["ls", "-l", directory], check=True, capture_output=True, env={**os.environ, "LC_ALL": "C"}
        )
        return listed.stdout.count(b"\n") - 1  # the first says the total

    return measured(work)


def run(arguments: argparse.Namespace) -> Measurement:
    """Run what the command line names."""
    names, how, seed, count = arguments.names, arguments.how, arguments.seed, arguments.count
    match arguments.what:
        case "load":
            return load([Path(name) for name in names], how, arguments.most_bytes)
        case "download":
            return download(arguments.endpoint_url, arguments.bucket, names, arguments.directory, arguments.jobs)
        case "download-plain":
            return download_plain(arguments.endpoint_url, arguments.bucket, names, arguments.directory, arguments.jobs)
        case "first-bytes":
            return first_bytes(Path(names[0]), how, seed, count)
        case "gets":
            return gets(arguments.endpoint_url, arguments.bucket, names[0], arguments.size, seed, count)
        case "scatter":
            return scatter(Path(names[0]), how, seed, count)
        case "list":
            return list_pages(arguments.endpoint_url, arguments.bucket, names[0], parsed=True)
        case "list-bare":
            return list_pages(arguments.endpoint_url, arguments.bucket, names[0], parsed=False)
        case "ls":
            return list_directory(Path(names[0]))
    return read_disk([Path(name) for name in names])


WHATS = ("load", "download", "download-plain", "first-bytes", "gets", "scatter", "list", "list-bare", "ls", "read-disk")


def main() -> None:
    """Run one of the above and print its measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=WHATS)
    parser.add_argument("names", nargs="+", help="paths, for downloads keys")
    parser.add_argument("--how", choices=["mmap", "read"], default="mmap")
    parser.add_argument("--most-bytes", type=int, default=0)
    parser.add_argument("--endpoint-url", default="")
    parser.add_argument("--bucket", default="")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1)
    result = run(parser.parse_args())
    print(json.dumps({"seconds": result.seconds, "size_bytes": result.size_bytes, "cpu_s": result.cpu_s}))


if __name__ == "__main__":
    main()
