"""A client for commands that ask the store themselves, without a mount."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tigrismount.config.loading import load

if TYPE_CHECKING:
    from tigrismount.config.model import MountConfig
    from tigrismount.objects.s3 import S3Client

_NO_MOUNTPOINT = "/"


def load_without_mount(source: str | None, flags: Mapping[str, object]) -> MountConfig:
    """Return the configuration that a mount of *source* would have.

    Args:
        source: As written on the command line; None looks into the environment.
        flags: Flags given, by option key.

    Raises:
        ConfigError: Something is wrong with it.
    """
    return load(
        source=source,
        mountpoint=_NO_MOUNTPOINT,
        flags=flags,
        mount_options=(),
        config_file=None,
        debug=False,
        environment=os.environ,
    ).config


@contextlib.asynccontextmanager
async def connected(config: MountConfig) -> AsyncIterator[S3Client]:
    """Connect to the store while the context lasts.

    Raises:
        ConfigError: The endpoint or the credentials are unusable.
    """
    import trio

    from tigrismount.objects.credentials import find_credentials, read_text_file
    from tigrismount.objects.s3 import S3Client

    credentials = find_credentials(config.s3, os.environ, Path.home(), read_text_file)
    client = await trio.to_thread.run_sync(S3Client, config.s3, credentials)
    try:
        yield client
    finally:
        with trio.CancelScope(shield=True):
            await client.aclose()
