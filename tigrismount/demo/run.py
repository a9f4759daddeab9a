"""The main job from one end to the other, on this machine alone, with every claim checked.

Start an S3 server, generate a model and upload it; for comparison download it to files and load those, as people do
without a mount; mount the bucket by the command line as a user would, load every tensor cold, from the page cache,
from NVMe, and after a remount; compare each tensor each time with what was generated; count, on the server's side and
on the daemon's, what was fetched.

All that is started or made goes onto one ``ExitStack`` at once, so that an error, Ctrl-C or SIGTERM at any point
unmounts, stops and removes it in reverse. What is wrong with a *result* is collected in ``Report.problems`` instead:
a demo that stopped at the first wrong byte would show less.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from rich.console import Console

from tigrismount.demo import report as names
from tigrismount.demo.download import THREADS as DOWNLOAD_THREADS
from tigrismount.demo.download import download
from tigrismount.demo.embedded import EmbeddedS3
from tigrismount.demo.load import load_model
from tigrismount.demo.mounting import DemoMount
from tigrismount.demo.progress import Narrator
from tigrismount.demo.report import Report, Step, size
from tigrismount.errors import ConfigError, MountError, TigrisMountError
from tigrismount.holder.mountinfo import read_mounts
from tigrismount.holder.mounting import MountSpec, check_can_mount

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.demo.model import Model

DEFAULT_SIZE_BYTES = 1 << 30
"""Large enough that rates mean something, small enough for a laptop."""
LEAST_SIZE_BYTES = 16 << 20
"""A smaller model is a handful of blocks and shows nothing."""
DEFAULT_DIRECTORY = "/var/tmp"  # noqa: S108 -- only the parent of a directory made by mkdtemp
"""On a disk almost everywhere, where /tmp often is memory."""

_BUCKET = "models"
_PREFIX = "demo/llama"
_SETTLE_S = 20.0
"""Longest wait for blocks on their way to the disk, and for those that it was too busy for when they came."""
_SETTLE_LOOK_S = 0.5
_SPACE_FACTOR = 3.2
"""Disk the demo needs, in models: the server's objects, the parts of an upload being joined, and the cache."""
_MEMORY_SHARE = 4
"""The daemon gets so much less memory than the model has bytes: "from NVMe" must not mean "from its memory"."""
_LEAST_MEMORY_BYTES, _MOST_MEMORY_BYTES = 32 << 20, 256 << 20
"""What ``mount`` accepts at least; what is enough for its default block size and concurrency."""
_NEEDED_MODULES = ("moto", "flask", "flask_cors", "numpy")
_INTERRUPTED = 130


def run_demo(
    *,
    keep: bool = False,
    as_json: bool = False,
    size_bytes: int = DEFAULT_SIZE_BYTES,
    directory: str = DEFAULT_DIRECTORY,
) -> int:
    """Run the demo and print what it found.

    Args:
        keep: Leave the working directory (cache and log) behind and say where it is.
        as_json: Print one JSON object on standard output, and nothing else there.
        size_bytes: Size of the model, at least ``LEAST_SIZE_BYTES``.
        directory: Where the working directory is made.

    Returns:
        0 when every claim held, 1 when one did not or a step failed, 130 after Ctrl-C or SIGTERM.

    Raises:
        ConfigError: The size is too small.
    """
    found = Report()
    # SIGTERM unwinds as Ctrl-C does, or a mount would be left behind.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _run(found, _narrator(as_json=as_json), size_bytes=size_bytes, directory=directory, keep=keep)
    except ConfigError:
        raise  # bad usage, which the command line says as it always does
    except TigrisMountError as exc:
        found.problems.append(str(exc))
    except KeyboardInterrupt:
        _say("interrupted; everything is unmounted and stopped")
        return _INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    if as_json:
        sys.stdout.write(json.dumps(found.to_json(), indent=1) + "\n")
    elif found.steps:
        found.print_table(Console())
    if found.problems:
        _say(f"error: {'; '.join(found.problems)}")
    return 1 if found.problems else 0


