"""A mount that is used for long does not grow: memory, descriptors, threads, tasks, tables, processes and the index.

Three mounts share a cache that holds less than what is read. The first serves throughout, and its worker is what must
not grow. Of the second, the worker is killed or replaced now and then: there it is the supervisor that must not grow.
The third is unmounted and mounted again and again. Objects are overwritten, come and go all the time. The first two
leave what is wholly cached to the kernel where it lets them, so that proofs, eviction and takeover meet.

What is sampled is compared between the first third and the last third of what follows the warming up: medians, so that
a load that happens to be in progress decides nothing. ``make soak`` runs it for half an hour; ``SOAK_MINUTES`` and
``SOAK_OUT`` (where the CSV and the plot go) change that. The other tests run the judgement on made-up series.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import signal
import statistics
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tigrismount.demo.command import run_command, wait_until
from tigrismount.testing.mount import mounted, require_fuse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MIB = 1 << 20
MINUTES = float(os.environ.get("SOAK_MINUTES", "0.5"))
OUT = os.environ.get("SOAK_OUT", "")
MEMORY_LIMIT_MIB = 48
CACHE_MIB = 64
MODELS = {"fixed": 5, "changing": 3}
SHARDS = 3
SHARD_MIB = 5
SMALL = 1200
"""Names in one directory: more than one page."""
PAUSE_S = 0.15
"""Of a reader between two actions: a soak is long, and others may want the machine."""
WARM_SHARE = 0.5
"""Share of the samples that belongs to the warming up: what nobody refers to is remembered for ten minutes, and it
takes as long until as many layouts are known as are remembered."""
SAMPLES = 400


# ------------------------------------------------------------------------------------------ what must not grow

ALLOWED = {
    "anon_mib": 10.0,  # of the heap: what is free in it comes and goes with what was loaded last
    "shmem_mib": 1.0,
    "fds": 12.0,  # versions of the cache that are open at the moment, connections
    "threads": 12.0,
    "tasks": 12.0,
    "index_mib": 4.0,
    "processes": 0.0,
}
"""Most that the median of a column may be higher in the last third than in the first; tables have a share."""
BOUNDS = {
    "layouts": 512,
    "models": 32,
    "readers_kept": 256,
    "cache_verified": 4096,
    "nodes_unreferenced": 65_536,
    "negative_dentries": 4096,
}
"""Most of what is remembered until there is more: those are not judged by their growth. Nodes become unreferenced in
bursts, whenever the kernel forgets; missing names go minutes after, all at once, so that they rise and fall."""
THE_KERNELS = {"nodes"}
"""What is remembered because the kernel has it: names that were deleted, too, until its memory is short or somebody
asks for them again. It is judged by what is left once the kernel has been told to let go."""
NODES_LEFT = 200
"""Most nodes that the kernel may have then: a sixth of the names that readers see again and again."""
TABLE_SHARE = 0.15
TABLE_SLACK = 64
NAMES = ("nodes", "nodes_unreferenced", "open_files", "dentries", "negative_dentries", "listed_names")
"""Gauges of the file system; ``nodes`` are those that the kernel has looked up, and some."""


def growth(values: list[float]) -> float:
    """Return how much higher the median of the last third is than that of the first, the warming up left out."""
    judged = values[int(len(values) * WARM_SHARE) :]
    third = max(1, len(judged) // 3)
    return statistics.median(judged[-third:]) - statistics.median(judged[:third])


def allowed(column: str, values: list[float]) -> float:
    """Return how much a column may grow."""
    name = column.rpartition(":")[2]
    if name in ALLOWED:
        return ALLOWED[name]
    if name in THE_KERNELS:
        return math.inf
    if name in BOUNDS:
        return 0.0 if max(values) > BOUNDS[name] else math.inf
    return TABLE_SLACK + TABLE_SHARE * statistics.median(values)


def grown(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the columns that grew by more than they may, with by how much."""
    columns = {column: [row.get(column, math.nan) for row in rows] for column in rows[0]}
    found = {}
    for column, values in columns.items():
        known = [value for value in values if not math.isnan(value)]
        if column != "seconds" and len(known) >= 6 and growth(known) > allowed(column, known):
            found[column] = growth(known)
    return found


