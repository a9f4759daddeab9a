"""Which order a loader takes tensors in, seen from where it jumps.

Most loaders follow the file. Some take tensors by the natural order of their names, where layer 2 comes before layer 10
and files have it the other way round; some go backwards. Within a run both look alike, the jumps tell them apart: a
jump from one tensor to exactly the one that an order has next is a point for that order. Kernel read-ahead runs on
behind the tensor that was read, so the tensor jumped from may be one of the few before the last byte read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tigrismount.core.layout import Layout

PROOF_JUMPS = 2
"""Jumps in a row that an order must explain: one may be chance where tensors are few."""
OVERRUN_TENSORS = 4
"""Tensors that kernel read-ahead may have run into behind the one that was read."""


class ObservedOrder:
    """The orders a loader may follow, and what speaks for each.

    Args:
        layout: The tensors.
        by_name: Their numbers in the natural order of their names.
    """

    def __init__(self, layout: Layout, by_name: Sequence[int]) -> None:
        backwards = tuple(reversed(range(len(layout.tensors))))
        self._layout = layout
        self._orders = [tuple(by_name), backwards]
        self._ranks = [{tensor: rank for rank, tensor in enumerate(order)} for order in self._orders]
        self._streaks = [0] * len(self._orders)
        self._points = [0] * len(self._orders)

    def jump(self, position: int, tensor: int) -> tuple[int, ...] | None:
        """Note a jump from byte *position* to the start of a tensor.

        Args:
            position: Last byte read before.
            tensor: Number of the tensor that is read now.

        Returns:
            All tensors in the order that the loader follows, once it is known; None before.
        """
        last = self._layout.index_at(position)
        if 0 <= tensor - last <= 1:
            return None  # the file's own order, and the comb's
        for number, ranks in enumerate(self._ranks):
            before = self._orders[number][ranks[tensor] - 1] if ranks[tensor] else None
            if before is None or not 0 <= last - before <= OVERRUN_TENSORS:
                self._streaks[number] = self._points[number] = 0
                continue
            self._streaks[number] += 1
            self._points[number] += 2 if last == before else 1  # without an overrun it is no coincidence
        best = max(range(len(self._orders)), key=self._points.__getitem__)
        if self._streaks[best] < PROOF_JUMPS or self._points.count(self._points[best]) > 1:
            return None
        return self._orders[best]
