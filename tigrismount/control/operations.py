"""What the control socket of a mount answers: the short commands, each a request in and a reply out.

Whoever can ask is the user of the mount (``server`` sees to that), so a key that they hand in is as good as one in
their files. It goes into memory and nowhere else: this process's, and that of the supervisor for who comes next.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import trio

from tigrismount.fuse.invalidation import forget_names
from tigrismount.objects.credentials import HandedIn
from tigrismount.reader.loads import MOST_SHOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tigrismount.control.server import Handler
    from tigrismount.objects.credentials import Credentials
    from tigrismount.objects.s3 import S3Client
    from tigrismount.reader.loads import LoadRecorder
    from tigrismount.vfs.filesystem import FileSystem

log = logging.getLogger(__name__)


def operations(
    *,
    status: Callable[[], dict[str, Any]],
    filesystem: FileSystem,
    client: S3Client,
    loads: LoadRecorder,
    forget_name: Callable[[int, bytes], None],
    keep_key: Callable[[Credentials], None],
) -> Mapping[str, Handler]:
    """Return the commands of a mount, by name.

    Args:
        status: Gives the reply to ``status``.
        filesystem: What is mounted.
        client: The store.
        loads: The load reports.
        forget_name: Makes the kernel forget a name in a directory.
        keep_key: Keeps a key that was handed in for the process that takes this one's place.
    """

    async def say_status(_: Mapping[str, Any]) -> Mapping[str, Any]:
        await trio.lowlevel.checkpoint()
        return status()

    async def say_loads(request: Mapping[str, Any]) -> Mapping[str, Any]:
        limit, timelines = int(request.get("limit", MOST_SHOWN)), bool(request.get("timelines", True))
        return {"loads": await loads.reports(limit, timelines=timelines)}

    async def refresh(request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Forget what is known at and below a path of the mount, here and in the kernel."""
        names = [os.fsencode(name) for name in str(request.get("below", "")).split("/") if name]
        entries = await filesystem.refresh(names)
        return {"names": len(entries), "complete": await forget_names(entries, forget_name)}

    async def take_key(request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Sign with another key from now on."""
        handed_in = HandedIn.from_values(request)
        if handed_in is None:
            return {"error": "a key has two halves: access_key_id and secret_access_key"}
        try:
            replaced = await client.replace_key(handed_in.key)
        except OSError as exc:  # which to the server is a client that has gone away
            return {"error": str(exc)}
        keep_key(handed_in.key)
        if replaced:
            log.info("going on with the key that was handed in")
        return {"replaced": replaced}

    return {"status": say_status, "loads": say_loads, "refresh": refresh, "credentials": take_key}
