"""Both cuts of the file system over memory give the model's own bytes."""

from __future__ import annotations

import pytest

from benchmarks.stub import CUTS, nothing_through, over_memory
from tigrismount.core.types import ROOT_NODE_ID
from tigrismount.demo.model import plan_model
from tigrismount.fuse.kernel import Kernel

MIB = 1 << 20


@pytest.mark.parametrize("cut", CUTS)
async def test_a_shard_is_read_through_it(cut):
    (first, *_) = plan_model(4 * MIB).shards
    async with over_memory(cut, 4 * MIB) as filesystem:
        entry = await filesystem.lookup(ROOT_NODE_ID, first.name.encode())
        node = entry.attributes.node_id
        await filesystem.open(node)
        found = bytes(await filesystem.read(node, MIB, 4096))
        filesystem.release(node)

    assert found == bytes(first.render()[0][MIB : MIB + 4096])


def test_the_lane_has_what_opens_every_file_in_the_usual_way():
    """Nothing else makes one but the daemon, and no test serves through it."""
    assert nothing_through(Kernel()).choice(7) is False
