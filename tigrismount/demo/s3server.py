"""The embedded S3 server as a process: ``python -m tigrismount.demo.s3server --port 0 --ready-fd N``.

It binds, writes one line of JSON (endpoint and keys) to the ready descriptor, and serves until SIGTERM, SIGINT or,
with ``--until-eof``, the end of its standard input: a parent that dies in any way takes the server with it. Objects
lie in nameless temporary files under a directory that goes when the server does, so that even SIGKILL leaves no
data behind.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import threading


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop.

    Args:
        argv: Arguments without the program's name; None takes the process's own.

    Returns:
        Exit status.
    """
    options = _parser().parse_args(argv)
    spool = tempfile.mkdtemp(prefix="tigrismount-s3-", dir=options.directory)
    # moto opens its files with the module's default.
    tempfile.tempdir = spool
    try:
        _serve(options)
    finally:
        shutil.rmtree(spool, ignore_errors=True)
    return 0


_MOTO_SETTINGS = {
    "MOTO_DISABLE_GLOBAL_CORS": "true",  # one hook less per request
    "S3_IGNORE_SUBDOMAIN_BUCKETNAME": "true",  # the bucket stands in the path
    "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(128 * 1024),  # larger objects lie in files from the start, not in memory
}
"""What moto reads from the environment when it is imported."""


def _serve(options: argparse.Namespace) -> None:
    os.environ.update(_MOTO_SETTINGS)
    from tigrismount.demo.s3app import S3Application
    from tigrismount.demo.s3http import KeepAliveServer

    application = S3Application()
    access_key, secret_key = application.require_signatures() if options.auth else ("anything", "goes")
    server = KeepAliveServer(options.host, options.port, application)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if options.until_eof:
        threading.Thread(target=_wait_for_eof, args=(stop,), daemon=True).start()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _announce(options.ready_fd, f"http://{options.host}:{server.port}", access_key, secret_key)
    stop.wait()
    server.shutdown()


def _wait_for_eof(stop: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stop.set()


def _announce(ready_fd: int, endpoint_url: str, access_key: str, secret_key: str) -> None:
    line = json.dumps({"endpoint_url": endpoint_url, "access_key": access_key, "secret_key": secret_key})
    with os.fdopen(ready_fd, "w", closefd=ready_fd > 2) as ready:
        ready.write(line + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tigrismount.demo.s3server", description="The embedded S3 server.")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to bind (default: a free one)")
    parser.add_argument("--directory", help="where the objects' files go (default: the system's temporary directory)")
    parser.add_argument("--ready-fd", type=int, default=1, help="descriptor that gets endpoint and keys as JSON")
    parser.add_argument("--no-auth", dest="auth", action="store_false", help="do not check signatures")
    parser.add_argument("--until-eof", action="store_true", help="stop when standard input ends")
    return parser


if __name__ == "__main__":
    sys.exit(main())
