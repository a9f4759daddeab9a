"""Running a job beside somebody who wants to know how far it is."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tigrismount.warm.report import Progress, WarmReport
    from tigrismount.warm.selection import Target
    from tigrismount.warm.warmer import Warmer

TELL_INTERVAL_S = 0.25
"""How often progress is told: a bar that moves smoothly, and nothing beside the work."""


async def follow(
    job: Warmer, targets: Sequence[Target], tell: Callable[[Progress], Awaitable[None]], *, check: bool = False
) -> WarmReport:
    """Run *job* and tell its progress every now and then, and once at its end.

    Args:
        job: The run.
        targets: What is to be warmed.
        tell: Takes the progress; what it raises ends the run.
        check: Only look at what is there, see ``Warmer.check``.
    """

    async def telling() -> None:
        while True:
            await tell(job.progress)
            await trio.sleep(TELL_INTERVAL_S)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(telling)
        report = await (job.check(targets) if check else job.run(targets))
        nursery.cancel_scope.cancel()
    await tell(job.progress)
    return report


def progress_line(progress: Progress) -> dict[str, Any]:
    """Return *progress* as it goes over the control socket."""
    return {"progress": asdict(progress)}
