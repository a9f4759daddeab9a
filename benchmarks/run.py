"""``python -m benchmarks.run``: the rounds.

Each round runs every variant once, one after the other, so that neighbours in time are compared; what the machine does
besides then hits all of them. Ratios are taken per round, and the table shows their medians.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import report
from benchmarks.loads import Measurement, in_own_process
from benchmarks.mounts import CommandFailedError, Mount, drop_page_cache, mounted, warm_memory
from benchmarks.store import BUCKET, PREFIX, StoreUnavailableError, embedded_store, nginx_store
from tigrismount.config.units import parse_seconds, parse_size_bytes
from tigrismount.demo.model import plan_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from tigrismount.demo.model import Model

FOREIGN = ("AWS_", "TIGRIS_", "TIGRISMOUNT_")
"""Variables that would send us to another store, or change what is measured."""
# Neither store checks signatures here, but boto3 wants to make one.
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret", "NO_PROXY": "127.0.0.1"}

Rounds = dict[str, list[Measurement]]


class Bench:
    """One endpoint, one model, one scratch directory on the cache disk.

    Args:
        endpoint_url: The store.
        model: What it serves.
        disk: Scratch directory on the cache disk.
        jobs: GETs in flight of the plain download.
        flags: Further flags of ``mount``.
    """

    def __init__(self, endpoint_url: str, model: Model, disk: Path, jobs: int, flags: Sequence[str]) -> None:
        self.endpoint_url = endpoint_url
        self.shards = [shard.name for shard in model.shards]
        self.size_bytes = model.tensor_bytes
        self.disk = disk
        self.jobs = jobs
        self.flags = flags
        self.rounds: Rounds = {}
        self.fetched: list[float] = []
        self.fetched_again: list[float] = []

    def run_round(self) -> None:
        """Run every variant once: download, cold and warm mount, and the cache disk by itself."""
        cache = self.disk / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        self._download("download, bytes dropped", None)
        plain = self.disk / "plain"
        plain.mkdir()
        self._download("download to a file", plain)
        shutil.rmtree(plain)
        with self._mounted(cache) as mount:
            self._load("mount, cold", "daemon, cold", mount)
            self.fetched.append(mount.status()["bytes"]["remote"] / self.size_bytes)
        # A new process: nothing in the daemon's memory, nothing in the kernel's.
        with self._mounted(cache) as mount:
            self._load("mount, warm NVMe", "daemon, warm NVMe", mount)
            self.fetched_again.append(mount.status()["bytes"]["remote"] / self.size_bytes)
        files = cached_shards(cache, len(self.shards))
        for name, how in (("cache files, same loader", "load"), ("cache files, O_DIRECT", "read")):
            drop_page_cache(files)
            self._warm_memory()
            self._record(name, in_own_process(how, *map(str, files)))

    def rows(self) -> list[report.Row]:
        """Return what the rounds so far say."""
        rate = {name: [m.rate_mb_s for m in measured] for name, measured in self.rounds.items()}
        cost = {name: [report.cost_s_per_gib(m) for m in measured] for name, measured in self.rounds.items()}
        return [
            report.ratio_row("cold load / plain download", rate["mount, cold"], rate["download to a file"], ">= 0.90"),
            report.ratio_row(
                "warm NVMe load / same load of the cache files",
                rate["mount, warm NVMe"],
                rate["cache files, same loader"],
                ">= 0.90",
            ),
            report.value_row("daemon CPU s/GiB, cold, disk cache", cost["daemon, cold"], "<= 1.1"),
            report.value_row("daemon CPU s/GiB, warm NVMe", cost["daemon, warm NVMe"], "<= 0.45"),
            report.value_row("bytes fetched / model, cold", self.fetched, "<= 1.01"),
            report.value_row("bytes fetched / model, after remount", self.fetched_again, "0"),
        ]

    def _mounted(self, cache: Path) -> AbstractContextManager[Mount]:
        return mounted(f"s3://{BUCKET}/{PREFIX}", self.disk / "mount", self.endpoint_url, cache, self.flags)

    def _download(self, name: str, directory: Path | None) -> None:
        arguments = ["--endpoint-url", self.endpoint_url, "--bucket", BUCKET, "--jobs", str(self.jobs)]
        if directory is not None:
            arguments += ["--directory", str(directory)]
        self._warm_memory()
        self._record(name, in_own_process("download", *(f"{PREFIX}/{shard}" for shard in self.shards), *arguments))

    def _load(self, name: str, daemon: str, mount: Mount) -> None:
        drop_page_cache([])
        self._warm_memory()
        cpu_before_s = mount.cpu_seconds()
        loaded = in_own_process("load", *(str(mount.mountpoint / shard) for shard in self.shards))
        self._record(name, loaded)
        mount.wait_until_cached(self.size_bytes)  # what is still on its way to the disk is part of the price
        cpu_s = mount.cpu_seconds() - cpu_before_s
        self._record(daemon, Measurement(loaded.seconds, loaded.size_bytes, cpu_s))

    def _warm_memory(self) -> None:
        """Give every variant the same memory: room for the model in the page cache, in buffers and in the loader."""
        warm_memory(3 * self.size_bytes)

    def _record(self, name: str, measurement: Measurement) -> None:
        self.rounds.setdefault(name, []).append(measurement)
        cost = f"{report.cost_s_per_gib(measurement):5.2f} CPU s/GiB"
        print(f"  {name:25} {measurement.seconds:6.2f} s {measurement.rate_mb_s:6.0f} MB/s {cost}", flush=True)


def cached_shards(cache: Path, count: int) -> list[Path]:
    """Return the cache's copies of the shards: its *count* largest object files."""
    return sorted(cache.glob("objects/*/*"), key=lambda path: path.stat().st_size)[-count:]


