"""A client for commands that ask the store themselves, without a mount."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from tigrismount.config.loading import NO_MOUNTPOINT, load

if TYPE_CHECKING:
    from tigrismount.config.model import MountConfig
    from tigrismount.objects.s3 import S3Client


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
        mountpoint=NO_MOUNTPOINT,
        flags=flags,
        mount_options=(),
        config_file=None,
        debug=False,
        environment=os.environ,
    ).config


@contextlib.asynccontextmanager
async def connected(config: MountConfig) -> AsyncIterator[S3Client]:
    """Connect to the store, and to the snapshot where there is one, while the context lasts.

    Raises:
        ConfigError: The endpoint, the credentials or the snapshot are unusable.
        ObjectError: The store could not say what the snapshot is.
    """
    import trio

    from tigrismount.objects.credentials import find_credentials, home_directory, read_text_file
    from tigrismount.objects.frozen import with_snapshot
    from tigrismount.objects.s3 import S3Client

    credentials = find_credentials(config.s3, os.environ, home_directory(), read_text_file)
    s3 = await with_snapshot(config.s3, config.vfs.bucket, credentials)
    client = await trio.to_thread.run_sync(S3Client, s3, credentials)
    try:
        yield client
    finally:
        with trio.CancelScope(shield=True):
            await client.aclose()
