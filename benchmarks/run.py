"""``python -m benchmarks.run``: the rounds of the suites, or of those that ``--only`` names.

Each round runs every variant once, one after the other, so that neighbours in time are compared; what the machine does
besides then hits all of them. Ratios are taken per round, and the table shows their medians. A suite that fails is left
out from then on and says why; Ctrl-C ends the rounds and shows what there is.
"""

from __future__ import annotations

import argparse
import compileall
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import tigrismount
from benchmarks import markdown, report
from benchmarks.bench import Bench, Plan
from benchmarks.peer import installed_peers, known_peers
from benchmarks.published import jobs_for
from benchmarks.store import Store, StoreUnavailableError, embedded_store, nginx_store
from benchmarks.suites import SUITES
from tigrismount.config.units import parse_seconds, parse_size_bytes
from tigrismount.demo.model import plan_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from benchmarks.jobs import Job
    from benchmarks.report import Row
    from tigrismount.demo.model import Model

FOREIGN = ("AWS_", "TIGRIS_", "TIGRISMOUNT_")
"""Variables that would send us to another store, or change what is measured."""
# Neither store checks signatures here, but boto3 wants to make one.
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret", "NO_PROXY": "127.0.0.1"}

TRUST = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
"""Where boto3 and we, Python's ssl and Go, and curl look for a bundle of authorities."""
KEYS, QUICK_KEYS = 100_000, 10_000
"""Keys of the large directory."""
QUICK_BYTES = 256 << 20
"""The model of a look."""


def prepare_environment() -> None:
    """Leave nothing in the environment that would lead a child elsewhere."""
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    os.environ.update(ENVIRONMENT)
    # As pip does where it installs; else each daemon compiles its modules, and takes a third of a second longer.
    compileall.compile_dir(Path(tigrismount.__file__).parent, quiet=2)


def trust(store: Store) -> None:
    """Let every child trust the store's certificate."""
    if store.ca_bundle:
        os.environ.update(dict.fromkeys(TRUST, store.ca_bundle))


def parsed_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--only", metavar="NAME[,NAME...]", help=f"suites to run, of {', '.join(SUITES)} (all)")
    parser.add_argument("--quick", action="store_true", help="one round of 256 MiB: a look, not a result")
    parser.add_argument("--rounds", type=int, help="how often each variant runs (3)")
    parser.add_argument("--size", type=parse_size_bytes, help="size of the model (1GiB)")
    parser.add_argument("--rate", type=parse_size_bytes, default=80_000_000, help="bytes/s per connection (80MB)")
    parser.add_argument("--latency", type=parse_seconds, default=0.02, help="time to the first byte (20ms)")
    parser.add_argument("--jobs", type=int, default=32, help="GETs in flight of the plain download (32, as the mount)")
    parser.add_argument("--directory", default="/var/tmp", help="scratch space on the cache disk (/var/tmp)")
    parser.add_argument("--tls", action="store_true", help="everything over TLS; the suite tls compares both")
    parser.add_argument("--embedded", action="store_true", help="use the demo's S3 server in place of nginx")
    help_peer = f"where a peer's executable is, again for each: {', '.join(known_peers())} (those on the PATH)"
    parser.add_argument("--peer", metavar="NAME=PATH", action="append", default=[], type=_named, help=help_peer)
    parser.add_argument("--no-peers", action="store_true", help="measure ours alone")
    help_fio = "publishers whose read jobs the suite fio runs (all)"
    parser.add_argument("--fio", metavar="NAME[,NAME...]", default="", help=help_fio)
    help_markdown = "write the tables there; between its marks where it has them, as docs/benchmarks.md does"
    parser.add_argument("--markdown", metavar="FILE", type=Path, help=help_markdown)
    help_results = "directory for the JSON file and the pictures (benchmarks/results)"
    parser.add_argument("--results", metavar="DIR", type=Path, default=report.RESULTS, help=help_results)
    parser.add_argument("--images", metavar="DIR", type=Path, help="write the plots there, too")
    parser.add_argument("flags", nargs="*", help="further flags of mount, after --")
    arguments = parser.parse_args(words)
    arguments.suites = arguments.only.lower().split(",") if arguments.only else list(SUITES)
    unknown = [name for name in arguments.suites if name not in SUITES]
    if unknown:
        parser.error(f"no such suite: {', '.join(unknown)}; there are {', '.join(SUITES)}")
    strangers = [name for name, _ in arguments.peer if name not in known_peers()]
    if strangers:
        parser.error(f"no such peer: {', '.join(strangers)}; there are {', '.join(known_peers())}")
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    arguments.size = arguments.size or (QUICK_BYTES if arguments.quick else 1 << 30)
    return arguments


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return name, path


