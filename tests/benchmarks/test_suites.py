"""What the benchmarks compute from what they measure."""

from __future__ import annotations

import pytest

from benchmarks.bench import Bench, Plan
from benchmarks.measuring import RANGE_BYTES, Measurement, scattered
from benchmarks.peer import Installed, known_peers
from benchmarks.report import ratio_row, value_row
from benchmarks.store import Store
from benchmarks.suites import SUITES
from benchmarks.suites.amplification import half_of
from tigrismount.demo.model import plan_model

MIB = 1 << 20


@pytest.fixture
def bench(tmp_path):
    return Bench(Store("http://127.0.0.1"), plan_model(64 * MIB, shard_bytes=20 * MIB), tmp_path, 4, [])


def test_a_target_says_which_side_is_good():
    assert ratio_row("rate", [1.0, 1.0, 1.0], [1.0, 2.0, 1.0], ">= 0.90").holds
    assert not ratio_row("rate", [1.0], [2.0], ">= 0.90").holds
    assert value_row("bytes", [1.0], "<= 1.01").holds
    assert not value_row("bytes", [1.02], "<= 1.01").holds
    assert value_row("share", [0.5], "-").holds is None, "no target"


def test_half_of_the_tensors_touch_at_most_a_block_per_shard_more(bench):
    needed, rounded = half_of(bench)

    assert needed >= bench.size_bytes // 2
    assert needed <= rounded <= needed + RANGE_BYTES * len(bench.shards)


def test_scattered_places_lie_in_blocks_of_their_own():
    offsets = scattered(64 * RANGE_BYTES, 3, 24)

    assert len({offset // RANGE_BYTES for offset in offsets}) == 24
    assert offsets != scattered(64 * RANGE_BYTES, 4, 24)


def test_absent_peers_leave_no_row(bench):
    peer = Installed(known_peers()["rclone"], "/bin/rclone")
    bench.plan = Plan(peers=[peer])
    for how in ("mmap", "read"):
        bench.rounds[f"mount, cold, {how}"] = [Measurement(1.0, MIB, 0.1)] * 2
    assert SUITES["p2"].rows(bench) == []

    bench.rounds["rclone, cache full, mmap"] = [Measurement(4.0, MIB, 0.1)] * 2
    bench.rounds["rclone, cache off, mmap"] = [Measurement(2.0, MIB, 0.1)] * 2
    (row,) = SUITES["p2"].rows(bench)
    assert (row.name, row.value, row.holds) == ("P2 cold mmap / rclone", 2.0, True), "beside the faster of its ways"


def test_a_store_without_tls_leaves_no_row_of_it(bench):
    SUITES["tls"].run(bench)

    assert SUITES["tls"].rows(bench) == []
    assert bench.notes == ["TLS: absent, the store speaks HTTP alone"]


def test_what_tls_costs_is_told_beside_plain_http(tmp_path):
    store = Store("http://127.0.0.1", "https://127.0.0.1", "bundle.pem")
    bench = Bench(store, plan_model(64 * MIB, shard_bytes=20 * MIB), tmp_path, 4, [], tls=True)
    assert bench.endpoint_url == store.tls_url
    for scheme, seconds in (("HTTP", 1.0), ("TLS", 2.0)):
        for name in (f"download, plain, over {scheme}", f"mount, cold, read, over {scheme}"):
            bench.rounds[name] = bench.rounds[f"daemon: {name}"] = [Measurement(seconds, MIB, 0.1)]

    assert [row.value for row in SUITES["tls"].rows(bench)][:3] == [0.5, 0.5, 1.0]
