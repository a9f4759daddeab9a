from __future__ import annotations

import io

import pytest
from rich.console import Console

from tigrismount.cli.rates import with_rates
from tigrismount.cli.status_text import bar, default_options, detail_rows, option_rows, overview_lines, watch_line
from tigrismount.cli.watching import view

COMMAND = "echo 4096 | sudo tee /sys/class/bdi/0:45/read_ahead_kb"
MOUNT = {
    "mountpoint": "/models",
    "source": "s3://my-bucket/models",
    "state": "degraded",
    "pid": 12,
    "supervisor_pid": 11,
    "version": "0.0.0",
    "cache_dir": "/nvme",
    "cache": {"bytes_cached": 13 << 30, "capacity_bytes": 100 << 30},
    "degraded": ["store: the key has expired"],
    "knobs": [{"name": "kernel read-ahead (KiB)", "value": 128, "wanted": 4096, "command": COMMAND}],
    "bytes": {"ram": 9 << 30, "nvme": 0, "remote": 11 << 30, "newer": 1},
    "loads": [
        {
            "model": "s3://my-bucket/models/[bold]llama",
            "started": 1.0,
            "seconds": 8.0,
            "bytes_total": 16 << 30,
            "bytes_needed": 8 << 30,
        }
    ],
}
BEFORE = {
    **MOUNT,
    "bytes": {"ram": 9 << 30, "nvme": 0, "remote": 9 << 30},
    "loads": [{**MOUNT["loads"][0], "bytes_needed": 4 << 30}],
}


def drawn(width: int, mounts: list[dict[str, object]]) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(view(mounts))
    return out.getvalue().splitlines()


def test_what_the_disk_had_no_time_for_is_told_until_it_is_there():
    late = {**MOUNT, "cache": {**MOUNT["cache"], "left_over_bytes": 120 << 20}}
    assert ["cache", "120 MiB came too fast for its disk, and follow when all is quiet"] in detail_rows(late)
    assert all("too fast" not in value for _, value in detail_rows(MOUNT))


def test_what_others_leave_of_the_caches_disk_is_told_where_it_is_little():
    """Mutation: a cache that had to give everything back is empty, and nobody says why."""
    little = {**MOUNT, "cache": {**MOUNT["cache"], "room_bytes": 49 << 30}}
    assert ["cache", "other files on its disk leave room for 49 GiB of it"] in detail_rows(little)
    for cache in (MOUNT["cache"], {**MOUNT["cache"], "room_bytes": 50 << 30}):
        assert all("leave room" not in value for _, value in detail_rows({**MOUNT, "cache": cache}))


def test_how_many_gets_there_may_be_is_told_with_the_reason():
    limit = {"gets": 24, "most": 192, "reason": "best found"}
    assert ["GETs at once", "24 of at most 192: best found"] in detail_rows({**MOUNT, "get_limit": limit})
    assert all(what != "GETs at once" for what, _ in detail_rows(MOUNT))


def test_rates_are_the_difference_between_two_looks():
    [mount] = with_rates([MOUNT], [BEFORE], 2.0)
    assert mount["bytes_per_second"] == {"ram": 0, "nvme": 0, "remote": 1 << 30, "newer": 0}
    assert mount["loads"][0]["bytes_per_second"] == 2 << 30
    assert mount["loads"][0]["seconds_left"] == 4.0


def test_a_first_look_has_the_average_of_a_load_and_no_other_rate():
    [mount] = with_rates([MOUNT])
    assert mount["bytes_per_second"] is None
    assert (mount["loads"][0]["bytes_per_second"], mount["loads"][0]["seconds_left"]) == (1 << 30, 8.0)


def test_no_rate_is_told_across_two_processes():
    """A worker that takes over counts from 0."""
    [mount] = with_rates([{**MOUNT, "pid": 99}], [BEFORE], 2.0)
    assert mount["bytes_per_second"] is None


def test_a_load_that_stands_still_has_no_time_left_to_tell():
    [mount] = with_rates([MOUNT], [MOUNT], 2.0)
    assert (mount["loads"][0]["bytes_per_second"], mount["loads"][0]["seconds_left"]) == (0, None)


