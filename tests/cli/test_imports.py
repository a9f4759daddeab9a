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


def test_a_client_with_a_key_of_its_own_does_not_walk_through_the_models_of_all_services():
    code = (
        "import sys\n"
        "from tigrismount.objects.credentials import credentials_in\n"
        "from tigrismount.objects.options import S3Config\n"
        "from tigrismount.objects.s3 import S3Client\n"
        "key = credentials_in({'AWS_ACCESS_KEY_ID': 'a', 'AWS_SECRET_ACCESS_KEY': 'b'}, 'the test')\n"
        "looked = []\n"
        "sys.addaudithook(lambda event, _: looked.append(event) if event == 'os.listdir' else None)\n"
        "S3Client(S3Config(endpoint_url='http://127.0.0.1:9'), key)\n"
        "print(len(looked))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20, "directories listed; there are four hundred services"
