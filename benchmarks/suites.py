"""The suites by name: each runs its variants once per round, and says in the end what they mean.

The names are those of the targets that every release is held to; what each compares is in docs/benchmarks.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import fill, peers, push
from benchmarks.bench import HOWS, Bench, scatter_path
from benchmarks.loads import RANGE_BYTES
from benchmarks.report import Row, ratio_row, value_row
from benchmarks.store import BUCKET, SCATTER_KEY, SCATTER_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DOWNLOADS = {"download, boto3": "download", "download, plain HTTP": "download-plain"}
READERS = 10
"""Processes that start together on one model."""
FIRST_BYTES = 24
"""Ranges whose first byte is asked for; at most one per block, and half of the smallest file."""
SCATTERED = 64
"""Pages read at random."""


@dataclass(frozen=True, slots=True)
class Suite:
    """One group of variants."""

    run: Callable[[Bench], None]
    """Runs every variant once."""
    rows: Callable[[Bench], list[Row]]
    """What the rounds so far say."""


# ------------------------------------------------------------------------------------------ cold beside a download


def run_cold(bench: Bench) -> None:
    """P1: downloads to files, and a cold mount for each kind of loader."""
    for name, what in DOWNLOADS.items():
        bench.download(name, what, to_files=True)
    for how in HOWS:
        _cold(bench, how)


def _cold(bench: Bench, how: str) -> None:
    with bench.mounted(bench.empty_cache()) as mount:
        name = f"mount, cold, {how}"
        counted = bench.counted(name, mount, lambda: bench.load(name, mount.mountpoint, how))
        bench.value(f"bytes fetched / model, {how}", counted["fetched_bytes"] / bench.size_bytes)


def cold_rows(bench: Bench) -> list[Row]:
    """P1, and what it cost."""
    best = [max(rates) for rates in zip(*(bench.rates(name) for name in DOWNLOADS), strict=True)]
    rows = [ratio_row(f"P1 cold {how} / best download", bench.rates(_name(how)), best, ">= 0.90") for how in HOWS]
    costs = [value_row(f"P5 daemon CPU s/GiB, cold {how}", _costs(bench, _name(how)), "<= 1.1") for how in HOWS]
    return rows + costs


def _name(how: str) -> str:
    return f"mount, cold, {how}"


def _costs(bench: Bench, name: str) -> list[float]:
    return bench.costs(f"daemon: {name}")


# ------------------------------------------------------------------------------------------------- cold beside peers


def run_peers(bench: Bench) -> None:
    """P2: the same cold loads through rclone and s3fs, as far as they are installed."""
    for how in HOWS:
        if len(bench.rounds.get(_name(how), ())) < bench.number:  # P1 of this round has it already
            _cold(bench, how)
        _rclone(bench, how)
        _s3fs(bench, how)


def _rclone(bench: Bench, how: str) -> None:
    binary = peers.rclone()
    if binary is None:
        bench.note("rclone: absent")
        return
    streams = f"{peers.STREAMS} streams" if peers.has_streams(binary) else "no streams: older than 1.70"
    bench.note(f"{peers.version(binary)}: {streams}")
    for mode in ("full", "off"):
        try:
            with peers.mounted_rclone(binary, bench.endpoint_url, bench.disk, cache_mode=mode) as mountpoint:
                bench.load(f"rclone, cache {mode}, {how}", mountpoint, how)
        except peers.PeerFailedError as exc:
            bench.note(str(exc))


def _s3fs(bench: Bench, how: str) -> None:
    binary = peers.s3fs()
    if binary is None:
        bench.note("s3fs: absent")
        return
    bench.note(peers.version(binary))
    try:
        with peers.mounted_s3fs(binary, bench.endpoint_url, bench.disk) as mountpoint:
            bench.load(f"s3fs, {how}", mountpoint, how)
    except peers.PeerFailedError as exc:
        bench.note(str(exc))


def peer_rows(bench: Bench) -> list[Row]:
    """P2, beside the faster of rclone's two ways."""
    rows = []
    for how in HOWS:
        ours = bench.rates(_name(how))[-len(bench.rounds[_name(how)]) :]
        modes = [f"rclone, cache {mode}, {how}" for mode in ("full", "off")]
        measured = [bench.rates(name) for name in modes if len(bench.rounds.get(name, ())) == len(ours)]
        if measured:
            best = [max(rates) for rates in zip(*measured, strict=True)]
            rows.append(ratio_row(f"P2 cold {how} / rclone", ours, best, ">= 2"))
        if len(bench.rounds.get(f"s3fs, {how}", ())) == len(ours):
            rows.append(ratio_row(f"P2 cold {how} / s3fs", ours, bench.rates(f"s3fs, {how}"), ">= 2"))
    return rows


