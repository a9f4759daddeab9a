"""``python -m benchmarks.run``: the rounds of the suites, or of those that ``--only`` names.

Each round runs every variant once, one after the other, so that neighbours in time are compared; what the machine does
besides then hits all of them. Ratios are taken per round, and the table shows their medians.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks import report
from benchmarks.bench import Bench
from benchmarks.mounts import CommandFailedError
from benchmarks.store import Store, StoreUnavailableError, embedded_store, nginx_store
from benchmarks.suites import SUITES
from tigrismount.config.units import parse_seconds, parse_size_bytes
from tigrismount.demo.model import plan_model

FOREIGN = ("AWS_", "TIGRIS_", "TIGRISMOUNT_")
"""Variables that would send us to another store, or change what is measured."""
# Neither store checks signatures here, but boto3 wants to make one.
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret", "NO_PROXY": "127.0.0.1"}

TRUST = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
"""Where boto3 and we, Python's ssl and Go, and curl look for a bundle of authorities."""


def prepare_environment() -> None:
    """Leave nothing in the environment that would lead a child elsewhere."""
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    os.environ.update(ENVIRONMENT)


def trust(store: Store) -> None:
    """Let every child trust the store's certificate."""
    if store.ca_bundle:
        os.environ.update(dict.fromkeys(TRUST, store.ca_bundle))


def parsed_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--only", metavar="NAME[,NAME...]", help=f"suites to run, of {', '.join(SUITES)} (all)")
    parser.add_argument("--quick", action="store_true", help="one round of 256 MiB: a look, not a result")
    parser.add_argument("--rounds", type=int, default=3, help="how often each variant runs (3)")
    parser.add_argument("--size", type=parse_size_bytes, default=1 << 30, help="size of the model (1GiB)")
    parser.add_argument("--rate", type=parse_size_bytes, default=80_000_000, help="bytes/s per connection (80MB)")
    parser.add_argument("--latency", type=parse_seconds, default=0.02, help="time to the first byte (20ms)")
    parser.add_argument("--jobs", type=int, default=32, help="GETs in flight of the plain download (32, as the mount)")
    parser.add_argument("--directory", default="/var/tmp", help="scratch space on the cache disk (/var/tmp)")
    parser.add_argument("--tls", action="store_true", help="everything over TLS; the suite tls compares both")
    parser.add_argument("--embedded", action="store_true", help="use the demo's S3 server in place of nginx")
    parser.add_argument("flags", nargs="*", help="further flags of mount, after --")
    arguments = parser.parse_args()
    arguments.suites = arguments.only.lower().split(",") if arguments.only else list(SUITES)
    unknown = [name for name in arguments.suites if name not in SUITES]
    if unknown:
        parser.error(f"no such suite: {', '.join(unknown)}; there are {', '.join(SUITES)}")
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
            with embedded_store(model) if arguments.embedded else nginx as store:
                trust(store)
                bench = Bench(store, model, Path(disk), arguments.jobs, arguments.flags, tls=arguments.tls)
                for number in range(1, arguments.rounds + 1):
                    print(f"round {number} of {arguments.rounds}, {bench.size_bytes / 2**20:.0f} MiB", flush=True)
                    bench.number = number
                    for name in arguments.suites:
                        SUITES[name].run(bench)
        except StoreUnavailableError as exc:
            print(f"bench: {exc}, or add --embedded", file=sys.stderr)
            return 1
        except CommandFailedError as exc:
            print(f"bench: {exc}", file=sys.stderr)
            return 1
    rows = [row for name in arguments.suites for row in SUITES[name].rows(bench)]
    report.show(bench, rows)
    print(f"saved to {report.save(bench, rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