def test_what_is_steady_passes_and_a_leak_does_not():
    def rows(**columns):
        return [{name: column(at) for name, column in columns.items()} for at in range(120)]

    steady = rows(seconds=lambda at: at, **{"a:fds": lambda at: 20 + at % 7, "a:nodes": lambda at: 1000 + at % 90})
    assert grown(steady) == {}
    warming = rows(seconds=lambda at: at, **{"a:fds": lambda at: min(at, 24) * 10})
    assert grown(warming) == {}, "what grows while it warms up"
    leaking = rows(seconds=lambda at: at, **{"a:fds": lambda at: 20 + at / 2, "a:anon_mib": lambda at: 100 + at / 10})
    assert set(grown(leaking)) == {"a:fds"}
    assert set(grown(rows(seconds=lambda at: at, **{"a:dentries": lambda at: at * 10}))) == {"a:dentries"}
    spikes = rows(seconds=lambda at: at, **{"a:fds": lambda at: 1000 if at % 10 == 0 else 20})
    assert grown(spikes) == {}, "a moment's need"


# ------------------------------------------------------------------------------------------ the bucket


def shard(name: str, version: int) -> bytes:
    """Return a tensor file whose every line says what it is of."""
    line = f"{name} {version}".ljust(63).encode() + b"\n"
    lines = SHARD_MIB * MIB // len(line)
    step = lines * len(line) // 8
    tensors = {
        f"layers.{n}": {"dtype": "U8", "shape": [step], "data_offsets": [n * step, (n + 1) * step]} for n in range(8)
    }
    header = json.dumps(tensors).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + line * lines


def fill(bucket: Any) -> list[str]:
    """Put models and small files into a bucket; return the keys that may be overwritten."""
    changing = []
    for directory, models in MODELS.items():
        for model in range(models):
            names = [f"model-{number + 1:05}-of-{SHARDS:05}.safetensors" for number in range(SHARDS)]
            place = f"{directory}/model-{model}"
            bucket.put(f"{place}/config.json", b"{}")
            index = {"weight_map": {f"{name}.w": name for name in names}}
            bucket.put(f"{place}/model.safetensors.index.json", json.dumps(index).encode())
            for name in names:
                bucket.put(f"{place}/{name}", shard(f"{place}/{name}", 0))
                changing += [f"{place}/{name}"] if directory == "changing" else []
    for number in range(SMALL):
        bucket.put(f"small/{number:05}", b"%d" % number)
    return changing


# ------------------------------------------------------------------------------------------ what is sampled


def memory_mib(pid: int) -> dict[str, float]:
    """Return anonymous and shared memory of a process."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    kib = {name: int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem", "VmRSS")}
    return {"anon_mib": kib["RssAnon"] / 1024, "shmem_mib": kib["RssShmem"] / 1024, "rss_mib": kib["VmRSS"] / 1024}


def process(pid: int) -> dict[str, float]:
    """Return what a process holds."""
    return {
        **memory_mib(pid),
        "fds": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": len(os.listdir(f"/proc/{pid}/task")),
    }


def children_of(pid: int) -> list[dict[str, float]]:
    """Return what each child of a process holds; one that ends meanwhile is none."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            with contextlib.suppress(OSError, KeyError):  # a zombie has no memory
                found.append(process(int(child)))
    return found


