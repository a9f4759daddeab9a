"""What each stage of a load costs by itself, in one worker and in two: ``python -m benchmarks.stages``.

A stage runs alone, over and over, in processes of its own that say what they took. Three figures matter: CPU seconds
per GiB, which bound what a core can do; those of the worker itself outside the kernel, which bound what the
interpreter's lock is held for, and no further core helps with inside one process (decryption and checksums give it
away, so there it is less); and how much faster two workers are than one. Rates are what this machine gave: source and
worker share its cores, so on two of them two workers cannot be twice as fast where the source costs much.

The store is nginx from memory. Where that would be what is measured, a null source stands in: a process that sends one
buffer again and again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.measuring import measured
from benchmarks.run import prepare_environment
from benchmarks.store import BUCKET, PREFIX, nginx_store
from tigrismount.demo.model import plan_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.store import Store

GIB = 1 << 30
BLOCK_BYTES = 8 << 20
"""As the mount's."""
GETS = 8
"""GETs in flight of each worker: enough to keep it busy from a store without delay."""
_PATIENCE_S = 120.0
"""Longest a stage may take."""
MODEL_BYTES = 256 << 20
"""What lies in the store; it is fetched again and again."""
DEPTH = 4
"""Blocks written or read at once, as the disk cache does."""


HELPING: list[int] = []
"""Processes whose CPU counts as this worker's."""


class Stage(NamedTuple):
    """One stage."""

    work: str
    """Name of what a worker runs, in ``WORKS``."""
    arguments: tuple[str, ...] = ()
    """What it is told besides."""
    threads: bool = False
    """Whether two workers are two threads of one process; else they are two processes."""


@dataclass(frozen=True, slots=True)
class Took:
    """What one run of a stage took, all workers together."""

    seconds: float
    size_bytes: int
    cpu_s: float
    """Of the workers and their children; the source's is not in it."""
    own_cpu_s: float
    """The same without their children."""
    own_user_s: float
    """Of that, outside the kernel: an upper bound of what has the lock, which system calls give away."""

    @property
    def cpu_s_per_gib(self) -> float:
        """CPU seconds per GiB."""
        return self.cpu_s / self.size_bytes * GIB

    @property
    def mb_s(self) -> float:
        """10^6 bytes per second."""
        return self.size_bytes / self.seconds / 1e6


# ------------------------------------------------------------------------------------------------- what a worker runs