# ------------------------------------------------------------------------------------------------- warm from the disk


def run_warm(bench: Bench) -> None:
    """P3: a new daemon on a full cache beside the same loader on the cache's own files."""
    cache = bench.empty_cache()
    with bench.mounted(cache) as mount:
        bench.load("filling the cache", mount.mountpoint, "read")
        mount.wait_until_cached(bench.size_bytes)
    files = cached_shards(cache, len(bench.shards))
    for how in HOWS:
        # A new process: nothing in the daemon's memory, nothing in the kernel's.
        with bench.mounted(cache) as mount:
            name = f"mount, warm NVMe, {how}"
            counted = bench.counted(name, mount, _loading(bench, name, mount.mountpoint, how))
            bench.value(f"bytes fetched / model, again, {how}", counted["fetched_bytes"] / bench.size_bytes)
        bench.measure(f"cache files, {how}", "load", *map(str, files), "--how", how)
    bench.measure("cache files, O_DIRECT", "read-disk", *map(str, files))


def _loading(bench: Bench, name: str, directory: Path, how: str) -> Callable[[], None]:
    return lambda: bench.load(name, directory, how)


def cached_shards(cache: Path, count: int) -> list[Path]:
    """Return the cache's copies of the shards: its *count* largest object files."""
    return sorted(cache.glob("objects/*/*"), key=lambda path: path.stat().st_size)[-count:]


def warm_rows(bench: Bench) -> list[Row]:
    """P3 and its cost."""
    rows = []
    for how in HOWS:
        name = f"mount, warm NVMe, {how}"
        files = bench.rates(f"cache files, {how}")
        rows.append(
            ratio_row(f"P3 warm NVMe {how} / same load of the cache files", bench.rates(name), files, ">= 0.90")
        )
        rows.append(value_row(f"P5 daemon CPU s/GiB, warm NVMe {how}", _costs(bench, name), "<= 0.45"))
    return rows


# ------------------------------------------------------------------------------------------------------- first bytes


