"""The search on networks that are formulas: so many bytes a second and GET, by how many are out.

``tests/benchmarks/test_knee.py`` lets it run on networks in virtual time.
"""

from __future__ import annotations

import random

import pytest

from tigrismount.core.knee import START, KneeSearch, Mode

MB = 1_000_000
PART_BYTES = 8 * MB


class Formula:
    """GETs that take what a formula says, as many as the search wants, each cohort at once."""

    def __init__(self, search, get_s, *, scatter=0.0, seed=1):
        self.search, self.get_s, self.scatter = search, get_s, scatter
        self.now_s = 0.0
        self.draw = random.Random(seed)
        self.widths = []

    def run(self, rounds, *, share=1.0, size_bytes=PART_BYTES):
        for _ in range(rounds):
            width = self.search.width
            epochs = [self.search.sent() for _ in range(width)]
            seconds = self.get_s(width * share)
            self.now_s += seconds
            for epoch in epochs:
                took_s = seconds * self.draw.lognormvariate(0, self.scatter)
                self.search.ended(epoch, self.now_s, size_bytes, took_s, width * share)
            self.search.check_invariants()
            self.widths.append(self.search.width)
        return self.search.width


def knee_at(knee, get_s=0.1):
    """Return a formula: up to *knee* GETs do not disturb each other, more share."""
    return lambda width: get_s * max(1.0, width / knee)


def test_it_starts_with_a_usual_number_or_the_ceiling():
    assert KneeSearch(256).width == START
    assert KneeSearch(4).width == 4
    assert KneeSearch(256, 4).width == 4


def test_it_doubles_as_long_as_that_brings_more():
    search = KneeSearch(256)
    net = Formula(search, knee_at(1000))
    net.run(6)
    assert list(dict.fromkeys(net.widths))[:4] == [64, 128, 256]
    assert search.mode is Mode.HOLD


@pytest.mark.parametrize("knee", [1, 2, 3, 5, 8, 13, 30, 50, 100, 200])
def test_it_finds_a_knee_wherever_that_is(knee):
    net = Formula(KneeSearch(256), knee_at(knee))
    net.run(400)
    settled = sorted(net.widths[200:])
    middle = settled[len(settled) // 2]
    assert 0.9 * knee <= middle <= max(1.4 * knee, knee + 1), "nothing is lost, and few wait in line"


def test_it_gets_there_within_a_few_dozen_rounds():
    for knee in (3, 100):
        net = Formula(KneeSearch(256), knee_at(knee))
        net.run(40)
        assert 0.9 * knee <= net.search.width <= 2 * knee


def test_it_comes_to_rest():
    net = Formula(KneeSearch(256), knee_at(20))
    net.run(100)
    held = []
    for _ in range(600):
        net.run(1)
        held.append(net.search.mode is Mode.HOLD)
    assert sum(held) > 0.6 * len(held)


def test_noise_does_not_carry_it_away():
    for seed in range(5):
        net = Formula(KneeSearch(256), knee_at(20), scatter=0.3, seed=seed)
        net.run(500)
        assert 15 <= sorted(net.widths[100:])[200] <= 45


def test_it_follows_a_network_that_changes():
    knee = [20]
    net = Formula(KneeSearch(256), lambda width: 0.1 * max(1.0, width / knee[0]))
    net.run(200)
    knee[0] = 100
    net.run(400)
    assert net.search.width >= 85
    knee[0] = 10
    net.run(60)
    assert net.search.width <= 20


def test_what_is_sent_while_few_are_out_is_no_evidence():
    search = KneeSearch(256)
    Formula(search, lambda _: 0.1).run(100, share=0.5)
    assert (search.width, search.mode) == (START, Mode.START)


def test_a_try_without_evidence_ends_where_it_began():
    search = KneeSearch(256)
    net = Formula(search, knee_at(20))
    while search.mode is not Mode.TRY:
        net.run(1)
    held = search._held
    net.run(30, share=0.5)
    assert (search.width, search.mode) == (held, Mode.HOLD)


def test_a_load_that_ends_at_the_start_leaves_what_is_proven():
    search = KneeSearch(256)
    net = Formula(search, knee_at(1000))
    net.run(1)
    assert search.width == 64
    net.run(5, share=0.4)
    assert (search.width, search.mode) == (START, Mode.HOLD)


def test_short_gets_say_nothing():
    search = KneeSearch(256)
    net = Formula(search, knee_at(1000))
    net.run(1)
    assert search.width == 64
    net.run(1, size_bytes=PART_BYTES // 100)
    assert search.width == START, "no evidence for 64"


def test_where_gets_take_four_times_as_long_as_they_could_nothing_wider_is_tried():
    """Others share the bottleneck: a larger share for us would only be a longer line for all."""
    search = KneeSearch(256)
    alone = [True]
    others = 400.0
    net = Formula(search, lambda width: 0.1 if alone[0] else 0.1 * (width + others) / 50)
    net.run(2)
    alone[0] = False
    net.run(300)
    assert max(net.widths[20:]) <= 256
    assert net.search.width < 256
    assert not search._next_width() > search._held if search._wider else True


def test_where_the_bytes_come_from_further_away_it_is_soon_as_wide_as_at_the_start():
    """A bottleneck next to us taught it to be narrow; GETs that take fifteen times as long need not stand in line."""
    get_s = [knee_at(2, 0.02)]
    net = Formula(KneeSearch(256), lambda width: get_s[0](width))
    net.run(400)
    assert net.search.width <= 4
    get_s[0] = knee_at(100, 0.3)
    began_s = net.now_s
    while net.search.width < START and net.now_s - began_s < 60:
        net.run(1)
    assert net.search.width >= START
    net.run(100)
    assert START <= net.search.width < 2 * START, "beyond it the line may be that of others"


def test_a_refusal_ends_a_try_and_bounds_what_is_wanted():
    search = KneeSearch(256)
    net = Formula(search, knee_at(1000))
    net.run(1)
    assert search.width == 64
    search.refused(40.0, net.now_s)
    assert (search.width, search.mode) == (40, Mode.HOLD)
    search.refused(0.5, net.now_s)
    assert search.width == 1


def test_dropped_gets_do_not_hold_a_cohort_up():
    search = KneeSearch(256)
    for _ in range(3):
        for epoch in [search.sent() for _ in range(search.width)]:
            search.dropped(epoch, 0.0)
    assert search.mode is Mode.START
    assert search.width == START