def fetch(size_bytes: int, url: str, bundle: str, processes: str) -> Callable[[], int]:
    """Prepare to fetch the model's blocks through our client, into buffers that are used again."""
    import trio

    from tigrismount.core.types import ObjectId
    from tigrismount.objects.credentials import Credentials
    from tigrismount.objects.fetchers.pool import open_fetchers
    from tigrismount.objects.options import S3Config
    from tigrismount.objects.s3 import S3Client
    from tigrismount.testing.object_contract import CollectingSink

    config = S3Config(
        endpoint_url=url, ca_bundle=bundle or None, concurrency=GETS, fetch_processes=int(processes), region="us-east-1"
    )
    fetchers = open_fetchers(config, 2 * GETS * BLOCK_BYTES)
    key = Credentials(source="bench", access_key_id="bench", secret_access_key="bench-secret")
    client = S3Client(config, key, fetchers=fetchers)
    buffers = [
        fetchers.memory.take(BLOCK_BYTES) if fetchers is not None else memoryview(bytearray(BLOCK_BYTES))
        for _ in range(GETS)
    ]

    async def run(wanted_bytes: int, *, wait: bool) -> int:
        found = [info.id for info in (await client.list_page(BUCKET, f"{PREFIX}/")).objects]
        large = [obj for obj in found if obj.size_bytes >= BLOCK_BYTES]
        blocks = [(obj, at) for obj in large for at in range(0, obj.size_bytes - BLOCK_BYTES + 1, BLOCK_BYTES)]
        send, receive = trio.open_memory_channel[tuple[ObjectId, int]](0)

        async def take(buffer: memoryview) -> None:
            async for obj, at in receive:
                await client.fetch(obj, at, at + BLOCK_BYTES, CollectingSink(BLOCK_BYTES, memory=buffer))

        async with trio.open_nursery() as nursery:
            for buffer in buffers:
                nursery.start_soon(take, buffer)
            for number in range(wanted_bytes // BLOCK_BYTES):
                await send.send(blocks[number % len(blocks)])
            send.close()
        while wait and fetchers is not None and fetchers.statistics().ready < config.fetch_processes:
            fetchers.want(BLOCK_BYTES)
            await trio.sleep(0.05)
        return wanted_bytes // BLOCK_BYTES * BLOCK_BYTES

    ready, go = threading.Event(), threading.Event()
    done: list[int] = []

    async def prepare_and_run() -> None:
        for _ in range(2):
            await run(64 << 20, wait=True)  # connections, fetch processes, and memory touched
        ready.set()
        await trio.to_thread.run_sync(go.wait)
        done.append(await run(size_bytes, wait=False))

    # One run for both: a client's limits belong to it. A fetch process lives no longer than the thread that starts it.
    thread = threading.Thread(target=trio.run, args=(prepare_and_run,), daemon=True)
    thread.start()
    ready.wait()
    HELPING.extend(fetchers.statistics().pids if fetchers is not None else ())

    def work() -> int:
        go.set()
        thread.join(_PATIENCE_S)
        return done[0]

    return work


def receive(size_bytes: int) -> Callable[[], int]:
    """Prepare to receive what a null source sends, into one buffer."""
    ours, theirs = socket.socketpair()
    code = "import socket,sys; s=socket.socket(fileno=int(sys.argv[1])); b=bytes(1<<20)\nwhile 1: s.sendall(b)"
    source = subprocess.Popen(
        [sys.executable, "-c", code, str(theirs.fileno())], pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL
    )
    theirs.close()
    buffer = memoryview(bytearray(BLOCK_BYTES))

    def work() -> int:
        done = 0
        while done < size_bytes:
            done += ours.recv_into(buffer[: 1 << 20], 1 << 20, socket.MSG_WAITALL)
        source.kill()
        return done

    return work


def checksum(size_bytes: int) -> Callable[[], int]:
    """Prepare to checksum blocks, as they are when they go to the disk and come from there."""
    import xxhash

    blocks = [os.urandom(BLOCK_BYTES) for _ in range(8)]

    def work() -> int:
        for number in range(size_bytes // BLOCK_BYTES):
            xxhash.xxh3_64_intdigest(blocks[number % len(blocks)])
        return size_bytes

    return work


def disk(size_bytes: int, directory: str, how: str) -> Callable[[], int]:
    """Prepare to write blocks to the disk cache, or to read them back, checksums included."""
    import mmap

    import trio

    from tigrismount.cache.disk import DiskBlockCache
    from tigrismount.cache.options import DiskCacheConfig
    from tigrismount.core.types import ObjectId

    place = tempfile.mkdtemp(dir=directory)
    config = DiskCacheConfig(directory=place, size_bytes=4 * size_bytes, verify="always", write_queue_bytes=GIB)
    obj = ObjectId("bench", "stage", "etag", size_bytes)
    buffers = [memoryview(mmap.mmap(-1, BLOCK_BYTES)) for _ in range(DEPTH)]
    for buffer in buffers:
        buffer[:] = os.urandom(BLOCK_BYTES)

    async def run(what: str) -> int:
        cache = await DiskBlockCache.open(config, store_id="bench")
        async with trio.open_nursery() as services:
            await services.start(lambda task_status: cache.run(task_status=task_status))
            cached = await cache.open_object(obj)

            async def some(which: int) -> None:
                for index in range(which, size_bytes // BLOCK_BYTES, DEPTH):
                    if what == "write":
                        await cached.write_block(index, buffers[which], BLOCK_BYTES)
                    else:
                        await cached.read_block(index, buffers[which])

            async with trio.open_nursery() as nursery:
                for which in range(DEPTH):
                    nursery.start_soon(some, which)
            cached.close()
            services.cancel_scope.cancel()
        await cache.aclose()
        return size_bytes

    if how == "read":
        trio.run(run, "write")

    def work() -> int:
        done = trio.run(run, how)
        shutil.rmtree(place)
        return done

    return work


def kernel(size_bytes: int, directory: str, how: str) -> Callable[[], int]:
    """Prepare to answer READs of a file that lies in memory, or to push it into the kernel's page cache."""
    return partial(_kernel, size_bytes, directory, how)


def _kernel(size_bytes: int, directory: str, how: str) -> int:
    """Mount, have everything read (by another process) or pushed, unmount; return how much it was."""
    import trio

    from benchmarks.stub import over_memory
    from tigrismount.fuse.adapter import Adapter
    from tigrismount.fuse.kernel import Kernel
    from tigrismount.fuse.options import FuseConfig
    from tigrismount.fuse.session import Session
    from tigrismount.holder.init import INIT_REQUEST_BYTES, patch_init_reply
    from tigrismount.holder.knobs import raise_read_ahead
    from tigrismount.holder.mountinfo import mount_at
    from tigrismount.holder.mounting import MountSpec, mount

    mountpoint = Path(tempfile.mkdtemp(dir=directory))
    done = 0

    async def run() -> None:
        nonlocal done
        async with over_memory("handlers", size_bytes) as filesystem:
            connection = mount(MountSpec(mountpoint=str(mountpoint), fsname="stages", allow_other=False))
            kernel = Kernel()
            session = Session(Adapter(filesystem, FuseConfig()), kernel)
            reply = await session.replay_init(await trio.to_thread.run_sync(os.read, connection, INIT_REQUEST_BYTES))
            os.write(connection, patch_init_reply(reply, max_background=64, congestion_threshold=64))
            session.attach(connection, resend=False)
            entry = mount_at(str(mountpoint))
            assert entry is not None
            raise_read_ahead(entry.device, 4096)

            async def use() -> None:
                nonlocal done
                if how == "read":
                    command = ["sh", "-c", f"cat {mountpoint}/*.safetensors | wc -c"]
                    done = int((await trio.run_process(command, capture_stdout=True)).stdout)
                else:
                    done = await trio.to_thread.run_sync(_push, mountpoint, kernel.store_pages)
                await trio.run_process(["umount", str(mountpoint)])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(use)
                await session.serve(FuseConfig())
            session.close()

    trio.run(run)
    mountpoint.rmdir()
    return done


def _push(mountpoint: Path, store_pages: Callable[[int, int, memoryview], None]) -> int:
    block = memoryview(bytearray(1 << 20))
    done = 0
    for path in sorted(mountpoint.glob("*.safetensors")):
        with path.open("rb"):
            stat = path.stat()
            for offset in range(0, stat.st_size - len(block) + 1, len(block)):
                store_pages(stat.st_ino, offset, block)
                done += len(block)
    return done


WORKS: dict[str, Callable[..., Callable[[], int]]] = {
    "fetch": fetch,
    "receive": receive,
    "checksum": checksum,
    "disk": disk,
    "kernel": kernel,
}


# --------------------------------------------------------------------------------------------------------- the workers


def worker(name: str, size_bytes: int, threads: int, arguments: Sequence[str]) -> None:
    """Run a stage in this process: say that it is ready, wait for a word, and say what it took."""
    works = [WORKS[name](size_bytes, *arguments) for _ in range(threads)]
    print("ready", flush=True)
    sys.stdin.readline()
    done = [0] * threads

    def one(number: int) -> None:
        done[number] = works[number]()

    def all_of_them() -> int:
        running = [threading.Thread(target=one, args=(number,)) for number in range(1, threads)]
        for thread in running:
            thread.start()
        one(0)
        for thread in running:
            thread.join()
        return sum(done)

    before_s, user_before_s = sum(map(_cpu_s_of, HELPING)), os.times().user
    took = measured(all_of_them)
    user_s = os.times().user - user_before_s
    children_s = sum(map(_cpu_s_of, HELPING)) - before_s
    print(
        json.dumps({**asdict(took), "own_cpu_s": took.cpu_s, "own_user_s": user_s, "cpu_s": took.cpu_s + children_s}),
        flush=True,
    )


def _cpu_s_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_stage(stage: Stage, workers: int, size_bytes: int) -> Took:
    """Run a stage by so many workers at the same time, and return what they took."""
    processes, threads = (1, workers) if stage.threads else (workers, 1)
    command = [sys.executable, "-m", "benchmarks.stages", "--worker", stage.work]
    command += ["--size", str(size_bytes), "--threads", str(threads), *stage.arguments]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    with ExitStack() as stack:
        for process in started:
            stack.enter_context(process)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", "a worker failed; its words are above"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        lines = [json.loads(process.communicate()[0]) for process in started]
        return Took(
            max(line["seconds"] for line in lines),
            sum(line["size_bytes"] for line in lines),
            sum(line["cpu_s"] for line in lines),
            sum(line["own_cpu_s"] for line in lines),
            sum(line["own_user_s"] for line in lines),
        )


# --------------------------------------------------------------------------------------------------------------- table


def stages(store: Store, directory: str) -> dict[str, Stage]:
    """Return the stages by name."""
    http, tls = (store.url, ""), (store.tls_url, store.ca_bundle)
    found = {
        "receive from a null source": Stage("receive"),
        "GET over HTTP, threads": Stage("fetch", (*http, "0")),
        "GET over TLS, threads": Stage("fetch", (*tls, "0")),
        "GET over HTTP, fetch process": Stage("fetch", (*http, "1")),
        "GET over TLS, fetch process": Stage("fetch", (*tls, "1")),
        "GET over TLS, 2 fetch processes": Stage("fetch", (*tls, "2")),
        "checksum": Stage("checksum", threads=True),
        "write to the cache": Stage("disk", (directory, "write")),
        "read from the cache": Stage("disk", (directory, "read")),
    }
    if os.geteuid() == 0 and os.path.exists("/dev/fuse"):
        found["READ replies"] = Stage("kernel", (directory, "read"))
        found["pages pushed"] = Stage("kernel", (directory, "push"))
    return found


def rows(store: Store, arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Measure each stage in turn, and yield its row."""
    wanted = {name: stage for name, stage in stages(store, arguments.directory).items() if arguments.only in name}
    runs: dict[tuple[str, int], list[Took]] = {}
    for _ in range(arguments.rounds):
        for name, stage in wanted.items():
            for workers in (1, 2):
                took = run_stage(stage, workers, arguments.size)
                runs.setdefault((name, workers), []).append(took)
                own_user_s = took.own_user_s / took.size_bytes * GIB
                costs = f"{took.cpu_s_per_gib:.3f} CPU s/GiB, {own_user_s:.3f} of them user time of the worker"
                print(f"{name}, {workers}: {took.mb_s:.0f} MB/s, {costs}", file=sys.stderr)
    for name in wanted:
        one, two = runs[name, 1], runs[name, 2]
        yield {
            "stage": name,
            "cpu_s_per_gib": _median(took.cpu_s_per_gib for took in one),
            "own_cpu_s_per_gib": _median(took.own_cpu_s / took.size_bytes * GIB for took in one),
            "own_user_s_per_gib": _median(took.own_user_s / took.size_bytes * GIB for took in one),
            "mb_s_one": _median(took.mb_s for took in one),
            "mb_s_two": _median(took.mb_s for took in two),
            "cpu_s_per_gib_two": _median(took.cpu_s_per_gib for took in two),
            "speed_up": _median(b.mb_s / a.mb_s for a, b in zip(one, two, strict=True)),
        }


def _median(values: Iterator[float]) -> float:
    return round(statistics.median(values), 3)


def show(found: Sequence[dict[str, object]]) -> None:
    """Print the table."""
    print("| stage | CPU s/GiB | of it in the worker | of that user | MB/s, 1 | MB/s, 2 | CPU s/GiB, 2 | 2 / 1 |")
    print("|---|---|---|---|---|---|---|---|")
    for row in found:
        figures = (row["cpu_s_per_gib"], row["own_cpu_s_per_gib"], row["own_user_s_per_gib"])
        rates = (f"{row['mb_s_one']:.0f}", f"{row['mb_s_two']:.0f}")
        print(
            "|", *(f"{cell} |" for cell in (row["stage"], *figures, *rates, row["cpu_s_per_gib_two"], row["speed_up"]))
        )


def main() -> int:
    """Measure the stages, print the table and write it as JSON where that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument("--worker", choices=sorted(WORKS), help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=512 << 20, help="bytes each worker works on (512 MiB)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each stage runs (3)")
    parser.add_argument("--only", default="", metavar="TEXT", help="stages with TEXT in their names")
    parser.add_argument("--directory", default="/var/tmp", help="scratch space on the cache disk (/var/tmp)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, arguments.size, arguments.threads, arguments.arguments)
        return 0
    prepare_environment()
    with nginx_store(plan_model(MODEL_BYTES), rate_bytes_s=0, latency_s=0.0) as store:
        found = list(rows(store, arguments))
    show(found)
    if arguments.json:
        arguments.json.write_text(json.dumps({"size_bytes": arguments.size, "stages": found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