def test_details_say_what_to_set_and_what_to_upgrade():
    rows = detail_rows(MOUNT)
    assert ["setting", f"kernel read-ahead (KiB) is 128, 4096 is faster: {COMMAND}"] in rows
    assert any("'tigrismount upgrade /models'" in value for _, value in rows)
    assert ["newer", "1 B"] in rows


def test_options_that_somebody_set_have_a_row_and_the_others_a_line():
    config = {
        "cache_size": {"value": 1 << 30, "from": "--cache-size"},
        "memory_limit": {"value": 2 << 30, "from": "default"},
        "profile": {"value": None, "from": "default"},
        "of_a_newer_worker": {"value": "x"},
    }
    mount = {**MOUNT, "config": config}
    assert option_rows(mount) == [["cache-size", "1 GiB", "--cache-size"], ["of-a-newer-worker", "x", ""]]
    assert default_options(mount) == "by default: memory-limit 2 GiB"
    assert default_options(MOUNT) == ""


def test_the_overview_is_followed_by_loads_reasons_and_settings():
    loading, progress, reason, setting = overview_lines(MOUNT)
    assert loading == "/models: loading s3://my-bucket/models/[bold]llama"
    assert progress.startswith("  ██████████░░░░░░░░░░  50%, 8 GiB")
    assert reason == "/models: store: the key has expired"
    assert setting.endswith(COMMAND)


def test_a_look_is_one_line_off_a_terminal():
    [mount] = with_rates([MOUNT], [BEFORE], 2.0)
    line = watch_line(mount)
    assert line.startswith("/models: degraded; from the store 1 GiB/s; loading ")
    assert "2 GiB/s, 4 s left" in line


@pytest.mark.parametrize("width", [80, 200])
def test_the_view_fits_the_terminal_and_shows_progress(width):
    lines = drawn(width, with_rates([MOUNT], [BEFORE], 2.0))
    assert max(map(len, lines)) <= width
    # Neither the bar nor what belongs to it is broken, and brackets in a key are no markup.
    assert any("██████████░░░░░░░░░░  50%, 8 GiB of 16 GiB, 2 GiB/s, 4 s left" in line for line in lines)
    assert any("[bold]llama" in line for line in lines)
    assert any("13%, 13 GiB of 100 GiB" in line for line in lines)


def test_control_characters_do_not_reach_the_terminal():
    mount = {**MOUNT, "mountpoint": "/m\x1b[2J", "loads": [{**MOUNT["loads"][0], "model": "s3://b/\x1b[2J\n"}]}
    assert not any("\x1b[2J" in line for line in drawn(200, [mount]))


def test_nothing_mounted_and_a_mount_that_tells_nothing_can_be_drawn():
    assert drawn(80, []) == ["nothing is mounted"]
    assert drawn(80, [{"mountpoint": "/m", "state": "dead"}])


@pytest.mark.parametrize(
    ("fraction", "shown"), [(0, "░" * 20 + "   0%"), (1, "█" * 20 + " 100%"), (7, "█" * 20 + " 100%")]
)
def test_a_bar_is_never_longer_than_itself(fraction, shown):
    assert bar(fraction) == shown


def test_fetch_processes_are_shown_where_there_may_be_any():
    mount = {"mountpoint": "/m", "state": "ok"}
    facts = {"configured": 3, "ready": 2, "started": 2, "gets": 40, "in_flight": [5, 4], "pids": [7, 8]}
    assert ["fetch processes", "2 of 3, 5 and 4 GETs under way, 40 GETs in all"] in detail_rows(
        {**mount, "fetch_processes": facts}
    )
    assert not [row for row in detail_rows({**mount, "fetch_processes": {"configured": 0}}) if "fetch" in row[0]]


@pytest.mark.parametrize(
    ("passthrough", "rows"),
    [
        ({}, []),
        ({"off": "--passthrough off"}, []),
        ({"off": "this process lacks CAP_SYS_ADMIN"}, [["passthrough", "off: this process lacks CAP_SYS_ADMIN"]]),
        (
            {"off": "", "opens": 3, "files": 1, "passed_over": {"not proven yet": 2}},
            [["passthrough", "3 opens, 1 files in use"], ["not passed through", "2 opens: not proven yet"]],
        ),
    ],
)
def test_passthrough_is_told_where_somebody_asked_for_it(passthrough, rows):
    shown = detail_rows({**MOUNT, "passthrough": passthrough})
    assert [row for row in shown if "pass" in row[0]] == rows