def sample(steady: Any, killed: Any, cache: Path) -> dict[str, float]:
    """Return one row about the worker of one mount and the supervisor of another."""
    status = steady.status()
    found = {f"worker:{name}": value for name, value in process(status["pid"]).items()}
    found |= {f"worker:{name}": value for name, value in status["tables"].items()}
    found |= {f"worker:{name}": status["names"][name] for name in NAMES}
    found["worker:held_mib"] = status["memory"]["held"] / MIB
    found["worker:passthrough_files"] = status["passthrough"]["files"]
    children = children_of(status["pid"])
    found["children:processes"] = len(children)
    for name in ("anon_mib", "shmem_mib", "fds", "threads"):
        found[f"children:{name}"] = sum(child[name] for child in children)
    supervisor = killed.pids[0]
    found |= {f"supervisor:{name}": value for name, value in process(supervisor).items()}
    found["cache:index_mib"] = sum(path.stat().st_size for path in cache.rglob("data.mdb")) / MIB
    found["cache:files_mib"] = taken_bytes(cache.glob("objects/*/*")) / MIB
    return found


def taken_bytes(paths: Iterable[Path]) -> int:
    """Return what files take on the disk; one that is gone takes nothing."""
    taken = 0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            taken += path.stat().st_blocks * 512
    return taken


def held_by_the_kernel(mount: Any) -> int:
    """Return how many nodes the kernel refers to."""
    names = mount.status()["names"]
    return int(names["nodes"] - names["nodes_unreferenced"])


def let_the_kernel_forget() -> bool:
    """Have the kernel give up the names that nobody uses; return whether we may."""
    with contextlib.suppress(PermissionError):
        Path("/proc/sys/vm/drop_caches").write_text("2")
        return True
    return False


@contextlib.contextmanager
def readers(mount: Any, count: int, seconds: float, seed: int) -> Iterator[list[dict[str, Any]]]:
    """Run readers on a mount while the context lasts, which is at least as long as they take; give their reports."""
    program = str(Path(__file__).with_name("soak_reader.py"))
    command = [sys.executable, program, mount.path, str(seconds)]
    running = [
        subprocess.Popen([*command, str(seed + number), str(PAUSE_S)], stdout=subprocess.PIPE)
        for number in range(count)
    ]
    reports: list[dict[str, Any]] = []
    try:
        yield reports
        for child in running:
            output, _ = child.communicate(timeout=seconds + 120)
            reports.append(json.loads(output))
    finally:
        for child in running:
            child.kill()
            child.wait()


