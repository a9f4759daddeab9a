"""Which of several places a thing belongs to: weighted rendezvous hashing.

Every place gets a score for the thing, from a hash of both and the place's weight; the highest wins. Nobody has to
remember anything: whoever knows the places and their weights gets the same answer. A place that goes away moves only
its own things, each to the place that was second for it; a new one takes its share from all others evenly.

Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998); the logarithmic score is from
Schindelhauer and Schomaker, "Weighted distributed hash tables" (2005): with u uniform in (0, 1), -weight / ln u.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def preference(name: bytes, weights: Mapping[str, float]) -> list[str]:
    """Return all places, the one where *name* belongs first.

    Args:
        name: The thing.
        weights: The places, and how much of everything each should get; positive.
    """
    return sorted(weights, key=lambda place: _score(name, place, weights[place]), reverse=True)


def _score(name: bytes, place: str, weight: float) -> float:
    text = place.encode("utf-8", "surrogateescape")
    hashed = hashlib.blake2b(len(text).to_bytes(4, "little") + text + name, digest_size=8).digest()
    # The upper 53 bits, in the middle of their interval: never 0 and never 1.
    uniform = ((int.from_bytes(hashed, "little") >> 11) + 0.5) / (1 << 53)
    return -weight / math.log(uniform)
