"""What a mount's daemon is asked to warm."""

from __future__ import annotations

from typing import Any

from tigrismount.cli.connection import load_without_mount
from tigrismount.warm.serving import warm_in_mount


async def test_the_root_of_a_mount_of_all_buckets_is_none(tmp_path):
    """Mutation: a bucket without a name is asked for, and the answer is about the syntax of names."""

    async def send(_: object) -> None:
        pass

    config = load_without_mount(None, {"all_buckets": True, "cache_dir": (str(tmp_path),)})
    engine: Any = None
    answer = await warm_in_mount(engine, config, {"paths": [""]}, send)
    assert answer == {"error": "shows all buckets: name one of them below it"}
