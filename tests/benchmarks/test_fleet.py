"""The simulation of a fleet: bytes add up, refusals happen where there is little room, a model is fetched once."""

from __future__ import annotations

import pytest

from benchmarks.fleet import WAYS, draw, simulate, table
from benchmarks.fleet_node import BLOCK_BYTES, METADATA_REQUESTS
from benchmarks.fleet_store import Assumptions

SHARDS_BYTES = (10 * BLOCK_BYTES, 9 * BLOCK_BYTES + 12345)
MODEL_BYTES = sum(SHARDS_BYTES)
GETS = 20
WORLD = Assumptions()
TINY = Assumptions(store_requests_s=40.0)


@pytest.mark.parametrize("way", ["direct", "warm", "spread"])
def test_one_node_fetches_the_model_once(way):
    outcome = simulate(way, 1, WORLD, shards_bytes=SHARDS_BYTES)
    assert outcome.store_bytes == outcome.node_bytes == MODEL_BYTES
    assert (outcome.requests, outcome.refused) == (GETS + METADATA_REQUESTS, 0)


@pytest.mark.parametrize("world", [WORLD, TINY], ids=["room", "tiny"])
@pytest.mark.parametrize("sample", [10, 3])
@pytest.mark.parametrize("way", WAYS)
def test_each_node_gets_the_model_and_the_store_sent_what_nobody_else_had(way, sample, world):
    outcome = simulate(way, 10, world, shards_bytes=SHARDS_BYTES, sample=sample)
    assert outcome.node_bytes == 10 * MODEL_BYTES
    assert outcome.store_bytes == outcome.node_bytes - outcome.tag_hit_bytes + outcome.tag_background_bytes
    assert outcome.tag_background_bytes == (MODEL_BYTES if way == "tag" else 0)
    assert outcome.tag_hit_bytes == outcome.node_bytes or way != "tag-warmed"
    if not way.startswith("tag"):
        assert outcome.requests == 10 * (GETS + METADATA_REQUESTS) + outcome.refused


@pytest.mark.parametrize("way", ["direct", "warm", "tag"])
def test_a_store_with_little_room_refuses_and_takes_longer(way):
    tight, roomy = (simulate(way, 10, world, shards_bytes=SHARDS_BYTES) for world in (TINY, WORLD))
    assert tight.refused > roomy.refused == 0
    assert tight.slow_down_share > 0
    assert tight.last_ready_s > roomy.last_ready_s


def test_tag_fetches_each_object_once_however_many_ask_and_answers_from_it_then():
    """Nodes that come behind one another: the first ones' ranges pass, and each shard is fetched once besides."""
    slow = Assumptions(loader_bytes_s=20e6)
    outcome = simulate("tag", 10, slow, shards_bytes=SHARDS_BYTES)
    assert outcome.tag_background_bytes == MODEL_BYTES
    assert 0 < outcome.tag_hit_bytes < outcome.node_bytes


def test_objects_above_the_threshold_always_pass():
    never = Assumptions(tag_threshold_bytes=MODEL_BYTES // 4)
    for way in ("tag", "tag-warmed"):
        assert simulate(way, 3, never, shards_bytes=SHARDS_BYTES).store_bytes == 3 * MODEL_BYTES


def test_tag_refuses_above_its_requests_in_flight():
    narrow = Assumptions(tag_in_flight=20)
    outcome = simulate("tag-warmed", 10, narrow, shards_bytes=SHARDS_BYTES)
    assert outcome.refused == 0, "the store did not"
    assert outcome.slow_down_share > 0


def test_a_spread_lowers_the_peak():
    at_once, spread = (simulate(way, 10, WORLD, shards_bytes=SHARDS_BYTES) for way in ("warm", "spread"))
    assert spread.peak_requests_s < at_once.peak_requests_s


def test_outcomes_make_a_table_and_a_picture(tmp_path):
    outcomes = [simulate("direct", count, WORLD, shards_bytes=SHARDS_BYTES) for count in (1, 3)]
    assert table(outcomes).splitlines()[2].startswith("| direct | 1 | 27 | 1.0 | 0.0% |")
    assert draw(outcomes, tmp_path / "fleet.png")
    assert (tmp_path / "fleet.png").stat().st_size > 1000
