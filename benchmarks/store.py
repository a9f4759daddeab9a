"""The bench's S3 server: nginx serving one bucket with one directory from memory.

nginx answers ranges and ``If-Match`` by itself, from its own ETag (mtime and size in hexadecimal); ListObjectsV2 of the
directory is a static XML that names the same ETags, of any other prefix an empty one. Signatures are ignored. It costs
0.4 CPU seconds per GiB, a third of what a server in Python takes, so that on few cores the store does not become what
is measured.

Two things make it resemble a remote store: ``limit_rate`` caps each connection, and a first-byte delay is had by an
``auth_request`` to a tiny server that answers late.

It listens on a second port for TLS, with a certificate of its own. Who trusts it is given the public authorities as
well, as everybody has them: a client that reads that bundle for each connection pays for it here too.

Where nginx is missing the demo's server takes its place, at its own speed and cost, without TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from botocore.httpsession import get_cert_path

from tigrismount.demo.embedded import EmbeddedS3
from tigrismount.demo.model import upload_model
from tigrismount.testing.certificates import make_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tigrismount.demo.model import Model

BUCKET = "bench"
PREFIX = "model"
SCATTER_PREFIX = "scatter"
SCATTER_KEY = f"{SCATTER_PREFIX}/large.dat"
"""One file of the model's size that no format explains; it is all holes, so it takes no memory to serve."""
FIO_PREFIX = "fio"
"""Files that fio reads; all holes, too."""
MANY_PREFIX = "many"
"""Keys that are listed and not there."""
PAGE_KEYS = 1000
"""Keys on one page of a listing, as S3 has it."""
START_TIMEOUT_S = 10.0
DISCARD_PORT = 9
"""Stands in the configuration where no delay is asked for; nothing connects to it."""

CONFIGURATION = r"""
worker_processes 1; daemon off; pid {root}/nginx.pid; error_log {root}/error.log warn; {user}
events {{ worker_connections 4096; multi_accept on; }}
http {{
  access_log off; sendfile on; sendfile_max_chunk 2m; tcp_nopush on; tcp_nodelay on; etag on; server_tokens off;
  keepalive_requests 1000000; keepalive_timeout 300s; open_file_cache max=1000 inactive=600s;
  default_type application/octet-stream;
  client_body_temp_path {root}/tmp; proxy_temp_path {root}/tmp; fastcgi_temp_path {root}/tmp;
  uwsgi_temp_path {root}/tmp; scgi_temp_path {root}/tmp;
  map $arg_prefix $listing {{
    default /empty.xml; "" /model.xml; "~^(?<directory>{directories})(/|%2[fF])?$" /$directory.xml;
    "~^{many}(/|%2[fF])?$" /{many}.$page.xml;
  }}
  map $args $page {{ default 0; "~continuation-token=page(?<number>\d+)" $number; }}
  upstream delay {{ server 127.0.0.1:{delay_port}; keepalive 256; }}
  server {{
    listen 127.0.0.1:{port}; listen 127.0.0.1:{tls_port} ssl; root {root}/www; {limit_rate}
    ssl_certificate {root}/store.pem; ssl_certificate_key {root}/store.pem; ssl_protocols TLSv1.2 TLSv1.3;
    location = /_delay {{
      internal; proxy_pass http://delay; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_pass_request_body off; proxy_set_header Content-Length "";
    }}
    location ~ ^/{bucket}/?$ {{ {auth} default_type application/xml; try_files $listing =404; }}
    location / {{ {auth} try_files $uri =404; }}
  }}
}}
"""


class StoreUnavailableError(Exception):
    """The store cannot be started here; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Store:
    """Where the bucket is served."""

    url: str
    """By plain HTTP."""
    tls_url: str = ""
    """The same bucket by TLS; empty where there is none."""
    ca_bundle: str = ""
    """Authorities to trust there, the public ones among them."""


@contextlib.contextmanager
def nginx_store(
    model: Model, *, rate_bytes_s: int, latency_s: float, files: Mapping[str, int] | None = None, keys: int = 0
) -> Iterator[Store]:
    """Serve *model* from memory, and yield where.

    Args:
        model: What lies under ``bench/model/``.
        rate_bytes_s: Most bytes per second of one connection, 0 for no limit.
        latency_s: Seconds before the first byte of each answer.
        files: Sizes of the files under ``bench/fio/``, by name.
        keys: How many there are under ``bench/many/``.

    Raises:
        StoreUnavailableError: nginx is missing or does not start.
    """
    binary = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if binary is None:
        raise StoreUnavailableError("nginx is missing: apt-get install nginx-core")
    with scratch_in_memory() as directory, delay_server(latency_s) as delay_port:
        write_bucket(model, directory / "www", files or {}, keys)
        (directory / "tmp").mkdir()
        make_certificate(directory / "store.pem")
        bundle = directory / "bundle.pem"
        bundle.write_bytes(Path(get_cert_path(True)).read_bytes() + (directory / "store.pem").read_bytes())
        port, tls_port = free_port(), free_port()
        configuration = CONFIGURATION.format(
            root=directory,
            bucket=BUCKET,
            directories="|".join((PREFIX, SCATTER_PREFIX, FIO_PREFIX)),
            many=MANY_PREFIX,
            port=port,
            tls_port=tls_port,
            delay_port=delay_port or DISCARD_PORT,
            user="user root;" if os.geteuid() == 0 else "",
            limit_rate=f"limit_rate {rate_bytes_s};" if rate_bytes_s else "",
            auth="auth_request /_delay;" if latency_s else "",
        )
        (directory / "nginx.conf").write_text(configuration)
        process = subprocess.Popen([binary, "-p", directory, "-c", directory / "nginx.conf"])
        try:
            wait_for_port(process, port, directory / "error.log")
            yield Store(f"http://127.0.0.1:{port}", f"https://127.0.0.1:{tls_port}", str(bundle))
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def embedded_store(model: Model) -> Iterator[Store]:
    """Serve *model* with the demo's server, and yield where."""
    with EmbeddedS3(auth=False) as server:
        client = server.client()
        client.create_bucket(Bucket=BUCKET)
        upload_model(client, BUCKET, PREFIX, model)
        client.upload_fileobj(io.BytesIO(bytes(model.tensor_bytes)), BUCKET, SCATTER_KEY)
        yield Store(server.endpoint_url)


