from __future__ import annotations

import mmap

import pytest

from tigrismount.blocks.pages import HUGE_BYTES, SLOW_S, SMALL_BUFFERS, Pages

POPULATE_WRITE = 23


class Kernel:
    """Notes advice and lets filling in a huge page take a while."""

    def __init__(self, huge_page_s: float) -> None:
        self.huge_page_s = huge_page_s
        self.now_s = 0.0
        self.advice: list[int] = []
        self.refused: set[int] = set()

    def advise(self, memory: mmap.mmap, advice: int, *_range: int) -> None:
        self.advice.append(advice)
        if advice in self.refused:
            raise OSError(22, "Invalid argument")
        if advice == POPULATE_WRITE:
            self.now_s += self.huge_page_s

    def pages(self) -> Pages:
        return Pages(self.advise, lambda: self.now_s)


def test_buffers_are_of_huge_pages_where_those_are_cheap():
    kernel = Kernel(SLOW_S / 10)
    pages = kernel.pages()
    for _ in range(3):
        assert len(pages.map(HUGE_BYTES)) == HUGE_BYTES
    assert kernel.advice == 3 * [mmap.MADV_HUGEPAGE, POPULATE_WRITE]


def test_they_are_of_small_ones_for_a_while_where_a_huge_one_was_dear():
    kernel = Kernel(2 * SLOW_S)
    pages = kernel.pages()
    for _ in range(1 + SMALL_BUFFERS):
        pages.map(HUGE_BYTES)
    assert kernel.advice == [mmap.MADV_HUGEPAGE, POPULATE_WRITE, mmap.MADV_NOHUGEPAGE]

    kernel.huge_page_s = 0.0
    pages.map(HUGE_BYTES)
    pages.map(HUGE_BYTES)
    assert kernel.advice[3:] == 2 * [mmap.MADV_HUGEPAGE, POPULATE_WRITE]


@pytest.mark.parametrize("refused", [mmap.MADV_HUGEPAGE, POPULATE_WRITE])
def test_a_kernel_that_knows_no_such_advice_gives_memory_all_the_same(refused):
    kernel = Kernel(0.0)
    kernel.refused.add(refused)
    assert len(kernel.pages().map(HUGE_BYTES)) == HUGE_BYTES


def test_small_buffers_are_left_alone():
    kernel = Kernel(2 * SLOW_S)
    assert len(kernel.pages().map(HUGE_BYTES // 2)) == HUGE_BYTES // 2
    assert kernel.advice == []


def test_real_memory_can_be_written():
    memory = Pages().map(2 * HUGE_BYTES)
    memory[:] = b"x" * len(memory)
    assert memory[-1] == ord("x")
