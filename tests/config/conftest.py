from __future__ import annotations

import pytest

from tigrismount.config.host import DiskSpace, HostFacts


@pytest.fixture
def user_host() -> HostFacts:
    """A plain user on a machine with 16 GiB."""
    return HostFacts(
        memory_bytes=16 << 30, uid=1000, gid=100, cwd="/cwd", home="/home/ann", cache_home="/home/ann/.cache"
    )


@pytest.fixture
def disk_space():
    """A disk of 1000 GiB that counts who asks for which directory."""
    asked: list[str] = []

    def space(directory: str) -> DiskSpace:
        asked.append(directory)
        if directory in space.spaces:
            return space.spaces[directory]
        return DiskSpace(usable_bytes=1000 << 30, free_bytes=10 << 30)

    space.asked = asked
    space.spaces = {}
    return space
