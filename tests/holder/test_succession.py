"""Which deaths get a successor."""

from __future__ import annotations

from tigrismount.holder.succession import DEATHS_MAX, DEATHS_WITHIN_S, Succession


def succession(**options: object) -> Succession:
    return Succession(**{"can_resend": True, "outage_max_s": 60.0, **options})


def test_a_death_gets_a_successor_at_once():
    these = succession()
    these.note_death(100.0, "was killed by SIGKILL")
    assert these.refusal(100.0) == ""
    assert (these.pause_s(), these.left_s(100.0)) == (0.0, 60.0)
    these.note_served()
    assert (these.count, these.reason) == (1, "was killed by SIGKILL")


def test_a_kernel_that_cannot_send_again_gets_none():
    these = succession(can_resend=False)
    these.note_death(100.0, "was killed by SIGKILL")
    assert "Linux 6.9" in these.refusal(100.0)


def test_failures_are_tried_again_with_growing_pauses_until_the_outage_is_too_long():
    these = succession()
    these.note_death(100.0, "x")
    pauses = []
    for now_s in (101.0, 102.0, 103.0, 104.0, 105.0, 106.0, 107.0):
        these.note_failure(now_s)
        pauses.append(these.pause_s())
        assert these.refusal(now_s) == ""
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert these.refusal(159.9) == ""
    assert these.refusal(160.0) == "no other worker came to serve within 60 s"


def test_a_successor_that_served_ends_the_outage_and_the_pauses():
    these = succession()
    these.note_death(100.0, "x")
    these.note_failure(150.0)
    these.note_served()
    these.note_death(161.0, "y")
    assert these.refusal(200.0) == ""
    assert these.pause_s() == 0.0


def test_an_outage_begins_with_the_first_that_is_known_of_it():
    these = succession()
    these.note_outage(100.0)
    these.note_outage(120.0)
    these.note_death(130.0, "x")
    assert these.left_s(130.0) == 30.0
    these.note_served()
    assert these.left_s(140.0) == 60.0


def test_twenty_kills_in_a_row_are_made_good():
    these = succession()
    for number in range(20):
        these.note_death(100.0 + number, "x")
        assert these.refusal(100.0 + number) == ""
        these.note_served()
    assert these.count == 20


def test_a_crash_loop_ends():
    these = succession()
    for _ in range(DEATHS_MAX):
        these.note_death(100.0, "x")
        assert these.refusal(100.0) == ""
        these.note_served()
    these.note_death(101.0, "x")
    assert these.refusal(101.0) == "31 workers ended within 300 s, so no other is started"


def test_deaths_long_ago_are_forgotten():
    these = succession()
    for number in range(10 * DEATHS_MAX):
        now_s = 100.0 + number * DEATHS_WITHIN_S / DEATHS_MAX
        these.note_death(now_s, "x")
        assert these.refusal(now_s) == ""
        these.note_served()
