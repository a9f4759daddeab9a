"""What all suites share: one store, one model, one scratch directory, and the books of what was measured."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import subprocess
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import report
from benchmarks.loads import finished, start
from benchmarks.measuring import Measurement
from benchmarks.mounts import Mount, drop_page_cache, mounted, warm_memory
from benchmarks.peer import Installed, PeerFailedError, Place, mounted_peer
from benchmarks.store import BUCKET, PREFIX, SCATTER_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from benchmarks.jobs import Job
    from benchmarks.store import Store
    from tigrismount.demo.model import Model

HOWS = ("mmap", "read")
"""The two ways in which loaders take tensors."""
LIMIT_S_PER_GIB = 120.0
"""A load below 9 MB/s, as one way of one peer has it, is given up: it would make an hour of what is said in a line."""
LEAST_LIMIT_S = 30.0
"""So is a small one after as long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured besides the loads of the model."""

    size_bytes: int = 0
    """What the model was planned for."""
    peers: Sequence[Installed] = ()
    """Other mounts to compare with."""
    all_ways: bool = True
    """Whether to measure every way to tune a peer, or the first alone."""
    fio_jobs: Sequence[tuple[Job, float]] = ()
    """Published jobs, each with its most seconds."""
    keys: int = 0
    """Keys of the large directory."""


class Bench:
    """One endpoint, one model, one scratch directory on the cache disk.

    Args:
        store: Where it is served.
        model: What it serves.
        disk: Scratch directory on the cache disk.
        jobs: GETs in flight of the plain download.
        flags: Further flags of ``mount``.
        tls: Whether everything goes over TLS.
        plan: What is measured with it.
    """

    def __init__(
        self,
        store: Store,
        model: Model,
        disk: Path,
        jobs: int,
        flags: Sequence[str],
        *,
        tls: bool = False,
        plan: Plan | None = None,
    ) -> None:
        self.store = store
        self.endpoint_url = store.tls_url if tls else store.url
        self.model = model
        self.shards = [shard.name for shard in model.shards]
        self.size_bytes = model.tensor_bytes
        self.disk = disk
        self.jobs = jobs
        self.flags = flags
        self.plan = plan or Plan()
        self.number = 0
        """The round; seeds of random offsets are made from it."""
        self.rounds: dict[str, list[Measurement]] = {}
        self.values: dict[str, list[float]] = {}
        """Counts and shares that are no times."""
        self.counters: dict[str, list[dict[str, int]]] = {}
        """What the mount counted while a variant ran."""
        self.notes: list[str] = []
        """What is missing, and versions of what was compared with."""
        self.completed: set[str] = set()
        """Suites that ran at least once."""
        self.failures: dict[str, str] = {}
        """Why a suite was given up, by its name."""
        self.commands: dict[str, str] = {}
        """Commands that mount and read, by what they are called; the last of each."""
        self._broken: set[str] = set()
        """Peers that failed once."""

    def rates(self, name: str) -> list[float]:
        """Return the rates of a variant, one per round."""
        return [measurement.rate_mb_s for measurement in self.rounds[name]]

    def seconds(self, name: str) -> list[float]:
        """Return the times of a variant, one per round."""
        return [measurement.seconds for measurement in self.rounds[name]]

    def costs(self, name: str) -> list[float]:
        """Return the CPU seconds per GiB of a variant, one per round."""
        return [report.cost_s_per_gib(measurement) for measurement in self.rounds[name]]

    def mounted(self, cache: Path, *, prefix: str = PREFIX, flags: Sequence[str] = ()) -> AbstractContextManager[Mount]:
        """Mount the model, or another *prefix* of the bucket, with a cache directory and further *flags*."""
        source = f"s3://{BUCKET}/{prefix}"
        return mounted(source, self.disk / "mount", self.endpoint_url, cache, [*self.flags, *flags])

    def ways(self) -> list[tuple[Installed, str]]:
        """Return each way of each peer that is to be measured."""
        most = None if self.plan.all_ways else 1
        return [(installed, variant) for installed in self.plan.peers for variant in installed.peer.variants[:most]]

    def with_peer(self, installed: Installed, variant: str, prefix: str, work: Callable[[Path], None]) -> None:
        """Run *work* on a peer's mount of *prefix*; one that fails is noted and left alone from then on."""
        label = installed.label(variant)
        if label in self._broken:
            return
        place = Place(self.endpoint_url, BUCKET, prefix, self.disk / "peer", self.disk / "peer-cache")
        self.commands[label] = shlex.join(installed.peer.command(installed.executable, place, variant))
        try:
            with mounted_peer(installed, place, variant) as directory:
                work(directory)
        except (PeerFailedError, subprocess.SubprocessError) as exc:
            self._broken.add(label)
            self.note(f"{label}: {exc}")

    @contextlib.contextmanager
    def at(self, endpoint_url: str) -> Iterator[None]:
        """Use another endpoint of the store for a while."""
        before, self.endpoint_url = self.endpoint_url, endpoint_url
        try:
            yield
        finally:
            self.endpoint_url = before

    def empty_cache(self) -> Path:
        """Return a cache directory with nothing in it."""
        cache = self.disk / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        return cache

    def download(self, name: str, what: str, *, to_files: bool) -> None:
        """Run one of the plain downloads."""
        directory = self.disk / "plain"
        arguments = ["--endpoint-url", self.endpoint_url, "--bucket", BUCKET, "--jobs", str(self.jobs)]
        if to_files:
            directory.mkdir()
            arguments += ["--directory", str(directory)]
        self.measure(name, what, *(f"{PREFIX}/{shard}" for shard in self.shards), *arguments)
        shutil.rmtree(directory, ignore_errors=True)

    def load(
        self,
        name: str,
        directory: Path,
        how: str,
        *,
        together: int = 1,
        most_bytes: int = 0,
        on_warm_pages: bool = False,
    ) -> None:
        """Load the model from *directory* in one or several processes that start together."""
        arguments = ["load", *(str(directory / shard) for shard in self.shards)]
        arguments += ["--how", how, "--most-bytes", str(most_bytes)]
        self.measure(name, *arguments, together=together, on_warm_pages=on_warm_pages)

    def counted(self, name: str, mount: Mount, work: Callable[[], None]) -> dict[str, int]:
        """Run *work* and return what the mount counted meanwhile, daemon CPU until its blocks are on disk included."""
        before, cpu_before_s = counters_of(mount.status()), mount.cpu_seconds()
        work()
        mount.wait_until_cached(self.size_bytes)  # what is still on its way to the disk is part of the price
        cpu_s = mount.cpu_seconds() - cpu_before_s
        after = counters_of(mount.status())
        counted = {key: after[key] - before[key] for key in after}
        self.counters.setdefault(name, []).append(counted)
        last = self.rounds[name][-1]
        self.record(f"daemon: {name}", Measurement(last.seconds, last.size_bytes, cpu_s), quiet=True)
        return counted

    def measure(self, name: str, *arguments: str, together: int = 1, on_warm_pages: bool = False) -> None:
        """Run a variant in processes of its own, on warm memory and, unless told otherwise, cold pages."""
        if not on_warm_pages:
            self.settle()
        limit_s = max(LEAST_LIMIT_S, LIMIT_S_PER_GIB * self.size_bytes / 2**30)
        found = [finished(process, limit_s) for process in [start(*arguments) for _ in range(together)]]
        slowest_s = max(measurement.seconds for measurement in found)
        total_bytes = sum(measurement.size_bytes for measurement in found)
        self.record(name, Measurement(slowest_s, total_bytes, sum(measurement.cpu_s for measurement in found)))

    def settle(self, memory_bytes: int = 0) -> None:
        """Leave no pages and warm memory to what runs next.

        Args:
            memory_bytes: How much; 0 is room for the model in pages, buffers and the loader.
        """
        drop_page_cache([])
        warm_memory(memory_bytes or 3 * self.size_bytes)

    def record(self, name: str, measurement: Measurement, *, quiet: bool = False) -> None:
        """Book a measurement."""
        self.rounds.setdefault(name, []).append(measurement)
        if quiet:
            return
        rate = f"{measurement.rate_mb_s:7.0f} MB/s {report.cost_s_per_gib(measurement):5.2f} CPU s/GiB"
        is_rate = measurement.size_bytes >= report.RATE_BYTES
        print(f"  {name:34} {measurement.seconds:7.3f} s {rate if is_rate else ''}", flush=True)

    def value(self, name: str, value: float, *, quiet: bool = False) -> None:
        """Book a count or a share."""
        self.values.setdefault(name, []).append(value)
        if not quiet:
            print(f"  {name:34} {value:7.3f}", flush=True)

    def attempt(self, name: str, run: Callable[[Bench], None]) -> None:
        """Run a suite; one that fails leaves nothing of this round, says why, and is given up."""
        if name in self.failures:
            return
        books: tuple[dict[str, list[Any]], ...] = (self.rounds, self.values, self.counters)
        before = [{key: len(found) for key, found in book.items()} for book in books]
        try:
            run(self)
            self.completed.add(name)
        except Exception as exc:  # noqa: BLE001 -- whatever it is, the other suites shall run
            traceback.print_exc()
            self.failures[name] = f"round {self.number}: {type(exc).__name__}: {exc}"
            for book, lengths in zip(books, before, strict=True):
                for key in list(book):
                    del book[key][lengths.get(key, 0) :]
                    if not book[key]:
                        del book[key]

    def note(self, text: str) -> None:
        """Book a remark, once."""
        if text not in self.notes:
            self.notes.append(text)


def counters_of(status: dict[str, Any]) -> dict[str, int]:
    """Return the counters of one mount that explain a time."""
    hits = status["hits"]
    return {
        "gets": status["requests"]["get"],
        "retries": status["requests"]["retries"],
        "fetched_bytes": status["bytes"]["remote"] - status["cache"]["refetched_bytes"],
        "refetched_bytes": status["cache"]["refetched_bytes"],
        "pushed_bytes": status["bytes"]["pushed"],
        "nvme_bytes": status["bytes"]["nvme"],
        "fuse_reads": hits["memory"] + hits["joined"] + hits["missed"],
        "reads_that_waited": hits["joined"] + hits["missed"],
    }


def scatter_path(mount: Mount) -> str:
    """Return where a mount of the scattered file's prefix has it."""
    return str(mount.mountpoint / SCATTER_KEY.rpartition("/")[2])