def write_bucket(model: Model, root: Path, files: Mapping[str, int], keys: int) -> None:
    """Write all files and the listings of the bucket under *root*."""
    bucket = root / BUCKET / PREFIX
    bucket.mkdir(parents=True)
    for name, content in model.small_files.items():
        (bucket / name).write_bytes(content)
    for shard in model.shards:
        (bucket / shard.name).write_bytes(shard.render()[0])
    scatter = root / BUCKET / SCATTER_KEY
    _write_holes(scatter, model.tensor_bytes)
    for name, size_bytes in files.items():
        _write_holes(root / BUCKET / FIO_PREFIX / name, size_bytes)
    for prefix in (PREFIX, SCATTER_PREFIX, FIO_PREFIX):
        found = sorted((root / BUCKET / prefix).glob("*"))
        (root / f"{prefix}.xml").write_text(listing([_row(prefix, path) for path in found]))
    (root / "empty.xml").write_text(listing([]))
    for page, start in enumerate(range(0, keys, PAGE_KEYS)):
        more = f"page{page + 1}" if start + PAGE_KEYS < keys else ""
        rows = [row(f"{MANY_PREFIX}/{number:07}.json", 512, 0) for number in range(start, min(start + PAGE_KEYS, keys))]
        (root / f"{MANY_PREFIX}.{page}.xml").write_text(listing(rows, more))


def _write_holes(path: Path, size_bytes: int) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size_bytes)


def _row(prefix: str, path: Path) -> str:
    stat = path.stat()
    return row(f"{prefix}/{path.name}", stat.st_size, int(stat.st_mtime))


def row(key: str, size_bytes: int, mtime_s: int) -> str:
    """Return one row of a listing, with the ETag that nginx sends for such a file."""
    modified = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(mtime_s))
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>{modified}</LastModified>"
        f"<ETag>&quot;{mtime_s:x}-{size_bytes:x}&quot;</ETag>"
        f"<Size>{size_bytes}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


def listing(rows: Sequence[str], more: str = "") -> str:
    """Return a page of ListObjectsV2.

    Args:
        rows: What is on it.
        more: Continuation token of the next page; empty on the last.
    """
    following = f"<NextContinuationToken>{more}</NextContinuationToken>" if more else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{BUCKET}</Name><KeyCount>{len(rows)}</KeyCount><MaxKeys>{PAGE_KEYS}</MaxKeys>"
        f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{following}{''.join(rows)}</ListBucketResult>\n"
    )


@contextlib.contextmanager
def delay_server(latency_s: float) -> Iterator[int]:
    """Answer every HTTP request with 204 after *latency_s*, in a thread; yield the port, 0 when there is no delay."""
    if not latency_s:
        yield 0
        return
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(lambda r, w: answer_late(r, w, latency_s), "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        connections = asyncio.all_tasks(loop)
        for task in connections:
            task.cancel()
        if connections:
            loop.run_until_complete(asyncio.wait(connections))
        loop.close()


async def answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, latency_s: float) -> None:
    """Serve one kept-alive connection of nginx, until it or we end."""
    # A cancelled task would be complained about by the server of Python 3.11, once for each connection.
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        while await reader.readuntil(b"\r\n\r\n"):
            await asyncio.sleep(latency_s)
            writer.write(f"HTTP/1.1 204 No Content\r\nDate: {formatdate(usegmt=True)}\r\n\r\n".encode())
            await writer.drain()
    writer.close()


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Return once *port* accepts connections.

    Raises:
        StoreUnavailableError: The server ended, or did not listen in time.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise StoreUnavailableError(f"nginx does not start: {log.read_text().strip()[-500:] if log.exists() else 'no log'}")


@contextlib.contextmanager
def scratch_in_memory() -> Iterator[Path]:
    """Yield a new directory in memory (or the default place for temporary files), removed afterwards."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="tigrismount-bench-", dir=parent) as directory:
        yield Path(directory)
