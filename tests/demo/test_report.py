from __future__ import annotations

import io
import json

from rich.console import Console

from tigrismount.demo import report as names
from tigrismount.demo.progress import Narrator
from tigrismount.demo.report import Report, Step, size


def _report() -> Report:
    steps = [
        Step(name=names.DOWNLOAD, seconds=2.0, size_bytes=1_000_000_000),
        Step(name=names.LOAD_FILES, seconds=1.0, size_bytes=1_000_000_000),
        Step(name=names.COLD, seconds=4.0, size_bytes=1_000_000_000, store_bytes=1_100_000_000, nvme_bytes=0),
        Step(name=names.WARM_PAGES, seconds=0.5, size_bytes=1_000_000_000, store_bytes=0, kernel_bytes=4096),
        Step(name=names.UNMOUNT, seconds=0.1),
    ]
    return Report(model={"bytes": 1_000_000_000, "tensors": 3, "shards": 1}, steps=steps, tensors_compared=6)


def test_rates_and_ratios_follow_from_what_was_measured():
    report = _report()

    assert report.steps[2].rate == 250.0
    assert report.cold_over_download == 0.5
    assert report.cold_over_download_and_load == 0.75
    assert [step.hit_ratio for step in report.steps] == [None, None, 0.0, 1.0, None]


def test_the_report_is_data():
    data = json.loads(json.dumps(_report().to_json()))

    assert data["ok"] is True
    assert data["cold_over_download"] == 0.5
    assert data["cold_over_download_and_load"] == 0.75
    assert data["steps"][3] | {"name": names.WARM_PAGES, "mb_per_s": 2000.0, "hit_ratio": 1.0} == data["steps"][3]


def test_a_demo_that_was_cut_short_compares_nothing():
    report = _report()
    del report.steps[2]

    assert report.cold_over_download is None
    assert report.to_json()["cold_over_download_and_load"] is None


def test_a_problem_makes_it_fail():
    report = _report()
    report.problems.append("something")

    assert report.to_json()["ok"] is False


def test_what_was_fetched_again_is_a_problem_unless_the_disk_explains_it():
    def judged(again: int, lost: int, raced: int) -> tuple[int, int]:
        report = Report()
        report.judge_fetched("load", again << 20, lost_bytes=lost << 20, raced_bytes=raced << 20)
        return len(report.problems), len(report.notes)

    assert judged(0, 0, 0) == judged(0, 5, 0) == (0, 0)
    assert judged(8, 0, 0) == judged(8, 7, 0) == judged(17, 8, 8) == (1, 0)
    assert judged(8, 8, 0) == judged(8, 0, 8) == judged(8, 8, 8) == (0, 1)
    assert judged(16, 8, 8) == (0, 2)


def test_the_table_has_a_line_per_step_and_the_verdict():
    text = io.StringIO()
    _report().print_table(Console(file=text, width=160))

    assert all(step.name in text.getvalue() for step in _report().steps)
    assert "All 6 comparisons of tensors equal." in text.getvalue()


def test_sizes_are_for_people():
    assert [size(n) for n in (0, 12, 2048, 1 << 20, 3 << 29, 5 << 40)] == [
        "0",
        "12 B",
        "2 KiB",
        "1 MiB",
        "1.5 GiB",
        "5 TiB",
    ]


def test_steps_are_lines_where_there_is_no_terminal():
    text = io.StringIO()
    with Narrator(Console(file=text)).step("upload", 1 << 30) as advance:
        advance(1 << 20)

    assert text.getvalue() == "upload (1 GiB) …\n"


def test_a_terminal_gets_a_bar():
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100)
    with Narrator(console).step("upload", 1 << 30) as advance:
        advance(1 << 29)

    assert "0.5/1.0 GiB" in text.getvalue() or "512.0" in text.getvalue()


def test_nobody_looking_gets_nothing():
    with Narrator(None).step("upload") as advance:
        advance(1)
