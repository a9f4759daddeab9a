from __future__ import annotations

import itertools
import json

import pytest

from tigrismount.cli.watching import shown, watch


def mounts(remote: int) -> list[dict[str, object]]:
    return [{"mountpoint": "/m", "state": "ok", "pid": 1, "bytes": {"remote": remote}}]


@pytest.fixture
def watched():
    """Watch three looks, two seconds apart, and press Ctrl-C."""

    def run(show):
        looks, pauses = iter([mounts(0), mounts(2 << 20), mounts(6 << 20)]), itertools.count(1)

        def pause() -> None:
            if next(pauses) == 3:
                raise KeyboardInterrupt

        watch(lambda: next(looks), show, pause, itertools.count(100, 2).__next__)

    return run


def test_each_look_has_the_rates_since_the_one_before_and_ctrl_c_ends_it(watched):
    seen = []
    watched(lambda looked: seen.append(looked[0]["bytes_per_second"]))
    assert seen == [None, {"remote": 1 << 20}, {"remote": 2 << 20}]


def test_json_is_one_object_per_line(watched, capsys):
    with shown(as_json=True) as show:
        watched(show)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["mounts"][0]["bytes"]["remote"] for line in lines] == [0, 2 << 20, 6 << 20]
    assert all(line["time"] > 0 for line in lines)


def test_off_a_terminal_each_look_adds_a_plain_line(watched, capsys):
    with shown(as_json=False) as show:
        watched(show)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert [line.split(" ", 1)[1] for line in out.splitlines()] == [
        "/m: ok",
        "/m: ok; from the store 1 MiB/s",
        "/m: ok; from the store 2 MiB/s",
    ]
