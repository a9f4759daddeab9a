"""``python -m benchmarks.metadata``: what names cost, beside asking the store for them and nothing else.

The store is a process of its own with rendered answers (``listing_store``). Two plain pagings are compared with: by
boto3, which makes a dictionary of each row, and by a bare HTTP connection that looks for the next token and throws the
rest away, which nobody can beat. Each variant is a process of its own, in turns. Through the mount:

- ``ls -l`` of one large directory, twice: the second time no request may be made;
- ``find`` over the tree by name and by size, ``ls -R``, ``du``, each by a new mount; what the daemon's memory grew by
  per name, and what is left of that once the kernel has let go of the names (where we are root).

Seconds are the variant's own, CPU seconds those of the process named.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

from benchmarks.listing_store import BUCKET, FLAT, TREE
from benchmarks.mounts import COMMAND, process_cpu_seconds, run
from benchmarks.report import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TOKEN = re.compile(rb"<NextContinuationToken>([^<]*)<")
_SETTLE_S = 3.0
"""How long FORGETs are waited for; a million take a second or two."""

COMMANDS = {
    "ls -l": ["ls", "-l"],
    "ls -lU": ["ls", "-lU"],
    "find": ["find", ".", "-name", "nothing"],
    "find -size": ["find", ".", "-size", "+1M"],
    "ls -R": ["ls", "-R"],
    "du": ["du", "-s"],
}


# ------------------------------------------------------------------------------------------ plain paging


def page_by_boto3(endpoint_url: str, prefix: str) -> int:
    """Return how many keys boto3 finds under *prefix*, listed as one directory."""
    import boto3

    client = boto3.client(
        "s3", endpoint_url=endpoint_url, aws_access_key_id="x", aws_secret_access_key="x", region_name="auto"
    )
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix, Delimiter="/")
    began_s, cpu_s = time.perf_counter(), _cpu_s()
    count = sum(len(page.get("Contents", ())) for page in pages)
    _say(began_s, cpu_s)
    return count


def page_bare(endpoint_url: str, prefix: str) -> int:
    """Return how many bytes all pages under *prefix* have, asked for one after the other and not looked at."""
    connection = http.client.HTTPConnection(urlsplit(endpoint_url).netloc)
    began_s, cpu_s, size_bytes, token = time.perf_counter(), _cpu_s(), 0, b""
    while True:
        more = f"&continuation-token={quote(token)}" if token else ""
        connection.request("GET", f"/{BUCKET}?list-type=2&delimiter=%2F&prefix={quote(prefix)}{more}")
        body = connection.getresponse().read()
        size_bytes += len(body)
        found = _TOKEN.search(body, 0, 1000)
        if found is None:
            break
        token = found[1]
    _say(began_s, cpu_s)
    return size_bytes


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _say(began_s: float, cpu_s: float) -> None:
    print(json.dumps({"seconds": time.perf_counter() - began_s, "cpu_s": _cpu_s() - cpu_s}))


# ------------------------------------------------------------------------------------------ through the mount


@contextlib.contextmanager
def store(arguments: list[str]) -> Iterator[str]:
    """Run the store, and yield its URL."""
    command = [sys.executable, "-m", "benchmarks.listing_store", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


class Names:
    """A mount of a prefix, for as long as the context lasts.

    Args:
        endpoint_url: The store.
        prefix: What is mounted.
        flags: Further flags of ``mount``.
    """

    def __init__(self, endpoint_url: str, prefix: str, flags: list[str]) -> None:
        self._stack = contextlib.ExitStack()
        self._command = [*COMMAND, "mount", f"s3://{BUCKET}/{prefix}"]
        self._flags = [
            "--endpoint-url",
            endpoint_url,
            "--no-sign-request",
            "--cache-dir",
            "off",
            "--metadata-ttl",
            "1h",
        ]
        self._flags += flags

    def __enter__(self) -> Self:
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="tigrismount-names-")))
        self.path = directory / "mnt"
        self.path.mkdir()
        run([*self._command, str(self.path), *self._flags, "--log-file", str(directory / "log")])
        self._stack.callback(run, [*COMMAND, "unmount", str(self.path)])
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def status(self) -> dict[str, Any]:
        """Return its element of ``status --json``."""
        found: dict[str, Any] = json.loads(run([*COMMAND, "status", str(self.path), "--json"]))["mounts"][0]
        return found

    def timed(self, command: list[str]) -> dict[str, float]:
        """Run a command there and return what it took."""
        before = self.status()
        cpu_s, child_s = process_cpu_seconds(before["pid"]), resource.getrusage(resource.RUSAGE_CHILDREN)
        began_s = time.perf_counter()
        subprocess.run(command, cwd=self.path, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began_s
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        own_s = used.ru_utime + used.ru_stime - child_s.ru_utime - child_s.ru_stime
        cpu_s = process_cpu_seconds(before["pid"]) - cpu_s
        after = self.status()
        lists = after["requests"]["list"] - before["requests"]["list"]
        return {"seconds": seconds, "cpu_s": own_s, "daemon_cpu_s": cpu_s, "lists": lists, **self.memory(after)}

    def memory(self, status: dict[str, Any] | None = None) -> dict[str, float]:
        """Return the daemon's anonymous memory in MiB, and the nodes and names that it knows."""
        status = status or self.status()
        text = Path(f"/proc/{status['pid']}/status").read_text()
        anon_mib = int(re.findall(r"RssAnon:\s+(\d+)", text)[0]) / 1024
        return {"anon_mib": anon_mib, "nodes": status["names"]["nodes"], "listed": status["names"]["listed_names"]}

    def let_go(self) -> dict[str, float]:
        """Have the kernel drop the names that nobody uses; return what the daemon's memory is then."""
        if os.geteuid() == 0:
            Path("/proc/sys/vm/drop_caches").write_text("2")
            time.sleep(_SETTLE_S)
        return self.memory()