class Trouble:
    """What goes on beside the readers, each in a thread of its own until told to stop."""

    def __init__(self, bucket: Any, changing: list[str], killed: Any, third: Any) -> None:
        self.bucket, self.changing, self.killed, self.third = bucket, changing, killed, third
        self.stop = threading.Event()
        self.counts = dict.fromkeys(("overwrites", "kills", "upgrades", "remounts"), 0)
        self.reports: list[dict[str, Any]] = []
        self.failures: list[str] = []

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        threads = [threading.Thread(target=self.guarded, args=(work,)) for work in (self.put, self.kill, self.remount)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()

    def guarded(self, work: Any) -> None:
        try:
            work()
        except Exception as exc:  # noqa: BLE001 -- said at the end, in the test's own thread
            self.failures.append(f"{work.__name__}: {exc!r}")

    def put(self) -> None:
        number = 0
        while not self.stop.wait(1.0):
            number += 1
            key = self.changing[number % len(self.changing)]
            self.bucket.put(key, shard(key, number))
            self.bucket.put(f"small/new-{number:06}", b"new")
            if number > 100:
                self.bucket.client.delete_object(Bucket=self.bucket.name, Key=f"small/new-{number - 100:06}")
            self.bucket.s3.reset_requests()  # the server keeps a record of each
            self.counts["overwrites"] += 1

    def kill(self) -> None:
        while not self.stop.wait(20.0):
            if self.counts["kills"] % 2:
                run_command("upgrade", self.killed.path, env=self.killed.env).check()
                self.counts["upgrades"] += 1
            pid = self.killed.status()["pid"]
            os.kill(pid, signal.SIGKILL)
            assert wait_until(lambda pid=pid: self.serves_without(pid))
            self.counts["kills"] += 1

    def serves_without(self, pid: int) -> bool:
        finished = run_command("status", self.killed.path, "--json", env=self.killed.env)
        shown = json.loads(finished.output)["mounts"] if finished.status == 0 else []
        return bool(shown) and shown[0].get("pid") not in (None, pid) and shown[0]["state"] == "ok"

    def remount(self) -> None:
        while not self.stop.wait(2.0):
            with self.third() as mount, readers(mount, 1, 8.0, self.counts["remounts"]) as reports:
                pass
            self.reports += reports
            self.counts["remounts"] += 1


@pytest.mark.fuse
@pytest.mark.slow
@pytest.mark.timeout(int(MINUTES * 60) + 600)
def test_a_mount_that_is_used_for_long_does_not_grow(s3, bucket, tmp_path):
    require_fuse()
    changing = fill(bucket)
    cache, seconds = tmp_path / "cache", MINUTES * 60
    flags = [f"--cache-dir={cache}", "--block-size=1MiB", f"--memory-limit={MEMORY_LIMIT_MIB}MiB"]
    flags += [f"--cache-size={CACHE_MIB}MiB", "--metadata-ttl=3s"]

    def mount(name: str, *more: str) -> Any:
        (tmp_path / name).mkdir(exist_ok=True)
        return mounted(f"s3://{bucket.name}", tmp_path / name, s3.env(), *flags, *more)

    rows: list[dict[str, float]] = []
    passthrough = "--passthrough=auto"
    with mount("steady", "--fetch-processes=1", passthrough) as steady, mount("killed", passthrough) as killed:
        trouble = Trouble(bucket, changing, killed, lambda: mount("third"))
        began_s = time.monotonic()
        with readers(steady, 2, seconds, 1) as reports, readers(killed, 1, seconds, 9) as others, trouble.going_on():
            try:
                while (now_s := time.monotonic() - began_s) < seconds:
                    rows.append({"seconds": now_s, **sample(steady, killed, cache)})
                    time.sleep(max(0.5, seconds / SAMPLES))
            finally:
                write(rows)
        every = [*reports, *others, *trouble.reports]
        total = {
            name: sum(report[name] for report in every) for name in ("actions", "bytes", "wrong", "stale", "errors")
        }
        first = next((report["first_error"] for report in every if report["first_error"]), "")
        through = steady.status()["passthrough"]
        print(f"\nsoak: {json.dumps({**total, **trouble.counts, 'first_error': first, 'passthrough': through})}")
        assert trouble.failures == []
        assert (total["wrong"], total["errors"]) == (0, 0), first
        status = steady.status()
        assert status["takeovers"]["count"] == 0, "the steady worker died"
        assert status["memory"]["held"] <= MEMORY_LIMIT_MIB * MIB
        assert max(row["cache:files_mib"] for row in rows) <= CACHE_MIB + 3, "the cache keeps its bound"
        if MINUTES >= 5:  # what is swept once a minute looks like growth in less
            assert grown(rows) == {}
        if let_the_kernel_forget():
            most = held_by_the_kernel(steady)
            assert wait_until(lambda: held_by_the_kernel(steady) <= NODES_LEFT), f"of {most}"


def write(rows: list[dict[str, float]]) -> None:
    """Write the samples and plot them, where somebody wants them."""
    if not OUT:
        return
    out = Path(OUT)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "soak.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with contextlib.suppress(ImportError):
        plot(rows, out / "soak.png")


def plot(rows: list[dict[str, float]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = [column for column in rows[0] if column != "seconds"]
    figure, axes = plt.subplots(math.ceil(len(columns) / 4), 4, figsize=(18, 2.2 * math.ceil(len(columns) / 4)))
    minutes = [row["seconds"] / 60 for row in rows]
    for axis, column in zip(axes.flat, columns, strict=False):
        axis.plot(minutes, [row.get(column, math.nan) for row in rows], linewidth=0.8)
        axis.set_title(column, fontsize=8)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
