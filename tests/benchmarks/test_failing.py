"""A suite that fails costs itself and no other."""

from __future__ import annotations

import pytest

from benchmarks.bench import Bench
from benchmarks.measuring import Measurement
from benchmarks.store import Store
from tigrismount.demo.model import plan_model

MIB = 1 << 20


@pytest.fixture
def bench(tmp_path):
    return Bench(Store("http://127.0.0.1"), plan_model(8 * MIB), tmp_path, 4, [])


def take(bench):
    bench.record("load", Measurement(1.0, MIB, 0.1))
    bench.value("share", 0.5)


def fail_half_way(bench):
    take(bench)
    bench.value("another", 1.0)
    raise OSError("the disk is full")


def test_what_a_failed_round_measured_is_forgotten_and_earlier_rounds_are_kept(bench, capsys):
    bench.number = 1
    bench.attempt("p1", take)
    bench.number = 2
    bench.attempt("p1", fail_half_way)

    assert len(bench.rounds["load"]) == len(bench.values["share"]) == 1
    assert "another" not in bench.values
    assert bench.failures == {"p1": "round 2: OSError: the disk is full"}
    assert bench.completed == {"p1"}


def test_a_failed_suite_is_not_tried_again_and_the_others_run(bench, capsys):
    bench.attempt("p1", fail_half_way)
    bench.attempt("p1", take)
    bench.attempt("p2", take)

    assert len(bench.rounds["load"]) == 1
    assert bench.completed == {"p2"}


def test_an_endpoint_is_left_again_when_its_suite_fails(bench):
    with pytest.raises(OSError, match="reset"), bench.at("https://127.0.0.1"):
        raise OSError("reset")
    assert bench.endpoint_url == "http://127.0.0.1"
