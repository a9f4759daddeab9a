"""The controller on networks in virtual time: near the best fixed number, at rest, and no slower to start.

What is asserted follows from the seeds alone: no clock of this machine takes part.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from benchmarks.knee import TODAY, compare, draw, first_load_s, table
from benchmarks.knee_network import MB, NETWORKS, Network, Simulation

SECONDS = 60.0
STEADY = [network for network in NETWORKS if network.requests_s is None and network.in_flight_max is None]
REFUSING = [network for network in NETWORKS if network not in STEADY]
FIXED = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def named(network):
    return network.name.replace(" ", "-")


@pytest.mark.parametrize("network", NETWORKS, ids=named)
def test_it_brings_nine_tenths_of_what_the_best_fixed_number_brings(network):
    wide = network.total_bytes_s > 3000 * MB and network.connection_bytes_s > 20 * MB
    row = compare(network, SECONDS / 3 if wide and network in STEADY else SECONDS, FIXED)
    assert row.ratio >= 0.9
    if network in STEADY:
        assert row.refused == 0
        assert row.in_flight[1] <= max(4, 2 * row.knee), "few wait in line"


@pytest.mark.parametrize("network", NETWORKS, ids=named)
def test_the_first_load_takes_no_longer_than_with_a_fixed_number(network):
    assert first_load_s(network, None) <= 1.1 * first_load_s(network, TODAY)


@pytest.mark.parametrize("network", REFUSING, ids=named)
def test_refusals_become_rare_and_the_limit_comes_to_rest(network):
    simulation = Simulation(network, fixed=None)
    outcome = simulation.run(2 * SECONDS)
    late = [when_s for when_s in outcome.refused_at_s if when_s >= SECONDS]
    assert len(late) <= 10, "halved every few seconds would be thirty times"
    if network.requests_s is None:
        assert len(late) <= 3
        assert all(later - sooner > 10 for sooner, later in pairwise(late))
    width = [in_flight for when_s, in_flight, _ in outcome.trace if when_s >= SECONDS]
    lowest, highest = sorted(width)[len(width) // 10], sorted(width)[len(width) * 9 // 10]
    assert lowest >= 0.7 * highest or highest <= 2, "no sawtooth"


def test_it_follows_a_network_that_becomes_wider_and_narrower():
    changing = Network(
        name="changing",
        first_byte_s=0.02,
        connection_bytes_s=80 * MB,
        total_bytes_s=700 * MB,
        changes=((20.0, 2500 * MB), (60.0, 200 * MB)),
    )
    trace = Simulation(changing, fixed=None).run(120.0).trace
    assert (trace[600][2] - trace[400][2]) / 20 >= 0.9 * 2500 * MB
    assert (trace[1200][2] - trace[900][2]) / 30 >= 0.9 * 200 * MB
    assert sum(in_flight for _, in_flight, _ in trace[900:]) / 300 <= TODAY


def test_rows_make_a_table_and_a_picture(tmp_path):
    network = NETWORKS[2]
    row = compare(network, 12.0, (4, 32))
    assert table([row]).splitlines()[2].startswith(f"| {network.name} | ")
    assert draw([network], tmp_path / "knee.png", 12.0)
    assert (tmp_path / "knee.png").stat().st_size > 1000
