"""``tigrismount cache``: what is in the disk cache, and what shall stay or go, mounted or not.

Everything works on the directories themselves, beside the daemons that use them and without asking them: what a daemon
has open stays, and what is taken away is fetched again when somebody reads it.
"""

from __future__ import annotations

import click

from tigrismount.cli.cachechange import clear, evict, pin, unpin, verify
from tigrismount.cli.cacheview import list_, stats


@click.group(no_args_is_help=False, epilog="Example: tigrismount cache stats --cache-dir /nvme/tigrismount")
def cache() -> None:
    """Look into a disk cache, check it, and say what stays."""


for command, in_short in (
    (stats, "Show how much a disk cache holds, and of what."),
    (list_, "List the object versions in a disk cache."),
    (verify, "Read a disk cache back and compare it with its checksums."),
    (evict, "Take object versions out of a disk cache."),
    (pin, "Keep what begins with PREFIX, or list what is kept."),
    (unpin, "Take back pins."),
    (clear, "Empty a disk cache."),
):
    command.short_help = in_short  # click would cut their first sentences in the middle
    cache.add_command(command)
