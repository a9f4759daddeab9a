"""What a suite is: one group of variants, and what their rounds say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench
    from benchmarks.report import Row


@dataclass(frozen=True, slots=True)
class Suite:
    """One group of variants."""

    run: Callable[[Bench], None]
    """Runs every variant once."""
    rows: Callable[[Bench], list[Row]]
    """What the rounds so far say."""
