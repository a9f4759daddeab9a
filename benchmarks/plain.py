"""What a program gets that asks the store itself: downloads, single pages, listings.

The plain ones are unsigned requests of ``http.client`` into reused buffers: about the least that Python can do.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from benchmarks.measuring import RANGE_BYTES, Measurement, measured, one_by_one, scattered

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


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


def gets(endpoint_url: str, bucket: str, key: str, size_bytes: int, seed: int, count: int) -> Measurement:
    """Ask for one page at random, *count* times, by plain GETs over one warm connection."""
    connection = connect(endpoint_url)

    def get(offset: int) -> None:
        connection.request("GET", f"/{bucket}/{quote(key)}", headers={"Range": f"bytes={offset}-{offset + 4095}"})
        connection.getresponse().read()

    get(0)
    return one_by_one(get, scattered(size_bytes, seed, count))


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
