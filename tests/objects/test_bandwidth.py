"""A limit on bytes a second: reads wait for their turn, and nobody waits without one."""

from __future__ import annotations

import threading

import pytest

from tigrismount.objects.bandwidth import Bandwidth

MB = 1_000_000


class _Time:
    def __init__(self) -> None:
        self.now_s = 0.0

    def sleep(self, wait_s: float) -> None:
        self.now_s += wait_s


def test_reads_take_as_long_as_the_limit_says() -> None:
    time = _Time()
    bandwidth = Bandwidth(10 * MB, lambda: time.now_s, time.sleep)
    for _ in range(100):
        bandwidth.spend(MB)
    assert time.now_s == pytest.approx(10, abs=0.11)


def test_a_pause_is_not_made_up_for() -> None:
    time = _Time()
    bandwidth = Bandwidth(10 * MB, lambda: time.now_s, time.sleep)
    bandwidth.spend(MB)
    time.now_s = 1000
    for _ in range(10):
        bandwidth.spend(MB)
    assert time.now_s == pytest.approx(1001, abs=0.11)


def test_without_a_limit_nobody_waits() -> None:
    Bandwidth(None, sleep=pytest.fail).spend(1 << 40)


def test_who_waits_is_let_go_at_the_end() -> None:
    bandwidth = Bandwidth(1)
    waiting = threading.Thread(target=bandwidth.spend, args=(1000,))
    waiting.start()
    bandwidth.close()
    waiting.join(30)
    assert not waiting.is_alive()