# ------------------------------------------------------------------------------------------ the run


def child(what: str, *arguments: str) -> dict[str, float]:
    """Run a plain paging in a process of its own."""
    found: dict[str, float] = json.loads(
        run([sys.executable, "-m", "benchmarks.metadata", "--child", what, *arguments])
    )
    return found


def measure(options: argparse.Namespace, flags: list[str]) -> dict[str, list[dict[str, float]]]:
    """Run every variant once per round; return what each took."""
    found: dict[str, list[dict[str, float]]] = {}

    def note(name: str, work: Callable[[], dict[str, float]]) -> None:
        figures = work()
        found.setdefault(name, []).append(figures)
        print(f"  {name:26}" + "  ".join(f"{key} {value:.6g}" for key, value in figures.items()), flush=True)

    arguments = ["--directories", str(options.directories), "--files", str(options.files)]
    arguments += ["--flat", str(options.flat), "--latency", str(options.latency)]
    with store(arguments) as url:
        for _ in range(options.rounds):
            if "flat" in options.only:
                note("paging, bare", lambda: child("bare", url, FLAT))
                note("paging, boto3", lambda: child("boto3", url, FLAT))
                with Names(url, FLAT, flags) as mount:
                    note("flat: ls -l", lambda mount=mount: mount.timed(COMMANDS["ls -l"]))  # type: ignore[misc]
                    note("flat: ls -l again", lambda mount=mount: mount.timed(COMMANDS["ls -l"]))  # type: ignore[misc]
            for name in options.only:
                if name not in COMMANDS:
                    continue
                with Names(url, TREE, flags) as mount:
                    note(f"tree: before {name}", mount.memory)
                    note(f"tree: {name}", lambda mount=mount, name=name: mount.timed(COMMANDS[name]))  # type: ignore[misc]
                    note(f"tree: let go after {name}", mount.let_go)
    return found


def main() -> None:
    """Measure, print ratios, and write JSON where asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metadata", description="What names cost.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directories", type=int, default=1000)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--flat", type=int, default=100_000)
    parser.add_argument("--latency", type=float, default=0.0, help="milliseconds before each answer")
    parser.add_argument("--only", default="flat,find,find -size,ls -R,du", help="flat, or commands over the tree")
    parser.add_argument("--json", metavar="FILE", help="where to write all figures")
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "URL", "PREFIX"), help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*", help="further flags of mount, behind --")
    options = parser.parse_args()
    if options.child:
        what, url, prefix = options.child
        {"boto3": page_by_boto3, "bare": page_bare}[what](url, prefix)
        return
    options.only = options.only.split(",")
    found = measure(options, options.flags)
    if "flat" in options.only:
        for plain in ("paging, boto3", "paging, bare"):
            ratios = [
                ours["seconds"] / theirs["seconds"]
                for ours, theirs in zip(found["flat: ls -l"], found[plain], strict=True)
            ]
            print(f"P10 ls -l / {plain}: {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}), <= 1.3")
        print(f"P10 lists again: {max(figures['lists'] for figures in found['flat: ls -l again']):.0f}, 0")
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": machine(), "figures": found}, indent=1))


if __name__ == "__main__":
    main()
