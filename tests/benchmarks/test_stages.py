from __future__ import annotations

import pytest

from benchmarks.stages import Stage, run_stage, show

MIB = 1 << 20


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stage_says_what_all_of_its_workers_took(workers):
    took = run_stage(Stage("checksum", threads=True), workers, 64 * MIB)
    assert took.size_bytes == workers * 64 * MIB
    assert 0 < took.own_cpu_s <= took.cpu_s


def test_the_table_has_a_line_for_each_stage(capsys):
    figures = dict.fromkeys(
        ("cpu_s_per_gib", "own_cpu_s_per_gib", "cpu_s_per_gib_two", "speed_up", "own_user_s_per_gib"), 1.5
    )
    show([{"stage": "reading", **figures, "mb_s_one": 10.0, "mb_s_two": 20.0}])
    assert "| reading | 1.5 | 1.5 | 1.5 | 10 | 20 | 1.5 | 1.5 |" in capsys.readouterr().out
