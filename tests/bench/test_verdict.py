from __future__ import annotations

import pytest

from tigrismount.bench.verdict import (
    COLD,
    DISK,
    DOWNLOAD,
    WARM,
    Measured,
    advice,
    caveats,
    curve,
    ratios,
    sparkline,
)

GB = 10**9


def measured(cold: float, download: float, warm: float, disk: float, size_bytes: int = GB) -> list[Measured]:
    """Make measurements from rates in GB/s."""
    rates = {COLD: cold, WARM: warm, DOWNLOAD: download, DISK: disk}
    return [Measured(name, size_bytes / GB / rate, size_bytes) for name, rate in rates.items()]


def test_the_mount_is_compared_with_what_bounds_it():
    assert ratios(measured(0.9, 1, 2, 4)) == {"cold": 0.9, "warm": 0.5}


@pytest.mark.parametrize(
    ("rates", "cores", "word"),
    [
        ((1, 1, 3, 3), 16, "as fast as what it stands on"),
        ((0.5, 1, 3, 3), 16, "slower than a download"),
        ((0.5, 1, 3, 3), 2, "processor"),
        ((1, 1, 1, 3), 16, "read-ahead"),
        ((1, 1, 0.5, 0.5), 16, "--cache-dir on NVMe"),
        ((0.05, 0.05, 1, 3), 16, "network is the limit"),
        ((0.5, 1, 3, 3, 1 << 20), 16, "too little to judge"),
    ],
)
def test_the_advice_names_what_limits(rates, cores, word):
    assert word in advice(measured(*rates), cores)


def test_it_says_why_its_figures_may_say_less_than_they_seem_to():
    assert caveats(measured(1, 1, 1, 1), 16, is_whole=True) == []
    small, cores, end = caveats(measured(1, 1, 1, 1, 1 << 20), 2, is_whole=False)
    assert "1 MiB is a small sample" in small
    assert "2 cores" in cores
    assert "--prefetch off" in end
    [again] = caveats([*measured(1, 1, 1, 1), Measured(WARM, 1, 1, fetched_bytes=1 << 20)], 16, is_whole=True)
    assert "1 MiB of the reading from the cache came from the store" in again


def test_a_curve_holds_every_byte_and_the_last_moment():
    each = Measured(COLD, 4.0, 40, ((0.5, 10), (4.0, 30)))
    assert curve(each, points=4) == [10, 0, 0, 30]
    assert curve(Measured(DISK, 4.0, 40), points=4) == []


def test_a_sparkline_has_a_bar_per_rate():
    assert sparkline([0, 50, 100, 200], 100) == "▁▅██"
    assert sparkline([0, 0], 0) == "▁▁"
