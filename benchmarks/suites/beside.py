"""The suite ``p2``: the same cold load through other mounts, as far as they are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import peers
from benchmarks.bench import HOWS
from benchmarks.report import Row, ratio_row
from benchmarks.suites.cold import cold_name, load_cold

if TYPE_CHECKING:
    from benchmarks.bench import Bench


def run(bench: Bench) -> None:
    """P2: the same cold loads through rclone and s3fs, as far as they are installed."""
    for how in HOWS:
        if len(bench.rounds.get(cold_name(how), ())) < bench.number:  # P1 of this round has it already
            load_cold(bench, how)
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


def rows(bench: Bench) -> list[Row]:
    """P2, beside the faster of rclone's two ways."""
    rows = []
    for how in HOWS:
        ours = bench.rates(cold_name(how))[-len(bench.rounds[cold_name(how)]) :]
        modes = [f"rclone, cache {mode}, {how}" for mode in ("full", "off")]
        measured = [bench.rates(name) for name in modes if len(bench.rounds.get(name, ())) == len(ours)]
        if measured:
            best = [max(rates) for rates in zip(*measured, strict=True)]
            rows.append(ratio_row(f"P2 cold {how} / rclone", ours, best, ">= 2"))
        if len(bench.rounds.get(f"s3fs, {how}", ())) == len(ours):
            rows.append(ratio_row(f"P2 cold {how} / s3fs", ours, bench.rates(f"s3fs, {how}"), ">= 2"))
    return rows
