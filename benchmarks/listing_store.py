"""A store that only lists, fast enough not to be what is measured: ``python -m benchmarks.listing_store``.

Bucket ``names`` holds a tree of directories with as many files each under ``tree/``, and one directory ``flat/``. All
answers are rendered before the first request, so that one costs the server a tenth of a millisecond, and look like
Amazon's. Signatures are ignored, and so is ``max-keys``. The first line of output is the endpoint's URL; it ends with
its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import re
import sys
from urllib.parse import parse_qs, urlsplit

BUCKET = "names"
TREE = "tree/"
FLAT = "flat/"
PAGE_ROWS = 1000
"""Rows of a page: the most that S3 gives."""

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_HEAD = re.compile(rb"^(GET|HEAD) (\S+) HTTP/1\.1\r\n")


def answers(directories: int, files: int, flat: int) -> dict[tuple[str, str], bytes]:
    """Return the answer to each listing by its prefix and its token."""
    pages: dict[tuple[str, str], bytes] = {}
    _add(pages, "", [TREE, FLAT] if flat else [TREE])
    _add(pages, TREE, [f"{TREE}{number:05}/" for number in range(directories)])
    for number in range(directories):
        prefix = f"{TREE}{number:05}/"
        _add(pages, prefix, [f"{prefix}weights-{file:06}.bin" for file in range(files)])
    _add(pages, FLAT, [f"{FLAT}weights-{file:06}.bin" for file in range(flat)])
    return pages


def _add(pages: dict[tuple[str, str], bytes], prefix: str, rows: list[str]) -> None:
    starts = range(0, max(len(rows), 1), PAGE_ROWS)
    for number, start in enumerate(starts):
        token = f"t{number}" if number else ""
        following = f"t{number + 1}" if number + 1 < len(starts) else ""
        pages[prefix, token] = _page(prefix, rows[start : start + PAGE_ROWS], following)


def _page(prefix: str, rows: list[str], following: str) -> bytes:
    more = f"<NextContinuationToken>{following}</NextContinuationToken>" if following else ""
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="{_NAMESPACE}"><Name>{BUCKET}</Name>'
        f"<Prefix>{prefix}</Prefix>{more}<KeyCount>{len(rows)}</KeyCount><MaxKeys>{PAGE_ROWS}</MaxKeys>"
        f"<Delimiter>/</Delimiter><EncodingType>url</EncodingType><IsTruncated>{str(bool(following)).lower()}</IsTruncated>"
        f"{''.join(map(_row, rows))}</ListBucketResult>"
    ).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def _row(key: str) -> str:
    if key.endswith("/"):
        return f"<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>"
    digest = hashlib.md5(key.encode(), usedforsecurity=False)
    number = int.from_bytes(digest.digest()[:4], "big")
    modified = f"2026-11-{number % 28 + 1:02}T{number % 24:02}:{number % 60:02}:{number % 59:02}.{number % 1000:03}Z"
    return (
        f"<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><ETag>&quot;{digest.hexdigest()}&quot;</ETag>"
        f"<Size>{number % (8 << 20)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


class Store:
    """Answers requests.

    Args:
        pages: What to say.
        latency_s: Seconds before each answer.
    """

    def __init__(self, pages: dict[tuple[str, str], bytes], latency_s: float) -> None:
        self._pages = pages
        self._latency_s = latency_s

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if self._latency_s:
                    await asyncio.sleep(self._latency_s)
                writer.write(self._answer(head))
                await writer.drain()
        writer.close()

    def _answer(self, head: bytes) -> bytes:
        match = _HEAD.match(head)
        if match is None or match[1] == b"HEAD":
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        query = parse_qs(urlsplit(match[2].decode()).query)
        prefix, token = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        if "delimiter" not in query:  # whether there is anything below
            prefix = next(
                (known for known, _ in self._pages if known.startswith(prefix) and known[-3:-1].isdigit()), prefix
            )
        return self._pages.get((prefix, token)) or _page(prefix, [], "")


async def run(store: Store) -> None:
    """Listen, say where, and serve until standard input ends."""
    server = await asyncio.start_server(store.serve, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)  # connections may be open, and nobody is left to be told


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.listing_store", description="A store that only lists.")
    parser.add_argument("--directories", type=int, default=1000, help="directories of the tree")
    parser.add_argument("--files", type=int, default=1000, help="files in each of them")
    parser.add_argument("--flat", type=int, default=100_000, help="files in the one directory")
    parser.add_argument("--latency", type=float, default=0.0, help="milliseconds before each answer")
    options = parser.parse_args()
    asyncio.run(run(Store(answers(options.directories, options.files, options.flat), options.latency / 1000)))


if __name__ == "__main__":
    main()
