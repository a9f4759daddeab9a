"""The suite ``p10``: ``ls -l`` of a large directory beside paging through its keys, and the same again while fresh.

``ls -l`` asks for every name, its attributes and, on most systems, its extended attributes. Its comparison is what a
program pays that pages with boto3; bare requests, whose answers nobody parses, show how much of that is the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.report import Row, ratio_row, value_row
from benchmarks.store import BUCKET, MANY_PREFIX

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.mounts import Mount

_RAW, _BARE = "ListObjectsV2, boto3", "ListObjectsV2, bare"
_FIRST, _AGAIN = "ls -l", "ls -l, again while fresh"
_REQUESTS = "P10 requests of ls -l again while fresh"


def run(bench: Bench) -> None:
    """Page through the keys in both ways, then list the directory twice."""
    if not bench.plan.keys:
        bench.note("p10: its listing is served by nginx alone")
        return
    store = ["--endpoint-url", bench.endpoint_url, "--bucket", BUCKET]
    bench.measure(_RAW, "list", f"{MANY_PREFIX}/", *store)
    bench.measure(_BARE, "list-bare", f"{MANY_PREFIX}/", *store)
    with bench.mounted(bench.empty_cache(), prefix=MANY_PREFIX) as mount:
        _list(bench, mount, _FIRST)
        bench.value("LISTs of ls -l", _requests(mount))
        before = _requests(mount)
        _list(bench, mount, _AGAIN)
        bench.value(_REQUESTS, _requests(mount) - before)


def _list(bench: Bench, mount: Mount, name: str) -> None:
    cpu_before_s = mount.cpu_seconds()
    bench.measure(name, "ls", str(mount.mountpoint), on_warm_pages=True)
    bench.value(f"daemon CPU s, {name}", mount.cpu_seconds() - cpu_before_s)
    found = bench.rounds[name][-1].size_bytes
    if found != bench.plan.keys:
        raise ValueError(f"ls -l shows {found} of {bench.plan.keys} names")


def _requests(mount: Mount) -> int:
    requests = mount.status()["requests"]
    return int(requests["list"] + requests["head"])


def rows(bench: Bench) -> list[Row]:
    """P10; all but the last are times."""
    if not bench.plan.keys:
        return []
    raw, first = bench.seconds(_RAW), bench.seconds(_FIRST)
    return [
        ratio_row(f"P10 ls -l of {bench.plan.keys:,} keys / paging by boto3", first, raw, "<= 1.3"),
        value_row(_REQUESTS, bench.values[_REQUESTS], "<= 0"),
        ratio_row("ls -l / bare paging, nothing parsed", first, bench.seconds(_BARE), "-"),
        ratio_row("ls -l again / ls -l", bench.seconds(_AGAIN), first, "-"),
        value_row("daemon CPU s of ls -l", bench.values[f"daemon CPU s, {_FIRST}"], "-"),
    ]
