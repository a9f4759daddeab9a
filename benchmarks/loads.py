"""What is timed, each in a fresh process: ``python -m benchmarks.loads WHAT …``.

A process of its own gives each variant the same empty heap and its own CPU account. The last line of its output is one
JSON object: seconds, bytes and CPU seconds, imports and clients excluded.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.client
import json
import mmap
import os
import random
import resource
import ssl
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

RANGE_BYTES = 8 << 20
"""One GET of the download and one read of the disk: the block size of the mount."""
DISK_THREADS = 4
"""Reads in flight on the disk: where ours stopped gaining."""
PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one process took."""

    seconds: float
    """Wall clock; of first bytes the median of one."""
    size_bytes: int
    """Bytes delivered."""
    cpu_s: float
    """User and system time of the process itself."""

    @property
    def rate_mb_s(self) -> float:
        """10^6 bytes per second."""
        return self.size_bytes / self.seconds / 1e6


def measured(work: Callable[[], int]) -> Measurement:
    """Return what *work*, which returns the bytes it delivered, took."""
    cpu_before_s, before_s = cpu_seconds(), time.perf_counter()
    size_bytes = work()
    return Measurement(time.perf_counter() - before_s, size_bytes, cpu_seconds() - cpu_before_s)


def cpu_seconds() -> float:
    """Return user and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


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


def in_own_process(*arguments: str) -> Measurement:
    """Run this module with *arguments* in a new process and return its measurement."""
    return finished(start(*arguments))


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


# -------------------------------------------------------------------------------------------------------- downloads


def download(endpoint_url: str, bucket: str, keys: Sequence[str], directory: Path | None, jobs: int) -> Measurement:
    """Fetch *keys* by range GETs of boto3 in threads into files under *directory*; None drops the bytes."""
    import boto3
    from botocore.config import Config

    config = Config(
        max_pool_connections=jobs,
        s3={"addressing_style": "path"},
        response_checksum_validation="when_required",
        request_checksum_calculation="when_required",
    )
    client = boto3.client("s3", endpoint_url=endpoint_url, region_name="auto", config=config)
    sizes = {key: client.head_object(Bucket=bucket, Key=key)["ContentLength"] for key in keys}
    files = _files(directory, sizes)

    def fetch(part: tuple[str, int, int]) -> int:
        key, begin, end = part
        answer = client.get_object(Bucket=bucket, Key=key, Range=f"bytes={begin}-{end - 1}")
        body = answer["Body"].read()
        if key in files:
            os.pwrite(files[key], body, begin)
        return len(body)

    with ThreadPoolExecutor(jobs) as pool:
        return measured(lambda: sum(pool.map(fetch, _parts(sizes))))


def download_plain(
    endpoint_url: str, bucket: str, keys: Sequence[str], directory: Path | None, jobs: int
) -> Measurement:
    """The same by unsigned requests of ``http.client`` into reused buffers: about the least that Python can do."""
    local = threading.local()

    def connection() -> http.client.HTTPConnection:
        if not hasattr(local, "connection"):
            local.connection = connect(endpoint_url)
            local.buffer = memoryview(bytearray(RANGE_BYTES))
        made: http.client.HTTPConnection = local.connection
        return made

    def size_of(key: str) -> int:
        connection().request("HEAD", f"/{bucket}/{quote(key)}")
        with connection().getresponse() as answer:
            return int(answer.headers["Content-Length"])

    sizes = {key: size_of(key) for key in keys}
    files = _files(directory, sizes)

    def fetch(part: tuple[str, int, int]) -> int:
        key, begin, end = part
        connection().request("GET", f"/{bucket}/{quote(key)}", headers={"Range": f"bytes={begin}-{end - 1}"})
        with connection().getresponse() as answer:
            body, done = local.buffer[: end - begin], 0
            while done < len(body):
                done += answer.readinto(body[done:])
        if key in files:
            os.pwrite(files[key], body, begin)
        return len(body)

    with ThreadPoolExecutor(jobs) as pool:
        return measured(lambda: sum(pool.map(fetch, _parts(sizes))))


def connect(endpoint_url: str) -> http.client.HTTPConnection:
    """Return a connection that is opened with its first request; of TLS, all have one context."""
    parts = urlsplit(endpoint_url)
    if parts.scheme == "https":
        return http.client.HTTPSConnection(parts.netloc, context=_trusting())
    return http.client.HTTPConnection(parts.netloc)


@functools.cache
def _trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE"))


def _files(directory: Path | None, sizes: dict[str, int]) -> dict[str, int]:
    files = {}
    for key, size_bytes in sizes.items() if directory is not None else ():
        assert directory is not None
        files[key] = os.open(directory / Path(key).name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.ftruncate(files[key], size_bytes)
    return files


def _parts(sizes: dict[str, int]) -> list[tuple[str, int, int]]:
    return [
        (key, begin, min(begin + RANGE_BYTES, size_bytes))
        for key, size_bytes in sizes.items()
        for begin in range(0, size_bytes, RANGE_BYTES)
    ]


# ------------------------------------------------------------------------------------------------------- small reads


def first_bytes(path: Path, how: str, seed: int, count: int) -> Measurement:
    """Touch one byte in each of *count* ranges of a file at random, one after the other; ``mmap`` or ``read``."""
    descriptor = os.open(path, os.O_RDONLY)
    size_bytes = os.fstat(descriptor).st_size
    mapping = mmap.mmap(descriptor, size_bytes, mmap.MAP_SHARED, mmap.PROT_READ)

    def touch(offset: int) -> None:
        _ = mapping[offset] if how == "mmap" else os.pread(descriptor, 1, offset)

    return _one_by_one(touch, scattered(size_bytes, seed, count))


def gets(endpoint_url: str, bucket: str, key: str, size_bytes: int, seed: int, count: int) -> Measurement:
    """Ask for one page at random, *count* times, by plain GETs over one warm connection."""
    connection = connect(endpoint_url)

    def get(offset: int) -> None:
        connection.request("GET", f"/{bucket}/{quote(key)}", headers={"Range": f"bytes={offset}-{offset + 4095}"})
        connection.getresponse().read()

    get(0)
    return _one_by_one(get, scattered(size_bytes, seed, count))


def scattered(size_bytes: int, seed: int, count: int) -> list[int]:
    """Return *count* page offsets at random, each in a block of its own where there are as many."""
    draw = random.Random(seed)
    blocks = draw.sample(range(max(size_bytes // RANGE_BYTES, 1)), min(count, size_bytes // RANGE_BYTES))
    while len(blocks) < count:
        blocks.append(draw.randrange(max(size_bytes // RANGE_BYTES, 1)))
    return [block * RANGE_BYTES + draw.randrange(RANGE_BYTES // PAGE_BYTES) * PAGE_BYTES for block in blocks]


def _one_by_one(work: Callable[[int], None], offsets: Sequence[int]) -> Measurement:
    cpu_before_s, taken = cpu_seconds(), []
    for offset in offsets:
        before_s = time.perf_counter()
        work(offset)
        taken.append(time.perf_counter() - before_s)
    return Measurement(statistics.median(taken), len(offsets) * PAGE_BYTES, cpu_seconds() - cpu_before_s)


def scatter(path: Path, how: str, seed: int, count: int) -> Measurement:
    """Read *count* pages of a file at random, of any block; ``mmap`` or ``read``."""
    draw = random.Random(seed)
    descriptor = os.open(path, os.O_RDONLY)
    size_bytes = os.fstat(descriptor).st_size
    mapping = mmap.mmap(descriptor, size_bytes, mmap.MAP_SHARED, mmap.PROT_READ)

    def read_page(offset: int) -> None:
        _ = mapping[offset : offset + PAGE_BYTES] if how == "mmap" else os.pread(descriptor, PAGE_BYTES, offset)

    offsets = [draw.randrange(size_bytes // PAGE_BYTES) * PAGE_BYTES for _ in range(count)]
    return _one_by_one(read_page, offsets)


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


def list_pages(endpoint_url: str, bucket: str, prefix: str, *, parsed: bool) -> Measurement:
    """Page through a listing, by boto3 or by bare requests whose answers are only searched for the next token."""
    pages = _boto3_pages(endpoint_url, bucket, prefix) if parsed else _bare_pages(endpoint_url, bucket, prefix)
    return measured(lambda: sum(pages))


def _boto3_pages(endpoint_url: str, bucket: str, prefix: str) -> Iterator[int]:
    """Return the keys on each page; the client is made before the clock starts."""
    import boto3
    from botocore.config import Config

    config = Config(s3={"addressing_style": "path"})
    client = boto3.client("s3", endpoint_url=endpoint_url, region_name="auto", config=config)
    paginator = client.get_paginator("list_objects_v2")

    def sizes() -> Iterator[int]:
        with contextlib.closing(client):
            for page in paginator.paginate(Bucket=bucket, Prefix=prefix, Delimiter="/"):
                yield len(page["Contents"])

    return sizes()


def _bare_pages(endpoint_url: str, bucket: str, prefix: str) -> Iterator[int]:
    with contextlib.closing(connect(endpoint_url)) as connection:
        token, more = "", True
        while more:
            following = f"&continuation-token={quote(token)}" if token else ""
            connection.request("GET", f"/{bucket}?list-type=2&prefix={quote(prefix, safe='')}&delimiter=%2F{following}")
            body = connection.getresponse().read()
            yield body.count(b"<Contents>")
            token = body.partition(b"<NextContinuationToken>")[2].partition(b"<")[0].decode()
            more = bool(token)


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
