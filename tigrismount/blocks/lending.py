"""Blocks lent to somebody outside the trio thread: complete, and their memory stays until they are given back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tigrismount.blocks.part import Block

LENT_SHARE = 4
"""Loans may hold one part in so many of the memory. Who has one may be waiting for a READ, and READs need memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Loan:
    """A complete block. Its bytes are those of its version and do not change while it is lent."""

    block: Block
    """Where it goes back to; not to be touched by the borrower."""
    start: int
    """First byte in the object."""
    view: memoryview
    """Its bytes."""

    @property
    def block_bytes(self) -> int:
        """Block size of its version."""
        return self.block.state.block_bytes
