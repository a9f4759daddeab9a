"""What measurements say: rates, ratios, a curve in one line of text, and one line of advice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tigrismount.config.units import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

COLD, DOWNLOAD, WARM, DISK = "mount, cold", "plain download", "mount, from the cache", "cache disk, raw"
"""What is measured. The first two are compared, and so are the last two."""
_LEVELS = "▁▂▃▄▅▆▇█"
_GOOD = 0.9
"""A mount that reaches so much of what bounds it leaves nothing worth looking for."""
_SMALL_BYTES = 128 << 20
"""A smaller sample measures how things begin."""
_FEW_CORES = 4
"""With fewer, the reader, the daemon and the kernel take turns."""
_SLOW_BYTES_S = 100e6
"""Below a gigabit a second the network decides, whatever a mount does."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One way to get the sample's bytes."""

    name: str
    seconds: float
    size_bytes: int
    pieces: tuple[tuple[float, int], ...] = ()
    """When how many bytes came."""
    fetched_bytes: int = 0
    """Bytes that the store sent for it."""

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.size_bytes / max(self.seconds, 1e-9)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        facts = {
            "name": self.name,
            "seconds": round(self.seconds, 4),
            "bytes": self.size_bytes,
            "fetched_bytes": self.fetched_bytes,
        }
        return {**facts, "bytes_per_second": int(self.rate), "curve": [int(rate) for rate in curve(self)]}


def ratios(measured: Sequence[Measured]) -> dict[str, float]:
    """Return the mount's rates by those that bound them: ``cold`` by the download, ``warm`` by the disk."""
    rates = {each.name: each.rate for each in measured}
    pairs = {"cold": (COLD, DOWNLOAD), "warm": (WARM, DISK)}
    return {name: round(rates[a] / rates[b], 3) for name, (a, b) in pairs.items() if a in rates and rates.get(b)}


def curve(measured: Measured, points: int = 16) -> list[float]:
    """Return bytes per second over time, at so many points."""
    step_s = max(measured.seconds, 1e-9) / points
    sums = [0.0] * points
    for at_s, size_bytes in measured.pieces:
        sums[min(points - 1, int(at_s / step_s))] += size_bytes
    return [size_bytes / step_s for size_bytes in sums] if measured.pieces else []


def sparkline(rates: Sequence[float], highest: float) -> str:
    """Return rates as a line of little bars.

    Args:
        rates: Over time.
        highest: What a full bar means.
    """
    top = len(_LEVELS) - 1
    return "".join(_LEVELS[min(top, round(top * rate / highest))] if highest > 0 else _LEVELS[0] for rate in rates)


def caveats(measured: Sequence[Measured], cores: int, *, is_whole: bool) -> list[str]:
    """Return why the figures may say less than they seem to."""
    sample_bytes = measured[0].size_bytes
    found = []
    if sample_bytes < _SMALL_BYTES:
        found.append(f"{format_size(sample_bytes)} is a small sample: it shows how a load begins, not how it goes on")
    if cores < _FEW_CORES:
        found.append(f"{cores} cores: reader, daemon and kernel share them, so the ratios are lower than a load's")
    again_bytes = sum(each.fetched_bytes for each in measured if each.name == WARM)
    if again_bytes:
        found.append(f"{format_size(again_bytes)} of the reading from the cache came from the store all the same")
    if not is_whole:
        found.append("no object fits --size: the end of the largest was read, with --prefetch off")
    return found


def advice(measured: Sequence[Measured], cores: int) -> str:
    """Return what to do, in one line."""
    found, rates = ratios(measured), {each.name: each.rate for each in measured}
    if measured[0].size_bytes < _SMALL_BYTES:
        return f"too little to judge by: take a --size of {format_size(4 * _SMALL_BYTES)} or more, of larger objects"
    if rates.get(DOWNLOAD, _SLOW_BYTES_S) < _SLOW_BYTES_S:
        return "the network is the limit: run nearer to the bucket, and fill the cache with 'tigrismount warm'"
    if cores < _FEW_CORES and min(found.values(), default=1) < _GOOD:
        return f"the processor is the likely limit: measure again with more than {cores} cores"
    if found.get("cold", 1) < _GOOD:
        return "the mount is slower than a download: 'tigrismount loads' says what it waits for, 'doctor' what to set"
    if rates.get(DISK, 0) and rates[DISK] < rates.get(DOWNLOAD, 0):
        return "the cache disk is slower than the network: put --cache-dir on NVMe"
    if found.get("warm", 1) < _GOOD:
        return "the disk could give more than the mount took: see 'tigrismount doctor' for kernel read-ahead"
    return "the mount is as fast as what it stands on; 'tigrismount warm' makes the first load as fast as the second"
