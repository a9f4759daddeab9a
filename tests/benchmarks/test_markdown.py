"""The tables of runs, as the page of the documentation shows them."""

from __future__ import annotations

import json

import pytest

from benchmarks import markdown
from benchmarks.bench import Bench
from benchmarks.measuring import Measurement
from benchmarks.plot import margin
from benchmarks.report import content, value_row
from benchmarks.store import Store
from tigrismount.demo.model import plan_model

MIB = 1 << 20


@pytest.fixture
def bench(tmp_path, capsys):
    bench = Bench(Store("http://127.0.0.1"), plan_model(8 * MIB), tmp_path, 4, [])
    bench.record("load", Measurement(1.0, MIB, 0.1))
    return bench


def run(bench, *rows):
    return json.loads(json.dumps(content(bench, rows)))


def test_targets_come_first_and_say_whether_they_were_reached(bench):
    rows = [
        value_row("share", [0.5], "-"),
        value_row("P11 mount", [0.5], "<= 1"),
        value_row("P1 cold", [0.5, 0.7, 0.6], ">= 0.90"),
    ]

    text = markdown.tables([run(bench, *rows)])

    assert "| P1 cold | 0.60 | 0.50-0.70 | ≥ 0.90 | not reached |" in text
    assert text.index("| P1 cold") < text.index("| P11 mount | 0.50 | 0.50-0.50 | ≤ 1 | reached |")
    assert text.index("### Besides") < text.index("| share | 0.50")
    assert "| load | 1.000 | 1 | 102.40 | - |" in text
    assert "### Published read jobs" not in text


def test_a_suite_that_failed_is_named(bench):
    bench.failures["p6"] = "round 1: OSError: the disk is full"

    assert "**The suite p6 failed**: round 1: OSError: the disk is full." in markdown.tables([run(bench)])


def test_of_several_runs_the_last_that_has_a_result_counts(bench):
    first = run(bench, value_row("P1 cold", [0.5], ">= 0.90"), value_row("P3 warm", [1.5], ">= 0.90"))
    second = run(bench, value_row("P1 cold", [0.95], ">= 0.90"))

    text = markdown.tables([first, second])

    assert text.count("| P1 cold") == 1
    assert "| P1 cold | 0.95 | 0.95-0.95 | ≥ 0.90 | reached |" in text
    assert "| P3 warm | 1.50" in text
    assert text.count(first["command"]) == 2, "both commands are named"


def book(bench, label, *rates_mb_s):
    name = f"fio them seq | {label}"
    bench.rounds[name] = [Measurement(1.0, int(rate * 1e6), 0.1) for rate in rates_mb_s]
    bench.values["amplification, them seq"] = [1.1]
    for which in ("p50", "p99"):
        bench.values[f"{which} ms, {name}"] = [2.0]


def test_read_jobs_have_a_column_for_each_mount(bench):
    book(bench, "ours", 300, 300)
    book(bench, "rclone, cache full", 100, 600)
    book(bench, "s3fs", 200)

    head, cells = markdown.fio_table([run(bench)])

    assert head[:4] == ["MB/s", "ours", "rclone, cache full", "s3fs"]
    assert cells == ["them seq", "300", "350", "200", "0.86", "1.10", "2, 2"]
    assert "| them seq | 300 |" in markdown.tables([run(bench)])


def test_a_job_that_no_peer_ran_has_no_ratio(bench):
    book(bench, "ours", 300)

    assert markdown.fio_table([run(bench)])[1] == ["them seq", "300", "-", "1.10", "2, 2"]


def test_a_job_that_reads_a_byte_has_no_amplification(bench):
    book(bench, "ours", 0.001)
    del bench.values["amplification, them seq"]

    assert markdown.fio_table([run(bench)])[1][3] == "-"


def test_only_what_is_between_the_marks_is_replaced(bench, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before `{markdown.BEGIN}`\n{markdown.BEGIN}\nyesterday\n{markdown.END}\nafter\n")

    markdown.write([run(bench, value_row("P1 cold", [0.5], ">= 0.90"))], page)

    text = page.read_text()
    assert text.startswith(f"before `{markdown.BEGIN}`\n{markdown.BEGIN}\n")
    assert text.endswith(f"{markdown.END}\nafter\n")
    assert "yesterday" not in text
    assert "| P1 cold |" in text


def test_a_page_without_marks_is_written_anew(bench, tmp_path):
    page = tmp_path / "new.md"
    page.write_text("yesterday")
    markdown.write([run(bench, value_row("P1 cold", [0.5], ">= 0.90"))], page)

    assert "| P1 cold |" in page.read_text()
    assert "yesterday" not in page.read_text()


def test_pictures_of_several_runs_name_none_of_them_alone(bench):
    """Mutation: an hour's table is said to be of the minute of one suite that was measured anew."""
    one, other = run(bench), run(bench)
    one["date"], other["date"] = "2026-11-22", "2026-11-23"
    one["command"], other["command"] = "all of it", "--only p11"
    assert "; all of it; " in markdown.title([one])
    assert markdown.title([one, other]).startswith("2026-11-22 to 2026-11-23; 2 runs, ")


def test_the_pictures_are_drawn(bench, tmp_path):
    pytest.importorskip("matplotlib")
    book(bench, "ours", 300)
    book(bench, "s3fs", 200)
    places = markdown.image_places(tmp_path)

    assert markdown.pictures([run(bench, value_row("P1 cold", [0.5, 0.7], ">= 0.90"))], places)

    assert all(place.read_bytes().startswith(b"\x89PNG") for place in places.values())


def test_nothing_is_drawn_of_nothing(bench, tmp_path):
    pytest.importorskip("matplotlib")

    assert markdown.pictures([run(bench)], markdown.image_places(tmp_path))
    assert list(tmp_path.glob("*.png")) == []


@pytest.mark.parametrize(
    ("target", "value", "times"),
    [
        (">= 0.90", 1.8, 2.0),
        (">= 2", 0.5, 0.25),
        ("<= 1.2", 2.4, 0.5),
        ("<= 150", 50, 3.0),
        ("<= 150", -193, 2.0),
        ("<= 0", 0, 2.0),
        ("<= 0", 7, 0.5),
    ],
)
def test_pictures_show_what_is_better_to_the_right(target, value, times):
    row = value_row("x", [value], target)

    assert margin(row, value) == pytest.approx(times)
    assert (margin(row, value) > 1) == row.holds
