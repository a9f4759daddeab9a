"""Authorities read once, and not for each connection.

urllib3 has the bundle of authorities read whenever it opens a connection, into a context that has read it before. A
hundred and fifty certificates take 25 ms of CPU: as long as it takes to receive 50 MB, once for each of the
connections of a mount, while somebody waits for the first bytes. So the context remembers what it has read. A file that
has changed is read again, as bundles are replaced while a mount runs.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl


def read_bundles_once(client: Any, *, with_systems: bool) -> None:
    """Let the contexts of a boto3 client read each bundle once; what is unknown there stays as it is.

    Args:
        client: The client.
        with_systems: Whether to trust the system's authorities, too: botocore brings a list of its own, in which that
            of an organisation is not.
    """

    def prepared(context: ssl.SSLContext) -> ssl.SSLContext:
        if with_systems:
            context.load_default_certs()
        return remember_bundles(context)

    with contextlib.suppress(AttributeError, KeyError):
        session = client._endpoint.http_session
        make = session._get_ssl_context  # of connections to proxies, made when there is one
        prepared(session._manager.connection_pool_kw["ssl_context"])
        session._get_ssl_context = lambda: prepared(make())


def remember_bundles(context: ssl.SSLContext) -> ssl.SSLContext:
    """Let *context* pass over files that it has read, and return it."""
    load, lock = context.load_verify_locations, threading.Lock()
    read: set[tuple[str, int, int, int]] = set()

    def load_once(cafile: str | None = None, capath: str | None = None, cadata: str | bytes | None = None) -> None:
        if cafile is None or capath is not None or cadata is not None:
            load(cafile, capath, cadata)
            return
        with lock:  # whoever comes meanwhile needs it too
            found = os.stat(cafile)
            state = (cafile, found.st_ino, found.st_size, found.st_mtime_ns)
            if state not in read:
                load(cafile)
                read.add(state)

    context.load_verify_locations = load_once  # type: ignore[method-assign, assignment]
    return context