def prepare_environment() -> None:
    """Leave nothing in the environment that would lead a child elsewhere."""
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    os.environ.update(ENVIRONMENT)


def parsed_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of 256 MiB: a look, not a result")
    parser.add_argument("--rounds", type=int, default=3, help="how often each variant runs (3)")
    parser.add_argument("--size", type=parse_size_bytes, default=1 << 30, help="size of the model (1GiB)")
    parser.add_argument("--rate", type=parse_size_bytes, default=80_000_000, help="bytes/s per connection (80MB)")
    parser.add_argument("--latency", type=parse_seconds, default=0.02, help="time to the first byte (20ms)")
    parser.add_argument("--jobs", type=int, default=32, help="GETs in flight of the plain download (32, as the mount)")
    parser.add_argument("--directory", default="/var/tmp", help="scratch space on the cache disk (/var/tmp)")
    parser.add_argument("--embedded", action="store_true", help="use the demo's S3 server in place of nginx")
    parser.add_argument("flags", nargs="*", help="further flags of mount, after --")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.size = 1, 256 << 20
    return arguments


def main() -> int:
    """Run the benchmarks and print what they say."""
    arguments = parsed_arguments()
    prepare_environment()
    model = plan_model(arguments.size)
    nginx = nginx_store(model, rate_bytes_s=arguments.rate, latency_s=arguments.latency)
    with tempfile.TemporaryDirectory(prefix="tigrismount-bench-", dir=arguments.directory) as disk:
        (Path(disk) / "mount").mkdir()
        try:
            with embedded_store(model) if arguments.embedded else nginx as endpoint_url:
                bench = Bench(endpoint_url, model, Path(disk), arguments.jobs, arguments.flags)
                for number in range(1, arguments.rounds + 1):
                    print(f"round {number} of {arguments.rounds}, {bench.size_bytes / 2**20:.0f} MiB", flush=True)
                    bench.run_round()
        except StoreUnavailableError as exc:
            print(f"bench: {exc}, or add --embedded", file=sys.stderr)
            return 1
        except CommandFailedError as exc:
            print(f"bench: {exc}", file=sys.stderr)
            return 1
    report.show(bench.rounds, bench.rows())
    print(f"saved to {report.save(bench.rounds, bench.rows())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
