"""A store whose every layer can be made to fail: its name, its connections, its TLS, its answers.

A name server, a relay of bytes, and a proxy that speaks TLS, before a real S3 server. Where nobody lets us have names
of our own (that takes root), the store is asked for by its address, and the rest is the same.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.demo.command import CommandError, run_child
from tigrismount.testing.certificates import make_certificate
from tigrismount.testing.fault_proxy import FaultProxy
from tigrismount.testing.name_server import NameServer, asking
from tigrismount.testing.wire_proxy import WireProxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tigrismount.demo.embedded import EmbeddedS3

HOST = "store.test"
"""Name of the store; nobody else may have one that ends so (RFC 2606)."""


@dataclass(frozen=True, slots=True)
class TroubledStore:
    """The layers, each with its own troubles."""

    names: NameServer | None
    """Who resolves its name; None where it is asked for by its address."""
    wire: WireProxy
    """What its connections go through."""
    proxy: FaultProxy
    """Who gives its answers."""
    env: dict[str, str]
    """Environment that leads a mount to it."""
    flags: list[str]
    """Arguments of ``mount`` that it takes."""
    prefix: list[str]
    """What to put in front of a command so that it asks for the name here."""
    mounts: Path
    """A directory in which mounts are seen everywhere."""

    def heal(self) -> None:
        """End all troubles."""
        if self.names is not None:
            self.names.mood = "answer"
        self.proxy.inject()
        self.wire.inject()


@contextlib.contextmanager
def troubled_store(s3: EmbeddedS3, directory: Path) -> Iterator[TroubledStore]:
    """Put troubles before *s3* for a ``with`` block.

    Args:
        s3: The store, without troubles.
        directory: An empty directory.
    """
    mounts = directory / "mounts"
    mounts.mkdir()
    certificate = directory / "store.pem"
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(s3.endpoint_url, tls=make_certificate(certificate, HOST)))
        wire = stack.enter_context(WireProxy(proxy.port))
        try:
            names = stack.enter_context(NameServer(HOST))
            stack.enter_context(_shared(mounts))
            prefix = stack.enter_context(asking(names, directory))
        except (OSError, CommandError):
            names, prefix = None, []
        host = HOST if names is not None else "127.0.0.1"
        env = {**s3.env(), "AWS_ENDPOINT_URL_S3": f"https://{host}:{wire.port}", "NO_PROXY": host, "no_proxy": host}
        yield TroubledStore(names, wire, proxy, env, [f"--ca-bundle={certificate}"], prefix, mounts)


@contextlib.contextmanager
def _shared(directory: Path) -> Iterator[None]:
    """Let what is mounted in *directory* be seen in namespaces that were made later, and the other way round."""
    path = str(directory)
    run_child("mount", "--bind", path, path).check()
    try:
        run_child("mount", "--make-shared", path).check()
        yield
    finally:
        run_child("umount", "--lazy", path).check()