def main() -> int:
    """Run the benchmarks and print what they say."""
    arguments = parsed_arguments()
    prepare_environment()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # mounts and servers are to be ended all the same
    model = plan_model(arguments.size)
    here, absent = installed_peers(dict(arguments.peer))
    with tempfile.TemporaryDirectory(prefix="tigrismount-bench-", dir=arguments.directory) as disk:
        (Path(disk) / "mount").mkdir()
        try:
            plan = Plan(
                size_bytes=arguments.size,
                peers=[] if arguments.no_peers else here,
                all_ways=not arguments.quick,
                fio_jobs=[] if arguments.embedded else _fio_jobs(arguments),
                keys=0 if arguments.embedded else QUICK_KEYS if arguments.quick else KEYS,
            )
            with _store(arguments, model, plan) as store:
                trust(store)
                bench = Bench(store, model, Path(disk), arguments.jobs, arguments.flags, tls=arguments.tls, plan=plan)
                for installed in plan.peers:
                    bench.note(f"{installed.peer.name}: {installed.peer.version(installed.executable)}")
                bench.note(f"not installed: {', '.join(absent)}")
                _run_rounds(bench, arguments.suites, arguments.rounds)
        except StoreUnavailableError as exc:
            print(f"bench: {exc}, or add --embedded", file=sys.stderr)
            return 1
    _tell(bench, _rows(bench, arguments.suites), arguments)
    return 1 if bench.failures else 0


def _fio_jobs(arguments: argparse.Namespace) -> list[tuple[Job, float]]:
    wanted = [name for name in arguments.fio.split(",") if name]
    return [found for found in jobs_for(quick=arguments.quick) if not wanted or found[0].publisher in wanted]


def _store(arguments: argparse.Namespace, model: Model, plan: Plan) -> AbstractContextManager[Store]:
    if arguments.embedded:
        return embedded_store(model)
    files = {name: job.file_bytes for job, _ in plan.fio_jobs for name in job.file_names()}
    rate_bytes_s, latency_s = arguments.rate, arguments.latency
    return nginx_store(model, rate_bytes_s=rate_bytes_s, latency_s=latency_s, files=files, keys=plan.keys)


def _run_rounds(bench: Bench, suites: Sequence[str], rounds: int) -> None:
    try:
        for number in range(1, rounds + 1):
            bench.number = number
            for name in suites:
                print(f"round {number} of {rounds}, {name}, {bench.size_bytes / 2**20:.0f} MiB", flush=True)
                began_s = time.monotonic()
                bench.attempt(name, SUITES[name].run)
                print(f"  {name} took {time.monotonic() - began_s:.0f} s", flush=True)
    except KeyboardInterrupt:
        bench.note(f"interrupted in round {bench.number}")


def _rows(bench: Bench, suites: Sequence[str]) -> list[Row]:
    """Return what the suites say that ran at least once."""
    return [row for name in suites if name in bench.completed for row in SUITES[name].rows(bench)]


def _tell(bench: Bench, rows: list[Row], arguments: argparse.Namespace) -> None:
    """Show, save and draw."""
    report.show(bench, rows)
    found = report.content(bench, rows)
    path = report.save(found, arguments.results)
    print(f"saved to {path}")
    places = [{name: path.with_name(f"{path.stem}-{name}.png") for name in ("targets", "fio")}]
    places += [markdown.image_places(arguments.images)] if arguments.images else []
    if not all(markdown.pictures([found], there) for there in places):
        print("no pictures: matplotlib is missing")
    if arguments.markdown:
        markdown.write([found], arguments.markdown)
        print(f"tables written to {arguments.markdown}")


if __name__ == "__main__":
    sys.exit(main())
