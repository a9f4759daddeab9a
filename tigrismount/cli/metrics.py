"""``tigrismount metrics``: the figures of all mounts of this user at one address, for whoever scrapes a node.

Each mount is asked over its control socket when somebody asks for the figures; nothing is kept.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any

import click

from tigrismount.cli.failure import CommandFailure, print_outcome
from tigrismount.config.kinds import parse_listen_address
from tigrismount.control.client import request, sockets
from tigrismount.control.paths import runtime_directories, socket_path
from tigrismount.errors import MountError
from tigrismount.holder.mountinfo import read_mounts
from tigrismount.holder.probe import Health, probe

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from tigrismount.holder.mountinfo import MountEntry

_ANSWER_TIMEOUT_S = 3.0
"""A worker that is replaced answers later, and its figures are those of its successor then."""
_LOOK_S = 0.5
"""A dead mount says so at once."""
_CLIENT_TIMEOUT_S = 10.0
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@click.command(epilog="Example: tigrismount metrics --listen 0.0.0.0:9102")
@click.option("--listen", metavar="[HOST:]PORT", help="Serve them at /metrics, until told to end.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
def metrics(listen: str | None) -> int:
    """Print the Prometheus metrics of all mounts of this user, or serve them at one address.

    Each sample has its mountpoint as a label. With --metrics-addr a mount serves its own; this is for several on one
    host, such as the volumes of a Kubernetes node.
    """
    if listen is None:
        click.echo(_collect(), nl=False)
        return 0
    try:
        host, _, port = parse_listen_address(listen).rpartition(":")
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--listen") from exc
    try:
        server = _Server((host.strip("[]"), int(port)), _Handler)
    except OSError as exc:
        raise CommandFailure(f"--listen: cannot listen on {host} port {port}: {exc.strerror or exc}") from exc
    _serve(server)
    return 0


class _Server(ThreadingHTTPServer):
    """Not http.server's own: that one knows no IPv6, and looks its name up in the DNS, which may take for ever."""

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Take the address."""
        TCPServer.server_bind(self)


def _serve(server: ThreadingHTTPServer) -> None:
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        host, port = (str(part) for part in server.server_address[:2])
        print_outcome(f"metrics of all mounts: http://{_in_url(host)}:{port}/metrics")
        stopped.wait()
        server.shutdown()


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _collect() -> bytes:
    """Ask every mount of this user; of one that does not answer in time there is only that."""
    from tigrismount.metrics.together import merge  # prometheus_client takes a while

    texts, uids = {}, {os.geteuid()}
    for directory in runtime_directories(os.environ, uid=os.geteuid()):
        with contextlib.suppress(OSError):
            uids.add(os.stat(directory).st_uid)
        for path in sockets(directory):
            try:
                answer = request(path, "metrics", timeout_s=_ANSWER_TIMEOUT_S)
                texts[str(answer["mountpoint"])] = str(answer["text"])
            except (MountError, KeyError):
                continue
    return merge(texts, {entry.mountpoint for entry in silent_among(read_mounts(), texts, uids) if _is_missed(entry)})


def silent_among(mounts: Iterable[MountEntry], answered: Collection[str], uids: Collection[int]) -> list[MountEntry]:
    """Return those of these users that did not answer.

    Args:
        mounts: The kernel's mounts.
        answered: Where the mounts are that did. Wherever else these are mounted they are no others.
        uids: Users whose mounts were asked.
    """
    ours = [entry for entry in mounts if entry.is_ours and entry.owner_uid in uids]
    devices = {entry.device for entry in ours if entry.mountpoint in answered}
    return [entry for entry in ours if entry.device not in devices]


def _is_missed(entry: MountEntry) -> bool:
    """Return whether a mount that did not answer should have.

    Those of containers and of a cluster's driver are seen here as well, and have their sockets elsewhere: of them it
    shows only when they are dead.
    """
    directories = runtime_directories(os.environ, uid=os.geteuid())
    if any(os.path.exists(socket_path(directory, entry.mountpoint)) for directory in directories):
        return True
    if entry in _hung:
        return False
    try:
        health = probe(entry.mountpoint, timeout_s=_LOOK_S).health
    except MountError:
        return False
    if health is Health.HUNG:
        _hung.add(entry)
    return health is Health.DEAD


_hung: set[MountEntry] = set()
"""Mounts of others that a look did not come back from: its process may never end, so there is no second one."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _CLIENT_TIMEOUT_S

    def do_GET(self) -> None:
        """Answer a scrape."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "there is /metrics")
            return
        body = _collect()
        self.send_response(200)
        self.send_header("Content-Type", _CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing of each scrape."""