def _run(found: Report, narrator: Narrator, *, size_bytes: int, directory: str, keep: bool) -> None:
    """Check what the demo needs, set the stage, run the scenes, and clear the stage whatever happens."""
    _check_needs(size_bytes, directory)
    with contextlib.ExitStack() as stack:
        try:
            # Python 3.11 gives a path that is as relative as this one.
            work = tempfile.mkdtemp(prefix="tigrismount-demo-", dir=os.path.abspath(directory))
        except OSError as exc:
            raise MountError(f"{directory}: cannot be used: {exc.strerror}; choose another with --directory") from exc
        stack.callback(_leave if keep else shutil.rmtree, work)
        for name in ("store", "cache", "mnt"):
            os.mkdir(f"{work}/{name}")
        server = stack.enter_context(EmbeddedS3(directory=f"{work}/store"))
        mount = DemoMount(
            f"s3://{_BUCKET}",
            f"{work}/mnt",
            f"{work}/cache",
            server.env(),
            memory_bytes=min(max(size_bytes // _MEMORY_SHARE, _LEAST_MEMORY_BYTES), _MOST_MEMORY_BYTES),
        )
        stack.enter_context(mount)
        _Scenes(found, narrator, server, mount, work).play(size_bytes)
        found.notes.extend(_notes(work))


class _Scenes:
    """The steps of the demo, each measured.

    Args:
        found: What they find goes there.
        narrator: Shows them to a person.
        server: The store.
        mount: Not mounted yet.
        work: Directory for files of the steps.
    """

    def __init__(self, found: Report, narrator: Narrator, server: EmbeddedS3, mount: DemoMount, work: str) -> None:
        self._work = work
        self._found = found
        self._narrator = narrator
        self._server = server
        self._mount = mount
        self._client = server.client(connections=DOWNLOAD_THREADS)
        self._checksums: dict[str, int] = {}

    def play(self, size_bytes: int) -> None:
        """Run all steps in order.

        Raises:
            TigrisMountError: A step could not be done; the steps so far are in the report.
        """
        self._upload(size_bytes)
        self._download_and_load()
        self._timed(names.MOUNT, lambda _advance: self._mount.mount())
        self._load(names.COLD)
        self._load(names.WARM_PAGES, may_fetch=False)
        self._timed(names.DROP, lambda _advance: self._drop_pages())
        self._load(names.WARM_NVME, may_fetch=False)
        self._timed(names.REMOUNT, lambda _advance: self._remount())
        self._load(names.AFTER_REMOUNT, may_fetch=False)
        self._timed(names.UNMOUNT, lambda _advance: self._mount.unmount())

    def _timed(
        self, name: str, act: Callable[[Callable[[int], object]], object], size_bytes: int | None = None
    ) -> None:
        with self._narrator.step(name, size_bytes) as advance:
            started_s = time.perf_counter()
            act(advance)
            seconds = time.perf_counter() - started_s
        self._found.steps.append(Step(name=name, seconds=seconds, size_bytes=size_bytes))

    def _upload(self, size_bytes: int) -> None:
        # Here, since numpy takes its time and a demo that cannot run should say so at once.
        from tigrismount.demo.model import plan_model, upload_model

        model = plan_model(size_bytes)
        self._found.model = _facts(model)
        self._client.create_bucket(Bucket=_BUCKET)
        self._timed(
            names.UPLOAD,
            lambda advance: self._checksums.update(upload_model(self._client, _BUCKET, _PREFIX, model, advance)),
            model.tensor_bytes,
        )

    def _download_and_load(self) -> None:
        with tempfile.TemporaryDirectory(prefix="files-", dir=self._work) as files:
            self._timed(
                names.DOWNLOAD,
                lambda advance: download(self._client, _BUCKET, _PREFIX, files, advance),
                self._found.model["bytes"],
            )
            with self._narrator.step(names.LOAD_FILES, self._found.model["bytes"]) as advance:
                loaded = load_model(files, advance)
        self._found.steps.append(Step(name=names.LOAD_FILES, seconds=loaded.seconds, size_bytes=loaded.size_bytes))
        self._compare(names.LOAD_FILES, loaded.checksums)

    def _load(self, name: str, *, may_fetch: bool = True) -> None:
        lost_bytes = 0 if may_fetch else self._lost_bytes()
        status_before = self._mount.status()
        before = status_before["bytes"]
        self._server.reset_requests()
        with self._narrator.step(name, self._found.model["bytes"]) as advance:
            loaded = load_model(f"{self._mount.path}/{_PREFIX}", advance)
        gets = self._server.requests("GetObject")
        status_after = self._mount.status()
        after = status_after["bytes"]
        grown = {source: after[source] - before.get(source, 0) for source in after}
        step = Step(
            name=name,
            seconds=loaded.seconds,
            size_bytes=loaded.size_bytes,
            store_bytes=sum(get.bytes for get in gets),
            store_requests=len(gets),
            nvme_bytes=grown["nvme"],
            kernel_bytes=grown["ram"] + grown.get("flight", 0),
        )
        self._found.steps.append(step)
        self._compare(name, loaded.checksums)
        if not may_fetch:
            again_bytes = max(step.store_bytes or 0, grown["remote"])
            raced_bytes = status_after["cache"]["raced_bytes"] - status_before["cache"]["raced_bytes"]
            self._found.judge_fetched(name, again_bytes, lost_bytes=lost_bytes, raced_bytes=raced_bytes)

    def _lost_bytes(self) -> int:
        """Return what the disk has not kept, once it has taken all that it is going to take."""
        before, cache = -1, self._mount.status()["cache"]
        deadline_s = time.monotonic() + _SETTLE_S
        while (cache["bytes_cached"] != before or cache["left_over_bytes"]) and time.monotonic() < deadline_s:
            time.sleep(_SETTLE_LOOK_S)
            before, cache = cache["bytes_cached"], self._mount.status()["cache"]
        objects = self._client.list_objects_v2(Bucket=_BUCKET, Prefix=_PREFIX)["Contents"]
        return max(0, sum(int(one["Size"]) for one in objects) - int(cache["bytes_cached"]))

    def _compare(self, name: str, checksums: dict[str, int]) -> None:
        wrong = [t for t in self._checksums.keys() | checksums.keys() if self._checksums.get(t) != checksums.get(t)]
        self._found.tensors_compared += len(self._checksums)
        if wrong:
            self._found.problems.append(f"{name}: {len(wrong)} tensors differ, {min(wrong)} for one")

    def _drop_pages(self) -> None:
        from tigrismount.demo.pagecache import drop_pages

        # The cache's own files as well: a mount that reads them through the page cache must not gain from it here.
        files = [
            os.path.join(directory, file)
            for top in (f"{self._mount.path}/{_PREFIX}", f"{self._mount.cache_directory}/objects")
            for directory, _subdirectories, found in os.walk(top)
            for file in found
        ]
        means, left_bytes = drop_pages(files)
        self._found.notes.append(f"page cache dropped by {means}, {size(left_bytes)} of these files left in it")

    def _remount(self) -> None:
        self._mount.unmount()
        self._mount.mount()


def _check_needs(size_bytes: int, directory: str) -> None:
    missing = [name for name in _NEEDED_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        what = f"{sys.executable} -m pip install 'tigrismount[demo]'"
        raise MountError(f"{', '.join(missing)}: not installed; the demo needs: {what}")
    if size_bytes < LEAST_SIZE_BYTES:
        least = size(LEAST_SIZE_BYTES)
        raise ConfigError(f"--size: a model of {size(size_bytes)} shows nothing; take {least} or more")
    check_can_mount(MountSpec(mountpoint=directory, fsname="demo", allow_other=False))
    try:
        facts = os.statvfs(directory)
    except OSError as exc:
        raise MountError(f"{directory}: cannot be used: {exc.strerror}; choose another with --directory") from exc
    free_bytes, needed_bytes = facts.f_bavail * facts.f_frsize, int(size_bytes * _SPACE_FACTOR)
    if free_bytes < needed_bytes:
        raise MountError(
            f"{directory}: {size(needed_bytes)} are needed and {size(free_bytes)} are free; "
            "choose another with --directory, or a smaller --size"
        )


def _facts(model: Model) -> dict[str, int]:
    tensors = sum(len(shard.tensors) for shard in model.shards)
    return {"bytes": model.tensor_bytes, "tensors": tensors, "shards": len(model.shards)}


def _notes(work: str) -> list[str]:
    notes = ["server, daemon and loader share this machine's cores; rates bound each other"]
    inside = [m for m in read_mounts() if os.path.commonpath([work, m.mountpoint]) == m.mountpoint]
    # The last of the longest: what is mounted later covers what was there.
    longest = max(enumerate(inside), key=lambda item: (len(item[1].mountpoint), item[0]), default=None)
    filesystem = longest[1].type if longest else ""  # in a chroot the root need not be a mountpoint
    if filesystem in ("tmpfs", "ramfs"):
        notes.append(f"{work} lies in memory ({filesystem}): 'NVMe' here is none")
    return notes


def _leave(work: str) -> None:
    _say(f"kept: {work} (cache, daemon.log)")


def _narrator(*, as_json: bool) -> Narrator:
    console = Console(stderr=as_json)
    return Narrator(console if console.is_terminal or not as_json else None)


def _say(text: str) -> None:
    sys.stderr.write(f"tigrismount: {text}\n")