def run_first_bytes(bench: Bench) -> None:
    """P6: one byte at a random place of a file, nothing cached, beside one plain GET of a page there."""
    seed, size = str(bench.number), str(bench.size_bytes)
    count = ["--count", str(min(FIRST_BYTES, max(bench.size_bytes // RANGE_BYTES // 2, 1))), "--seed", seed]
    store = ["--endpoint-url", bench.endpoint_url, "--bucket", BUCKET, "--size", size]
    bench.measure("plain GET of a page", "gets", SCATTER_KEY, *store, *count)
    for how in HOWS:
        with bench.mounted(bench.empty_cache(), prefix=SCATTER_PREFIX) as mount:
            name, path = f"first byte, {how}", scatter_path(mount)
            bench.counted(name, mount, _measuring(bench, name, "first-bytes", path, "--how", how, *count))


def _measuring(bench: Bench, name: str, *arguments: str) -> Callable[[], None]:
    return lambda: bench.measure(name, *arguments)


def first_byte_rows(bench: Bench) -> list[Row]:
    """P6: times, so less is better."""
    plain = bench.seconds("plain GET of a page")
    return [
        ratio_row(f"P6 first byte, {how} / plain GET", bench.seconds(f"first byte, {how}"), plain, "<= 1.2")
        for how in HOWS
    ]


# ---------------------------------------------------------------------------------------------------- amplification


def run_amplification(bench: Bench) -> None:
    """P7: what is fetched for a whole model, for the first half of its tensors, and for 64 pages of a large file."""
    needed, rounded = half_of(bench)
    for how in HOWS:
        with bench.mounted(bench.empty_cache()) as mount:
            name = f"whole model, {how}"
            counted = bench.counted(name, mount, _loading(bench, name, mount.mountpoint, how))
            bench.value(f"P7 whole model, {how}", counted["fetched_bytes"] / bench.size_bytes)
        with bench.mounted(bench.empty_cache()) as mount:
            name = f"half of the tensors, {how}"
            counted = bench.counted(name, mount, _half(bench, name, mount.mountpoint, how, needed))
            bench.value(f"P7 half of the tensors, {how}", counted["fetched_bytes"] / rounded)
        with bench.mounted(bench.empty_cache(), prefix=SCATTER_PREFIX) as mount:
            name, path = f"64 pages, {how}", scatter_path(mount)
            options = ["--how", how, "--seed", str(bench.number), "--count", str(SCATTERED)]
            counted = bench.counted(name, mount, _measuring(bench, name, "scatter", path, *options))
            bench.value(f"P7 blocks for 64 pages, {how}", counted["fetched_bytes"] / RANGE_BYTES)


def _half(bench: Bench, name: str, directory: Path, how: str, most_bytes: int) -> Callable[[], None]:
    return lambda: bench.load(name, directory, how, most_bytes=most_bytes)


def half_of(bench: Bench) -> tuple[int, int]:
    """Return the bytes of the first half of the tensors, and of the blocks that they and the headers touch."""
    needed, blocks = 0, 0
    for shard in bench.model.shards:
        header_bytes, stop = len(shard.header()), 0
        for tensor in shard.tensors:
            if needed >= bench.size_bytes // 2:
                break
            needed += tensor.size_bytes
            stop = header_bytes + tensor.start + tensor.size_bytes
        size_bytes = header_bytes + sum(tensor.size_bytes for tensor in shard.tensors)
        if stop:
            blocks += min(-(-stop // RANGE_BYTES) * RANGE_BYTES, size_bytes)
    return needed, blocks


def amplification_rows(bench: Bench) -> list[Row]:
    """P7, as counted by the mount."""
    targets = {"P7 whole model": "<= 1.01", "P7 half of the tensors": "<= 1.15", "P7 blocks for 64 pages": "<= 64"}
    return [
        value_row(f"{name}, {how}", bench.values[f"{name}, {how}"], target)
        for name, target in targets.items()
        for how in HOWS
    ]


# ------------------------------------------------------------------------------------------------ readers together


def run_together(bench: Bench) -> None:
    """P8: ten processes that load the whole model at the same time."""
    for how in HOWS:
        with bench.mounted(bench.empty_cache()) as mount:
            name = f"{READERS} readers together, {how}"
            counted = bench.counted(name, mount, _together(bench, name, mount.mountpoint, how))
            bench.value(f"P8 fetched / model, {how}", counted["fetched_bytes"] / bench.size_bytes)


def _together(bench: Bench, name: str, directory: Path, how: str) -> Callable[[], None]:
    return lambda: bench.load(name, directory, how, together=READERS)


def together_rows(bench: Bench) -> list[Row]:
    """P8, as counted by the mount."""
    return [
        value_row(f"P8 fetched / model, {how}", bench.values[f"P8 fetched / model, {how}"], "<= 1.01") for how in HOWS
    ]


SUITES = {
    "p1": Suite(run_cold, cold_rows),
    "p2": Suite(run_peers, peer_rows),
    "p3": Suite(run_warm, warm_rows),
    "p6": Suite(run_first_bytes, first_byte_rows),
    "p7": Suite(run_amplification, amplification_rows),
    "p8": Suite(run_together, together_rows),
    "push": Suite(push.run, push.rows),
    "warm": Suite(fill.run, fill.rows),
}
"""P5, the daemon's CPU, is counted by p1 and p3."""
