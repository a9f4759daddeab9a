"""What a process imports before it does what it was started for: somebody waits, so no more than it needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

ENGINE = {"trio", "pyfuse3", "boto3", "botocore", "lmdb", "xxhash"}
"""What serves a mount."""
HEAVY = {"rich", "prometheus_client", "grpc", "google", "numpy", "matplotlib", "moto", "flask", "asyncio", "unittest"}
"""What a few commands need."""

COMMAND_LINE = "from tigrismount.cli.main import main; main({!r})"
CASES = {
    "help": (COMMAND_LINE.format(["--help"]), ENGINE | HEAVY | {"subprocess", "logging", "tomllib", "json"}, 160),
    "mount --help": (COMMAND_LINE.format(["mount", "--help"]), ENGINE | HEAVY | {"logging", "http", "email"}, 240),
    "mount that is refused": (COMMAND_LINE.format(["mount", "s3://b", "/nowhere/at/all"]), ENGINE | HEAVY, 250),
    "status --help": (COMMAND_LINE.format(["status", "--help"]), ENGINE | HEAVY | {"logging", "http", "email"}, 200),
    "unmount --help": (COMMAND_LINE.format(["unmount", "--help"]), ENGINE | HEAVY | {"logging", "http", "email"}, 200),
    "supervisor": (
        "import tigrismount.holder.__main__",
        ENGINE | HEAVY | {"click", "argparse", "tomllib", "logging", "http", "email", "tigrismount.config.loading"},
        170,
    ),
    "worker": (
        "import tigrismount.app",
        HEAVY | {"click", "argparse", "tomllib", "tigrismount.config.loading", "tigrismount.cli", "tigrismount.demo"},
        740,
    ),
}
"""What is run, what it must not import, and how many modules it may: some more than today, on any Python."""


@pytest.mark.parametrize("case", CASES)
def test_a_process_imports_what_it_needs(case):
    code, forbidden, most = CASES[case]
    code = f"import sys\ntry:\n    {code}\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    modules = set(done.stderr.splitlines()[-1].split())
    assert "tigrismount" in modules, done.stderr
    assert forbidden & modules == set()
    assert len(modules) <= most, sorted(modules)


def test_a_worker_looks_for_cycles_from_when_it_serves_and_not_all_the_time():
    code = (
        "import gc, tigrismount.app as app\n"
        "assert gc.isenabled(), 'only a worker starts without'\n"
        "gc.disable()\n"
        "app._collect_from_now_on()\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 10_000, gc.get_threshold()[0] < 5000, gc.get_threshold()[2])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True", "500"]
