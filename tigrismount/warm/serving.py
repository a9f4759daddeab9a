"""Warming inside a mount's daemon: what the control socket's ``warm`` does.

The request names paths below the mountpoint, or targets in the mount's bucket; lines of progress come back, and at
last the report. Readers of the mount come first: warming has the lowest priority and half of the memory.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tigrismount.warm.engine import most_held, most_jobs
from tigrismount.warm.follow import follow, progress_line
from tigrismount.warm.selection import Target
from tigrismount.warm.warmer import Warmer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tigrismount.config.model import MountConfig
    from tigrismount.warm.engine import WarmEngine
    from tigrismount.warm.report import Progress


async def warm_in_mount(
    engine: WarmEngine,
    config: MountConfig,
    request: Mapping[str, Any],
    send: Callable[[Mapping[str, Any]], Awaitable[None]],
) -> Mapping[str, Any]:
    """Warm what *request* names; send progress meanwhile and return the last line: the report, or an error.

    Args:
        engine: The mount's own client, cache and store.
        config: The mount.
        request: ``paths`` below the mountpoint, ``targets`` as pairs of bucket and name, ``jobs`` and ``check``.
        send: Sends a line.
    """
    if not config.disk_caches:
        return {"error": "is mounted without a disk cache: there is nothing to warm"}
    targets = [_target(config, str(path)) for path in request.get("paths", ())]
    targets += [Target(str(bucket), str(name)) for bucket, name in request.get("targets", ())]
    if not all(target.bucket for target in targets):
        return {"error": "shows all buckets: name one of them below it"}
    jobs = most_jobs(config, request.get("jobs"))

    async def tell(progress: Progress) -> None:
        await send(progress_line(progress))

    held = most_held(config)
    job = Warmer(engine.client, engine.cache, engine.store, verifier=engine.verifier, jobs=jobs, most_held=held)
    report = await follow(job, targets, tell, check=bool(request.get("check")))
    return {"report": report.to_json()}


def _target(config: MountConfig, below: str) -> Target:
    """Return what the path *below* the mountpoint stands for."""
    name = os.fsencode(below).decode("utf-8", "surrogateescape")
    if config.vfs.bucket:
        return Target(config.vfs.bucket, config.vfs.prefix + name)
    bucket, _, name = name.partition("/")
    return Target(bucket, name)
