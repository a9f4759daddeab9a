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


for command in (stats, list_, verify, evict, pin, unpin, clear):
    cache.add_command(command)
