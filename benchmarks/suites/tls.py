"""The suite ``tls``: a cold load through the mount over TLS beside the same over plain HTTP, and beside a download."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.report import Row, ratio_row, value_row

if TYPE_CHECKING:
    from benchmarks.bench import Bench

HOW = "read"
"""How tensors are taken; what TLS costs lies on the other side of the daemon."""
SCHEMES = ("HTTP", "TLS")


def run(bench: Bench) -> None:
    """Download to files, and load cold, over each."""
    if not bench.store.tls_url:
        bench.note("TLS: absent, the store speaks HTTP alone")
        return
    for scheme, url in zip(SCHEMES, (bench.store.url, bench.store.tls_url), strict=True):
        with bench.at(url):
            bench.download(_download(scheme), "download-plain", to_files=True)
            _load_cold(bench, _load(scheme))


def _load_cold(bench: Bench, name: str) -> None:
    with bench.mounted(bench.empty_cache()) as mount:
        bench.counted(name, mount, lambda: bench.load(name, mount.mountpoint, HOW))


def rows(bench: Bench) -> list[Row]:
    """What TLS leaves of the rates, and what it costs the daemon."""
    if not bench.store.tls_url:
        return []
    loads, downloads = ([bench.rates(name(scheme)) for scheme in SCHEMES] for name in (_load, _download))
    return [
        ratio_row("cold over TLS / cold over HTTP", loads[1], loads[0], "-"),
        ratio_row("download over TLS / download over HTTP", downloads[1], downloads[0], "-"),
        ratio_row("cold over TLS / download over TLS", loads[1], downloads[1], ">= 0.90"),
        *(value_row(f"daemon CPU s/GiB, cold, {s}", bench.costs(f"daemon: {_load(s)}"), "-") for s in SCHEMES),
    ]


def _download(scheme: str) -> str:
    return f"download, plain, over {scheme}"


def _load(scheme: str) -> str:
    return f"mount, cold, {HOW}, over {scheme}"
